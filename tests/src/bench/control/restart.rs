//! A full cell's agent that stops and starts: how long until it holds its lease and has applied the controller's world
//! again, and what it and its maps take of memory.

use super::super::cells::{fill, others, write};
use super::super::figures::Row;
use super::super::setting::{App, Setting};
use super::programs::field;
use super::{About, Effort, attach, milliseconds, ordinary};
use crate::lab::TemporaryLab;
use crate::process::Process;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::time::Instant;

const CELL: &str = "a";
const MIB: f64 = 1024.0 * 1024.0;

pub(super) fn measure(effort: &Effort, progress: &dyn Fn(&str)) -> Result<Vec<Row>> {
    let (containers, policies) = (effort.restart_containers, effort.restart_policies);
    let mut lab = TemporaryLab::up(&attach::options())?;
    progress(&format!("{policies} policies"));
    write(&lab, others(&Setting { policies, ..Setting::SMALL }), 0)?;
    progress(&format!("{containers} containers"));
    for (cell, app) in [(CELL, App::Client), (CELL, App::Server), ("b", App::Client), ("b", App::Server)] {
        lab.add_as(cell, &format!("{app:?}-{cell}"), &ordinary(&app.name()))?;
    }
    fill(&lab, CELL, 2..containers, |number| ordinary(&format!("idle-{number}")))?;
    let mut times = Vec::new();
    for restart in 1..=effort.restarts {
        progress(&format!("restart {restart} of {}", effort.restarts));
        lab.stop_agent(CELL)?;
        let began = Instant::now();
        lab.start_agent(CELL)?;
        times.push(milliseconds(began.elapsed()));
    }
    let about = About { scenario: "agent-restart", containers, policies };
    let agent = lab.cell(CELL)?.process.context("the agent does not run")?;
    Ok(vec![
        about.row("start to converged", "ms", &times),
        about.row("agent, resident", "MiB", &[resident(agent)? / MIB]),
        about.row("maps", "MiB", &[maps(agent)? / MIB]),
    ])
}

/// Bytes of memory that a process occupies.
fn resident(process: Process) -> Result<f64> {
    let path = format!("/proc/{}/status", process.pid);
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: Option<f64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kibibytes.map(|kibibytes| kibibytes * 1024.0).with_context(|| format!("no VmRSS in {path}"))
}

/// Bytes that the kernel keeps for the maps which a process has open, each map once.
fn maps(process: Process) -> Result<f64> {
    let descriptors = process.descriptors()?;
    let map = |text: &String| Some((field(text, "map_id")?, field(text, "memlock")?));
    let bytes: BTreeMap<u32, u32> = descriptors.iter().filter_map(map).collect();
    Ok(bytes.values().copied().map(f64::from).sum())
}
