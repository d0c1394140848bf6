//! Traffic scenarios: what is measured in which setting, round by round with the fabrics taking turns.

use super::claims::{self, Evidence};
use super::fabric::{Fabric, Fabrics, Path};
use super::figures::{
    CONNECTIONS, DATAGRAMS, Metric, ROUND_TRIP_P50, ROUND_TRIP_P99, Rounds, Row, STREAM, percentile,
};
use super::load::{Pins, Way, datagrams, rate_of_connections, round_trips, stream};
use super::setting::{Setting, Shape};
use super::wire::Wire;
use crate::lab::Joined;
use anyhow::{Context, Result};
use std::time::Duration;

/// From here on the incumbent may fail without failing the benchmark; it is said where it did.
const TOO_MANY_FOR_RULES: u32 = 10_000;

/// One way of loading the fabrics of a setting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    path: Path,
    wire: Wire,
    processors: usize,
}

const OTHER_CELL: Scenario =
    Scenario { name: "other-cell", path: Path::OtherCell, wire: Wire::Ethernet, processors: 1 };
const SWITCHED: Scenario = Scenario { name: "other-cell-by-switch", ..OTHER_CELL };
const SAME_CELL: Scenario = Scenario { name: "same-cell", path: Path::SameCell, ..OTHER_CELL };
const MAPPED: Scenario = Scenario { name: "mapped-port", path: Path::Mapped, ..OTHER_CELL };
const OUTSIDE: Scenario = Scenario { name: "to-outside", path: Path::Outside, ..OTHER_CELL };
const RANGES: Scenario = Scenario { name: "other-cell-port-ranges", ..OTHER_CELL };
const EGRESS: Scenario = Scenario { name: "to-outside-1000-rules", ..OUTSIDE };
const APART: Scenario = Scenario { name: "other-cell-two-cpus", processors: 2, ..OTHER_CELL };
const SAME_APART: Scenario = Scenario { name: "same-cell-two-cpus", processors: 2, ..SAME_CELL };
const VIRTUAL: Scenario = Scenario { name: "other-cell-virtual-nic", wire: Wire::Virtual, ..OTHER_CELL };
const VIRTUAL_APART: Scenario =
    Scenario { name: "other-cell-virtual-nic-two-cpus", wire: Wire::Virtual, ..APART };

const SMALL: Setting = Setting::SMALL;
/// Cells that have nothing between them but a wire. What takes a third host takes a switch, whose work for a packet would
/// count as everybody's: a real one does it on its own.
const CABLED: Setting = Setting { joined: Joined::Cable, ..SMALL };
const FULL: Setting = Setting { containers: 100, ..CABLED };

/// What shows in short that everything works.
pub(super) fn short_plan() -> Vec<(Setting, Vec<Scenario>)> {
    let larger = Setting { containers: 20, policies: 1_000, ..CABLED };
    vec![(CABLED, vec![OTHER_CELL, SAME_CELL]), (SMALL, vec![MAPPED, OUTSIDE]), (larger, vec![OTHER_CELL])]
}

/// Settings with their scenarios, in the order in which they are run.
pub(super) fn plan() -> Vec<(Setting, Vec<Scenario>)> {
    let full = |policies| Setting { policies, ..FULL };
    let growth = [100, 1_000, 10_000, 100_000].map(|policies| (full(policies), vec![OTHER_CELL]));
    let small = vec![OTHER_CELL, APART, SAME_CELL, SAME_APART, VIRTUAL, VIRTUAL_APART];
    let head =
        [(CABLED, small), (SMALL, vec![SWITCHED, MAPPED, OUTSIDE]), (FULL, vec![OTHER_CELL, SAME_CELL])];
    let tail = [
        (Setting { shape: Shape::Ranges, ..full(1_000) }, vec![RANGES]),
        (Setting { egress_rules: 1_000, ..SMALL }, vec![EGRESS]),
    ];
    head.into_iter().chain(growth).chain(tail).collect()
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long each measurement takes.
    pub(super) time: Duration,
    /// Rounds of each scenario.
    pub(super) rounds: u32,
}

impl Scenario {
    /// Measures it, and says which fabric was left out and why.
    pub(super) fn measure(
        &self,
        fabrics: &Fabrics,
        pace: Pace,
        progress: &impl Fn(&str),
    ) -> Result<Vec<Row>> {
        let setting = &fabrics.setting;
        fabrics.behave(self.wire)?;
        let mut rounds = Rounds::default();
        let mut left: Vec<Fabric> = Vec::new();
        for fabric in Fabric::ALL {
            if fabrics.way(fabric, self.path)?.is_some() {
                left.push(fabric);
            }
        }
        for round in 1..=pace.rounds {
            progress(&format!("{}: round {round} of {}", self.name, pace.rounds));
            for (fabric, error) in self.round(fabrics, &mut left, pace, &mut rounds)? {
                progress(&format!(
                    "{}: cut off with {} policies: {error:#}",
                    fabric.as_str(),
                    setting.policies
                ));
                rounds.forget(fabric);
            }
        }
        Ok(rounds.rows(self.name, u32::from(setting.containers), setting.policies))
    }

    /// Its name in a setting, as it can be asked for.
    pub(super) fn label(&self, setting: &Setting) -> String {
        format!("{}/{}/{}", self.name, setting.containers, setting.policies)
    }

    /// Whether the machine has the processors that it takes.
    pub(super) fn fits(&self) -> bool {
        self.processors <= processors()
    }

    /// Load by load, and with each of them the fabrics one right after another, so that what is compared is as near in time
    /// as can be. Answers which fabrics were left out, and why.
    fn round(
        &self,
        fabrics: &Fabrics,
        left: &mut Vec<Fabric>,
        pace: Pace,
        rounds: &mut Rounds,
    ) -> Result<Vec<(Fabric, anyhow::Error)>> {
        let mut failed = Vec::new();
        let mut before = Vec::new();
        for fabric in left.iter() {
            before.push((*fabric, Evidence::of(fabrics, *fabric, self.path)?));
        }
        for load in LOADS.into_iter().chain(self.has_udp().then_some(datagram_rate as Load)) {
            for fabric in left.clone() {
                let loaded = self.load(load, fabrics, fabric, pace, rounds);
                self.keep_or_leave(loaded, fabric, fabrics, left, &mut failed)?;
            }
        }
        for (fabric, before) in
            before.into_iter().filter(|(fabric, _)| left.contains(fabric)).collect::<Vec<_>>()
        {
            let moved = Evidence::of(fabrics, fabric, self.path)
                .and_then(|evidence| evidence.has_moved_since(&before, fabric));
            self.keep_or_leave(moved, fabric, fabrics, left, &mut failed)?;
        }
        Ok(failed)
    }

    fn load(
        &self,
        load: Load,
        fabrics: &Fabrics,
        fabric: Fabric,
        pace: Pace,
        rounds: &mut Rounds,
    ) -> Result<()> {
        let Some(way) = fabrics.way(fabric, self.path)? else { return Ok(()) };
        for (metric, value) in load(&way, pins(self.processors), pace.time)? {
            rounds.add(metric, fabric, value);
        }
        Ok(())
    }

    /// The incumbent with many rules is left out when it fails; any other failure is the benchmark's.
    fn keep_or_leave(
        &self,
        result: Result<()>,
        fabric: Fabric,
        fabrics: &Fabrics,
        left: &mut Vec<Fabric>,
        failed: &mut Vec<(Fabric, anyhow::Error)>,
    ) -> Result<()> {
        let Err(error) = result else { return Ok(()) };
        let error = error.context(format!("{} with {}", self.name, fabric.as_str()));
        if fabric != Fabric::Silk || fabrics.setting.policies < TOO_MANY_FOR_RULES {
            return Err(error);
        }
        left.retain(|other| *other != fabric);
        failed.push((fabric, error));
        Ok(())
    }

    /// The incumbent maps ports of TCP only, and the rules for the outside are for TCP.
    fn has_udp(&self) -> bool {
        matches!(self.path, Path::OtherCell | Path::SameCell)
    }
}

/// Loads a way for a while; what it showed.
type Load = fn(&Way, Pins, Duration) -> Result<Vec<(Metric, f64)>>;

const LOADS: [Load; 3] = [
    |way, pins, time| Ok(vec![(STREAM, stream(way, pins, time).context("tcp stream")? / 1e9)]),
    |way, pins, time| {
        let mut times = round_trips(way, pins, time).context("tcp round trips")?;
        let mut at = |percent| percentile(&mut times, percent).context("no round trip");
        Ok(vec![(ROUND_TRIP_P50, at(50)?), (ROUND_TRIP_P99, at(99)?)])
    },
    |way, pins, time| {
        Ok(vec![(CONNECTIONS, rate_of_connections(way, pins, time).context("tcp connections")?)])
    },
];

fn datagram_rate(way: &Way, pins: Pins, time: Duration) -> Result<Vec<(Metric, f64)>> {
    Ok(vec![(DATAGRAMS, datagrams(way, pins, time).context("udp datagrams")?)])
}

/// Checks once for each setting that all fabrics enforce what they say.
pub(super) fn check(fabrics: &Fabrics) -> Result<()> {
    fabrics.behave(Wire::Ethernet)?;
    claims::policies_are_enforced(fabrics, pins(1))
}

/// The last processor for both, because the first one has the machine's interrupts; or the first and the last.
fn pins(wanted: usize) -> Pins {
    let last = processors().saturating_sub(1);
    Pins { client: if wanted == 1 { last } else { 0 }, server: last }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
