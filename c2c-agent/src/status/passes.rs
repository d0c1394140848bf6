//! What the reconcile passes have done since the agent started.

use super::ReconcilePage;
use crate::datapath::Swept;
use crate::fabric::Report;
use std::time::{Duration, Instant};

/// What the reconcile passes have done since the agent started.
#[derive(Clone, Debug, Default)]
pub struct Passes {
    /// Passes.
    pub count: u64,
    /// Things that were put back.
    pub repaired_total: u64,
    /// Things that could not be put back, over all passes.
    pub failed_total: u64,
    /// What the last pass that put something back did.
    pub last_repaired: Vec<String>,
    /// What the last pass could not put back.
    pub failed: Vec<String>,
    /// What the last sweep of the flows with the outside found.
    pub swept: Swept,
    ended: Option<Instant>,
}

impl Passes {
    /// Takes in what a pass did that ended at `now`, and what its sweep found.
    pub fn take(&mut self, report: Report, swept: Swept, now: Instant) {
        self.swept = swept;
        self.count += 1;
        self.repaired_total += report.repaired.len() as u64;
        self.failed_total += report.failed.len() as u64;
        if !report.repaired.is_empty() {
            self.last_repaired = report.repaired;
        }
        self.failed = report.failed;
        self.ended = Some(now);
    }

    /// How long ago the last pass ended.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.ended.map(|ended| ended.elapsed())
    }

    /// For the status page.
    #[must_use]
    pub fn page(&self) -> ReconcilePage {
        ReconcilePage {
            passes: self.count,
            repaired_total: self.repaired_total,
            last_seconds_ago: self.age().map(|age| age.as_secs()),
            last_repaired: self.last_repaired.clone(),
            failed: self.failed.clone(),
        }
    }
}
