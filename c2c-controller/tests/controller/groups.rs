//! Security groups: what operators read, and what reaches the agents.

use crate::harness::{Agent, Foundation, Ran, hello};
use c2c_proto::v1;
use c2c_proto::v1::agent_message::Message as Say;
use c2c_proto::v1::change::Change;
use serde_json::{Value, json};
use tonic::Code;

const RULES: &str = r#"[
    {"protocol": "tcp", "destination": "192.0.2.0/24", "ports": "443,8000-9000", "log": true, "description": "web\u001b[2J"},
    {"protocol": "icmp", "destination": "192.0.2.1", "type": 8, "code": -1, "unknown": [1]}
]"#;

/// Sets a group to what the JSON says.
fn set(foundation: &Foundation, name: &str, json: &str) -> Ran {
    let file = foundation.path().join("rules.json");
    std::fs::write(&file, json).unwrap();
    foundation.run(&["security-groups", "set", name, file.to_str().unwrap(), "--wait", "0"])
}

fn one_rule(ports: &str) -> String {
    json!([{ "protocol": "tcp", "destination": "192.0.2.1", "ports": ports }]).to_string()
}

/// `security-groups` with words that are parted by blanks.
fn run(foundation: &Foundation, words: &str) -> Ran {
    let words: Vec<&str> = ["security-groups"].into_iter().chain(words.split(' ')).collect();
    foundation.run(&words)
}

fn in_spaces(number: u8, spaces: &[&str]) -> v1::Hello {
    let spaces = spaces.iter().map(|space| (*space).to_owned()).collect();
    v1::Hello { spaces, ..hello(number, &[]) }
}

/// An agent with its lease, and the groups of its first snapshot.
async fn settled(foundation: &Foundation, hello: v1::Hello) -> (Agent, v1::LeaseGrant, Vec<String>) {
    let mut agent = foundation.connect(1, hello).await;
    let grant = agent.grant().await;
    let snapshot = agent.snapshot().await;
    agent.applied(snapshot.revision).await;
    (agent, grant, snapshot.groups.iter().map(in_short).collect())
}

/// A group as `name[ports of its rules] running; staging`, where `*` is the default.
fn in_short(group: &v1::SecurityGroup) -> String {
    let ports: Vec<&str> = group.rules.iter().map(|rule| rule.ports.as_str()).collect();
    let reach = |default: bool, spaces: &[String]| {
        let all = default.then_some("*").into_iter();
        all.chain(spaces.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
    };
    let running = reach(group.running_default, &group.running_spaces);
    let staging = reach(group.staging_default, &group.staging_spaces);
    format!("{}[{}] {running}; {staging}", group.name, ports.join(" "))
}

/// What a delta says of groups.
fn news(delta: &v1::Delta) -> Vec<String> {
    let changes = delta.changes.iter().map(|change| change.change.as_ref().unwrap());
    let news = changes.map(|change| match change {
        Change::GroupPut(group) => in_short(group),
        Change::GroupRemoved(name) => format!("-{name}"),
        Change::LeasePut(_) | Change::LeaseRemoved(_) | Change::PolicyPut(_) | Change::PolicyRemoved(_) => {
            panic!("{change:?}")
        }
    });
    news.collect()
}

#[test]
fn a_group_is_set_bound_listed_unbound_and_deleted() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let run = |words: &str| run(&foundation, words).ok();
    assert_eq!(run("list"), "no security group is set at revision 0");
    let nobody = "no connected cell hosts a space that it concerns";
    let first = set(&foundation, "web", RULES).ok();
    assert_eq!(first, format!("security group web set at revision 1; {nobody}"));
    let again = set(&foundation, "web", RULES).ok();
    let already = "security group web has these rules already; nothing changed at revision 1";
    assert_eq!(again, format!("{already}; {nobody}"));
    let steps = [
        ("bind web --space s-1", "bound to space s-1 for running at revision 2"),
        ("bind web --space s-1", "was bound to space s-1 for running already; nothing changed at revision 2"),
        ("bind web --space s-2", "bound to space s-2 for running at revision 3"),
        ("bind web --default --workload staging", "bound to all spaces for staging at revision 4"),
        ("unbind web --default", "was not bound to all spaces for running; nothing changed at revision 4"),
    ];
    for (words, said) in steps {
        assert_eq!(run(words), format!("security group web {said}; {nobody}"));
    }
    set(&foundation, "none", "[]").ok();
    assert_eq!(
        run("list"),
        "name  rules  running   staging\nnone  0      -         -\nweb   2      2 spaces  all spaces"
    );
    let table = "\
running: s-1, s-2
staging: all spaces
rule  protocol  destination   ports          type  code  log  description
1     tcp       192.0.2.0/24  443,8000-9000  -     -     yes  web\\u{1b}[2J
2     icmp      192.0.2.1     -              8     -1    -    -";
    assert_eq!(run("list web"), table);
    assert_eq!(run("list none"), "running: no space\nstaging: no space\nno rule");
    assert_eq!(
        run("unbind web --space s-1"),
        format!("security group web unbound from space s-1 for running at revision 6; {nobody}")
    );
    let listed = crate::groups::run(&foundation, "list web --json").json();
    let rules = json!([
        {
            "protocol": "tcp", "destination": "192.0.2.0/24", "ports": "443,8000-9000", "log": true,
            "description": "web\u{1b}[2J",
        },
        { "protocol": "icmp", "destination": "192.0.2.1", "type": 8, "code": -1, "log": false },
    ]);
    let web = json!({
        "name": "web", "rules": rules, "running_default": false, "staging_default": true,
        "running_spaces": ["s-2"], "staging_spaces": [],
    });
    assert_eq!(listed, json!({ "revision": 6, "groups": [web] }));
    assert_eq!(run("delete web"), format!("security group web deleted at revision 7; {nobody}"));
    assert_eq!(run("list").lines().count(), 2);
}

#[test]
fn a_rule_that_cannot_be_understood_is_named_and_kept() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let rules = json!([
        { "protocol": "tcp", "destination": "192.0.2.1", "ports": "80" },
        { "protocol": "tcp", "destination": "192.0.2.1", "ports": "0" },
        { "protocol": "udp\n", "destination": "nowhere", "ports": "53" },
    ]);
    let ran = set(&foundation, "web", &rules.to_string());
    assert_eq!((ran.code, ran.out.starts_with("security group web set at revision 1; ")), (Some(0), true));
    let lines: Vec<&str> = ran.err.lines().collect();
    let [ports, destination] = lines[..] else { panic!("{}", ran.err) };
    assert!(ports.starts_with("warning: rule 2 is skipped: ports \"0\" of the rule "), "{ports}");
    assert!(destination.starts_with("warning: rule 3 is skipped: destination \"nowhere\" "), "{destination}");
    let listed = run(&foundation, "list web --json").json();
    assert_eq!(listed["groups"][0]["rules"][2]["protocol"], "udp\n", "in the words it was given");
    assert_eq!(
        run(&foundation, "list web").ok().lines().nth(4).unwrap().split("  ").next(),
        Some("2 (skipped)")
    );
    let file = foundation.path().join("rules.json");
    let again = foundation.run(&["security-groups", "set", "web", file.to_str().unwrap(), "--json"]);
    let reply: Value = serde_json::from_str(&again.out).unwrap();
    assert_eq!((reply["changed"].as_bool(), reply["skipped"].as_array().unwrap().len()), (Some(false), 2));
}

#[test]
fn bad_input_is_one_line_and_changes_nothing() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let file = foundation.path().join("rules.json");
    let path = format!("{file:?}");
    let expected =
        "expected JSON such as [{\"protocol\":\"tcp\",\"destination\":\"192.0.2.0/24\",\"ports\":\"443\"}]";
    let many = format!("[{}{{}}]", "{},".repeat(10_000));
    let files = [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{\"rules\": []}", "invalid type: map, expected a sequence at line 1 column 0"),
        ("[{\"protocol\": \"tcp\"", "EOF while parsing an object at line 1 column 19"),
        ("[{\"ports\": 80}]", "invalid type: integer `80`, expected a string at line 1 column 13"),
    ];
    for (json, problem) in files {
        let error = set(&foundation, "web", json).failed(2);
        assert_eq!(error, format!("error: file: {path} is not a list of rules: {problem}; {expected}"));
    }
    let error = set(&foundation, "web", &many).failed(2);
    assert_eq!(error, "error: rules: are 10001; expected at most 10000 in a group; split it");
    let unknown = "name: there is no security group web; expected one of `security-groups list`";
    let name = "expected 1 to 255 characters of A-Z a-z 0-9 _ . -";
    let cases = [
        (
            "set web /none/rules.json",
            2,
            "file: cannot read \"/none/rules.json\": No such file or directory (os error 2)".into(),
        ),
        (
            "set a\tb /dev/null",
            2,
            "name: \"a\\tb\" holds '\\t'; expected 1 to 255 bytes of letters, digits, blanks and ASCII's punctuation"
                .into(),
        ),
        ("bind web --default", 1, unknown.into()),
        ("unbind web --default", 1, unknown.into()),
        ("delete web", 1, unknown.into()),
        ("list web", 1, unknown.into()),
        ("bind web --space a/b", 2, format!("space: \"a/b\" holds '/'; {name}")),
        ("bind web --space ", 2, format!("space: is empty; {name}")),
        (
            "bind web --default --workload run",
            2,
            "workload: \"run\" is not a workload; expected running or staging".into(),
        ),
        (
            "bind web",
            2,
            "the following required arguments were not provided: <--space <GUID>|--default> (see --help)"
                .into(),
        ),
        (
            "bind web --space s --default",
            2,
            "the argument '--space <GUID>' cannot be used with '--default' (see --help)".into(),
        ),
    ];
    for (words, code, message) in cases {
        assert_eq!(run(&foundation, words).failed(code), format!("error: {message}"));
    }
    assert_eq!(run(&foundation, "list").ok(), "no security group is set at revision 0");
}

#[tokio::test]
async fn the_controller_checks_again_what_the_client_checked() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let mut client = foundation.operator();
    let set = |name: &str, count| v1::SetSecurityGroupRequest {
        name: name.to_owned(),
        rules: vec![v1::SecurityRule::default(); count],
        wait_milliseconds: 0,
    };
    let bind = |workload: &str, space: &str| v1::BindSecurityGroupRequest {
        name: "web".to_owned(),
        workload: workload.to_owned(),
        space: space.to_owned(),
        wait_milliseconds: 0,
    };
    let statuses = [
        (client.set_security_group(set("", 1)).await.unwrap_err(), "name: is empty"),
        (client.set_security_group(set("web", 10_001)).await.unwrap_err(), "rules: are 10001"),
        (client.bind_security_group(bind("", "s")).await.unwrap_err(), "workload: \"\" is not a workload"),
        (client.unbind_security_group(bind("running", "a b")).await.unwrap_err(), "space: \"a b\" holds ' '"),
    ];
    for (status, message) in statuses {
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(message), "{}", status.message());
    }
    let status = client.bind_security_group(bind("running", "s")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let mut cell = foundation.operator_as(&foundation.cell(1));
    assert_eq!(cell.set_security_group(set("web", 1)).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(run(&foundation, "list").ok(), "no security group is set at revision 0");
}

#[test]
fn the_largest_group_fits_into_a_message_and_rules_come_from_standard_input() {
    use std::io::Write;
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let description = "x".repeat((2 << 20) / 10_000 - 20);
    let rules = vec![
        json!({ "protocol": "tcp", "destination": "192.0.2.1", "ports": "80", "description": description });
        10_000
    ];
    let files = &foundation.operator;
    let mut command = crate::harness::binary();
    command.args(["security-groups", "set", "large", "-", "--controller"]).arg(foundation.address());
    command.arg("--ca").arg(&files.ca).arg("--certificate").arg(&files.cert).arg("--key").arg(&files.key);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(serde_json::to_string(&rules).unwrap().as_bytes()).unwrap();
    let said = Ran::from(child.wait_with_output().unwrap()).ok();
    assert!(said.starts_with("security group large set at revision 1; "), "{said}");
    assert_eq!(run(&foundation, "list").ok().lines().nth(1), Some("large  10000  -        -"));
}

#[tokio::test]
async fn an_agent_is_told_of_the_groups_that_concern_it_and_of_no_others() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    for (name, reach) in [("all", "--default"), ("here", "--space s"), ("there", "--space t")] {
        set(&foundation, name, &one_rule("80")).ok();
        run(&foundation, &format!("bind {name} {reach}")).ok();
    }
    run(&foundation, "bind here --space t --workload staging").ok();
    let (mut agent, _, groups) = settled(&foundation, in_spaces(1, &["s"])).await;
    assert_eq!(groups, ["all[80] *; ", "here[80] s; "], "bindings to other spaces are not told");
    let mut revision = 8;
    let steps: [(&str, &[&str]); 10] = [
        ("bind there --space s --workload staging", &["there[80] ; s"]),
        ("bind there --space u", &[]),
        ("bind all --space s", &["all[80] * s; "]),
        ("unbind all --default", &["all[80] s; "]),
        ("unbind all --space s", &["-all"]),
        ("bind all --space u", &[]),
        ("bind all --default --workload staging", &["all[80] ; *"]),
        ("delete there", &["-there"]),
        ("unbind here --space s", &["-here"]),
        ("delete here", &[]),
    ];
    for (words, expected) in steps {
        run(&foundation, &format!("{words} --wait 0")).ok();
        revision += 1;
        let delta = agent.delta().await;
        assert_eq!(
            (delta.to_revision, news(&delta)),
            (revision, expected.iter().map(ToString::to_string).collect())
        );
    }
    set(&foundation, "all", &one_rule("443")).ok();
    assert_eq!(news(&agent.delta().await), ["all[443] ; *"], "its rules changed");
    set(&foundation, "new", &one_rule("443")).ok();
    assert_eq!(news(&agent.delta().await), [""; 0], "it is bound to nothing");
}

#[tokio::test]
async fn spaces_that_come_and_go_change_what_is_told() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    for (name, reach) in
        [("all", "--default"), ("both", "--space s"), ("here", "--space s"), ("there", "--space t")]
    {
        set(&foundation, name, &one_rule("80")).ok();
        run(&foundation, &format!("bind {name} {reach}")).ok();
    }
    run(&foundation, "bind both --space t").ok();
    let (mut agent, _, groups) = settled(&foundation, in_spaces(1, &["s"])).await;
    assert_eq!(groups, ["all[80] *; ", "both[80] s; ", "here[80] s; "]);
    let changed = |serial, added: &[&str], removed: &[&str]| {
        let owned = |spaces: &[&str]| spaces.iter().map(|space| (*space).to_owned()).collect();
        let (spaces_added, spaces_removed) = (owned(added), owned(removed));
        Say::AppsChanged(v1::AppsChanged {
            serial,
            spaces_added,
            spaces_removed,
            ..v1::AppsChanged::default()
        })
    };
    agent.say(changed(1, &["t"], &[])).await;
    let view = agent.view().await;
    let groups: Vec<String> = view.groups.iter().map(in_short).collect();
    assert_eq!((view.serial, view.revision), (1, 10));
    assert_eq!(
        groups,
        ["both[80] s t; ", "there[80] t; "],
        "those of the space that came, with all that concerns the cell"
    );
    run(&foundation, "bind there --space s --wait 0").ok();
    assert_eq!(news(&agent.delta().await), ["there[80] s t; "]);
    agent.say(changed(2, &[], &["t"])).await;
    let view = agent.view().await;
    assert_eq!((view.serial, view.groups.len()), (2, 0));
    run(&foundation, "unbind there --space t --wait 0").ok();
    assert_eq!(news(&agent.delta().await), [""; 0], "what left concerns it no more");
    run(&foundation, "unbind there --space s --wait 0").ok();
    assert_eq!(news(&agent.delta().await), ["-there"]);
    agent.say(changed(3, &["a b"], &[])).await;
    let status = agent.next().await.unwrap_err();
    let expected = "spaces_added: \"a b\" holds ' '; expected 1 to 255 characters of A-Z a-z 0-9 _ . -";
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, expected));
}

#[tokio::test]
async fn an_operator_who_waits_is_told_how_many_cells_enforce_a_group() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    set(&foundation, "web", &one_rule("80")).ok();
    let (mut agent, ..) = settled(&foundation, in_spaces(1, &["s"])).await;
    let other = foundation.connect(2, in_spaces(2, &["t"])).await;
    agent.delta_to(3).await;
    let bind = ["security-groups", "bind", "web", "--space", "s"];
    let (ran, ()) = tokio::join!(foundation.run_beside(&bind), async {
        assert_eq!(news(&agent.delta().await), ["web[80] s; "]);
        agent.applied(4).await;
    });
    let said = ran.ok();
    let expected =
        "security group web bound to space s for running at revision 4; enforced by 1 of 1 cell in ";
    assert!(said.starts_with(expected) && said.ends_with(" ms"), "{said}");
    let default =
        foundation.run(&["security-groups", "bind", "web", "--default", "--wait", "0", "--json"]).json();
    assert_eq!(
        (default["cells_concerned"].as_u64(), default["cells_enforcing"].as_u64()),
        (Some(2), Some(0))
    );
    let deleted = foundation.run(&["security-groups", "delete", "web", "--wait", "0", "--json"]).json();
    assert_eq!((deleted["revision"].as_u64(), deleted["cells_concerned"].as_u64()), (Some(6), Some(2)));
    drop(other);
}

#[tokio::test]
async fn groups_survive_kill_9_and_agents_resume_with_them() {
    let mut foundation = Foundation::new();
    let controller = foundation.start();
    for (name, reach) in
        [("all", "--default"), ("gone", "--space s"), ("kept", "--space s"), ("other", "--space t")]
    {
        set(&foundation, name, &one_rule("80")).ok();
        run(&foundation, &format!("bind {name} {reach}")).ok();
    }
    let (agent, grant, groups) = settled(&foundation, in_spaces(1, &["s"])).await;
    assert_eq!(groups.len(), 3);
    drop(agent);
    let steps = [
        "bind gone --space t",
        "delete gone",
        "bind other --space u",
        "bind kept --default --workload staging",
    ];
    for words in steps {
        run(&foundation, words).ok();
    }
    set(&foundation, "other", &one_rule("443")).ok();
    set(&foundation, "new", &one_rule("443")).ok();
    run(&foundation, "bind new --space s").ok();
    let before = run(&foundation, "list --json").json();
    controller.kill();

    let _controller = foundation.start();
    assert_eq!(run(&foundation, "list --json").json(), before);
    let resumed = v1::Hello {
        held: grant.lease.clone(),
        store_id: grant.store_id.clone(),
        resume_revision: 9,
        ..in_spaces(1, &["s"])
    };
    let mut agent = foundation.connect(1, resumed).await;
    agent.grant().await;
    let delta = agent.delta().await;
    assert_eq!((delta.from_revision, delta.to_revision), (9, 16));
    assert_eq!(news(&delta), ["-gone", "kept[80] s; *", "new[443] s; "]);
}
