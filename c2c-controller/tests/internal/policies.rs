//! The internal policy API: what vxlan-policy-agent sends, byte for byte, and every row of the contract.

use crate::harness::{Api, Client, Reply, within};
use c2c_proto::v1;
use std::collections::BTreeSet;

const BASE: &str = "/networking/v1/internal";

impl Api {
    /// Allows or, if not, removes access to port 8080.
    pub(crate) async fn access(&self, source: &str, destination: &str, allowed: bool) {
        let request = v1::AccessRequest {
            source_app: source.to_owned(),
            destination_app: destination.to_owned(),
            protocol: "tcp".to_owned(),
            ports: "8080".to_owned(),
            wait_milliseconds: 0,
        };
        let mut operator = self.operator();
        let reply = match allowed {
            true => within(operator.allow_access(request)).await,
            false => within(operator.remove_access(request)).await,
        };
        assert!(reply.unwrap().into_inner().changed);
    }

    async fn group(&self, name: &str, bindings: &[(&str, &str)]) {
        let rule = v1::SecurityRule {
            protocol: "tcp".to_owned(),
            destination: "10.0.0.0/8".to_owned(),
            ports: "80,443".to_owned(),
            ..v1::SecurityRule::default()
        };
        let mut operator = self.operator();
        let set =
            v1::SetSecurityGroupRequest { name: name.to_owned(), rules: vec![rule], wait_milliseconds: 0 };
        within(operator.set_security_group(set)).await.unwrap();
        for (workload, space) in bindings {
            let (name, workload, space) = (name.to_owned(), (*workload).to_owned(), (*space).to_owned());
            let bind = v1::BindSecurityGroupRequest { name, workload, space, wait_milliseconds: 0 };
            within(operator.bind_security_group(bind)).await.unwrap();
        }
    }

    /// When policies last changed, as agents read it.
    pub(crate) async fn last_updated(&self) -> i64 {
        let reply = self.get(&format!("{BASE}/policies_last_updated")).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.body.parse().unwrap()
    }
}

/// What Go's client makes of a request of vxlan-policy-agent.
async fn agent(client: &mut Client, method: &str, path: &str, body: &str) -> Reply {
    let length = match body {
        "" => String::new(),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: policy-server.service.cf.internal:4003\r\n\
         User-Agent: Go-http-client/1.1\r\n{length}Accept-Encoding: gzip\r\n\r\n{body}"
    );
    let reply = client.exchange(&request).await.unwrap();
    assert!(reply.head.contains("\r\nstrict-transport-security: max-age=31536000\r\n"), "{reply:?}");
    assert!(reply.head.contains("\r\ncontent-type: application/json\r\n"), "{reply:?}");
    reply
}

fn policy(source: (&str, &str), destination: (&str, &str)) -> String {
    let ((source, source_tag), (destination, tag)) = (source, destination);
    format!(
        r#"{{"source":{{"id":"{source}","tag":"{source_tag}"}},"destination":{{"id":"{destination}","tag":"{tag}","protocol":"tcp","ports":{{"start":8080,"end":8080}}}}}}"#
    )
}

#[tokio::test]
async fn a_policy_agent_starts_polls_and_asks_for_what_its_cell_hosts() {
    let api = Api::start();
    api.access("frontend", "backend", true).await;
    api.access("other", "another", true).await;
    api.group("public", &[("running", "s1"), ("staging", "")]).await;
    api.group("elsewhere", &[("running", "s2")]).await;
    // All of it on one connection.
    let mut client = api.connect().await;
    let ours = policy(("frontend", "0001"), ("backend", "0002"));
    let others = policy(("other", "0003"), ("another", "0004"));
    let all = agent(&mut client, "GET", "/networking/v1/internal/policies", "").await;
    assert_eq!(all.is(), (200, format!(r#"{{"total_policies":2,"policies":[{ours},{others}]}}"#).as_str()));
    let polled = agent(&mut client, "GET", "/networking/v1/internal/policies_last_updated", "").await;
    assert!(polled.status == 200 && polled.body.len() == 19, "{polled:?}");
    let hosted = "/networking/v1/internal/policies?id=backend,s1";
    let hosted = agent(&mut client, "GET", hosted, "").await;
    assert_eq!(hosted.is(), (200, format!(r#"{{"total_policies":1,"policies":[{ours}]}}"#).as_str()));
    let groups = "/networking/v1/internal/security_groups?per_page=5000&space_guids=s1,s3";
    let groups = agent(&mut client, "GET", groups, "").await;
    let rules = r#"[{\"protocol\":\"tcp\",\"destination\":\"10.0.0.0/8\",\"ports\":\"80,443\",\"type\":0,\"code\":0,\"description\":\"\",\"log\":false}]"#;
    let public = format!(
        r#"{{"guid":"public","name":"public","rules":"{rules}","staging_default":true,"running_default":false,"staging_space_guids":[],"running_space_guids":["s1"]}}"#
    );
    assert_eq!(groups.is(), (200, format!(r#"{{"next":0,"security_groups":[{public}]}}"#).as_str()));
    let wanted = r#"{"ID":"INGRESS_ROUTER","Type":"router"}"#;
    for _ in 0..2 {
        let tag = agent(&mut client, "PUT", "/networking/v1/internal/tags", wanted).await;
        assert_eq!(tag.is(), (200, r#"{"id":"INGRESS_ROUTER","tag":"0005","type":"router"}"#));
    }
}

#[tokio::test]
async fn whoever_polls_sees_each_change_of_policies_and_nothing_else() {
    let mut api = Api::start();
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let never = api.last_updated().await;
    assert!(
        never >= i64::try_from(before * 1_000_000_000).unwrap(),
        "later than another server said: {never}"
    );
    assert_eq!(api.last_updated().await, never, "they did not change");
    api.access("a", "b", true).await;
    let first = api.last_updated().await;
    assert!(first > never, "{first} {never}");
    api.group("web", &[("running", "")]).await;
    api.put("/leases/acquire", r#"{"underlay_ip":"10.0.3.1"}"#).await;
    api.put(&format!("{BASE}/tags"), r#"{"id":"r","type":"router"}"#).await;
    assert_eq!(api.last_updated().await, first);
    api.restart();
    assert_eq!(api.last_updated().await, first);
    api.access("a", "b", false).await;
    let second = api.last_updated().await;
    api.access("a", "c", true).await;
    let third = api.last_updated().await;
    assert!(first < second && second < third, "{first} {second} {third}");
}

#[tokio::test]
async fn which_policies_are_shown_and_how_they_may_be_asked_for() {
    let api = Api::start();
    for (source, destination) in [("a", "b"), ("b", "c"), ("d", "d")] {
        api.access(source, destination, true).await;
    }
    let count = async |path: String| {
        let reply = api.get(&path).await;
        let json = reply.json();
        let listed = json["policies"].as_array().unwrap().len();
        assert_eq!(json["total_policies"], listed);
        listed
    };
    for (query, expected) in [
        ("", 3),
        ("?id=", 3),
        ("?source_id=a", 3),
        ("?id=a", 1),
        ("?id=b", 2),
        ("?id=a%2Cd", 2),
        ("?id=none", 0),
        ("?id=%ff", 0),
    ] {
        assert_eq!(count(format!("{BASE}/policies{query}")).await, expected, "{query}");
    }
    assert_eq!(count("/networking/v0/internal/policies".to_owned()).await, 3, "the version is not looked at");
    // Apps and spaces of 254 containers.
    let mut ids: Vec<String> = (0..520).map(|n| format!("{n:08x}-0000-4000-8000-000000000000")).collect();
    ids.push("a".to_owned());
    let path = format!("{BASE}/policies?id={}", ids.join(","));
    assert!(path.len() > 19_000, "{}", path.len());
    assert_eq!(count(path).await, 1);
}

#[tokio::test]
async fn security_groups_come_in_pages_as_large_as_they_are_asked_for() {
    let api = Api::start();
    for number in 0..7 {
        api.group(&format!("group-{number}"), &[("running", if number < 5 { "s" } else { "" })]).await;
    }
    api.group("of another", &[("staging", "t")]).await;
    let page = async |query: &str| {
        let reply = api.get(&format!("{BASE}/security_groups{query}")).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let json = reply.json();
        let names = json["security_groups"].as_array().unwrap().iter().map(|group| group["name"].to_string());
        (names.collect::<Vec<_>>(), json["next"].as_i64().unwrap())
    };
    let whole = page("?space_guids=s").await;
    assert_eq!((whole.0.len(), whole.1), (7, 0));
    assert_eq!(page("").await.0.len(), 2, "those of all spaces");
    for size in ["limit=3", "per_page=3", "per_page=5000&limit=3"] {
        let (mut names, mut next) = page(&format!("?{size}&space_guids=s")).await;
        assert_eq!(names.len(), 3);
        while next != 0 {
            let (more, after) = page(&format!("?{size}&space_guids=s&from={next}")).await;
            names.extend(more);
            next = after;
        }
        assert_eq!(names, whole.0, "{size}");
    }
    assert_eq!(whole.0.iter().collect::<BTreeSet<_>>().len(), 7);
    for key in ["from", "limit", "per_page"] {
        for number in ["x", "", "1.5", "9223372036854775808"] {
            let reply = api.get(&format!("{BASE}/security_groups?{key}={number}")).await;
            let said = format!(r#"{{"error": "invalid value for '{key}' parameter"}}"#);
            assert_eq!(reply.is(), (500, said.as_str()), "{number}");
        }
    }
}

#[tokio::test]
async fn a_tag_is_a_routers_or_an_apps_and_outlives_the_controller() {
    let mut api = Api::start();
    api.access("a", "b", true).await;
    let path = format!("{BASE}/tags");
    let failed = (500, r#"{"error": "database create failed"}"#);
    let router = r#"{"id":"r","type":"router"}"#;
    for _ in 0..2 {
        assert_eq!(api.put(&path, router).await.is(), (200, r#"{"id":"r","tag":"0003","type":"router"}"#));
        api.restart();
    }
    let app = api.put(&path, r#"{"id":"a","type":"app"}"#).await;
    assert_eq!(app.is(), (200, r#"{"id":"a","tag":"0001","type":"app"}"#));
    for other in [
        r#"{"id":"r","type":"app"}"#,
        r#"{"id":"a","type":"router"}"#,
        r#"{"id":"none","type":"app"}"#,
        r#"{"id":"r2","type":"host"}"#,
        r#"{"id":"a b","type":"router"}"#,
        "{}",
    ] {
        assert_eq!(api.put(&path, other).await.is(), failed, "{other}");
    }
    for wrong in ["", "[1]", r#"{"id":1}"#, "%%"] {
        let said = r#"{"error": "failed parsing request body"}"#;
        assert_eq!(api.put(&path, wrong).await.is(), (400, said), "{wrong}");
    }
    let said = r#"{"error": "failed reading request body"}"#;
    assert_eq!(api.put(&path, &"x".repeat(20_000)).await.is(), (400, said));
    api.access("a", "r", true).await;
    api.access("a", "r", false).await;
    assert_eq!(api.put(&path, router).await.status, 200, "no policy takes it away");
}
