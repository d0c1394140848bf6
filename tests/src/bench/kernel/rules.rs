//! The incumbent's rules, in its own order: what its plugin writes for each container and its policy agent for each policy,
//! as one text for `iptables-legacy-restore`. Logging and connection limits are off, as they are unless asked for.

use super::super::setting::{App, PORT, Policy, Setting};
pub(in crate::bench) use super::vtep::DEVICE as VTEP;
use super::{Cell, Container, Overlay, Underlay};
use crate::lab::UNDERLAY_INTERFACE;
use crate::netns::Namespace;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The policy chain: its name ends in microseconds since 1970.
const POLICY_CHAIN: &str = "vpa--1700000000000000";
/// The mark of what came in through a mapped port.
const INGRESS: &str = "0xffff0000";
const REFUSE: &str = "-j REJECT --reject-with icmp-port-unreachable";
const ESTABLISHED: &str = "-m state --state RELATED,ESTABLISHED -j ACCEPT";
/// The incumbent cuts the names of chains at this length, and takes so much of a handle for a chain of egress rules.
const CHAIN_LENGTH: usize = 28;
const GROUP_LENGTH: usize = 20;

/// Lays the rules on both cells; gives the time that the slower one took.
pub(in crate::bench) fn lay(overlay: &Overlay, setting: &Setting) -> Result<Duration> {
    let policies = setting.policies();
    let mut longest = Duration::ZERO;
    for cell in &overlay.underlay.cells {
        let containers: Vec<&Container> =
            overlay.containers.iter().filter(|container| container.cell == cell.name).collect();
        let text = of_cell(cell, &containers, &policies, setting);
        let began = Instant::now();
        restore(&cell.namespace, &text)?;
        longest = longest.max(began.elapsed());
    }
    Ok(longest)
}

fn restore(namespace: &Namespace, text: &str) -> Result<()> {
    let mut command = Command::new("iptables-legacy-restore");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = namespace
        .run(|| command.spawn().context("cannot start iptables-legacy-restore (package iptables)"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).context("cannot write to iptables-legacy-restore")?;
    }
    let output = child.wait_with_output().context("cannot wait for iptables-legacy-restore")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "iptables-legacy-restore: {}", said.trim());
    Ok(())
}

/// Packets that the rule of the traffic's source has marked on a cell.
pub(in crate::bench) fn marked(cell: &Cell) -> Result<u64> {
    packets(cell, "filter", &source_comment(App::Client))
}

/// Packets that the rules of the traffic's policies have accepted on a cell.
pub(in crate::bench) fn accepted(cell: &Cell) -> Result<u64> {
    packets(cell, "filter", &policy_comment(App::Client, App::Server))
}

/// Connections that a cell has led from one of its ports to a container.
pub(in crate::bench) fn mapped_in(cell: &Cell) -> Result<u64> {
    packets(cell, "nat", "DNAT")
}

/// Connections that have left a cell with its address.
pub(in crate::bench) fn masqueraded(cell: &Cell) -> Result<u64> {
    packets(cell, "nat", "MASQUERADE")
}

/// What the rules that have this word have counted.
fn packets(cell: &Cell, table: &str, word: &str) -> Result<u64> {
    let mut save = Command::new("iptables-legacy-save");
    let text = cell.namespace.output(save.args(["--counters", "--table", table]))?;
    let rules = text.lines().filter(|line| line.split(' ').any(|other| other.trim_matches('"') == word));
    Ok(rules.filter_map(|line| line.strip_prefix('[')?.split(':').next()?.parse::<u64>().ok()).sum())
}

fn of_cell(cell: &Cell, containers: &[&Container], policies: &[Policy], setting: &Setting) -> String {
    let mut text = String::new();
    for table in [filter(containers, policies, setting), nat(cell, containers), mangle(cell, containers)] {
        text.push_str(&table);
        text.push_str("COMMIT\n");
    }
    text
}

fn filter(containers: &[&Container], policies: &[Policy], setting: &Setting) -> String {
    let mut text = String::from("*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n");
    declare(&mut text, POLICY_CHAIN);
    for container in containers {
        for prefix in ["input", "netout", "overlay"] {
            declare(&mut text, &chain(prefix, container));
        }
        declare(&mut text, &group_chain(container));
    }
    add(&mut text, &format!("FORWARD -j {POLICY_CHAIN}"));
    for container in containers {
        container_rules(&mut text, container, setting);
    }
    for rule in marks(containers, policies).into_iter().chain(accepts(containers, policies)) {
        add(&mut text, &rule);
    }
    text
}

fn container_rules(text: &mut String, container: &Container, setting: &Setting) {
    let address = container.address;
    let [input, netout, overlay] = ["input", "netout", "overlay"].map(|prefix| chain(prefix, container));
    let group = group_chain(container);
    add(text, &format!("INPUT -s {address} -j {input}"));
    add(text, &format!("{input} {ESTABLISHED}"));
    add(text, &format!("{input} {REFUSE}"));
    add(text, &format!("FORWARD -s {address} -o {UNDERLAY_INTERFACE} -j {netout}"));
    add(text, &format!("FORWARD -j {overlay}"));
    add(text, &format!("{overlay} -s {address} -o {VTEP} -m mark ! --mark 0x0 -j ACCEPT"));
    add(text, &format!("{overlay} -d {address} {ESTABLISHED}"));
    add(text, &format!("{overlay} -d {address} -m mark --mark {INGRESS} -j ACCEPT"));
    add(text, &format!("{overlay} -d {address} {REFUSE}"));
    add(text, &format!("{netout} -j {group}"));
    add(text, &format!("{netout} {REFUSE}"));
    add(text, &format!("{group} {ESTABLISHED}"));
    add(text, &format!("{group} -p tcp -m state --state INVALID -j DROP"));
    let outside = if container.app == App::Client { setting.outside(Underlay::OUTSIDE) } else { Vec::new() };
    for address in outside {
        let range = format!("-m iprange --dst-range {address}-{address}");
        add(text, &format!("{group} -p tcp {range} -m tcp --dport {PORT}:{PORT} -j ACCEPT"));
    }
    add(text, &format!("{group} {REFUSE}"));
}

/// One rule for each container of a policy's source, whatever it may reach.
fn marks(containers: &[&Container], policies: &[Policy]) -> Vec<String> {
    let is_source = |app: App| policies.iter().any(|policy| policy.source == app);
    let sources = containers.iter().filter(|container| is_source(container.app));
    let rule = |container: &&Container| {
        let (app, address) = (container.app, container.address);
        let comment = source_comment(app);
        format!(
            "{POLICY_CHAIN} -s {address} -m comment --comment {comment} -j MARK --set-xmark {:#x}",
            app.tag()
        )
    };
    let mut rules: Vec<String> = sources.map(rule).collect();
    rules.sort_unstable();
    rules
}

/// One rule for each container of a policy's destination. They are sorted as text, as the incumbent sorts them.
fn accepts(containers: &[&Container], policies: &[Policy]) -> Vec<String> {
    let mut rules = Vec::new();
    for policy in policies {
        let Policy { source, destination, protocol, ports: (first, last) } = policy;
        let comment = policy_comment(*source, *destination);
        for address in containers.iter().filter(|container| container.app == *destination).map(|c| c.address)
        {
            rules.push(format!(
                "{POLICY_CHAIN} -d {address} -p {protocol} --dport {first}:{last} -m mark --mark {:#x} -m comment --comment {comment} -j ACCEPT",
                source.tag()
            ));
        }
    }
    rules.sort_unstable();
    rules
}

fn nat(cell: &Cell, containers: &[&Container]) -> String {
    let mut text =
        String::from("*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n");
    for container in containers {
        declare(&mut text, &chain("netin", container));
    }
    for container in containers {
        let (netin, address) = (chain("netin", container), container.address);
        add(&mut text, &format!("PREROUTING -j {netin}"));
        if let Some(port) = mapped_port(container) {
            let matches = mapped(cell.address, port);
            add(&mut text, &format!("{netin} {matches} -j DNAT --to-destination {address}:{PORT}"));
        }
        add(&mut text, &format!("POSTROUTING -s {address} ! -o {VTEP} ! -d 10.255.0.0/16 -j MASQUERADE"));
    }
    text
}

fn mangle(cell: &Cell, containers: &[&Container]) -> String {
    let mut text = String::from("*mangle\n:PREROUTING ACCEPT\n");
    for container in containers {
        declare(&mut text, &chain("netin", container));
    }
    for container in containers {
        let netin = chain("netin", container);
        add(&mut text, &format!("PREROUTING -j {netin}"));
        if let Some(port) = mapped_port(container) {
            let matches = mapped(cell.address, port);
            let mark = format!("-i {UNDERLAY_INTERFACE} {matches} -j MARK --set-xmark {INGRESS}");
            add(&mut text, &format!("{netin} {mark}"));
        }
    }
    text
}

/// The cell's port that leads to a server.
pub(in crate::bench) fn mapped_port(container: &Container) -> Option<u16> {
    (container.app == App::Server).then_some(61_000)
}

fn mapped(cell: Ipv4Addr, port: u16) -> String {
    format!("-d {cell} -p tcp -m tcp --dport {port}")
}

fn declare(text: &mut String, chain: &str) {
    let _written = writeln!(text, ":{chain} -");
}

fn add(text: &mut String, rule: &str) {
    let _written = writeln!(text, "-A {rule}");
}

fn source_comment(source: App) -> String {
    format!("src:{}", source.name())
}

fn policy_comment(source: App, destination: App) -> String {
    format!("src:{}_dst:{}", source.name(), destination.name())
}

fn chain(prefix: &str, container: &Container) -> String {
    format!("{prefix}--{}", handle(container)).chars().take(CHAIN_LENGTH).collect()
}

fn group_chain(container: &Container) -> String {
    let name: String = handle(container).chars().filter(|c| *c != '-').take(GROUP_LENGTH).collect();
    format!("asg-{name}")
}

/// Unlike in what is left after the cut.
fn handle(container: &Container) -> String {
    format!("{:08x}-0c2c-4000-8000-000000000000", container.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTING: Setting = Setting { policies: 2, ..Setting::SMALL };

    fn text() -> String {
        let namespace = Namespace::named("none");
        let cell =
            Cell { name: "b", namespace: namespace.clone(), address: Ipv4Addr::new(192, 0, 2, 12), block: 2 };
        let container = |app, number: u8| Container {
            app,
            cell: "b",
            namespace: namespace.clone(),
            address: cell.overlay(2 + number),
            number,
        };
        let (client, server) = (container(App::Client, 0), container(App::Server, 1));
        of_cell(&cell, &[&client, &server], &SETTING.policies(), &SETTING)
    }

    #[test]
    fn the_policy_chain_comes_first_and_an_overlay_chain_for_each_container_behind_it() {
        let text = text();
        let forward: Vec<&str> = text.lines().filter(|line| line.starts_with("-A FORWARD")).collect();
        assert_eq!(
            forward,
            [
                "-A FORWARD -j vpa--1700000000000000",
                "-A FORWARD -s 10.255.2.2 -o eth0 -j netout--00000000-0c2c-4000-8",
                "-A FORWARD -j overlay--00000000-0c2c-4000-",
                "-A FORWARD -s 10.255.2.3 -o eth0 -j netout--00000001-0c2c-4000-8",
                "-A FORWARD -j overlay--00000001-0c2c-4000-",
            ]
        );
    }

    #[test]
    fn marks_come_before_what_they_are_for() {
        let text = text();
        let chain: Vec<&str> = text.lines().filter(|line| line.starts_with("-A vpa--")).collect();
        let (client, server, other) = (App::Client.name(), App::Server.name(), App::Other(0).name());
        let accept = |address: &str, protocol: &str, port: u16, tag: u16, comment: &str| {
            format!(
                "-A {POLICY_CHAIN} -d {address} -p {protocol} --dport {port}:{port} -m mark --mark {tag:#x} -m comment --comment {comment} -j ACCEPT"
            )
        };
        assert_eq!(
            chain,
            [
                format!(
                    "-A {POLICY_CHAIN} -s 10.255.2.2 -m comment --comment src:{client} -j MARK --set-xmark 0x1"
                ),
                accept("10.255.2.2", "tcp", 1_024, 3, &format!("src:{other}_dst:{client}")),
                accept("10.255.2.3", "tcp", 1_024, 3, &format!("src:{other}_dst:{server}")),
                accept("10.255.2.3", "tcp", 7_000, 1, &format!("src:{client}_dst:{server}")),
                accept("10.255.2.3", "udp", 7_000, 1, &format!("src:{client}_dst:{server}")),
            ]
        );
    }

    #[test]
    fn no_name_of_a_chain_is_too_long_and_a_server_s_port_is_mapped() {
        let text = text();
        let names = text.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
        assert!(names.clone().count() > 10 && names.clone().all(|name| name.len() <= CHAIN_LENGTH));
        assert!(
            text.contains(
                "-d 192.0.2.12 -p tcp -m tcp --dport 61000 -j DNAT --to-destination 10.255.2.3:7000"
            )
        );
        assert!(
            text.contains("-i eth0 -d 192.0.2.12 -p tcp -m tcp --dport 61000 -j MARK --set-xmark 0xffff0000")
        );
    }
}
