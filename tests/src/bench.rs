//! The benchmark: this project's fabric beside the bare underlay, kernel VXLAN and the incumbent's rules, on namespaces of
//! the same shape, with the same sockets on the same processors, in one run.
//!
//! The fabrics of a setting are all up at the same time and take turns within a round, so that a machine that is slow for
//! a while is slow for all of them. A fabric whose own counters do not move with the traffic fails the run.

mod cells;
mod chart;
mod claims;
mod fabric;
mod figures;
mod kernel;
mod load;
mod setting;
mod traffic;
mod wire;

pub use chart::chart;
pub use fabric::Fabric;
pub use figures::{Row, table};
pub use wire::environment;

use anyhow::{Result, ensure};
use fabric::Fabrics;
use std::time::Duration;
use traffic::{Pace, Scenario};

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A few scenarios, briefly: to see that it works. About two minutes.
    pub quick: bool,
    /// Only scenarios whose name contains this.
    pub only: Option<String>,
}

/// How long each measurement of each round takes.
const TIME: Duration = Duration::from_secs(1);
const QUICK_TIME: Duration = Duration::from_millis(100);

/// The names of all scenarios.
#[must_use]
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> =
        traffic::plan(false).iter().flat_map(|(_, list)| list).map(|one| one.name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Runs the benchmark and leaves nothing behind, also when it fails.
///
/// # Errors
/// When no scenario has the name that is asked for, something cannot be made, or a fabric is not what it says.
pub fn run(options: &Options, progress: impl Fn(&str)) -> Result<Vec<Row>> {
    let pace = Pace { time: if options.quick { QUICK_TIME } else { TIME } };
    let wanted = |scenario: &Scenario| {
        scenario.fits() && options.only.as_ref().is_none_or(|only| scenario.name.contains(only.as_str()))
    };
    let mut rows = Vec::new();
    for (setting, scenarios) in traffic::plan(options.quick) {
        let scenarios: Vec<Scenario> = scenarios.into_iter().filter(wanted).collect();
        if scenarios.is_empty() {
            continue;
        }
        let (containers, policies) = (setting.containers, setting.policies);
        let say = |what: &str| progress(&format!("{containers} containers, {policies} policies: {what}"));
        let fabrics = Fabrics::build(setting, &say)?;
        say("checking that each fabric is what it says");
        traffic::check(&fabrics)?;
        for scenario in scenarios {
            rows.extend(scenario.measure(&fabrics, pace, &say)?);
        }
    }
    ensure!(!rows.is_empty(), "no scenario is called so; there are: {}", names().join(", "));
    Ok(rows)
}
