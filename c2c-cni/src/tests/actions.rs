//! What each command asks of the agent, and how the answer is worded.

use super::{Plugin, added, parsed, refusal, unreachable};
use c2c_proto::agent_api::{Added, Attachment, PendingDel, Request, code};
use c2c_proto::agent_socket::CallError;
use serde_json::{Value, json};
use std::time::Duration;

#[test]
fn add_answers_in_the_shape_of_each_version() {
    let (host, eth0) = ("s-010255001002", "eth0");
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let plugin = Plugin::new("ADD").conf("cniVersion", json!(version));
        let netns = plugin.netns();
        let mut expected = json!({
            "cniVersion": version,
            "interfaces": [
                {"name": host, "mac": "aa:aa:0a:ff:01:02"},
                {"name": eth0, "mac": "ee:ee:0a:ff:01:02", "sandbox": netns},
            ],
            "ips": [{"address": "10.255.1.2/32", "gateway": "169.254.0.1", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.0.1"}],
        });
        if version.starts_with("0.") {
            expected["ips"][0]["version"] = json!("4");
            expected["dns"] = json!({});
        }
        if version == "1.1.0" {
            expected["interfaces"][0]["mtu"] = json!(1450);
            expected["interfaces"][1]["mtu"] = json!(1450);
        }
        assert_eq!(plugin.succeeds(), expected, "{version}");
    }
}

#[test]
fn the_configured_dns_is_passed_on() {
    let dns = json!({"nameservers": ["169.254.0.2"], "search": ["apps.internal"]});
    let result = Plugin::new("ADD").conf("dns", dns.clone()).succeeds();
    assert_eq!(result["dns"], dns);
}

#[test]
fn the_agents_dns_is_passed_on_and_what_is_absent_stays_absent() {
    let list = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>());
    let servers = || list(&["169.254.0.2"]);
    let rows = [
        (None, None, json!({}), Value::Null),
        (servers(), None, json!({}), json!({"nameservers": ["169.254.0.2"]})),
        (None, list(&["a", "b"]), json!({}), json!({"search": ["a", "b"]})),
        (list(&[]), list(&[]), json!({}), json!({"nameservers": [], "search": []})),
        (
            servers(),
            list(&["a"]),
            json!({"nameservers": ["192.0.2.53"]}),
            json!({"nameservers": ["192.0.2.53"], "search": ["a"]}),
        ),
    ];
    for (dns_servers, search_domains, conf, expected) in rows {
        let answer = Added { dns_servers, search_domains, ..added() };
        let asked = Plugin::new("ADD").conf("dns", conf).agent(|_| Ok(json!(answer))).outcome();
        assert_eq!(parsed(&asked.outcome).get("dns").cloned().unwrap_or_default(), expected);
    }
}

#[test]
fn what_plugins_before_us_made_is_kept() {
    let before = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "bwp0", "mac": "02:00:00:00:00:01"}],
        "ips": [{"address": "192.0.2.7/24", "interface": 0}],
        "routes": [{"dst": "192.0.2.0/24", "mtu": 1300, "table": 7}],
        "dns": {"nameservers": ["192.0.2.53"]},
    });
    let result =
        Plugin::new("ADD").conf("cniVersion", json!("1.0.0")).conf("prevResult", before.clone()).succeeds();
    assert_eq!(result["interfaces"][0], before["interfaces"][0]);
    assert_eq!((&result["ips"][0], &result["routes"][0]), (&before["ips"][0], &before["routes"][0]));
    assert_eq!(result["ips"][1]["interface"], 2, "the index counts those before us");
    assert_eq!(result["dns"], before["dns"]);
}

#[test]
fn a_previous_result_of_another_class_is_refused() {
    for command in ["ADD", "CHECK"] {
        let plugin = Plugin::new(command).conf("prevResult", json!({"cniVersion": "0.4.0"}));
        plugin.fails_with(7, "prevResult has cniVersion \"0.4.0\"");
    }
}

#[test]
fn check_finds_the_containers_address_in_the_previous_result() {
    let interfaces = json!([{"name": "s-x"}, {"name": "eth0", "sandbox": "/run/netns/x"}]);
    let rows = [
        (json!([{"address": "10.255.1.2/32", "interface": 1}]), Some("10.255.1.2")),
        (
            json!([{"address": "fd00::2/128", "interface": 1}, {"address": "10.255.1.2/32", "interface": 1}]),
            Some("10.255.1.2"),
        ),
        (
            json!([{"address": "192.0.2.1/24", "interface": 0}, {"address": "10.255.1.2/32", "interface": 1}]),
            Some("10.255.1.2"),
        ),
        (json!([{"address": "10.255.1.2/32", "interface": -1}]), Some("10.255.1.2")),
        (json!([{"address": "10.255.1.2/32"}]), Some("10.255.1.2")),
        (json!([{"address": "192.0.2.1/24", "interface": 0}]), None),
        (json!([]), None),
    ];
    for (ips, expected) in rows {
        let plugin = Plugin::new("CHECK").conf("prevResult", json!({"interfaces": interfaces, "ips": ips}));
        match expected {
            Some(address) => assert_eq!(plugin.quietly_asks()["address"], address, "{ips}"),
            None => drop(plugin.fails_with(7, "prevResult has no IPv4 address")),
        }
    }
    Plugin::new("CHECK").fails_with(7, "required prevResult missing");
}

#[test]
fn check_tells_what_drifted() {
    let previous = json!({"ips": [{"address": "10.255.1.2/32"}]});
    let plugin = Plugin::new("CHECK").conf("prevResult", previous).agent(|_| Err(refusal(code::DRIFTED)));
    plugin.fails_with(code::DRIFTED, "because");
}

#[test]
fn del_succeeds_without_namespace_and_previous_result() {
    let asked = Plugin::new("DEL").env("CNI_NETNS", "").quietly_asks();
    assert_eq!(asked, json!({"request": "del", "container_id": "handle", "ifname": "eth0"}));
    Plugin::new("DEL").env("CNI_NETNS", "/proc/none/ns/net").says_nothing();
}

#[test]
fn del_without_the_agent_is_left_for_it() {
    let broken =
        || CallError::Broken { socket: "/x".into(), source: std::io::ErrorKind::UnexpectedEof.into() };
    let late = || CallError::Deadline { socket: "/x".into(), timeout: Duration::from_secs(1) };
    let rows: [&dyn Fn() -> CallError; 3] = [&unreachable, &broken, &late];
    for away in rows {
        let dir = tempfile::tempdir().unwrap();
        let pending = dir.path().join("state/pending-del");
        for _ in 0..2 {
            let plugin = Plugin::new("DEL").conf("pendingDir", json!(pending)).agent(|_| Err(away()));
            let outcome = plugin.outcome().outcome;
            assert!(outcome.ok && outcome.stdout.is_none(), "{outcome:?}");
            assert!(outcome.log[0].contains("the DEL is left for it"), "{outcome:?}");
        }
        let names: Vec<_> =
            std::fs::read_dir(&pending).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["handle@eth0.json"], "one file, nothing half-written");
        let text = std::fs::read_to_string(pending.join("handle@eth0.json")).unwrap();
        let left: PendingDel = serde_json::from_str(&text).unwrap();
        assert_eq!(
            left.attachment,
            Attachment { container_id: "handle".to_owned(), ifname: "eth0".to_owned() }
        );
        assert!(left.requested_at > 1_700_000_000);
    }
}

#[test]
fn del_that_was_refused_or_asked_of_somebody_else_fails() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = || Plugin::new("DEL").conf("pendingDir", json!(dir.path()));
    plugin().agent(|_| Err(refusal(code::HOST))).fails_with(code::HOST, "because");
    let foreign = || CallError::NotTheAgent { socket: "/x".into(), reason: "uid 7 listens there".to_owned() };
    plugin().agent(|_| Err(foreign())).fails_with(code::NO_AGENT, "/x is not the agent's socket: uid 7");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn del_that_cannot_be_left_anywhere_fails() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let plugin = Plugin::new("DEL").conf("pendingDir", json!(file.path())).agent(|_| Err(unreachable()));
    plugin.fails_with(code::NO_AGENT, "the DEL cannot be left for it");
}

#[test]
fn without_the_agent_add_fails_and_status_says_unavailable() {
    let add = || Plugin::new("ADD").conf("timeoutSeconds", json!(0.12));
    let asked = add().agent(|_| Err(unreachable())).outcome();
    asked.fails_with(code::NO_AGENT, "cannot reach the agent");
    assert!(
        asked.later.iter().all(|request| request["request"] == "add"),
        "nothing needs to be undone: {asked:?}"
    );
    assert!((1..=2).contains(&asked.later.len()), "it is waited for, and not for longer: {asked:?}");
    Plugin::new("STATUS").agent(|_| Err(unreachable())).fails_with(50, "cannot reach the agent");
    Plugin::new("STATUS").agent(|_| Err(refusal(51))).fails_with(51, "because");
}

#[test]
fn an_add_without_an_answer_to_use_is_undone() {
    let broken =
        || CallError::Broken { socket: "/x".into(), source: std::io::ErrorKind::UnexpectedEof.into() };
    let late = || CallError::Deadline { socket: "/x".into(), timeout: Duration::from_secs(1) };
    type Answer<'a> = &'a dyn Fn() -> Result<Value, CallError>;
    let rows: [(Answer<'_>, &str); 3] = [
        (&|| Ok(json!({"hello": 1})), "answer to ADD cannot be read"),
        (&|| Err(broken()), "ended before an answer came"),
        (&|| Err(late()), "did not answer within 1 s"),
    ];
    let is_add = |request: &Request| matches!(request, Request::Add(_));
    for (answer, expected) in rows {
        let dir = tempfile::tempdir().unwrap();
        let add = || Plugin::new("ADD").conf("pendingDir", json!(dir.path()));
        let undone = |request: &Request| if is_add(request) { answer() } else { Ok(Value::Null) };
        let asked = add().agent(undone).outcome();
        asked.fails_with(code::NO_AGENT, expected);
        assert_eq!(asked.later, [json!({"request": "del", "container_id": "handle", "ifname": "eth0"})]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the agent did it");
        let away = |request: &Request| if is_add(request) { answer() } else { Err(unreachable()) };
        let document = add().agent(away).fails_with(code::NO_AGENT, expected);
        assert!(document["msg"].as_str().unwrap().contains("the DEL is left for it in"), "{document}");
        assert!(dir.path().join("handle@eth0.json").exists());
    }
}

#[test]
fn an_add_that_was_refused_is_not_undone() {
    for code in [code::EXISTS, code::NO_PORT, code::TRY_AGAIN] {
        let asked = Plugin::new("ADD").agent(|_| Err(refusal(code))).outcome();
        assert_eq!(
            (asked.fails_with(code, "because")["code"].as_u64(), asked.later.len()),
            (Some(code.into()), 0)
        );
    }
}

#[test]
fn an_add_waits_for_an_agent_that_is_away_for_a_moment() {
    let away = std::cell::Cell::new(2);
    let agent = |_: &Request| match away.get() {
        0 => Ok(json!(added())),
        more => {
            away.set(more - 1);
            Err(unreachable())
        }
    };
    let asked = Plugin::new("ADD").agent(agent).outcome();
    assert!(asked.outcome.ok, "{asked:?}");
    assert_eq!((asked.later.len(), asked.later[1]["request"].as_str()), (2, Some("add")));
}

#[test]
fn a_previous_result_that_ours_cannot_be_added_to_is_refused_before_anything_is_made() {
    for key in ["interfaces", "ips", "routes"] {
        let plugin = Plugin::new("ADD").conf("prevResult", json!({key: {}}));
        let asked = plugin.outcome();
        asked.fails_with(6, &format!("prevResult.{key} is {{}}, expected a list"));
        assert_eq!(asked.request, None);
    }
}

#[test]
fn gc_hands_over_what_is_valid() {
    let valid = json!([{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "eth1"}]);
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let asked = Plugin::new("GC").conf(key, valid.clone()).quietly_asks();
        assert_eq!(asked["valid"][1], json!({"container_id": "b", "ifname": "eth1"}));
    }
    let asked = Plugin::new("GC").conf("cni.dev/valid-attachments", json!([])).quietly_asks();
    assert_eq!(asked["valid"], json!([]));
}

#[test]
fn gc_that_does_not_say_what_is_valid_removes_nothing() {
    let asked = Plugin::new("GC").agent(|request: &Request| panic!("asked {request:?}")).outcome();
    assert!(
        asked.outcome.ok && asked.outcome.log[0].contains("everything is taken for valid"),
        "{:?}",
        asked.outcome
    );
}
