//! What the control path takes, and other figures that only c2c has: no fabrics side by side, no ratios. The incumbent's
//! daemons are not here; what is known of them is in the documentation.

mod attach;
mod policy;
mod programs;
mod restart;
mod shield;

use super::fabric::Fabric;
use super::figures::Row;
use crate::lab::Wanted;
use anyhow::{Context, Result};
use std::time::Duration;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    pub(super) policies: u16,
    pub(super) policies_before: &'static [u32],
    pub(super) attachments: u32,
    /// Containers and policies there are already; each pair has as many as the one before, or more.
    pub(super) attached_beside: &'static [(u32, u32)],
    pub(super) restarts: u32,
    pub(super) restart_containers: u32,
    pub(super) restart_policies: u32,
    pub(super) flood: Duration,
}

/// What is claimed.
pub(super) const FULL: Effort = Effort {
    policies: 200,
    policies_before: &[0, 10_000, 100_000],
    attachments: 30,
    attached_beside: &[(0, 0), (100, 0), (250, 0), (250, 10_000), (250, 100_000)],
    restarts: 5,
    restart_containers: 250,
    restart_policies: 10_000,
    flood: Duration::from_secs(1),
};
/// Whether it works.
pub(super) const BRIEF: Effort = Effort {
    policies: 20,
    policies_before: &[0, 1_000],
    attachments: 5,
    attached_beside: &[(0, 0), (20, 0), (20, 1_000)],
    restarts: 3,
    restart_containers: 20,
    restart_policies: 1_000,
    flood: Duration::from_millis(200),
};

type Measure = fn(&Effort, &dyn Fn(&str)) -> Result<Vec<Row>>;

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Experiment {
    pub(super) name: &'static str,
    run: Measure,
}

/// All of them, in the order in which they are run.
pub(super) const EXPERIMENTS: [Experiment; 5] = [
    Experiment { name: "programs", run: programs::measure },
    Experiment { name: "policy-to-packet", run: policy::measure },
    Experiment { name: "attach", run: attach::measure },
    Experiment { name: "agent-restart", run: restart::measure },
    Experiment { name: "shield", run: shield::measure },
];

impl Experiment {
    /// Measures it.
    pub(super) fn measure(&self, effort: &Effort, progress: &impl Fn(&str)) -> Result<Vec<Row>> {
        let say = |what: &str| progress(&format!("{}: {what}", self.name));
        (self.run)(effort, &say).with_context(|| self.name.to_owned())
    }
}

/// What a row is about, beside its figures.
#[derive(Clone, Copy, Debug)]
struct About<'a> {
    scenario: &'a str,
    containers: u32,
    policies: u32,
}

impl About<'_> {
    /// A row of what was seen.
    fn row(&self, metric: &str, unit: &str, values: &[f64]) -> Row {
        Row::of(Fabric::C2c, self.scenario, (self.containers, self.policies), (metric, unit), values)
    }
}

/// What Cloud Foundry asks for with an ordinary app: a space, and a port for the router.
fn ordinary(app: &str) -> Wanted {
    Wanted::app(app).space("space").port(0, 8_080)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
