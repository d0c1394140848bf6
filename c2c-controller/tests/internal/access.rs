//! Who is let in.

use crate::harness::Api;
use c2c_proto::tls::Role;
use rustls::version::{TLS12, TLS13};
use std::net::Ipv4Addr;

#[tokio::test]
async fn both_versions_of_tls_are_spoken_with_clients_of_silks_ca() {
    let api = Api::start();
    for version in [&TLS12, &TLS13] {
        let mut client = api.connect_as(Some(&api.silk), &[version]).await.unwrap();
        // One connection serves many requests.
        for _ in 0..2 {
            let reply = client.send("GET", "/leases", "").await.unwrap();
            assert_eq!(reply.is(), (200, r#"{"leases":[]}"#));
        }
    }
}

#[tokio::test]
async fn nobody_else_is_let_in() {
    let api = Api::start();
    let cell = api.ours(Role::Cell, "cell", Ipv4Addr::LOCALHOST);
    for version in [&TLS12, &TLS13] {
        for files in [None, Some(&cell)] {
            // With TLS 1.3 the client may learn of it only when it reads.
            for path in ["/leases", "/networking/v1/internal/policies"] {
                let answered = match api.connect_as(files, &[version]).await {
                    Ok(mut client) => client.send("GET", path, "").await.is_ok(),
                    Err(_) => false,
                };
                assert!(!answered, "{version:?} {files:?} {path}");
            }
        }
    }
    assert_eq!(api.get("/leases").await.status, 200, "and others are served after that");
}

#[tokio::test]
async fn what_is_not_there_is_said_so() {
    let api = Api::start();
    let internal =
        ["/networking/v1/internal", "/networking/v1/internal/policy", "/networking/v1/external/policies"];
    // policy-server-internal has its health elsewhere, and so have we: at `metrics_address`.
    for path in ["/", "/health", "/lease", "/leases/", "/leases/steal"].into_iter().chain(internal) {
        let reply = api.get(path).await;
        assert_eq!(reply.is(), (404, r#"{"error": "not found"}"#), "{path}");
        assert!(reply.head.contains("\r\nstrict-transport-security: max-age=31536000\r\n"), "{reply:?}");
    }
    for path in ["/networking/v1/internal/policies", "/networking/v1/internal/tags"] {
        assert_eq!(api.send("POST", path, "{}").await.status, 405, "{path}");
    }
    let reply = api.send("POST", "/leases/acquire", "{}").await;
    assert_eq!(reply.is(), (405, r#"{"error": "method not allowed"}"#));
}
