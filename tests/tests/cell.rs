//! The cell and its own containers, and a cell that somebody else has meddled with.

use anyhow::{Context, Result, ensure};
use c2c_tests::cast::{Cast, OTHER_PORT, PORT};
use c2c_tests::lab::{Lab, Options, in_lab};
use c2c_tests::observe::counters::Counters;
use c2c_tests::traffic::{Reach, tcp};
use c2c_tests::wait;
use std::net::Ipv4Addr;
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
        std::fs::remove_file(lab.cell("a")?.pin_dir.join("links/underlay"))?;
        wait::until_true("the tunnel to be there again", || enforces(&cast))
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
