//! What the runtime says, and how it is checked.

use super::{Plugin, parsed, refusal};
use c2c_proto::agent_api::code;
use serde_json::{Value, json};
use std::time::Duration;

#[test]
fn the_environment_is_checked_in_the_order_of_the_reference() {
    let all_missing = "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing";
    type Row = (&'static str, &'static [(&'static str, &'static str)], &'static str);
    let rows: [Row; 12] = [
        ("", &[], "required env variables [CNI_COMMAND] missing"),
        ("ADD", &[("CONTAINERID", ""), ("NETNS", ""), ("IFNAME", ""), ("PATH", "")], all_missing),
        ("CHECK", &[("NETNS", "")], "[CNI_NETNS]"),
        ("DEL", &[("IFNAME", "")], "[CNI_IFNAME]"),
        ("GC", &[("PATH", ""), ("CONTAINERID", ""), ("IFNAME", "")], "[CNI_PATH]"),
        ("STATUS", &[("PATH", "")], "[CNI_PATH]"),
        ("ADD", &[("CONTAINERID", "a/b"), ("IFNAME", "")], "CNI_CONTAINERID is \"a/b\""),
        ("ADD", &[("CONTAINERID", "-a")], "CNI_CONTAINERID is \"-a\""),
        ("DEL", &[("IFNAME", "sixteen-bytes-xx")], "CNI_IFNAME is"),
        ("DEL", &[("IFNAME", "..")], "CNI_IFNAME is"),
        ("DEL", &[("IFNAME", "a:b")], "CNI_IFNAME is"),
        ("DESTROY", &[], "CNI_COMMAND is \"DESTROY\", expected ADD"),
    ];
    for (command, changes, expected) in rows {
        let mut plugin = Plugin::new(command);
        for (name, value) in changes {
            plugin = plugin.env(&format!("CNI_{name}"), value);
        }
        plugin.fails_with(4, expected);
    }
}

#[test]
fn an_invalid_name_matters_only_to_a_command_that_needs_it() {
    Plugin::new("STATUS").env("CNI_CONTAINERID", "a/b").env("CNI_IFNAME", "..").says_nothing();
}

#[test]
fn the_configuration_is_checked_and_the_field_is_named() {
    let rows = [
        ("ADD", "", 6, "no JSON object"),
        ("ADD", "[]", 6, "no JSON object"),
        ("ADD", r#"{"cniVersion":"1.0.0","name":"#, 6, "no JSON object"),
        ("ADD", r#"{"cniVersion":"1.0.0"}"#, 7, "missing network name"),
        ("ADD", r#"{"cniVersion":"1.0.0","name":""}"#, 7, "missing network name"),
        ("ADD", r#"{"cniVersion":"1.0.0","name":"a b"}"#, 7, "invalid characters found in network name"),
        ("ADD", r#"{"cniVersion":"1.0.0","name":7}"#, 6, "name is 7, expected a string"),
        ("ADD", r#"{"cniVersion":1,"name":"n"}"#, 6, "cniVersion is 1, expected a string"),
        ("ADD", r#"{"cniVersion":"1.0.0","name":"n","agentSocket":"run/x"}"#, 7, "agentSocket"),
        ("ADD", r#"{"cniVersion":"1.0.0","name":"n","pendingDir":"x"}"#, 7, "pendingDir"),
        ("ADD", r#"{"cniVersion":"1.0.0","name":"n","timeoutSeconds":0}"#, 7, "timeoutSeconds is 0"),
        ("ADD", r#"{"cniVersion":"1.0.0","name":"n","timeoutSeconds":1e9}"#, 7, "timeoutSeconds"),
        ("ADD", r#"{"cniVersion":"1.0.0","name":"n","timeoutSeconds":"5"}"#, 7, "timeoutSeconds"),
        ("ADD", r#"{"cniVersion":"1.0.0","name":"n","metadata":"x"}"#, 6, "metadata is \"x\""),
        ("ADD", r#"{"cniVersion":"1.0.0","name":"n","runtimeConfig":[]}"#, 6, "runtimeConfig is []"),
        ("ADD", r#"{"cniVersion":"1.0.0","name":"n","prevResult":7}"#, 6, "prevResult is 7"),
        ("GC", r#"{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":{}}"#, 6, "valid-attachments"),
        (
            "GC",
            r#"{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":[{"containerID":"a"}]}"#,
            6,
            "ifname",
        ),
    ];
    for (command, stdin, code, expected) in rows {
        Plugin::new(command).stdin(stdin).fails_with(code, expected);
    }
}

#[test]
fn each_command_needs_its_version() {
    let rows = [
        ("ADD", "0.2.0", 1),
        ("ADD", "0.3.2", 1),
        ("ADD", "1.2.0", 1),
        ("ADD", "abc", 1),
        ("ADD", "", 1),
        ("DEL", "0.1.0", 1),
        ("CHECK", "0.3.1", 1),
        ("CHECK", "abc", 6),
        ("CHECK", "1.2.0", 1),
        ("GC", "1.0.0", 1),
        ("GC", "abc", 6),
        ("STATUS", "1.0.0", 1),
        ("STATUS", "abc", 6),
    ];
    for (command, version, code) in rows {
        let plugin = Plugin::new(command).conf("cniVersion", json!(version));
        plugin.fails_with(code, if code == 6 { "expected three numbers" } else { "version" });
    }
}

#[test]
fn an_error_is_one_document_in_the_version_that_was_asked_for() {
    let plugin =
        Plugin::new("ADD").conf("cniVersion", json!("0.4.0")).agent(|_| Err(refusal(code::NO_ADDRESS)));
    let document = plugin.fails_with(code::NO_ADDRESS, "because");
    assert_eq!(document, json!({"cniVersion": "0.4.0", "code": 101, "msg": "because", "details": "of that"}));
    let document =
        Plugin::new("ADD").conf("cniVersion", json!("9.9.9")).fails_with(1, "incompatible CNI versions");
    assert_eq!(document["cniVersion"], "1.1.0");
}

#[test]
fn metadata_is_found_at_the_top_or_in_the_runtime_config() {
    let (top, nested) =
        (json!({"policy_group_id": "top"}), json!({"metadata": {"policy_group_id": "nested"}}));
    let rows = [
        (vec![("metadata", top.clone())], json!({"policy_group_id": "top"})),
        (vec![("runtimeConfig", nested.clone())], json!({"policy_group_id": "nested"})),
        (vec![("metadata", top), ("runtimeConfig", nested)], json!({"policy_group_id": "top"})),
        (vec![("runtimeConfig", json!({"portMappings": []}))], json!({})),
        (vec![], json!({})),
    ];
    for (fields, expected) in rows {
        let mut plugin = Plugin::new("ADD");
        for (key, value) in fields {
            plugin = plugin.conf(key, value);
        }
        let asked = plugin.succeeds_asking();
        assert_eq!(asked["metadata"], expected);
        assert_eq!((&asked["container_id"], &asked["ifname"]), (&json!("handle"), &json!("eth0")));
    }
}

#[test]
fn the_agent_gets_the_containers_namespace_and_the_deadline() {
    let plugin =
        Plugin::new("ADD").conf("timeoutSeconds", json!(2.5)).conf("agentSocket", json!("/tmp/a.sock"));
    let asked = plugin.outcome();
    assert!(asked.outcome.ok);
    assert_eq!(asked.timeout, Some(Duration::from_millis(2500)));
    assert_eq!(asked.socket.as_deref(), Some("/tmp/a.sock".as_ref()));
    assert_eq!(asked.netns, Some(plugin.netns_inode()));
}

#[test]
fn a_namespace_that_cannot_be_the_containers_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let rows = [
        ("/proc/none/ns/net", 4, "CNI_NETNS is \"/proc/none/ns/net\""),
        (file.path().to_str().unwrap(), 4, "which is no namespace"),
        ("/proc/self/ns/net", 8, "the plugin's own network namespace"),
    ];
    for (path, code, expected) in rows {
        Plugin::new("ADD").env("CNI_NETNS", path).fails_with(code, expected);
    }
    let override_own =
        Plugin::new("ADD").env("CNI_NETNS", "/proc/self/ns/net").env("CNI_NETNS_OVERRIDE", "1");
    assert!(override_own.outcome().outcome.ok);
}

#[test]
fn version_echoes_what_is_asked_and_never_fails() {
    let rows = [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"9.9.9"}"#, "9.9.9"),
        (r#"{"cniVersion":"abc"}"#, "1.1.0"),
        (r#"{"cniVersion":7}"#, "1.1.0"),
        ("garbage", "1.1.0"),
        ("", "1.1.0"),
    ];
    for (stdin, version) in rows {
        let document = parsed(&Plugin::bare("VERSION").stdin(stdin).outcome().outcome);
        let expected: Value = json!({"cniVersion": version, "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]});
        assert_eq!(document, expected, "{stdin}");
    }
}
