//! Policies of apps that Cloud Controller no longer knows.

use crate::harness::{Api, PATIENCE, Reply};
use crate::stub::Answer;
use serde_json::{Value, json};

const PATH: &str = "/networking/v1/external/policies";
const FAILED: (u16, &str) = (500, r#"{"error": "policies cleanup failed"}"#);

fn body(pairs: &[(&str, &str)]) -> String {
    let policies: Vec<Value> = pairs.iter().map(|(source, destination)| {
        json!({"source": {"id": source}, "destination": {"id": destination, "protocol": "tcp", "ports": {"start": 8080, "end": 8080}}})
    }).collect();
    json!({ "policies": policies }).to_string()
}

async fn cleanup(api: &Api, version: &str) -> Reply {
    api.admin("POST", &format!("/networking/{version}/external/policies/cleanup"), "").await
}

/// Apps a and b are in Cloud Controller.
async fn foundation(pairs: &[(&str, &str)]) -> Api {
    let api = Api::with_cloud(&[]).await;
    ["a", "b"].iter().for_each(|app| api.cc.app(app, "s1"));
    assert_eq!(api.admin("POST", PATH, &body(pairs)).await.is(), (200, "{}"));
    api
}

#[tokio::test]
async fn policies_of_apps_that_are_gone_are_removed_in_one_commit() {
    let api = foundation(&[("a", "b"), ("a", "gone"), ("gone", "b"), ("gone", "gone"), ("b", "lost")]).await;
    let one = |source: &str, destination: &str| {
        format!(
            r#"{{"source":{{"id":"{source}"}},"destination":{{"id":"{destination}","protocol":"tcp","ports":{{"start":8080,"end":8080}}}}}}"#
        )
    };
    let removed = [one("a", "gone"), one("b", "lost"), one("gone", "b"), one("gone", "gone")].join(",");
    let list = format!(r#"{{"total_policies":4,"policies":[{removed}]}}"#);
    assert_eq!(cleanup(&api, "v0").await.is(), (200, list.as_str()), "as version 1 shows them");
    assert_eq!(api.revision_and_policies().await, (2, 1));
    assert_eq!(cleanup(&api, "v1").await.is(), (200, r#"{"total_policies":0,"policies":[]}"#));
    assert_eq!(api.revision_and_policies().await, (2, 1));
}

#[tokio::test]
async fn an_answer_that_is_not_whole_removes_nothing() {
    let apps: Vec<String> = (0..250).map(|n| format!("app-{n:032}")).collect();
    let pairs: Vec<(&str, &str)> = apps.iter().map(|app| ("a", app.as_str())).collect();
    let api = foundation(&pairs).await;
    for status in [500, 404, 401] {
        // The first chunk is answered, the second is not.
        api.cc
            .trick(move |asked| (!asked.lists("guids", "a")).then(|| Answer::Json(status, "{}".to_owned())));
        assert_eq!(cleanup(&api, "v1").await.is(), FAILED);
    }
    api.cc.trick(|_| Some(Answer::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{".to_vec())));
    assert_eq!(cleanup(&api, "v1").await.is(), FAILED);
    let half = r#"{"pagination":{"total_results":1,"next":null},"resources":[]}"#;
    api.cc.trick(move |_| Some(Answer::Json(200, half.to_owned())));
    assert_eq!(cleanup(&api, "v1").await.is(), FAILED);
    assert_eq!(api.revision_and_policies().await, (1, 250));
    api.cc.no_trick();
    assert_eq!(cleanup(&api, "v1").await.status, 200);
    assert_eq!(api.revision_and_policies().await, (2, 0));
}

#[tokio::test]
async fn a_cloud_controller_that_shows_nothing_at_all_is_not_believed() {
    let api = foundation(&[("a", "b")]).await;
    api.cc.trick(|_| {
        Some(Answer::Json(200, r#"{"pagination":{"total_results":0,"next":null},"resources":[]}"#.to_owned()))
    });
    assert_eq!(cleanup(&api, "v1").await.is(), FAILED);
    assert_eq!(api.revision_and_policies().await, (1, 1));
    api.cc.no_trick();
    api.cc.world().apps.clear();
    assert_eq!(cleanup(&api, "v1").await.is(), FAILED, "without an app there is no space here");
    api.cc.app("another", "s1");
    assert_eq!(cleanup(&api, "v1").await.status, 200, "it shows a space: the apps are gone");
    assert_eq!(api.revision_and_policies().await, (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_comes_while_cloud_controller_is_asked_stays() {
    let api = foundation(&[("a", "gone")]).await;
    let (asked, was_asked) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    api.cc.trick(move |question| {
        if !question.line.starts_with("GET /v3/apps") {
            return None;
        }
        asked.send(()).unwrap();
        // Other tasks of this thread go on meanwhile.
        tokio::task::block_in_place(|| may_go_on.recv_timeout(PATIENCE)).unwrap();
        None
    });
    let cleaning = cleanup(&api, "v1");
    let meanwhile = async {
        tokio::task::spawn_blocking(move || was_asked.recv_timeout(PATIENCE).unwrap()).await.unwrap();
        assert_eq!(api.admin("POST", PATH, &body(&[("b", "gone")])).await.is(), (200, "{}"));
        go_on.send(()).unwrap();
    };
    let (cleaned, ()) = tokio::join!(cleaning, meanwhile);
    assert!(cleaned.body.starts_with(r#"{"total_policies":1,"#), "{cleaned:?}");
    assert_eq!(api.revision_and_policies().await, (3, 1));
}

#[tokio::test]
async fn without_cloud_controller_there_is_no_cleanup() {
    let api = Api::start().await;
    assert_eq!(cleanup(&api, "v1").await.is(), (404, r#"{"error": "not found"}"#));
}
