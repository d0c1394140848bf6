//! What policies open and what they keep closed, on a real lab of two cells.

use anyhow::{Context, Result, ensure};
use c2c_tests::cast::{Cast, OTHER_PORT, OTHER_UDP_PORT, PORT, RANGE_END, RANGE_START, UDP_PORT};
use c2c_tests::demo;
use c2c_tests::lab::{Lab, Options, in_lab};
use c2c_tests::observe::counters::{self, Counters};
use c2c_tests::traffic::forged::Datagram;
use c2c_tests::traffic::tcp::Conversation;
use c2c_tests::traffic::{Attempt, Reach, forged, tcp, udp};
use c2c_tests::wait;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::process::Command;
use std::thread;
use std::time::Duration;

/// The frontend's way to both backends must be open, and it must be seen under its own address.
fn open(cast: &Cast, protocol: &str, port: u16) -> Result<()> {
    for (place, attempt) in tries(cast, protocol, port)? {
        ensure!(
            attempt.reach == Reach::Reached(cast.frontend.address),
            "{protocol} {port} to the {place}: {}",
            attempt.reach
        );
    }
    Ok(())
}

/// The frontend's way to both backends must be refused before a first packet is repeated.
fn closed(cast: &Cast, protocol: &str, port: u16) -> Result<()> {
    for (place, attempt) in tries(cast, protocol, port)? {
        ensure!(
            attempt.refused_at_once(),
            "{protocol} {port} to the {place}: {} after {:?}",
            attempt.reach,
            attempt.took
        );
    }
    Ok(())
}

fn tries<'a>(cast: &'a Cast, protocol: &str, port: u16) -> Result<Vec<(&'a str, Attempt)>> {
    let from = cast.frontend.namespace();
    let attempt =
        |to| if protocol == "tcp" { tcp::connect(&from, to, port) } else { udp::ask(&from, to, port) };
    cast.backends().into_iter().map(|(place, backend)| Ok((place, attempt(backend.address)?))).collect()
}

#[test]
fn the_demo_comes_true() -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let came_true = demo::tell(Some(file.path()))?;
    let lines: Vec<Value> = serde_json::from_slice(&std::fs::read(file.path())?)?;
    let failed: Vec<&Value> = lines.iter().filter(|line| line["ok"] != true).collect();
    assert!(came_true && failed.is_empty(), "{failed:#?}");
    for chapter in 1..=10 {
        assert!(lines.iter().any(|line| line["chapter"] == chapter), "chapter {chapter} is missing");
    }
    for field in ["chapter", "line", "expected", "got", "ok", "milliseconds"] {
        assert!(lines.iter().all(|line| line.get(field).is_some()), "a line lacks {field}");
    }
    Ok(())
}

#[test]
fn a_policy_opens_exactly_what_it_names_on_the_same_and_on_the_other_cell() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = Cast::enter(lab)?;
        closed(&cast, "tcp", PORT)?;
        closed(&cast, "udp", UDP_PORT)?;

        lab.allow("frontend", "backend", "tcp", &PORT.to_string())?;
        open(&cast, "tcp", PORT)?;
        closed(&cast, "tcp", OTHER_PORT)?;
        closed(&cast, "udp", UDP_PORT)?;

        lab.allow("frontend", "backend", "udp", &UDP_PORT.to_string())?;
        open(&cast, "udp", UDP_PORT)?;
        closed(&cast, "udp", OTHER_UDP_PORT)?;
        closed(&cast, "tcp", UDP_PORT)?;

        lab.allow("frontend", "backend", "tcp", &format!("{RANGE_START}-{RANGE_END}"))?;
        for port in [RANGE_START, 8005, RANGE_END] {
            open(&cast, "tcp", port)?;
        }
        for port in [RANGE_START - 1, RANGE_END + 1] {
            closed(&cast, "tcp", port)?;
        }

        lab.forbid("frontend", "backend", "tcp", &format!("{RANGE_START}-{RANGE_END}"))?;
        closed(&cast, "tcp", 8005)?;
        open(&cast, "tcp", PORT)
    })
}

#[test]
fn a_policy_opens_neither_the_way_back_nor_the_way_of_another_app() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = Cast::enter(lab)?;
        lab.allow("frontend", "backend", "tcp", &PORT.to_string())?;
        open(&cast, "tcp", PORT)?;
        for (place, backend) in cast.backends() {
            let back = tcp::connect(&backend.namespace(), cast.frontend.address, PORT)?;
            ensure!(back.refused_at_once(), "from the backend on the {place}: {}", back.reach);
            let intruder = tcp::connect(&cast.intruder.namespace(), backend.address, PORT)?;
            ensure!(intruder.refused_at_once(), "intruder to the backend on the {place}: {}", intruder.reach);
        }
        Ok(())
    })
}

#[test]
fn removing_a_policy_cuts_live_connections_and_only_those() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = Cast::enter(lab)?;
        lab.allow("frontend", "backend", "tcp", &PORT.to_string())?;
        lab.allow("frontend", "backend", "tcp", &OTHER_PORT.to_string())?;
        let from = cast.frontend.namespace();
        let mut doomed = Vec::new();
        let mut spared = Vec::new();
        for (_, backend) in cast.backends() {
            doomed.push(Conversation::start(&from, backend.address, PORT)?);
            spared.push(Conversation::start(&from, backend.address, OTHER_PORT)?);
        }
        let live: Vec<_> = doomed
            .into_iter()
            .map(|talk| thread::spawn(move || talk.until_cut(Duration::from_secs(10))))
            .collect();
        lab.forbid("frontend", "backend", "tcp", &PORT.to_string())?;
        for talk in live {
            let cut = talk.join().ok().context("a connection's thread panicked")??;
            ensure!(cut.reach == Reach::Refused, "a live connection must be reset, not {}", cut.reach);
        }
        for mut talk in spared {
            talk.ping().context("a connection whose policy stayed must stay")?;
        }
        closed(&cast, "tcp", PORT)?;
        open(&cast, "tcp", OTHER_PORT)
    })
}

#[test]
fn every_drop_is_counted_under_a_reason() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = Cast::enter(lab)?;
        lab.allow("frontend", "backend", "udp", &UDP_PORT.to_string())?;
        let namespace = cast.frontend.namespace();
        let before = (came_out(lab, "a")?, Counters::of(lab, "a")?.decided("from_container"));
        for round in 0..20_u8 {
            for (_, backend) in cast.backends() {
                udp::ask(&namespace, backend.address, UDP_PORT)?;
                udp::ask(&namespace, backend.address, OTHER_UDP_PORT)?;
                let spoofed = Ipv4Addr::from_bits(cast.frontend.address.to_bits() ^ 0x40);
                let datagram = Datagram {
                    source: spoofed,
                    destination: backend.address,
                    port: UDP_PORT,
                    payload: &[round],
                };
                forged::send_plain(&namespace, &datagram)?;
            }
        }
        wait::until_true("packets in to equal packets delivered and dropped", || {
            let device_saw = came_out(lab, "a")? - before.0;
            let counted = Counters::of(lab, "a")?.decided("from_container") - before.1;
            ensure!(device_saw >= 120, "the device saw only {device_saw} packets");
            Ok(device_saw == counted)
        })
    })
}

/// Packets that came out of the containers of a cell, as the kernel counted them on the host devices.
fn came_out(lab: &Lab, cell: &str) -> Result<u64> {
    let cell = lab.cell(cell)?;
    let json = cell
        .namespace()
        .output(Command::new("ip").args(["-json", "-stats", "link", "show", "type", "veth"]))?;
    let links: Vec<Value> = serde_json::from_str(&json)?;
    let ours = links.iter().filter(|link| link["ifname"] != cell.underlay_interface.as_str());
    Ok(ours.filter_map(|link| link.pointer("/stats64/rx/packets").and_then(Value::as_u64)).sum())
}

#[test]
fn a_refusal_is_counted_where_it_happens() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = Cast::enter(lab)?;
        lab.allow("frontend", "backend", "tcp", &PORT.to_string())?;
        open(&cast, "tcp", PORT)?;
        let drops = |name: &str| {
            !["to_", "refusal_"].iter().any(|part| name.contains(part)) && !name.ends_with("not_ipv4")
        };
        let from = cast.frontend.namespace();
        for (cell, backend, name) in [
            ("a", &cast.backend_a, "from_container/policy_denied"),
            ("b", &cast.backend_b, "from_underlay/policy_denied"),
        ] {
            let before = Counters::of(lab, cell)?;
            ensure!(tcp::connect(&from, backend.address, OTHER_PORT)?.refused_at_once());
            counters::expect_only(lab, cell, &before, (name, 1), drops)?;
        }
        Ok(())
    })
}
