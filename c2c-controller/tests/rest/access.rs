//! Who may what besides administrators: scopes, space developers, the quota; and a Cloud Controller or UAA that fails.

use crate::harness::{Api, Reply};
use crate::stub::Answer;
use serde_json::{Value, json};

const PATH: &str = "/networking/v1/external/policies";
const REFUSED: (u16, &str) = (403, r#"{"error": "one or more applications cannot be found or accessed"}"#);
const CHECK_FAILED: (u16, &str) = (500, r#"{"error": "check access failed"}"#);
const FILTER_FAILED: (u16, &str) = (500, r#"{"error": "filter policies failed"}"#);
const QUOTA: (u16, &str) = (403, r#"{"error": "policy quota exceeded"}"#);
const DONE: (u16, &str) = (200, "{}");

fn policy(source: &str, destination: &str, port: u16) -> Value {
    let destination = json!({"id": destination, "protocol": "tcp", "ports": {"start": port, "end": port}});
    json!({"source": {"id": source}, "destination": destination})
}

fn body(policies: &[Value]) -> String {
    json!({ "policies": policies }).to_string()
}

/// Asks as the user `user-1` with the scope network.write.
async fn write(api: &Api, method: &str, path: &str, body: &str) -> Reply {
    api.send(method, path, &[("Authorization", &api.uaa.bearer(&["network.write"]))], body).await
}

async fn create(api: &Api, policies: &[Value]) -> Reply {
    write(api, "POST", PATH, &body(policies)).await
}

/// The sources and destinations of a list, such as `a>b`.
fn pairs(list: &Reply) -> Vec<String> {
    assert_eq!(list.status, 200, "{list:?}");
    let list: Value = serde_json::from_str(&list.body).unwrap();
    let policies = list["policies"].as_array().unwrap();
    assert_eq!(list["total_policies"], policies.len());
    let side = |policy: &Value, side: &str| policy[side]["id"].as_str().unwrap().to_owned();
    policies
        .iter()
        .map(|policy| format!("{}>{}", side(policy, "source"), side(policy, "destination")))
        .collect()
}

/// Apps a and b in a space of `user-1`, c in another of theirs, x in somebody else's.
async fn foundation(flags: &[&str]) -> Api {
    let api = Api::with_cloud(flags).await;
    for (app, space) in [("a", "s1"), ("b", "s1"), ("c", "s2"), ("x", "s9")] {
        api.cc.app(app, space);
    }
    for (user, space) in [("user-1", "s1"), ("user-1", "s2"), ("user-9", "s9")] {
        api.cc.developer(user, space);
    }
    api
}

#[tokio::test]
async fn space_developers_change_policies_between_their_own_apps_and_no_others() {
    let api = foundation(&[]).await;
    assert_eq!(create(&api, &[policy("a", "b", 1), policy("a", "c", 2)]).await.is(), DONE);
    assert_eq!(create(&api, &[policy("a", "b", 1)]).await.is(), DONE, "idempotent");
    for foreign in [policy("a", "x", 1), policy("x", "a", 1), policy("x", "x", 1)] {
        assert_eq!(create(&api, &[policy("a", "b", 3), foreign.clone()]).await.is(), REFUSED);
        let delete = write(&api, "POST", &format!("{PATH}/delete"), &body(&[foreign])).await;
        assert_eq!(delete.is(), REFUSED);
    }
    for unknown in [policy("a", "nobody", 1), policy("nobody", "nobody", 1)] {
        assert_eq!(create(&api, &[unknown]).await.is(), REFUSED, "as far as Cloud Controller knows");
    }
    assert_eq!(api.revision_and_policies().await, (1, 2), "nothing of what was refused was done");
    api.cc.app("nobody", "s1");
    assert_eq!(
        create(&api, &[policy("a", "nobody", 1)]).await.is(),
        DONE,
        "an app that is new counts at once"
    );
    let some_known = body(&[policy("a", "c", 2), policy("a", "c", 9)]);
    assert_eq!(write(&api, "POST", &format!("{PATH}/delete"), &some_known).await.is(), DONE);
    assert_eq!(api.revision_and_policies().await, (3, 2));
    assert_eq!(api.admin("POST", PATH, &body(&[policy("x", "who-knows", 1)])).await.is(), DONE);
}

#[tokio::test]
async fn lists_show_policies_whose_apps_are_both_in_spaces_of_the_caller() {
    let api = foundation(&[]).await;
    let all = [("a", "b"), ("c", "a"), ("a", "x"), ("x", "a"), ("x", "x"), ("a", "gone")];
    let all: Vec<Value> = all.iter().map(|(source, destination)| policy(source, destination, 1)).collect();
    assert_eq!(api.admin("POST", PATH, &body(&all)).await.is(), DONE);
    assert_eq!(pairs(&write(&api, "GET", PATH, "").await), ["a>b", "c>a"]);
    assert_eq!(pairs(&write(&api, "GET", &format!("{PATH}?source_id=a,x"), "").await), ["a>b"]);
    assert_eq!(pairs(&write(&api, "GET", &format!("{PATH}?id=x"), "").await), Vec::<String>::new());
    assert_eq!(pairs(&api.admin("GET", PATH, "").await).len(), 6);
    let other =
        format!("bearer {}", api.uaa.token(&json!({"scope": ["network.write"], "user_id": "user-9"})));
    assert_eq!(pairs(&api.send("GET", PATH, &[("Authorization", &other)], "").await), ["x>x"]);
}

#[tokio::test]
async fn scopes_are_asked_for_unless_space_developers_serve_themselves() {
    let api = foundation(&[]).await;
    let user = api.uaa.bearer(&["openid"]);
    let as_user = async |api: &Api, method, path: &str, body: &str, user: &str| {
        api.send(method, path, &[("Authorization", user)], body).await
    };
    let text = r#"{"error": "provided scopes [openid] do not include allowed scopes [network.admin network.write]"}"#;
    for (method, path) in
        [("GET", PATH.to_owned()), ("POST", PATH.to_owned()), ("POST", format!("{PATH}/delete"))]
    {
        assert_eq!(as_user(&api, method, &path, "", &user).await.is(), (403, text));
    }
    let own = foundation(&["--enable-space-developer-self-service", "true"]).await;
    let user = own.uaa.bearer(&["openid"]);
    assert_eq!(as_user(&own, "POST", PATH, &body(&[policy("a", "b", 1)]), &user).await.is(), DONE);
    assert_eq!(as_user(&own, "POST", PATH, &body(&[policy("a", "x", 1)]), &user).await.is(), REFUSED);
    assert_eq!(pairs(&as_user(&own, "GET", PATH, "", &user).await), ["a>b"]);
    for (method, path) in [("GET", "tags"), ("GET", "whoami"), ("POST", "policies/cleanup")] {
        for (api, scope) in [(&api, "network.write"), (&own, "openid")] {
            let (path, user) = (format!("/networking/v1/external/{path}"), api.uaa.bearer(&[scope]));
            let reply = as_user(api, method, &path, "", &user).await;
            let text = format!(
                r#"{{"error": "provided scopes [{scope}] do not include allowed scopes [network.admin]"}}"#
            );
            assert_eq!(reply.is(), (403, text.as_str()), "for administrators alone");
        }
    }
}

#[tokio::test]
async fn the_quota_holds_whoever_comes_at_the_same_time() {
    let api = foundation(&["--max-policies-per-app-source", "3"]).await;
    let many: Vec<Value> = (1..=4).map(|port| policy("a", "b", port)).collect();
    assert_eq!(create(&api, &many).await.is(), QUOTA);
    assert_eq!(api.revision_and_policies().await, (0, 0), "all or nothing");
    let one_each = (1..=8).map(|port| {
        let api = &api;
        async move { create(api, &[policy("a", "b", port), policy("b", "a", port)]).await.status }
    });
    let statuses = futures::future::join_all(one_each).await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 3, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 403].contains(status)), "{statuses:?}");
    assert_eq!(api.revision_and_policies().await.1, 6);
    assert_eq!(create(&api, &[policy("c", "a", 1), policy("c", "a", 1)]).await.is(), DONE, "another source");
    let there = api.admin("GET", &format!("{PATH}?source_id=a"), "").await;
    let there = there.body.replacen(r#""total_policies":3,"#, "", 1);
    assert_eq!(write(&api, "POST", PATH, &there).await.is(), DONE, "what is there already");
    assert_eq!(api.admin("POST", PATH, &body(&many)).await.is(), DONE, "administrators have none");
}

#[tokio::test]
async fn what_was_asked_a_moment_ago_is_not_asked_again() {
    let api = foundation(&[]).await;
    assert_eq!(create(&api, &[policy("a", "b", 1), policy("c", "c", 1)]).await.is(), DONE);
    let first = [
        "GET /v3/apps?guids=a,b,c&per_page=200&page=1",
        "GET /v3/roles?types=space_developer&user_guids=user-1&space_guids=s1,s2&per_page=200&page=1",
    ];
    assert_eq!(api.cc.asked(), first);
    assert_eq!(pairs(&write(&api, "GET", PATH, "").await), ["a>b", "c>c"]);
    assert_eq!(create(&api, &[policy("b", "a", 1)]).await.is(), DONE);
    assert_eq!(api.cc.asked(), Vec::<String>::new());
    for _ in 0..2 {
        assert_eq!(create(&api, &[policy("a", "x", 1)]).await.is(), REFUSED);
    }
    let role = "GET /v3/roles?types=space_developer&user_guids=user-1&space_guids=s9&per_page=200&page=1";
    assert_eq!(
        api.cc.asked(),
        ["GET /v3/apps?guids=x&per_page=200&page=1", role, role],
        "who may not may later"
    );
    assert_eq!(api.uaa.world().tokens_given, 1);
}

#[tokio::test]
async fn many_apps_are_asked_for_in_chunks() {
    let api = foundation(&["--max-policies-per-app-source", "1000"]).await;
    let app = |n: u32| format!("{n:036}");
    for n in 0..450 {
        api.cc.app(&app(n), "s1");
    }
    let policies: Vec<Value> = (1..450).map(|n| policy(&app(0), &app(n), 1)).collect();
    assert_eq!(create(&api, &policies).await.is(), DONE);
    let asked = api.cc.asked();
    assert_eq!(asked.len(), 4, "three chunks of apps and one of a space: {asked:?}");
    assert!(asked.iter().all(|line| line.len() < 8000));
    assert_eq!(pairs(&write(&api, "GET", PATH, "").await).len(), 449);
    assert_eq!(api.cc.asked().len(), 0);
}

/// A page with these resources, of so many.
fn page(total: usize, next: bool, resources: &Value) -> Answer {
    let next = if next { json!({"href": "https://elsewhere.example.org/"}) } else { Value::Null };
    let pagination = json!({"total_results": total, "total_pages": 9, "next": next});
    Answer::Json(200, json!({"pagination": pagination, "resources": resources}).to_string())
}

type Trick = Box<dyn Fn() -> Answer + Send>;

#[tokio::test]
async fn a_cloud_controller_that_answers_strangely_lets_nobody_do_anything() {
    let api = foundation(&[]).await;
    assert_eq!(api.admin("POST", PATH, &body(&[policy("a", "b", 1)])).await.is(), DONE);
    let huge = || {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000000\r\n";
        Answer::Bytes([head.as_bytes(), &vec![b' '; 0x100_0000]].concat())
    };
    let cut = r#"HTTP/1.1 200 OK"#.to_owned() + "\r\nContent-Length: 100\r\n\r\n{\"pagination\"";
    let redirect = "HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/\r\nContent-Length: 0\r\n\r\n";
    let bytes = |text: &str| Answer::Bytes(text.as_bytes().to_vec());
    let app = json!({"guid": "a", "relationships": {"space": {"data": {"guid": "s1"}}}});
    let both = json!([app, {"guid": "b", "relationships": {"space": {"data": {"guid": "s1"}}}}]);
    let tricks: Vec<(&str, Trick)> = vec![
        ("500", Box::new(|| Answer::Json(500, "{}".to_owned()))),
        ("404", Box::new(|| Answer::Json(404, "{}".to_owned()))),
        ("403", Box::new(|| Answer::Json(403, "{}".to_owned()))),
        ("no token is good", Box::new(|| Answer::Json(401, "{}".to_owned()))),
        ("no JSON", Box::new(|| Answer::Json(200, "<html>".to_owned()))),
        ("other JSON", Box::new(|| Answer::Json(200, r#"{"resources":[]}"#.to_owned()))),
        ("16 MiB", Box::new(huge)),
        ("cut off", Box::new(move || bytes(&cut))),
        ("redirect", Box::new(move || bytes(redirect))),
        ("no HTTP", Box::new(move || bytes("SSH-2.0-x\r\n"))),
        ("nothing", Box::new(move || bytes(""))),
        (
            "less than it says",
            Box::new({
                let both = both.clone();
                move || page(3, false, &both)
            }),
        ),
        (
            "more than it says",
            Box::new({
                let both = both.clone();
                move || page(1, false, &both)
            }),
        ),
        ("no end", Box::new(move || page(2, true, &both))),
        ("apps without a space", Box::new(|| page(1, false, &json!([{"guid": "a", "relationships": {}}])))),
    ];
    for (name, answer) in tricks {
        api.cc.trick(move |_| Some(answer()));
        assert_eq!(create(&api, &[policy("a", "b", 2)]).await.is(), CHECK_FAILED, "{name}");
        assert_eq!(write(&api, "GET", PATH, "").await.is(), FILTER_FAILED, "{name}");
    }
    assert_eq!(api.revision_and_policies().await, (1, 1));
    let others = json!([{"guid": "z", "relationships": {"space": {"data": {"guid": "s1"}}}}]);
    api.cc.trick(move |_| Some(page(1, false, &others)));
    assert_eq!(create(&api, &[policy("a", "b", 2)]).await.is(), REFUSED, "an app that was not asked for");
    let role = |user: &str, kind: &str| {
        let to = |guid: &str| json!({"data": {"guid": guid}});
        json!([{"type": kind, "relationships": {"user": to(user), "space": to("s1")}}])
    };
    for roles in [role("user-9", "space_developer"), role("user-1", "space_auditor"), json!([])] {
        api.cc.trick(move |asked| {
            asked.line.contains("/v3/roles").then(|| page(roles.as_array().unwrap().len(), false, &roles))
        });
        assert_eq!(create(&api, &[policy("a", "b", 2)]).await.is(), REFUSED, "roles that were not asked for");
    }
    api.cc.no_trick();
    assert_eq!(create(&api, &[policy("a", "b", 2)]).await.is(), DONE, "and well again");
}

#[tokio::test]
async fn our_own_token_is_kept_and_exchanged_when_it_is_refused() {
    let api = foundation(&[]).await;
    api.uaa.world().broken = true;
    assert_eq!(create(&api, &[policy("a", "b", 1)]).await.is(), CHECK_FAILED);
    assert_eq!(
        api.admin("POST", PATH, &body(&[policy("a", "b", 1)])).await.is(),
        DONE,
        "administrators still may"
    );
    api.uaa.world().broken = false;
    assert_eq!(create(&api, &[policy("b", "a", 1)]).await.is(), DONE);
    let mut refusals = 1;
    api.cc.trick(move |_| {
        let refuse = refusals > 0;
        refusals -= i32::from(refuse);
        refuse.then(|| Answer::Json(401, "{}".to_owned()))
    });
    assert_eq!(create(&api, &[policy("c", "a", 1)]).await.is(), DONE);
    assert_eq!(api.uaa.world().tokens_given, 2, "one at first, and one when that was refused");
    api.uaa.world().tokens_live = 0;
    api.cc.trick(|_| Some(Answer::Json(401, "{}".to_owned())));
    assert_eq!(create(&api, &[policy("x", "x", 1)]).await.is(), CHECK_FAILED, "refused twice");
    api.cc.no_trick();
    for _ in 0..2 {
        assert_eq!(create(&api, &[policy("x", "x", 1)]).await.is(), REFUSED);
    }
    assert!(api.uaa.world().tokens_given >= 5, "a token without a life is used once");
}

#[tokio::test]
async fn revoked_tokens_are_refused_if_the_uaa_is_asked() {
    let api = Api::with_cloud(&["--uaa-online-check", "true"]).await;
    let admin = api.uaa.bearer(&["network.admin"]);
    let list = async |api: &Api, token: &str| api.send("GET", PATH, &[("Authorization", token)], "").await;
    assert_eq!(list(&api, &admin).await.status, 200);
    assert_eq!(list(&api, "bearer a.b.c").await.status, 401, "and it was not asked for that");
    assert_eq!(api.uaa.world().checks, 1);
    api.uaa.world().all_revoked = true;
    let refused = (401, r#"{"error": "failed to verify token with uaa"}"#);
    assert_eq!(list(&api, &admin).await.is(), refused);
    api.uaa.world().broken = true;
    assert_eq!(list(&api, &admin).await.status, 503, "not known is not good");
    let flags = ["--uaa-online-check", "true", "--uaa-online-check-cache-seconds", "300"];
    let remembering = Api::with_cloud(&flags).await;
    let admin = remembering.uaa.bearer(&["network.admin"]);
    for _ in 0..3 {
        assert_eq!(list(&remembering, &admin).await.status, 200);
    }
    let other = format!("bearer {}", remembering.uaa.token(&json!({"jti": "other"})));
    assert_eq!(list(&remembering, &other).await.status, 200);
    assert_eq!(remembering.uaa.world().checks, 2, "each token once");
}
