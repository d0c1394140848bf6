//! The benchmark: this project's fabric beside the bare underlay, kernel VXLAN and the incumbent's rules, on namespaces of
//! the same shape, with the same sockets on the same processors, in one run.
//!
//! The fabrics of a setting are all up at the same time and take turns within a round, so that a machine that is slow for
//! a while is slow for all of them. A fabric whose own counters do not move with the traffic fails the run.

pub mod baseline;
mod cells;
mod chart;
mod claims;
mod control;
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
use setting::Setting;
use std::time::Duration;
use traffic::{Pace, Scenario};

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Brief measurements, and unless some are asked for a few scenarios only: to see that it works. About two minutes.
    pub quick: bool,
    /// Only scenarios whose name contains this; `name/containers/policies` is the whole of it.
    pub only: Option<String>,
}

/// Many short rounds rather than few long ones: a machine is slow for seconds, and what is compared should share them.
/// An odd number of rounds, so that the median is one of them.
const PACE: Pace = Pace { time: Duration::from_millis(400), rounds: 11 };
const QUICK_PACE: Pace = Pace { time: Duration::from_millis(100), rounds: 5 };

/// The names of all scenarios.
#[must_use]
pub fn names() -> Vec<String> {
    let labels = |(setting, list): (Setting, Vec<Scenario>)| -> Vec<String> {
        list.iter().map(|scenario| scenario.label(&setting)).collect()
    };
    let experiments = control::EXPERIMENTS.iter().map(|experiment| experiment.name.to_owned());
    traffic::plan().into_iter().flat_map(labels).chain(experiments).collect()
}

/// Runs the benchmark and leaves nothing behind, also when it fails.
///
/// # Errors
/// When no scenario has the name that is asked for, something cannot be made, or a fabric is not what it says.
pub fn run(options: &Options, progress: impl Fn(&str)) -> Result<Vec<Row>> {
    let pace = if options.quick { QUICK_PACE } else { PACE };
    let plan = if options.quick && options.only.is_none() { traffic::short_plan() } else { traffic::plan() };
    let wanted = |label: &str| options.only.as_ref().is_none_or(|only| label.contains(only.as_str()));
    let mut rows = Vec::new();
    for (setting, mut scenarios) in plan {
        scenarios.retain(|scenario| scenario.fits() && wanted(&scenario.label(&setting)));
        if !scenarios.is_empty() {
            rows.extend(measure(setting, &scenarios, pace, &progress)?);
        }
    }
    let effort = if options.quick { control::BRIEF } else { control::FULL };
    for experiment in control::EXPERIMENTS.iter().filter(|experiment| wanted(experiment.name)) {
        rows.extend(experiment.measure(&effort, &progress)?);
    }
    ensure!(!rows.is_empty(), "no scenario is called so; there are: {}", names().join(", "));
    Ok(rows)
}

fn measure(
    setting: Setting,
    scenarios: &[Scenario],
    pace: Pace,
    progress: &impl Fn(&str),
) -> Result<Vec<Row>> {
    let (containers, policies) = (setting.containers, setting.policies);
    let say = |what: &str| progress(&format!("{containers} containers, {policies} policies: {what}"));
    let fabrics = Fabrics::build(setting, &say)?;
    say("checking that each fabric is what it says");
    traffic::check(&fabrics)?;
    let mut rows = Vec::new();
    for scenario in scenarios {
        rows.extend(scenario.measure(&fabrics, pace, &say)?);
    }
    Ok(rows)
}
