//! Security groups as Cloud Controller has them, while it changes, fails and answers strangely.

use crate::cc::{group, latest_update, page};
use crate::harness::{Api, within};
use crate::stub::Answer;
use c2c_proto::v1;
use serde_json::{Value, json};
use std::time::Duration;
use tonic::Code;

/// All groups, such as `web:443@s1`, and the store's revision.
async fn groups(api: &Api) -> (u64, Vec<String>) {
    let request = v1::ListSecurityGroupsRequest::default();
    let list = api.operator().list_security_groups(request).await.unwrap().into_inner();
    let in_short = |group: v1::SecurityGroup| {
        let ports: Vec<_> = group.rules.iter().map(|rule| rule.ports.as_str()).collect();
        assert!(group.staging_default && !group.running_default);
        format!("{}:{}@{}", group.name, ports.join("+"), group.running_spaces.join("+"))
    };
    (list.revision, list.groups.into_iter().map(in_short).collect())
}

async fn become_these(api: &Api, expected: &[&str]) -> u64 {
    let mut seen = Vec::new();
    let wait = async {
        loop {
            let (revision, groups) = groups(api).await;
            if groups == expected {
                return revision;
            }
            seen = groups;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(wait).await
}

/// How often Cloud Controller was asked for groups, until it was so often.
async fn listed(api: &Api, times: usize) {
    let mut count = 0;
    within(async {
        while count < times {
            count +=
                api.cc.asked().iter().filter(|line| line.starts_with("GET /v3/security_groups?")).count();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn groups_follow_cloud_controller_and_operators_cannot_change_them() {
    let api = Api::importing(|world| {
        world.changed = Some("2026-01-01T00:00:00Z".to_owned());
        world.groups = vec![group("g-1", "public networks", 443, "s1"), group("g-2", "dns", 53, "s2")];
    })
    .await;
    become_these(&api, &["dns:53@s2", "public networks:443@s1"]).await;
    listed(&api, 2).await;
    let (revision, _) = groups(&api).await;
    assert_eq!(revision, 1, "one commit, and none when nothing differs");
    {
        let mut world = api.cc.world();
        world.changed = Some("2026-01-01T00:00:07Z".to_owned());
        world.groups = vec![group("g-1", "renamed", 443, "s1"), group("g-3", "new", 1, "s3")];
    }
    assert_eq!(become_these(&api, &["new:1@s3", "renamed:443@s1"]).await, 2);
    let mut client = api.operator();
    let name = || "renamed".to_owned();
    let set = v1::SetSecurityGroupRequest { name: name(), ..Default::default() };
    let bind =
        v1::BindSecurityGroupRequest { name: name(), workload: "running".to_owned(), ..Default::default() };
    let delete = v1::DeleteSecurityGroupRequest { name: name(), ..Default::default() };
    for refused in [
        client.set_security_group(set).await.unwrap_err(),
        client.bind_security_group(bind.clone()).await.unwrap_err(),
        client.unbind_security_group(bind).await.unwrap_err(),
        client.delete_security_group(delete).await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().starts_with("security groups are imported from Cloud Controller"));
    }
    assert_eq!(groups(&api).await.0, 2);
}

#[tokio::test]
async fn a_list_that_changes_while_it_is_read_is_read_again() {
    let api = Api::importing(|world| {
        world.groups = vec![group("g-1", "whole", 1, "s1"), group("g-2", "other", 2, "s1")];
        let (mut stamps, mut lists) = (0, 0);
        world.trick = Some(Box::new(move |asked| {
            if asked.line.contains("asg_latest_update") {
                stamps += 1;
                // Of the first list the stamp changes, of the second the pages do not fit, in the third one is twice.
                return Some(latest_update(if stamps == 1 { "one" } else { "two" }));
            }
            if !asked.line.contains("security_groups") {
                return None;
            }
            lists += 1;
            let half = || vec![group("g-1", "half", 1, "s1")];
            match lists {
                1 => Some(page(asked, half())),
                2 => Some(Answer::Json(
                    200,
                    json!({"pagination": {"total_results": 2, "next": null}, "resources": half()})
                        .to_string(),
                )),
                3 => Some(page(asked, [half(), half()].concat())),
                _ => None,
            }
        }));
    })
    .await;
    assert_eq!(become_these(&api, &["other:2@s1", "whole:1@s1"]).await, 1, "nothing else was ever taken");
}

#[tokio::test]
async fn many_groups_are_read_by_pages_that_we_count() {
    let names: Vec<String> = (0..250).map(|n| format!("group-{n:03}")).collect();
    let api = Api::importing(|world| {
        world.changed = Some("one".to_owned());
        world.groups = names.iter().map(|name| group(&format!("guid-of-{name}"), name, 1, "s1")).collect();
    })
    .await;
    let all: Vec<String> = names.iter().map(|name| format!("{name}:1@s1")).collect();
    become_these(&api, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let asked = api.cc.asked();
    let pages: Vec<&str> = asked.iter().take(3).map(String::as_str).collect();
    let line = |page| format!("GET /v3/security_groups?order_by=created_at&per_page=100&page={page}");
    assert_eq!(pages, [line(1), line(2), line(3)]);
}

#[tokio::test]
async fn the_last_good_state_outlives_whatever_cloud_controller_answers() {
    let api = Api::importing(|world| {
        world.groups = vec![group("g-1", "web", 443, "s1")];
    })
    .await;
    api.cc.app("a", "s1");
    become_these(&api, &["web:443@s1"]).await;
    let json = |status, body: &str| {
        let body = body.to_owned();
        Box::new(move || Answer::Json(status, body.clone())) as Box<dyn Fn() -> Answer + Send>
    };
    let not_one = |key: &str, value: Value| {
        let mut group = group("g-1", "web", 80, "s1");
        group[key] = value;
        json(
            200,
            &json!({"pagination": {"total_results": 1, "next": null}, "resources": [group]}).to_string(),
        )
    };
    let endless =
        json!({"pagination": {"total_results": 1, "next": {"href": "/"}}, "resources": []}).to_string();
    for (name, answer) in [
        ("500", json(500, "{}")),
        ("no JSON", json(200, "<html>")),
        ("other JSON", json(200, "[]")),
        ("no end", json(200, &endless)),
        ("rules that are no list", not_one("rules", json!("x"))),
        ("a GUID that cannot be one", not_one("guid", json!("a b"))),
        ("cut off", Box::new(|| Answer::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec()))),
        (
            "redirect",
            Box::new(|| {
                Answer::Bytes(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_vec())
            }),
        ),
    ] {
        api.cc.asked();
        api.cc.trick(move |asked| asked.line.contains("/v3/security_groups").then(&answer));
        // The second time, the first is over.
        listed(&api, 2).await;
        assert_eq!(groups(&api).await, (1, vec!["web:443@s1".to_owned()]), "{name}");
    }
    let nothing = r#"{"pagination":{"total_results":0,"next":null},"resources":[]}"#;
    api.cc.trick(move |asked| asked.line.contains("/v3/").then(|| Answer::Json(200, nothing.to_owned())));
    listed(&api, 2).await;
    assert_eq!(groups(&api).await.0, 1, "neither groups nor spaces are shown: that is not believed");
    api.cc.world().groups.clear();
    api.cc.no_trick();
    assert_eq!(become_these(&api, &[]).await, 2, "and when it is well, its word is taken: it has none");
}
