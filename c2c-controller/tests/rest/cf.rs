//! The requests of the cf CLI (8.18.4), in its order and with its bytes.

use crate::harness::Api;
use c2c_controller::domain::AppId;

const FRONT: &str = "2e5bf2bc-1b0c-4b6a-b0ba-ffb5b7c3f4ee";
const BACK: &str = "e8ea9d5c-0b6e-4d2b-a3a1-7d9e6f4d2f10";

/// A request as Go's HTTP client writes it.
fn request(method: &str, path: &str, token: &str, body: &str) -> Vec<u8> {
    let (length, kind) = match body.is_empty() {
        true => (String::new(), ""),
        false => (format!("Content-Length: {}\r\n", body.len()), "Content-Type: application/json\r\n"),
    };
    format!(
        "{method} /networking/v1/external/{path} HTTP/1.1\r\nHost: api.example.org\r\n\
         User-Agent: cf8/8.18.4+4c6d1f5.2025-10-23 (go1.25.3; amd64 linux)\r\n{length}Accept: application/json\r\n\
         Authorization: {token}\r\n{kind}Accept-Encoding: gzip\r\n\r\n{body}"
    )
    .into_bytes()
}

fn policy(port: u16) -> String {
    format!(
        r#"{{"source":{{"id":"{FRONT}"}},"destination":{{"id":"{BACK}","protocol":"tcp","ports":{{"start":{port},"end":{port}}}}}}}"#
    )
}

fn policies(ports: &[u16]) -> String {
    let policies: Vec<_> = ports.iter().map(|port| policy(*port)).collect();
    format!(r#"{{"policies":[{}]}}"#, policies.join(","))
}

fn list(ports: &[u16]) -> String {
    policies(ports).replacen('{', &format!(r#"{{"total_policies":{},"#, ports.len()), 1)
}

#[tokio::test]
async fn an_administrator_adds_lists_and_removes_a_network_policy() {
    add_list_and_remove(&Api::start().await, "network.admin").await;
}

#[tokio::test]
async fn so_does_a_space_developer_with_the_scope() {
    add_list_and_remove(&with_developer(&[]).await, "network.write").await;
}

#[tokio::test]
async fn so_does_one_without_it_if_space_developers_serve_themselves() {
    let api = with_developer(&["--enable-space-developer-self-service", "true"]).await;
    add_list_and_remove(&api, "cloud_controller.write").await;
}

async fn with_developer(flags: &[&str]) -> Api {
    let api = Api::with_cloud(flags).await;
    [FRONT, BACK].iter().for_each(|app| api.cc.app(app, "space-1"));
    api.cc.developer("user-1", "space-1");
    api
}

async fn add_list_and_remove(api: &Api, scope: &str) {
    assert!(AppId::parse("app", FRONT).is_ok());
    let token = api.uaa.bearer(&["cloud_controller.read", scope, "openid"]);
    let send = async |method, path: &str, body: &str| {
        let reply = api.connect().await.send_bytes(&request(method, path, &token, body)).await;
        assert_eq!(reply.header("content-type"), Some("application/json"));
        (reply.status, reply.body)
    };
    let by_id = format!("policies?id={FRONT}%2C{BACK}");
    let ok = |text: &str| (200, text.to_owned());

    assert_eq!(send("GET", &by_id, "").await, ok(&list(&[])), "cf network-policies");
    assert_eq!(send("POST", "policies", &policies(&[8080])).await, ok("{}"), "cf add-network-policy");
    assert_eq!(send("POST", "policies", &policies(&[8080])).await, ok("{}"), "once more");
    assert_eq!(send("POST", "policies", &policies(&[9090])).await, ok("{}"), "cf add-network-policy --port");
    assert_eq!(send("GET", &by_id, "").await, ok(&list(&[8080, 9090])));
    assert_eq!(api.revision_and_policies().await, (2, 2), "a second time changes nothing");

    let by_source = format!("policies?id={FRONT}");
    assert_eq!(send("GET", &by_source, "").await, ok(&list(&[8080, 9090])), "cf remove-network-policy");
    assert_eq!(send("POST", "policies/delete", &policies(&[8080])).await, ok("{}"));
    assert_eq!(send("POST", "policies/delete", &policies(&[8080])).await, ok("{}"), "gone already");
    assert_eq!(send("GET", "policies", "").await, ok(&list(&[9090])), "cf curl");
    assert_eq!(api.revision_and_policies().await, (3, 1));
}

/// `cf` checks neither the order nor the range of ports, and prints what it is told.
#[tokio::test]
async fn ports_that_cannot_be_are_refused_in_words_that_cf_prints() {
    let api = Api::start().await;
    let token = api.uaa.bearer(&["network.admin"]);
    for (start, end, text) in [
        (9, 8, "invalid port range 9-8, start must be less than or equal to end"),
        (70000, 70000, "invalid end port 70000, must be in range 1-65535"),
    ] {
        let body = format!(
            r#"{{"policies":[{{"source":{{"id":"{FRONT}"}},"destination":{{"id":"{BACK}","protocol":"tcp","ports":{{"start":{start},"end":{end}}}}}}}]}}"#
        );
        let reply = api.connect().await.send_bytes(&request("POST", "policies", &token, &body)).await;
        let expected = format!(r#"{{"error": "mapper: validate policies: {text}"}}"#);
        assert_eq!(reply.is(), (400, expected.as_str()));
    }
    assert_eq!(api.revision_and_policies().await, (0, 0));
}

#[tokio::test]
async fn several_requests_on_one_connection() {
    let api = Api::start().await;
    let token = api.uaa.bearer(&["network.admin"]);
    let mut client = api.connect().await;
    for port in [1, 2, 3] {
        let body = policies(&[port]);
        assert_eq!(client.send_bytes(&request("POST", "policies", &token, &body)).await.is(), (200, "{}"));
    }
    let reply = client.send_bytes(&request("GET", "policies?id=nobody", &token, "")).await;
    assert_eq!(reply.is(), (200, list(&[]).as_str()));
}
