//! The cell's own network: what is not the fabric's passes untouched and stays as it was.

use anyhow::{Result, ensure};
use c2c_tests::lab::{Lab, Options, in_lab};
use c2c_tests::netns::Namespace;
use c2c_tests::observe::files_below;
use c2c_tests::observe::network::NetworkState;
use c2c_tests::traffic::{Reach, tcp, udp};
use std::net::Ipv4Addr;
use std::process::Command;

/// A port beside VXLAN's, one that another VXLAN uses, and any.
const FOREIGN_PORTS: [u16; 3] = [4788, 8472, 30_000];

/// Ordinary traffic between two cells and a host that is none, both ways, over TCP and UDP.
fn ordinary_traffic_flows(lab: &Lab, outsider: &Namespace, outsider_address: Ipv4Addr) -> Result<()> {
    let (a, b) = (lab.cell("a")?, lab.cell("b")?);
    let hosts = [
        (a.namespace(), a.underlay_address),
        (b.namespace(), b.underlay_address),
        (outsider.clone(), outsider_address),
    ];
    for (server, to) in &hosts {
        for port in FOREIGN_PORTS {
            let _tcp = tcp::Server::start(server, port)?;
            let _udp = udp::Server::start(server, port)?;
            for (client, from) in hosts.iter().filter(|(_, from)| from != to) {
                let attempts =
                    [("tcp", tcp::connect(client, *to, port)?), ("udp", udp::ask(client, *to, port)?)];
                for (protocol, attempt) in attempts {
                    ensure!(
                        attempt.reach == Reach::Reached(*from),
                        "{protocol} {from} → {to}:{port}: {}",
                        attempt.reach
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn traffic_that_is_not_ours_passes_untouched() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let outsider = lab.add_outsider("outsider", 200)?;
        let address = Ipv4Addr::new(192, 0, 2, 200);
        lab.add("a", "one", "app")?;
        ordinary_traffic_flows(lab, &outsider, address)?;
        lab.kill_agent("a")?;
        ordinary_traffic_flows(lab, &outsider, address)?;
        lab.start_agent("a")?;
        ordinary_traffic_flows(lab, &outsider, address)
    })
}

#[test]
fn a_big_stream_between_hosts_is_not_harmed() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let (a, b) = (lab.cell("a")?, lab.cell("b")?);
        let _server = tcp::Server::start(&b.namespace(), 30_000)?;
        let mut transfer = tcp::Transfer::start(&a.namespace(), b.underlay_address, 30_000)?;
        transfer.goes_on()?;
        transfer.finish().map(drop)
    })
}

#[test]
fn uninstalling_leaves_the_host_as_it_was() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        // A host that never saw an agent, and otherwise is as a cell is.
        let virgin = NetworkState::of(&lab.add_outsider("outsider", 200)?)?;
        lab.stop_agent("a")?;
        lab.uninstall_agent("a")?;
        let cell = lab.cell("a")?.namespace();
        let before = NetworkState::of(&cell)?;
        ensure!(before.devices() == virgin.devices(), "{:?} and {:?}", before.devices(), virgin.devices());

        lab.start_agent("a")?;
        lab.add("a", "one", "app")?;
        lab.remove("one")?;
        lab.stop_agent("a")?;
        lab.uninstall_agent("a")?;
        let differences = before.differences(&NetworkState::of(&cell)?);
        ensure!(differences.is_empty(), "{differences:?}");
        let pins = files_below(&lab.cell("a")?.pin_dir)?;
        ensure!(pins.is_empty(), "{pins:?}");
        lab.uninstall_agent("a")
    })
}

#[test]
fn uninstalling_is_refused_while_containers_are_there_unless_forced() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let container = lab.add("a", "one", "app")?;
        lab.stop_agent("a")?;
        let pins = files_below(&lab.cell("a")?.pin_dir)?;
        ensure!(lab.uninstall_agent("a").is_err(), "uninstalled under a living container");
        ensure!(files_below(&lab.cell("a")?.pin_dir)? == pins, "a refused uninstall changed something");
        lab.force_uninstall_agent("a")?;
        ensure!(files_below(&lab.cell("a")?.pin_dir)?.is_empty(), "pins are left");
        let devices = NetworkState::of(&lab.cell("a")?.namespace())?.devices();
        ensure!(devices == ["lo", "eth0"], "{devices:?} are left");
        ensure!(container.namespace().exists(), "the container's namespace is not ours to remove");
        Ok(())
    })
}

#[test]
fn the_agent_never_touches_what_it_did_not_make() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        lab.stop_agent("a")?;
        lab.uninstall_agent("a")?;
        let cell = lab.cell("a")?.namespace();
        // Devices whose names look like the agent's, routes into the overlay, another's filters on the same device.
        cell.ip(&[
            "link add c2c-foreign type bridge",
            "link set c2c-foreign up",
            "link add s-010255000099 type veth peer name foreign-peer",
            "link set s-010255000099 up",
            "addr add 198.51.100.1/24 dev c2c-foreign",
            "route add 203.0.113.0/24 dev c2c-foreign",
            "route add 10.255.99.0/24 dev c2c-foreign",
            "neigh add 198.51.100.9 lladdr 02:00:00:00:00:09 dev c2c-foreign",
            "rule add from 198.51.100.9 table 100",
        ])?;
        cell.output(Command::new("tc").args("qdisc add dev eth0 clsact".split(' ')))?;
        for direction in ["ingress", "egress"] {
            // A classic BPF program of one instruction: return -1, which is TC_ACT_UNSPEC, go on.
            let words = ["filter", "add", "dev", "eth0", direction, "pref", "900", "bpf", "direct-action"];
            cell.output(Command::new("tc").args(words).args(["bytecode", "1,6 0 0 4294967295"]))?;
        }
        let filters = || -> Result<Vec<String>> {
            let show = |direction| {
                cell.output(Command::new("tc").args(["filter", "show", "dev", "eth0", direction]))
            };
            ["ingress", "egress"].into_iter().map(show).collect()
        };
        let before = (NetworkState::of(&cell)?, filters()?);

        lab.start_agent("a")?;
        lab.add("a", "one", "app")?;
        lab.kill_agent("a")?;
        lab.start_agent("a")?;
        lab.remove("one")?;
        ensure!(lab.shim_with("a", "GC", "", &[("cni.dev/valid-attachments", serde_json::json!([]))])?.ok);
        lab.stop_agent("a")?;
        lab.uninstall_agent("a")?;

        let differences = before.0.differences(&NetworkState::of(&cell)?);
        ensure!(differences.is_empty(), "{differences:?}");
        ensure!(before.1 == filters()?, "another's filters changed");
        Ok(())
    })
}
