//! The cell and its own containers, and a cell that somebody else has meddled with.

use anyhow::{Context, Result, ensure};
use c2c_tests::cast::{Cast, OTHER_PORT, PORT};
use c2c_tests::lab::{Lab, Options, UNDERLAY_INTERFACE, Wanted, in_lab};
use c2c_tests::observe::counters::Counters;
use c2c_tests::traffic::{Reach, tcp};
use c2c_tests::wait;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

/// What a container sees of its cell.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);

#[test]
fn the_cell_reaches_its_containers_and_they_do_not_reach_the_cell() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = Cast::enter(lab)?;
        let cell = lab.cell("a")?.namespace();
        let inward = tcp::connect(&cell, cast.frontend.address, PORT)?;
        ensure!(inward.reach == Reach::Reached(GATEWAY), "{}", inward.reach);

        let _server = tcp::Server::start(&cell, PORT)?;
        let before = Counters::of(lab, "a")?;
        for address in [GATEWAY, lab.cell("a")?.underlay_address] {
            let outward = tcp::connect(&cast.frontend.namespace(), address, PORT)?;
            ensure!(outward.refused_at_once(), "{address}: {}", outward.reach);
        }
        let outside = tcp::connect(&cast.frontend.namespace(), lab.cell("b")?.underlay_address, PORT)?;
        ensure!(outside.refused_at_once(), "another cell's address: {}", outside.reach);
        let moved = Counters::of(lab, "a")?.since(&before);
        ensure!(moved.get("from_container/cell_denied") == Some(&2), "{moved:?}");
        ensure!(moved.get("from_container/egress_denied") == Some(&1), "{moved:?}");
        Ok(())
    })
}

fn enforces(cast: &Cast) -> Result<bool> {
    let from = cast.frontend.namespace();
    for (_, backend) in cast.backends() {
        let allowed = tcp::connect(&from, backend.address, PORT)?;
        let other = tcp::connect(&from, backend.address, OTHER_PORT)?;
        if allowed.reach != Reach::Reached(cast.frontend.address) || !other.refused_at_once() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn meddle(lab: &Lab, command: &str) -> Result<()> {
    let words: Vec<&str> = command.split(' ').collect();
    let (program, arguments) = words.split_first().context("a command has a first word")?;
    lab.cell("a")?.namespace().output(Command::new(program).args(arguments)).map(drop)
}

/// Pins of a cell's attached programs whose names begin so.
fn pins(lab: &Lab, cell: &str, beginning: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(lab.cell(cell)?.pin_dir.join("links"))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let begins =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning));
    Ok(paths.into_iter().filter(begins).collect())
}

#[test]
fn what_drifted_is_put_back() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        lab.allow("frontend", "backend", "tcp", &PORT.to_string())?;
        let cast = Cast::enter(lab)?;
        ensure!(enforces(&cast)?, "nothing was meddled with yet");
        let [a, b, c, d] = cast.frontend.address.octets();
        let device = format!("s-{a:03}{b:03}{c:03}{d:03}");
        meddle(lab, &format!("tc qdisc del dev {device} clsact"))?;
        wait::until_true("the programs to be attached again", || enforces(&cast))?;
        meddle(lab, "ip link del c2c-vxlan")?;
        for pin in pins(lab, "a", "underlay-")? {
            // A link, or the mark of a filter on a kernel without TCX links.
            if pin.is_dir() { std::fs::remove_dir_all(pin)? } else { std::fs::remove_file(pin)? }
        }
        wait::until_true("the tunnel to be there again", || enforces(&cast))
    })
}

/// The device of the name that is configured becomes another one, and the old one stays, as under a bridge or a bond.
fn put_a_bridge_over_the_underlay(lab: &Lab) -> Result<()> {
    let address = lab.cell("a")?.underlay_address;
    for command in [
        format!("ip link set {UNDERLAY_INTERFACE} down"),
        format!("ip link set {UNDERLAY_INTERFACE} name port0"),
        "ip addr flush dev port0".to_owned(),
        format!("ip link add {UNDERLAY_INTERFACE} type bridge"),
        format!("ip link set port0 master {UNDERLAY_INTERFACE}"),
        format!("ip addr add {address}/24 dev {UNDERLAY_INTERFACE}"),
        "ip link set port0 up".to_owned(),
        format!("ip link set {UNDERLAY_INTERFACE} up"),
    ] {
        meddle(lab, &command)?;
    }
    Ok(())
}

#[test]
fn another_underlay_device_is_attached_to_and_the_old_one_is_left() -> Result<()> {
    for attach in ["\"auto\"", "\"clsact\""] {
        let agent = [("attach".to_owned(), attach.to_owned())].into();
        in_lab(&Options { agent, ..Options::default() }, |lab| {
            lab.allow("frontend", "backend", "tcp", &PORT.to_string())?;
            let cast = Cast::enter(lab)?;
            let web = lab.add_as("a", "web", &Wanted::app("web").port(0, PORT))?;
            let _server = tcp::Server::start(&web.namespace(), PORT)?;
            let before = pins(lab, "a", "underlay-")?;
            lab.stop_agent("a")?;
            put_a_bridge_over_the_underlay(lab)?;
            lab.start_agent("a")?;
            ensure!(enforces(&cast)?, "over the new device");
            let (to, b) = (lab.cell("a")?.underlay_address, lab.cell("b")?);
            let called = tcp::connect(&b.namespace(), to, web.cell_port(PORT)?)?;
            ensure!(called.reach == Reach::Reached(b.underlay_address), "a mapped port: {}", called.reach);
            let after = pins(lab, "a", "underlay-")?;
            ensure!(before.len() == 1 && after.len() == 1 && before != after, "{before:?} {after:?}");
            lab.stop_agent("a")?;
            lab.force_uninstall_agent("a")
        })
        .context(attach)?;
    }
    Ok(())
}

/// Flows on a cell of which an end has an address.
fn flows_of(lab: &Lab, cell: &str, address: Ipv4Addr) -> Result<usize> {
    let page = lab.ask_agent(cell, "flows")?;
    let flows = page["flows"].as_array().context("the page has flows")?;
    let is_of = |flow: &&Value| [&flow["source"], &flow["destination"]].contains(&&json!(address));
    Ok(flows.iter().filter(is_of).count())
}

/// A flow is known by its addresses, of which the next container may get one.
#[test]
fn the_flows_of_a_container_go_with_it_and_no_others() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = Cast::enter(lab)?;
        let other = lab.add("a", "frontend-2", "frontend")?;
        lab.allow("frontend", "backend", "tcp", &PORT.to_string())?;
        ensure!(enforces(&cast)?, "the policy does not hold");
        let kept = tcp::connect(&other.namespace(), cast.backend_b.address, PORT)?;
        ensure!(kept.reach == Reach::Reached(other.address), "{}", kept.reach);
        ensure!(flows_of(lab, "a", cast.frontend.address)? >= 2, "to both backends");
        lab.remove("frontend")?;
        wait::until_true("its flows to be removed", || Ok(flows_of(lab, "a", cast.frontend.address)? == 0))?;
        ensure!(flows_of(lab, "a", other.address)? == 1, "the other container's flow");
        ensure!(flows_of(lab, "b", cast.frontend.address)? >= 1, "what another cell remembers is its own");
        Ok(())
    })
}

/// IPv4 packets that the host and router outside has passed on.
fn forwarded(lab: &Lab) -> Result<u64> {
    let router = lab.description().outside.namespace();
    let text = router
        .run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").context("no counters of IPv4"))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, numbers) = (lines.next().context("no names")?, lines.next().context("no numbers")?);
    let mut fields = names.split(' ').zip(numbers.split(' '));
    let (_, number) = fields.find(|(name, _)| *name == "ForwDatagrams").context("no such counter")?;
    number.parse().context("a counter is a number")
}

#[test]
fn a_cell_that_routes_or_rules_lead_to_by_a_router_is_reached_that_way() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        lab.allow("frontend", "backend", "tcp", &PORT.to_string())?;
        let cast = Cast::enter(lab)?;
        let before = forwarded(lab)?;
        ensure!(enforces(&cast)?, "nothing was changed yet");
        ensure!(forwarded(lab)? == before, "cells on one link need no router");
        let (router, other) = (lab.description().outside.address, lab.cell("b")?.underlay_address);
        meddle(lab, &format!("ip route add {other}/32 via {router}"))?;
        lab.stop_agent("a")?;
        lab.start_agent("a")?;
        ensure!(enforces(&cast)?, "the other cell is still reached");
        ensure!(forwarded(lab)? > before, "the cell's own route was not followed");
        Ok(())
    })
}
