//! Guardian's calls, byte for byte as real ones were seen, to the real shim with an agent on a real socket.

#![cfg(test)]

mod scripted;

use scripted::{Agent, Process, added, run, shim};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const HANDLE: &str = "6de68121-5eb5-47f6-4c1e-6884";
/// What guardian sent for a container of an app; the process id is another one here.
const UP: &str = r#"{"Pid":9417,"Properties":{"app_id":"APP","container_workload":"app","log_config":"{\"guid\":\"APP\"}","org_id":"O","policy_group_id":"APP","ports":"8080","space_id":"S"},"netout_rules":[{"protocol":1,"networks":[{"start":"8.8.8.8","end":"8.8.8.8"}],"ports":[{"start":53,"end":53}]}],"netin":[{"host_port":0,"container_port":61001}]}"#;

/// CF's own configuration file, with the keys that point to this test's agent.
fn adapter(agent: &Agent, more: &Value) -> String {
    let mut config = json!({
        "cni_plugin_dir": "/var/vcap/packages/silk-cni/bin",
        "cni_config_dir": "/var/vcap/jobs/silk-cni/config/cni",
        "bind_mount_dir": "/var/vcap/data/garden-cni/container-netns",
        "state_file": "/var/vcap/data/garden-cni/external-networker-state.json",
        "start_port": 61000,
        "total_ports": 5000,
        "iptables_lock_file": "/var/vcap/data/garden-cni/iptables.lock",
        "log_prefix": "cfnetworking",
        "search_domains": [],
        "proxy_redirect_cidr": "",
        "proxy_port": 15001,
        "proxy_uid": 0,
        "enable_ingress_proxy_redirect": false,
        "agentSocket": agent.socket(),
        "pendingDir": agent.pending(),
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let file = agent.file("adapter.json", &config.to_string());
    format!("--configFile={}", file.display())
}

/// As guardian calls: the operator's arguments first, then its own.
fn guardian(config: &str, action: &str) -> Command {
    let mut command = shim();
    command.args([config, "--action", action, "--handle", HANDLE]);
    command
}

fn printed(output: &Output) -> &str {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::str::from_utf8(&output.stdout).unwrap()
}

/// One line on stderr, nothing on stdout, exit code 1.
fn complaint(output: &Output) -> &str {
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let text = std::str::from_utf8(&output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

fn refusing(code: u32) -> Agent {
    Agent::answering(move |_| Some(json!({"error": {"code": code, "msg": "container one is not known"}})))
}

#[test]
fn up_wires_a_container_and_answers_as_cfs_networker() {
    let process = Process::new();
    let answer = json!({"ports": [{"host_port": 61000, "container_port": 61001}], "dns_servers": ["169.254.0.2"], "search_domains": ["apps.internal"]});
    let agent = Agent::answering(move |_| Some(added(&answer)));
    let config = adapter(&agent, &json!({}));
    let output = run(guardian(&config, "up"), &UP.replace("9417", &process.pid.to_string()));
    let expected = r#"{"properties":{"garden.network.container-ip":"10.255.77.2","garden.network.host-ip":"255.255.255.255","garden.network.mapped-ports":"[{\"HostPort\":61000,\"ContainerPort\":61001}]","garden.network.interface":"eth0"},"dns_servers":["169.254.0.2"],"search_domains":["apps.internal"]}"#;
    assert_eq!(printed(&output), format!("{expected}\n"));
    assert!(output.stderr.is_empty());
    let request = json!({
        "request": "add",
        "container_id": HANDLE,
        "ifname": "eth0",
        "netns": process.netns(),
        "metadata": {
            "app_id": "APP", "container_workload": "app", "log_config": "{\"guid\":\"APP\"}", "org_id": "O",
            "policy_group_id": "APP", "ports": "8080", "space_id": "S",
        },
        "ports": [{"host_port": 0, "container_port": 61001, "protocol": null}],
        "egress": [{"protocol": 1, "networks": [{"start": "8.8.8.8", "end": "8.8.8.8"}], "ports": [{"start": 53, "end": 53}], "log": false}],
        "bandwidth": {"ingressRate": 0, "ingressBurst": 0, "egressRate": 0, "egressBurst": 0},
    });
    assert_eq!(agent.asked(), [(request, Some(process.inode()))]);
}

#[test]
fn up_takes_what_production_sends() {
    let process = Process::new();
    let agent = Agent::answering(|_| Some(added(&json!({}))));
    let config = adapter(&agent, &json!({}));
    let input = format!(
        r#"{{"pid":{},"properties":null,"netout_rules":[{{"protocol":3,"networks":[{{"start":"0.0.0.0","end":"255.255.255.255"}}],"icmps":{{"type":255,"code":1}}}}],"netin":[{{"host_port":0,"container_port":8080}},{{"host_port":0,"container_port":2222}},{{"host_port":0,"container_port":61001}},{{"host_port":0,"container_port":61443}},{{"host_port":0,"container_port":61002}}]}}"#,
        process.pid
    );
    let output = run(guardian(&config, "up"), &input);
    let expected = r#"{"properties":{"garden.network.container-ip":"10.255.77.2","garden.network.host-ip":"255.255.255.255","garden.network.mapped-ports":"[]","garden.network.interface":"eth0"}}"#;
    assert_eq!(printed(&output), format!("{expected}\n"), "what the agent was not told of is absent");
    let (request, _) = agent.asked().remove(0);
    let ports: Vec<_> =
        request["ports"].as_array().unwrap().iter().map(|port| port["container_port"].clone()).collect();
    assert_eq!(ports, [8080, 2222, 61001, 61443, 61002]);
    assert_eq!(request["egress"][0]["icmps"], json!({"type": 255, "code": 1}));
    assert_eq!(request["metadata"], json!({}));
}

#[test]
fn pid_0_is_an_inherited_descriptor() {
    let process = Process::new();
    let agent = Agent::answering(|_| Some(added(&json!({}))));
    let config = adapter(&agent, &json!({"search_domains": ["apps.internal", "svc.internal"]}));
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec \"$0\" \"$@\" 3<{}", process.netns()), env!("CARGO_BIN_EXE_c2c-cni")]);
    command.args([&config, "--action", "up", "--handle", HANDLE]);
    let output = run(command, r#"{"Pid":0,"Properties":{}}"#);
    assert!(printed(&output).ends_with(",\"search_domains\":[\"apps.internal\",\"svc.internal\"]}\n"));
    let (request, netns) = agent.asked().remove(0);
    assert_eq!((netns, &request["netns"]), (Some(process.inode()), &json!("")));
    let output = run(guardian(&config, "up"), r#"{"Pid":0}"#);
    assert!(
        complaint(&output).starts_with("cfnetworking: the network namespace of Pid 0 is \"/proc/self/fd/3\"")
    );
}

#[test]
fn down_needs_no_up_and_works_in_parallel_and_again_and_again() {
    let agent = Agent::answering(|_| Some(json!({ "ok": null })));
    let config = adapter(&agent, &json!({}));
    for _ in 0..2 {
        std::thread::scope(|scope| {
            let calls: Vec<_> =
                (0..8).map(|_| scope.spawn(|| run(guardian(&config, "down"), "null"))).collect();
            for call in calls {
                let output = call.join().unwrap();
                assert_eq!((printed(&output), output.stderr.len()), ("", 0));
            }
        });
    }
    let asked = agent.asked();
    let del = json!({"request": "del", "container_id": HANDLE, "ifname": "eth0"});
    assert!(
        asked.len() == 16 && asked.iter().all(|(request, netns)| *request == del && netns.is_none()),
        "{asked:?}"
    );
}

#[test]
fn down_without_an_agent_is_left_for_it() {
    let agent = Agent::away();
    let config = adapter(&agent, &json!({}));
    for _ in 0..2 {
        let output = run(guardian(&config, "down"), "null");
        assert_eq!(printed(&output), "");
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(
            log.starts_with("cfnetworking: cannot reach the agent") && log.contains("the DEL is left for it"),
            "{log}"
        );
        assert_eq!(agent.left(), [format!("{HANDLE}@eth0.json")]);
    }
}

#[test]
fn net_in_net_out_and_bulk_net_out() {
    let answer = |request: &Value| {
        let mapping = json!({"host_port": 61001, "container_port": request["container_port"]});
        Some(json!({"ok": if request["request"] == "net_in" { mapping } else { Value::Null }}))
    };
    let agent = Agent::answering(answer);
    let config = adapter(&agent, &json!({}));
    let call = |action: &str, input: &str| printed(&run(guardian(&config, action), input)).to_owned();
    let rows = [
        (
            "net-in",
            r#"{"HostIP":"10.0.16.4","HostPort":0,"ContainerIP":"10.255.1.2","ContainerPort":9090}"#,
            "{\"host_port\":61001,\"container_port\":9090}\n",
            json!({"request": "net_in", "container_id": HANDLE, "host_port": 0, "container_port": 9090, "protocol": null}),
        ),
        (
            "net-out",
            r#"{"container_ip":"10.255.1.2","netout_rule":{"protocol":1,"networks":[{"start":"1.1.1.1","end":"1.1.1.2"}],"ports":[{"start":80,"end":81}],"log":true}}"#,
            "",
            json!({"request": "net_out", "container_id": HANDLE, "rules": [{"protocol": 1, "networks": [{"start": "1.1.1.1", "end": "1.1.1.2"}], "ports": [{"start": 80, "end": 81}], "log": true}]}),
        ),
        (
            "bulk-net-out",
            r#"{"container_ip":"10.255.1.2","netout_rules":[{"protocol":3,"icmps":{"type":8,"code":0}},{"protocol":2}]}"#,
            "",
            json!({"request": "net_out", "container_id": HANDLE, "rules": [{"protocol": 3, "icmps": {"type": 8, "code": 0}, "log": false}, {"protocol": 2, "log": false}]}),
        ),
    ];
    for (action, input, expected, request) in rows {
        assert_eq!(call(action, input), expected, "{action}");
        assert_eq!(agent.asked(), [(request, None)], "{action}");
    }
}

#[test]
fn an_up_that_is_not_answered_in_time_leaves_nothing() {
    let process = Process::new();
    let input = UP.replace("9417", &process.pid.to_string());
    let agent = Agent::answering(|request| (request["request"] != "add").then(|| json!({ "ok": null })));
    let config = adapter(&agent, &json!({"timeoutSeconds": 0.3}));
    let started = Instant::now();
    let output = run(guardian(&config, "up"), &input);
    assert!(started.elapsed() < Duration::from_secs(5), "a deadline of its own");
    assert!(complaint(&output).contains("did not answer within 0."), "{}", complaint(&output));
    let asked: Vec<_> = agent.asked().into_iter().map(|(request, _)| request["request"].clone()).collect();
    assert_eq!((asked, agent.left().len()), (vec![json!("add"), json!("del")], 0));
    let dead = Agent::answering(|_| None);
    let config = adapter(&dead, &json!({"timeoutSeconds": 0.3}));
    let output = run(guardian(&config, "up"), &input);
    assert!(complaint(&output).contains("the DEL is left for it"), "{}", complaint(&output));
    assert_eq!(dead.left(), [format!("{HANDLE}@eth0.json")]);
}

#[test]
fn refusals_are_one_line_with_the_prefix() {
    let process = Process::new();
    let agent = refusing(100);
    let config = adapter(&agent, &json!({}));
    let inputs = [
        ("up", UP.replace("9417", &process.pid.to_string())),
        ("net-in", r#"{"HostPort":0,"ContainerPort":1}"#.to_owned()),
        ("net-out", r#"{"netout_rule":{}}"#.to_owned()),
        ("down", "null".to_owned()),
    ];
    for (action, input) in inputs {
        let output = run(guardian(&config, action), &input);
        assert_eq!(complaint(&output), "cfnetworking: container one is not known\n", "{action}");
        assert_eq!((agent.asked().len(), agent.left().len()), (1, 0), "{action}: the first up is left alone");
    }
    let output = run(guardian(&config, "stat"), "null");
    assert_eq!(complaint(&output), "cfnetworking: unrecognized action: stat\n");
}

#[test]
fn arguments_win_over_the_environment() {
    let agent = Agent::answering(|_| Some(json!({ "ok": null })));
    let config = adapter(&agent, &json!({}));
    let mut command = guardian(&config, "down");
    command.env("CNI_COMMAND", "VERSION");
    assert_eq!(printed(&run(command, "null")), "");
    assert_eq!(agent.asked().len(), 1);
    let mut command = shim();
    command.args(["--action", "up"]);
    assert_eq!(complaint(&run(command, "null")), "c2c-cni: parse args: missing required flag 'handle'\n");
}

/// CF's networker calls CNI plugins itself; an operator may keep it and put c2c into its list of plugins.
fn networker(agent: &Agent, command: &str, netns: &Path, fields: &Value) -> Output {
    let mut shim = shim();
    shim.envs([
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", HANDLE),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", ""),
    ]);
    shim.env("CNI_NETNS", netns).env("CNI_PATH", "/var/vcap/packages/silk-cni/bin");
    let mut conf = json!({"cniVersion": "1.0.0", "name": "cni-wrapper", "type": "c2c-cni", "agentSocket": agent.socket(), "pendingDir": agent.pending()});
    conf.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    run(shim, &conf.to_string())
}

#[test]
fn under_cfs_own_networker_it_is_a_plugin_of_a_list() {
    let process = Process::new();
    let answer = |request: &Value| match request["request"].as_str() {
        Some("add") => Some(added(&json!({"ports": request["ports"], "dns_servers": ["169.254.0.2"]}))),
        _ => Some(json!({ "ok": null })),
    };
    let agent = Agent::answering(answer);
    let fields = json!({
        "metadata": {"policy_group_id": "APP", "space_id": "S", "container_workload": "app"},
        "runtimeConfig": {
            "portMappings": [{"host_port": 61000, "container_port": 8080}, {"host_port": 61001, "container_port": 2222}],
            "netOutRules": [{"protocol": 1, "networks": [{"start": "8.8.8.8", "end": "8.8.8.8"}], "ports": [{"start": 53, "end": 53}]}],
        },
    });
    let output = networker(&agent, "ADD", Path::new(&process.netns()), &fields);
    let result: Value = serde_json::from_str(printed(&output)).unwrap();
    assert_eq!(
        result["ips"],
        json!([{"address": "10.255.77.2/32", "gateway": "169.254.0.1", "interface": 1}])
    );
    assert_eq!(
        (&result["dns"], &result["cniVersion"]),
        (&json!({"nameservers": ["169.254.0.2"]}), &json!("1.0.0"))
    );
    let (request, netns) = agent.asked().remove(0);
    assert_eq!((netns, &request["metadata"]), (Some(process.inode()), &fields["metadata"]));
    assert_eq!(request["ports"][1], json!({"host_port": 61001, "container_port": 2222, "protocol": null}));
    assert_eq!(request["egress"][0]["networks"], json!([{"start": "8.8.8.8", "end": "8.8.8.8"}]));
    let output =
        networker(&agent, "DEL", Path::new("/var/vcap/data/garden-cni/container-netns/gone"), &json!({}));
    assert_eq!(printed(&output), "");
    assert_eq!(agent.asked()[0].0["request"], "del");
}

#[test]
fn under_cfs_own_networker_null_is_nothing() {
    let process = Process::new();
    let agent = Agent::answering(|_| Some(added(&json!({}))));
    let fields = json!({"runtimeConfig": {"portMappings": null, "netOutRules": null}});
    let output = networker(&agent, "ADD", Path::new(&process.netns()), &fields);
    let result: Value = serde_json::from_str(printed(&output)).unwrap();
    assert_eq!(result.get("dns"), None);
    let (request, _) = agent.asked().remove(0);
    assert_eq!(
        (&request["ports"], &request["egress"], &request["metadata"]),
        (&json!([]), &json!([]), &json!({}))
    );
    let fields = json!({"runtimeConfig": {"portMappings": [{"host_port": -1, "container_port": 80}], "netOutRules": null}});
    let output = networker(&agent, "ADD", Path::new(&process.netns()), &fields);
    assert!(!output.status.success());
    let error: Value = serde_json::from_slice(&output.stdout).expect("exactly one document");
    assert_eq!((&error["code"], &error["msg"]), (&json!(7), &json!("cannot allocate port -1")));
    assert_eq!(agent.asked().len(), 0);
}
