//! Bandwidth: as fast as a container may be, in both directions, and no queue for those without a limit.
//!
//! One test at a time: a figure that is measured tolerates no neighbours.

use anyhow::{Context, Result, ensure};
use c2c_tests::lab::{Bandwidth, Container, Lab, Options, Wanted, in_lab};
use c2c_tests::netns::Namespace;
use c2c_tests::traffic::volume::{DATAGRAM_BYTES, Flood, Sink};
use serde_json::Value;
use std::process::Command;
use std::time::Instant;

/// 100 Mbit/s.
const RATE: u32 = 100_000_000;
/// A hundredth of a second's worth, in bits.
const BURST: u64 = 1_000_000;
const TOLERANCE: f64 = 0.05;
const PORTS: [(&str, u16); 2] = [("tcp", 7000), ("udp", 7001)];

/// What of a frame is not payload, by payload: Ethernet, IPv4, and TCP with time stamps or UDP.
fn overhead(protocol: &str) -> f64 {
    const ETHERNET_IPV4: f64 = 14.0 + 20.0;
    const MTU: f64 = 1_450.0;
    let (headers, payload) = match protocol {
        "tcp" => (ETHERNET_IPV4 + 32.0, MTU - 20.0 - 32.0),
        _ => (ETHERNET_IPV4 + 8.0, u32::try_from(DATAGRAM_BYTES).map_or(MTU, f64::from)),
    };
    headers / payload
}

/// Sends as fast as it goes: what the wire carries from the beginning is never more than the limit lets by, however late
/// anybody looks, and what the application gets is the rate, less the tolerance, as soon as the machine lets it send.
fn is_limited(what: &str, from: &Namespace, to: &Container, (protocol, port): (&str, u16)) -> Result<()> {
    let namespace = to.namespace();
    let begun = Instant::now();
    let (sink, _flood) = match protocol {
        "tcp" => (Sink::tcp(&namespace, port)?, Flood::tcp(from, to.address, port)?),
        _ => (Sink::udp(&namespace, port)?, Flood::udp(from, to.address, port, RATE / 2 * 3)?),
    };
    // What may come at once has come by then, and TCP knows the way.
    sink.gets(BURST / 8 + (2 << 20))?;
    let payload =
        sink.comes_to(f64::from(RATE) * (1.0 - TOLERANCE)).with_context(|| format!("{protocol} {what}"))?;
    let frames = sink.bits() * (1.0 + overhead(protocol));
    let most = (f64::from(RATE) * begun.elapsed().as_secs_f64() + BURST as f64) * (1.0 + TOLERANCE);
    println!("{protocol} {what}: {payload:.0} bits per second; as frames {:.3} of the most", frames / most);
    ensure!(frames <= most, "{protocol} {what}: {frames:.0} bits of frames where at most {most:.0} may come");
    Ok(())
}

/// The queues of a namespace's devices that are no default, as `DEVICE KIND`.
fn queues(namespace: &Namespace, device: Option<&str>) -> Result<Vec<String>> {
    let mut command = Command::new("tc");
    command.args(["-json", "qdisc", "show"]).args(device.iter().flat_map(|device| ["dev", device]));
    let rows: Vec<Value> = serde_json::from_str(&namespace.output(&mut command)?)?;
    let named = rows.iter().map(|row| format!("{} {}", row["dev"], row["kind"]).replace('"', ""));
    Ok(named.filter(|row| !row.ends_with("noqueue") && !row.ends_with("clsact")).collect())
}

fn enter(lab: &Lab) -> Result<(Container, [(&'static str, Container); 2])> {
    let limits = Bandwidth { rate: u64::from(RATE), burst: BURST };
    let limited = lab.add_as("a", "limited", &Wanted::app("app").bandwidth(limits))?;
    let others = [("same cell", lab.add("a", "near", "app")?), ("other cell", lab.add("b", "away", "app")?)];
    for (protocol, port) in PORTS {
        lab.allow("app", "app", protocol, &port.to_string())?;
    }
    Ok((limited, others))
}

#[test]
fn a_container_is_as_fast_as_it_may_be_and_others_have_no_queue() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let (limited, others) = enter(lab)?;
        let cell = lab.cell("a")?.namespace();
        for (place, other) in &others {
            let unlimited = queues(&other.namespace(), None)?;
            ensure!(unlimited.is_empty(), "a container without a limit: {unlimited:?}");
            for port in PORTS {
                is_limited(&format!("to the {place}"), &limited.namespace(), other, port)?;
                is_limited(&format!("from the {place}"), &other.namespace(), &limited, port)?;
            }
        }
        let limits = queues(&cell, None)?;
        ensure!(limits.iter().filter(|row| row.ends_with("tbf")).count() == 1, "{limits:?}");
        lab.kill_agent("a")?;
        lab.start_agent("a")?;
        ensure!(queues(&cell, None)? == limits, "another agent, other queues");
        let away = &others[1].1;
        is_limited("with the next agent", &away.namespace(), &limited, PORTS[0])
    })
}

#[test]
fn the_configuration_limits_who_comes_without_a_limit_of_its_own() -> Result<()> {
    let agent = [("bandwidth_rate", "1000"), ("bandwidth_burst", "1000")];
    let agent = agent.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    in_lab(&Options { cells: 1, agent, ..Options::default() }, |lab| {
        let container = lab.add("a", "one", "app")?;
        let show = ["-json", "qdisc", "show", "dev", "eth0"];
        let queue: Value =
            serde_json::from_str(&container.namespace().output(Command::new("tc").args(show))?)?;
        // Kilobits of 1,024 bits, as Silk counts them; of frames, which are larger than what they carry.
        let bytes = queue[0]["options"]["rate"].as_u64().with_context(|| format!("no limit: {queue}"))?;
        ensure!((128_000..=128_000 * 105 / 100).contains(&bytes), "{queue}");
        let cell = queues(&lab.cell("a")?.namespace(), None)?;
        ensure!(cell.len() == 1 && cell[0].ends_with("tbf"), "{cell:?}");
        lab.remove("one")?;
        let cell = queues(&lab.cell("a")?.namespace(), None).context("after DEL")?;
        ensure!(cell.is_empty(), "{cell:?}");
        Ok(())
    })
}
