//! What each program costs: nanoseconds for a packet of a known flow, by the kernel's own test run (`BPF_PROG_TEST_RUN`) of the
//! programs that a real agent has loaded, over the maps that it has filled; and the instructions that the verifier went through.

use super::super::cells::Cells;
use super::super::fabric::Path;
use super::super::figures::Row;
use super::super::load::{Pins, Way, datagrams};
use super::super::setting::{PORT, Setting};
use super::{About, Effort};
use crate::lab::{Cell, UNDERLAY_INTERFACE};
use crate::process::Process;
use anyhow::{Context, Result, ensure};
use aya::programs::{ProgramInfo, SchedClassifier, TestRun, TestRunOptions, loaded_programs};
use etherparse::PacketBuilder;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

/// Runs of a program over the same packet. Each is timed by itself, because a run changes its packet.
const RUNS: u32 = 2_000;
/// What a TC program answers when the packet goes to another device.
const REDIRECT: u32 = 7;
/// Room for what the tunnel puts in front.
const HEADROOM: usize = 256;
/// The client's port of the flow.
const SOURCE_PORT: u16 = 40_000;
const SMALL_BYTES: usize = 64;
/// Enough for every neighbour to be known.
const BRIEFLY: Duration = Duration::from_millis(50);
/// Every program that an agent loads.
const PROGRAMS: [&str; 5] = ["from_container", "from_underlay", "to_container", "xdp_underlay", "self_test"];

pub(super) fn measure(_: &Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let cells = Cells::build(&Setting::SMALL, progress)?;
    progress("test runs");
    let about = About { scenario: "programs", containers: 2, policies: 0 };
    let mut rows = Vec::new();
    for (name, times) in costs(&cells)? {
        rows.push(about.row(name, "ns", &times));
    }
    for (name, count) in verified(&programs(cells.lab.cell("a")?)?)? {
        rows.push(about.row(&format!("{name}, verified"), "instructions", &[f64::from(count)]));
    }
    Ok(rows)
}

/// The usual packets: to another cell, to the same cell, and in from another cell.
fn costs(cells: &Cells) -> Result<[(&'static str, Vec<f64>); 3]> {
    let (a, b) = (cells.lab.cell("a")?, cells.lab.cell("b")?);
    let (leaving, coming) = (classifier(a, "from_container")?, classifier(b, "from_underlay")?);
    let (other, same) = (cells.way(Path::OtherCell)?, cells.way(Path::SameCell)?);
    for way in [&other, &same] {
        datagrams(way, Pins { client: 0, server: 0 }, BRIEFLY)?;
    }
    let client = cells.lab.container("client-a")?.address;
    let (device, hardware) = host_device(a, client)?;
    let run = |cell: &Cell, program: &SchedClassifier, device: u32, packet: &[u8]| {
        cell.namespace().run(|| runs(program, device, packet))
    };
    let packet = |way: &Way| datagram(&hardware, client, *way.to.ip());
    let (to_cell, tunnelled) = run(a, &leaving, device, &packet(&other)?)?;
    let (to_same, _) = run(a, &leaving, device, &packet(&same)?)?;
    let underlay = index(&link(b, UNDERLAY_INTERFACE)?)?;
    let (to_endpoint, _) = run(b, &coming, underlay, &tunnelled)?;
    Ok([
        ("from_container to another cell", to_cell),
        ("from_container to the same cell", to_same),
        ("from_underlay to a container", to_endpoint),
    ])
}

/// Runs a program, in the namespace that the thread is in, over packets that came in by a device. Gives the nanoseconds of
/// each run and what became of the packet.
fn runs(program: &SchedClassifier, device: u32, packet: &[u8]) -> Result<(Vec<f64>, Vec<u8>)> {
    let mut times = Vec::new();
    let mut out = vec![0; packet.len() + HEADROOM];
    let context = context(device);
    let mut length = 0;
    for _ in 0..RUNS {
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).context("BPF_PROG_TEST_RUN")?;
        ensure!(result.return_value == REDIRECT, "answered {} instead of a redirection", result.return_value);
        times.push(f64::from(result.duration.subsec_nanos()));
        length = usize::try_from(result.data_size_out).context("a packet's length")?;
    }
    out.truncate(length);
    Ok((times, out))
}

/// `struct __sk_buff` (linux/bpf.h), of which the kernel takes the device at byte 40 and nothing else from us.
fn context(device: u32) -> Vec<u8> {
    [vec![0; 40], device.to_ne_bytes().to_vec(), vec![0; 148]].concat()
}

type Programs = BTreeMap<String, ProgramInfo>;

/// The programs that a cell's agent has open, by name.
fn programs(cell: &Cell) -> Result<Programs> {
    let agent = cell.process.context("the agent does not run")?;
    let ours = program_ids(agent)?;
    let mut found = Programs::new();
    for info in loaded_programs() {
        // Others come and go while this looks.
        let Ok(info) = info else { continue };
        let Some(name) = info.name_as_str().filter(|_| ours.contains(&info.id())).map(str::to_owned) else {
            continue;
        };
        found.insert(name, info);
    }
    let missing = PROGRAMS.iter().find(|name| !found.contains_key(**name));
    ensure!(missing.is_none(), "the agent of cell {} has no program {missing:?}", cell.name);
    Ok(found)
}

fn program_ids(process: Process) -> Result<BTreeSet<u32>> {
    let ids = process.descriptors()?.into_iter().filter_map(|text| field(&text, "prog_id"));
    Ok(ids.collect())
}

/// A number of `/proc/PID/fdinfo` (proc(5)).
pub(super) fn field(text: &str, name: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().parse().ok()
}

/// A program that a cell's agent has loaded.
fn classifier(cell: &Cell, name: &'static str) -> Result<SchedClassifier> {
    let info = programs(cell)?.remove(name).with_context(|| format!("no program {name}"))?;
    SchedClassifier::from_program_info(info, Cow::Borrowed(name)).context("not a TC program")
}

/// The instructions that the verifier went through for each program.
fn verified(programs: &Programs) -> Result<Vec<(&'static str, u32)>> {
    let count = |name: &'static str| {
        let info = programs.get(name).with_context(|| format!("no program {name}"))?;
        Ok((name, info.verified_instruction_count().context("this kernel does not count them (5.16 does)")?))
    };
    PROGRAMS.into_iter().map(count).collect()
}

/// A container's device on its cell, and the hardware address that its packets go to.
fn host_device(cell: &Cell, container: Ipv4Addr) -> Result<(u32, Vec<u8>)> {
    let json = cell.namespace().output(Command::new("ip").args([
        "-json",
        "route",
        "show",
        &container.to_string(),
    ]))?;
    let routes: Value = serde_json::from_str(&json).context("ip did not print JSON")?;
    let device = routes.pointer("/0/dev").and_then(Value::as_str).context("no route to the container")?;
    let link = link(cell, device)?;
    let address = link["address"].as_str().context("a device without an address")?;
    let bytes: Result<Vec<u8>, _> = address.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    Ok((index(&link)?, bytes.context("not a hardware address")?))
}

fn link(cell: &Cell, device: &str) -> Result<Value> {
    let json = cell.namespace().output(Command::new("ip").args(["-json", "link", "show", "dev", device]))?;
    let links: Value = serde_json::from_str(&json).context("ip did not print JSON")?;
    links.get(0).cloned().with_context(|| format!("no device {device}"))
}

fn index(link: &Value) -> Result<u32> {
    link["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok()).context("a device without an index")
}

fn datagram(hardware: &[u8], from: Ipv4Addr, to: Ipv4Addr) -> Result<Vec<u8>> {
    let [a, b, c, d] = from.octets();
    let gateway = hardware.try_into().context("a hardware address has six bytes")?;
    let builder =
        PacketBuilder::ethernet2([0xee, 0xee, a, b, c, d], gateway).ipv4(from.octets(), to.octets(), 64);
    let mut packet = Vec::new();
    builder.udp(SOURCE_PORT, PORT).write(&mut packet, &[0; SMALL_BYTES]).context("cannot build a packet")?;
    Ok(packet)
}
