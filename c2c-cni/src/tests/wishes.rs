//! Ports, egress rules and bandwidth, as CF's networker and as CNI's runtimes ask for them.

use super::Plugin;
use serde_json::{Value, json};

fn runtime(key: &str, value: Value) -> Plugin {
    Plugin::new("ADD").conf("runtimeConfig", json!({ key: value }))
}

#[test]
fn ports_are_read_in_both_forms() {
    let port = |host: u16, container: u16, protocol: Option<&str>| json!({"host_port": host, "container_port": container, "protocol": protocol});
    let rows = [
        (json!(null), json!([])),
        (json!([]), json!([])),
        (json!([{"host_port": 61001, "container_port": 8080}]), json!([port(61001, 8080, None)])),
        (
            json!([{"host_port": 0, "container_port": 8080}, {"host_port": 0, "container_port": 2222}]),
            json!([port(0, 8080, None), port(0, 2222, None)]),
        ),
        (
            json!([{"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": ""}]),
            json!([port(53, 5353, Some("udp"))]),
        ),
        (
            json!([{"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": "0.0.0.0"}]),
            json!([port(80, 8080, Some("tcp"))]),
        ),
        (json!([{"containerPort": 8080}]), json!([port(0, 8080, None)])),
    ];
    for (asked, expected) in rows {
        assert_eq!(runtime("portMappings", asked.clone()).succeeds_asking()["ports"], expected, "{asked}");
    }
}

#[test]
fn ports_that_cannot_be_are_refused() {
    let rows = [
        (json!({}), 6, "runtimeConfig.portMappings is {}, expected a list"),
        (json!([7]), 6, "runtimeConfig.portMappings[0] is 7, expected an object"),
        (json!([{"host_port": -1, "container_port": 8080}]), 7, "cannot allocate port -1"),
        (json!([{"host_port": 65536, "container_port": 1}]), 7, "host_port is 65536, expected 0 to 65535"),
        (
            json!([{"host_port": "80", "container_port": 1}]),
            6,
            "host_port is \"80\", expected a whole number",
        ),
        (json!([{"host_port": 80.5, "container_port": 1}]), 6, "host_port is 80.5"),
        (json!([{"host_port": 80}]), 7, "portMappings[0].container_port is absent"),
        (json!([{"hostPort": 80, "containerPort": 70000}]), 7, "container_port is 70000"),
        (
            json!([{"hostPort": 80, "containerPort": 80}, {"hostPort": 81, "containerPort": 81, "protocol": "sctp"}]),
            7,
            "runtimeConfig.portMappings[1].protocol is \"sctp\", expected tcp or udp",
        ),
        (json!([{"hostPort": 80, "containerPort": 80, "hostIP": "127.0.0.1"}]), 7, "hostIP is \"127.0.0.1\""),
    ];
    for (asked, code, expected) in rows {
        let outcome = runtime("portMappings", asked).outcome();
        outcome.fails_with(code, expected);
        assert_eq!(outcome.request, None, "the agent is not asked");
    }
}

#[test]
fn egress_rules_are_read_in_any_case_and_null_is_absent() {
    let full = json!({"protocol": 1, "networks": [{"start": "8.8.8.8", "end": "8.8.4.4"}], "ports": [{"start": 53, "end": 54}], "log": true});
    let rows = [
        (json!(null), json!([])),
        (json!([full]), json!([full])),
        (
            json!([{"Protocol": 3, "Networks": [{"Start": "0.0.0.0", "End": "255.255.255.255"}], "Icmps": {"Type": 255, "Code": 1}, "Log": false}]),
            json!([{"protocol": 3, "networks": [{"start": "0.0.0.0", "end": "255.255.255.255"}], "icmps": {"type": 255, "code": 1}, "log": false}]),
        ),
        (
            json!([{"protocol": 3, "networks": null, "ports": null, "icmps": {"type": 8, "code": null}, "log": null}]),
            json!([{"protocol": 3, "icmps": {"type": 8}, "log": false}]),
        ),
        (json!([{}]), json!([{"protocol": 0, "log": false}])),
        (
            json!([{"protocol": 9, "networks": [{"start": "not an address"}]}]),
            json!([{"protocol": 9, "networks": [{"start": "not an address", "end": ""}], "log": false}]),
        ),
    ];
    for (asked, expected) in rows {
        assert_eq!(runtime("netOutRules", asked.clone()).succeeds_asking()["egress"], expected, "{asked}");
    }
}

#[test]
fn egress_rules_of_another_shape_are_refused() {
    let rows = [
        (json!({}), 6, "runtimeConfig.netOutRules is {}"),
        (json!([{"protocol": "tcp"}]), 6, "netOutRules[0].protocol is \"tcp\""),
        (json!([{"protocol": 256}]), 7, "netOutRules[0].protocol is 256, expected 0 to 255"),
        (json!([{}, {"networks": [{"start": 8}]}]), 6, "netOutRules[1].networks[0].start is 8"),
        (json!([{"ports": [{"start": 0, "end": 65536}]}]), 7, "ports[0].end is 65536, expected 0 to 65535"),
        (json!([{"icmps": {"type": -1}}]), 7, "icmps.type is -1, expected 0 to 255"),
        (json!([{"icmps": {"type": 8, "code": 256}}]), 7, "icmps.code is 256"),
        (json!([{"log": "yes"}]), 6, "log is \"yes\", expected true or false"),
    ];
    for (asked, code, expected) in rows {
        runtime("netOutRules", asked).fails_with(code, expected);
    }
}

#[test]
fn bandwidth_is_read_where_it_stands() {
    let rates = |ingress: u64, egress: u64| json!({"ingressRate": ingress, "ingressBurst": ingress, "egressRate": egress, "egressBurst": egress});
    let nested = || runtime("bandwidth", rates(1_000_000, 2_000_000));
    assert_eq!(nested().succeeds_asking()["bandwidth"], rates(1_000_000, 2_000_000));
    let top = nested().conf("egressRate", json!(8000)).conf("egressBurst", json!(8000));
    assert_eq!(top.succeeds_asking()["bandwidth"], rates(0, 8000), "the whole of what stands at the top");
    assert_eq!(Plugin::new("ADD").succeeds_asking()["bandwidth"], rates(0, 0));
    runtime("bandwidth", json!({"ingressRate": -1})).fails_with(7, "bandwidth.ingressRate is -1");
    Plugin::new("ADD").conf("egressBurst", json!("1")).fails_with(6, "egressBurst is \"1\"");
}

#[test]
fn what_silks_wrapper_was_told_is_tolerated() {
    let silk = json!({
        "datastore": "/var/vcap/data/container-metadata/store.json",
        "datastore_file_owner": "vcap",
        "iptables_lock_file": "/var/vcap/data/garden-cni/iptables.lock",
        "instance_address": "10.0.16.4",
        "no_masquerade_cidr_range": "10.255.0.0/16",
        "underlay_ips": ["10.0.16.4"],
        "temporary_underlay_interface_names": [],
        "iptables_asg_logging": true,
        "iptables_c2c_logging": true,
        "iptables_denied_logs_per_sec": 1,
        "iptables_accepted_udp_logs_per_sec": 100,
        "ingress_tag": "ffff0000",
        "vtep_name": "silk-vtep",
        "policy_agent_force_poll_address": "127.0.0.1:8722",
        "dns_servers": ["169.254.0.2"],
        "host_tcp_services": ["169.254.0.2:8853"],
        "host_udp_services": [],
        "deny_networks": {"always": [], "running": [], "staging": []},
        "outbound_connections": {"limit": false, "logging": true, "burst": 1000, "rate_per_sec": 100, "dry_run": false},
        "delegate": {"type": "silk-cni", "dataDir": "/var/vcap/data/host-local", "daemonPort": 23954, "mtu": 0},
    });
    for command in ["ADD", "DEL"] {
        let fields = silk.as_object().unwrap().clone();
        let plugin =
            fields.into_iter().fold(Plugin::new(command), |plugin, (key, value)| plugin.conf(&key, value));
        assert!(plugin.outcome().outcome.ok);
    }
}
