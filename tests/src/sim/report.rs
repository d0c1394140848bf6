//! The figures: for people as a table, for programs as JSON. Durations are milliseconds unless the name says seconds.

use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// What a simulation showed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// `debug` or `release`: of the simulator and of the controller.
    pub build: &'static str,
    /// Cores that both of them share.
    pub cores: usize,
    /// Simulated cells.
    pub cells: u32,
    /// Apps, beside one that every cell hosts.
    pub apps: u32,
    /// Instances of each app.
    pub instances_per_app: u32,
    /// Policies that were there before the first cell came.
    pub policies: u32,
    /// Policies written per second while no cell was connected, each acknowledged by the store.
    pub writes_per_second: f64,
    /// All cells come at once, for the first time.
    pub first_connection: Convergence,
    /// A policy between two apps: from the request to the answer that every cell concerned has applied it.
    pub policy: Spread,
    /// The same for policies that concern every cell.
    pub policy_everywhere: Spread,
    /// The controller is killed and started again; the cells resume from the revision that they have.
    pub restart_resumed: Convergence,
    /// The same with cells that lost what they had and are sent a snapshot.
    pub restart_forgotten: Convergence,
    /// What the controller held.
    pub controller_memory: Memory,
    /// Policies in the worlds of all cells in the end, each one compared with what must be there.
    pub policies_verified: usize,
}

/// How long cells took to hold a lease and the present world, from the moment that the controller listened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Convergence {
    /// When half of the cells were there.
    pub p50_ms: f64,
    /// When 99 of 100 were.
    pub p99_ms: f64,
    /// When all were.
    pub all_ms: f64,
    /// Cells that were sent a snapshot and not the changes since their revision.
    pub snapshots: usize,
    /// Processor time that the controller used for it, and for its start when it was started.
    pub controller_cpu_seconds: f64,
}

/// Changes, one after another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// How many.
    pub samples: usize,
    /// The most cells that one of them concerned.
    pub most_cells_concerned: usize,
    /// Half were not slower than this.
    pub p50_ms: f64,
    /// 99 of 100 were not slower than this.
    pub p99_ms: f64,
    /// None was slower than this.
    pub max_ms: f64,
    /// Processor time that the controller used for each, on average, in milliseconds.
    pub controller_cpu_ms: f64,
}

/// Resident memory of the controller, in MiB.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// With all policies and no cell.
    pub loaded_mib: f64,
    /// With all cells connected and every change made.
    pub connected_mib: f64,
    /// The most at any time, restarts included.
    pub peak_mib: f64,
}

impl Convergence {
    pub(super) fn of(mut times: Vec<Duration>, snapshots: usize, cpu: Duration) -> Self {
        times.sort_unstable();
        Self {
            p50_ms: percentile(&times, 50),
            p99_ms: percentile(&times, 99),
            all_ms: percentile(&times, 100),
            snapshots,
            controller_cpu_seconds: cpu.as_secs_f64(),
        }
    }
}

impl Spread {
    pub(super) fn of(mut times: Vec<Duration>, most_cells_concerned: usize, cpu: Duration) -> Self {
        times.sort_unstable();
        let samples = times.len();
        Self {
            samples,
            most_cells_concerned,
            p50_ms: percentile(&times, 50),
            p99_ms: percentile(&times, 99),
            max_ms: percentile(&times, 100),
            controller_cpu_ms: milliseconds(cpu / u32::try_from(samples.max(1)).unwrap_or(u32::MAX)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { build, cores, cells, apps, instances_per_app, policies, .. } = self;
        writeln!(f, "{cells} cells, {apps} apps of {instances_per_app} instances, {policies} policies")?;
        writeln!(f, "{build} build; the controller and the simulated cells share {cores} cores")?;
        writeln!(f, "policies written, no cell connected     {:9.0} per second", self.writes_per_second)?;
        writeln!(f, "\n{:38}{:>10}{:>10}{:>10}  controller", "milliseconds", "p50", "p99", "all")?;
        spread(f, "policy between two apps, applied", &self.policy)?;
        spread(f, "policy of an app on every cell, applied", &self.policy_everywhere)?;
        convergence(f, "all cells come for the first time", &self.first_connection)?;
        convergence(f, "controller killed, cells resume", &self.restart_resumed)?;
        convergence(f, "controller killed, cells lost their world", &self.restart_forgotten)?;
        let Memory { loaded_mib, connected_mib, peak_mib } = self.controller_memory;
        writeln!(
            f,
            "\ncontroller memory: {loaded_mib:.0} MiB loaded, {connected_mib:.0} MiB with all cells, {peak_mib:.0} MiB at most"
        )?;
        write!(f, "{} policies in the worlds of the cells, all as they must be", self.policies_verified)
    }
}

fn spread(f: &mut fmt::Formatter<'_>, what: &str, spread: &Spread) -> fmt::Result {
    let Spread { p50_ms, p99_ms, max_ms, controller_cpu_ms, most_cells_concerned, .. } = spread;
    let concerned = format!("up to {most_cells_concerned} cells concerned");
    writeln!(
        f,
        "{what:41} {p50_ms:6.1}{p99_ms:10.1}{max_ms:10.1}  {controller_cpu_ms:.1} ms of CPU each, {concerned}"
    )
}

fn convergence(f: &mut fmt::Formatter<'_>, what: &str, convergence: &Convergence) -> fmt::Result {
    let Convergence { p50_ms, p99_ms, all_ms, controller_cpu_seconds, snapshots } = convergence;
    writeln!(
        f,
        "{what:41} {p50_ms:6.0}{p99_ms:10.0}{all_ms:10.0}  {controller_cpu_seconds:.2} s of CPU, {snapshots} snapshots"
    )
}

/// The smallest of the sorted times that so many of a hundred do not exceed (nearest rank).
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().map_or(0.0, milliseconds)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_seen() {
        let times: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        let spread = Spread::of(times, 4, Duration::from_secs(1));
        assert_eq!((spread.p50_ms, spread.p99_ms, spread.max_ms), (100.0, 198.0, 200.0));
        assert_eq!((spread.samples, spread.controller_cpu_ms), (200, 5.0));
        let one = Convergence::of(vec![Duration::from_millis(7)], 1, Duration::ZERO);
        assert_eq!((one.p50_ms, one.p99_ms, one.all_ms), (7.0, 7.0, 7.0));
    }
}
