//! Everything of the policy API that cf does not show: who gets in, versions, filters, tags, headers, limits, TLS.

use crate::harness::{Api, within};
use c2c_controller::domain::{AppId, Parts, Tag, TagHeld};
use c2c_proto::tls::Role;
use nix::sys::signal::Signal;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use std::time::Duration;

const V1: &str = "/networking/v1/external";

fn policy(source: &str, destination: &str, port: u16) -> Value {
    let destination = json!({"id": destination, "protocol": "tcp", "ports": {"start": port, "end": port}});
    json!({"source": {"id": source}, "destination": destination})
}

fn body(policies: &[Value]) -> String {
    json!({ "policies": policies }).to_string()
}

#[tokio::test]
async fn only_administrators_are_let_in() {
    let api = Api::start().await;
    let list = format!("{V1}/policies");
    let get = async |path: &str, authorization: &str| {
        api.send("GET", path, &[("Authorization", authorization)], "").await
    };
    let none = api.send("GET", &list, &[], "").await;
    assert_eq!(none.is(), (401, r#"{"error": "missing authorization header"}"#));
    assert_eq!(none.header("www-authenticate"), Some("Bearer"));
    let refused = (401, r#"{"error": "failed to verify token with uaa"}"#);
    let expired = format!("bearer {}", api.uaa.token(&json!({"exp": 1})));
    for authorization in ["bearer opaque", "bearer a.b.c", "Basic YTpi", expired.as_str(), "bearer \u{e9}"] {
        let reply = get(&list, authorization).await;
        assert_eq!(reply.is(), refused, "{authorization}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    let user = api.uaa.bearer(&["openid", "a\"b"]);
    let scopes =
        r#"{"error": "provided scopes [a\"b openid] do not include allowed scopes [network.admin]"}"#;
    for path in [&list, &format!("{V1}/tags"), &format!("{V1}/whoami")] {
        assert_eq!(get(path, &user).await.is(), (403, scopes));
    }
    let create = api.send("POST", &list, &[("Authorization", &user)], &body(&[policy("a", "b", 1)])).await;
    assert_eq!(create.is(), (403, scopes));
    assert_eq!(api.revision_and_policies().await, (0, 0));
    let upper = format!("Bearer {}", api.uaa.token(&json!({})));
    assert_eq!(get(&format!("{V1}/whoami"), &upper).await.is(), (200, r#"{"subject":"user-1"}"#));
}

#[tokio::test]
async fn pages_for_everybody_and_routes_that_are_not_there() {
    let api = Api::start().await;
    for path in ["/", "/networking"] {
        let reply = api.send("GET", path, &[], "").await;
        assert!(reply.status == 200 && reply.body.starts_with("Network policy server, up for "), "{reply:?}");
    }
    assert_eq!(api.send("GET", "/health", &[], "").await.is(), (200, ""));
    let other = api.send("GET", "/networking/v2/external/policies", &[], "").await;
    assert_eq!(other.is(), (406, r#"{"error": "api version 'v2' not supported"}"#), "before who asks");
    let quoted = api.send("GET", "/networking/v%22/external/whoami", &[], "").await;
    assert_eq!(quoted.is(), (406, r#"{"error": "api version 'v\"' not supported"}"#));
    assert_eq!(api.admin("GET", "/networking/v1", "").await.is(), (404, r#"{"error": "not found"}"#));
    let put = api.admin("PUT", &format!("{V1}/policies"), "").await;
    assert_eq!((put.status, put.header("allow")), (405, Some("GET,HEAD,POST,OPTIONS")), "{put:?}");
}

#[tokio::test]
async fn headers_for_browsers() {
    let api = Api::start().await;
    let reply = api.send("GET", "/", &[("X-Vcap-Request-Id", "router-7")], "").await;
    for (name, value) in [
        ("x-frame-options", "deny"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("x-xss-protection", "1; mode=block"),
        ("x-content-type-options", "nosniff"),
        ("strict-transport-security", "max-age=31536000"),
        ("x-vcap-request-id", "router-7"),
        ("vary", "Origin"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    assert_eq!(reply.header("access-control-allow-origin"), None);
    let ours = ("Origin", "https://apps.example.org");
    let preflight = api.send("OPTIONS", &format!("{V1}/policies"), &[ours], "").await;
    assert_eq!(preflight.is(), (200, ""));
    for (name, value) in [
        ("access-control-allow-origin", "https://apps.example.org"),
        ("access-control-allow-methods", "GET, POST, OPTIONS"),
        ("access-control-allow-headers", "authorization"),
    ] {
        assert_eq!(preflight.header(name), Some(value), "{name}");
    }
    let refused = api.send("GET", &format!("{V1}/policies"), &[ours], "").await;
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://apps.example.org"));
    let foreign = api.send("OPTIONS", &format!("{V1}/tags"), &[("Origin", "https://example.net")], "").await;
    assert_eq!((foreign.status, foreign.header("access-control-allow-origin")), (200, None));
}

#[tokio::test]
async fn lists_are_filtered_by_id_or_by_either_side() {
    let api = Api::start().await;
    let path = format!("{V1}/policies");
    let all = body(&[policy("a", "b", 1), policy("b", "c", 2), policy("c", "a", 3)]);
    assert_eq!(api.admin("POST", &path, &all).await.is(), (200, "{}"));
    assert_eq!(api.revision_and_policies().await, (1, 3), "one request, one commit");
    for (query, ports) in [
        ("", vec![1, 2, 3]),
        ("?id=a", vec![1, 3]),
        ("?id=a&source_id=b", vec![1, 3]),
        ("?source_id=a,b", vec![1, 2]),
        ("?dest_id=a,b", vec![1, 3]),
        ("?source_id=a&dest_id=a%2Cb", vec![1]),
        ("?source_id=a&dest_id=c", vec![]),
        ("?id=", vec![]),
    ] {
        let reply = api.admin("GET", &format!("{path}{query}"), "").await;
        let list: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(list["total_policies"], ports.len(), "{query}");
        let shown = list["policies"].as_array().unwrap().iter();
        let shown: Vec<_> =
            shown.map(|policy| policy["destination"]["ports"]["start"].as_u64().unwrap()).collect();
        assert_eq!(shown, ports, "{query}");
    }
    let tags = r#"{"tags":[{"id":"a","tag":"0001","type":"app"},{"id":"b","tag":"0002","type":"app"},{"id":"c","tag":"0003","type":"app"}]}"#;
    assert_eq!(api.admin("GET", &format!("{V1}/tags"), "").await.is(), (200, tags));
}

#[tokio::test]
async fn a_routers_tag_is_shown_as_that() {
    let router = TagHeld { tag: Tag::new(300).unwrap(), app: AppId::parse("id", "INGRESS_ROUTER").unwrap() };
    let api = Api::restored(&Parts { held: vec![router], ..Parts::default() }).await;
    let created = api.admin("POST", &format!("{V1}/policies"), &body(&[policy("a", "a", 1)])).await;
    assert_eq!(created.is(), (200, "{}"));
    let tags = r#"{"tags":[{"id":"a","tag":"0001","type":"app"},{"id":"INGRESS_ROUTER","tag":"012C","type":"router"}]}"#;
    assert_eq!(api.admin("GET", &format!("{V1}/tags"), "").await.is(), (200, tags));
}

#[tokio::test]
async fn all_of_a_request_or_nothing() {
    let api = Api::start().await;
    let path = format!("{V1}/policies");
    let half = body(&[policy("a", "b", 1), policy("a", "b", 0)]);
    let missing = r#"{"error": "mapper: validate policies: missing start port"}"#;
    assert_eq!(api.admin("POST", &path, &half).await.is(), (400, missing));
    assert_eq!(api.revision_and_policies().await, (0, 0));
    let both = body(&[policy("a", "b", 1), policy("a", "b", 2)]);
    api.admin("POST", &path, &both).await;
    let delete = format!("{path}/delete");
    assert_eq!(api.admin("POST", &delete, &half).await.is(), (400, missing));
    assert_eq!(api.revision_and_policies().await, (1, 2));
    let known_and_unknown = body(&[policy("x", "y", 1), policy("a", "b", 1), policy("a", "b", 2)]);
    assert_eq!(api.admin("POST", &delete, &known_and_unknown).await.is(), (200, "{}"));
    assert_eq!(api.revision_and_policies().await, (2, 0));
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_the_callers_fault() {
    let api = Api::start().await;
    let path = format!("{V1}/policies");
    let apps: Vec<_> = (0..=u32::from(u16::MAX)).map(|n| format!("a{n}")).collect();
    let all: Vec<_> = apps.iter().map(|app| policy(app, app, 1)).collect();
    let failed = (500, r#"{"error": "database create failed"}"#);
    assert_eq!(api.admin("POST", &path, &body(&all)).await.is(), failed, "one app more than there are tags");
    assert_eq!(api.revision_and_policies().await, (0, 0));
    assert_eq!(api.admin("POST", &path, &body(&all[..1000])).await.is(), (200, "{}"));
    assert_eq!(api.revision_and_policies().await, (1, 1000));
}

#[tokio::test]
async fn version_0_has_one_port() {
    let api = Api::start().await;
    let (path, other) = ("/networking/v0/external/policies", format!("{V1}/policies"));
    let v0 = r#"{"policies":[{"source":{"id":"a"},"destination":{"id":"b","protocol":"udp","port":53}}]}"#;
    assert_eq!(api.admin("POST", path, v0).await.is(), (200, "{}"));
    let range = r#"{"policies":[{"source":{"id":"a"},"destination":{"id":"b","protocol":"udp","ports":{"start":1,"end":9}}}]}"#;
    assert_eq!(api.admin("POST", &other, range).await.is(), (200, "{}"));
    let list = v0.replacen('{', r#"{"total_policies":1,"#, 1);
    assert_eq!(api.admin("GET", path, "").await.is(), (200, list.as_str()), "without the range");
    let reply = api.admin("POST", path, &v0.replace("53", "65536")).await;
    let text = r#"{"error": "mapper: validate policies: invalid port 65536, must be in range 1-65535"}"#;
    assert_eq!(reply.is(), (400, text));
}

#[tokio::test]
async fn a_body_may_have_ten_mebibytes() {
    const LIMIT: usize = 10 << 20;
    let api = Api::start().await;
    let path = format!("{V1}/policies");
    let good = body(&[policy("a", "b", 1)]);
    let fits = good.clone() + &" ".repeat(LIMIT - good.len());
    assert_eq!(api.admin("POST", &path, &fits).await.is(), (200, "{}"));
    let announced = async |path: &str| {
        let token = api.uaa.bearer(&["network.admin"]);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: {token}\r\nContent-Length: {}\r\n\r\n{good}",
            LIMIT + 1
        );
        api.connect().await.send_bytes(head.as_bytes()).await
    };
    let too_long = (400, r#"{"error": "failed reading request body"}"#);
    assert_eq!(announced(&path).await.is(), too_long, "without waiting for it");
    let token = api.uaa.bearer(&["network.admin"]);
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: {token}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        LIMIT + 1
    );
    let unannounced = head + &" ".repeat(LIMIT + 1);
    assert_eq!(api.connect().await.send_bytes(unannounced.as_bytes()).await.is(), too_long);
    assert_eq!(api.revision_and_policies().await, (1, 1));
    let delete = announced(&format!("{path}/delete")).await;
    assert_eq!(delete.is(), (400, r#"{"error": "invalid request body"}"#));
}

#[tokio::test]
async fn tls_1_2_and_1_3_and_a_certificate_that_is_read_again() {
    let mut api = Api::start().await;
    for version in [&TLS12, &TLS13] {
        assert_eq!(api.connect_with(&[version]).await.send("GET", "/health", &[], "").await.status, 200);
    }
    let mut before = api.connect().await;
    api.issue(Role::Controller, "rest");
    api.signal(Signal::SIGHUP);
    let changed = async {
        while api.connect().await.certificate() == before.certificate() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(changed).await;
    assert_eq!(before.send("GET", "/health", &[], "").await.status, 200, "connections stay");
    api.signal(Signal::SIGTERM);
    assert!(api.wait(), "idle connections do not hold it up");
}
