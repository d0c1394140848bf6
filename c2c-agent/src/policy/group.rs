//! Application security groups as one cell knows them, and whom they apply to. What their rules allow is read by
//! `c2c_proto::egress`; how that becomes rows is [`super::egress`]'s.

use c2c_proto::egress::SecurityRule;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a container does, as far as security groups tell it apart. Cloud Foundry's `container_workload`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// It runs an app or a task.
    Running,
    /// It builds an app.
    Staging,
    /// Anything else, or it is not said: no group applies.
    #[default]
    Other,
}

impl Workload {
    /// What the runtime calls it.
    #[must_use]
    pub fn of(container_workload: &str) -> Self {
        match container_workload {
            "app" | "task" => Self::Running,
            "staging" => Self::Staging,
            _ => Self::Other,
        }
    }

    /// The name, as in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Staging => "staging",
            Self::Other => "other",
        }
    }
}

/// A security group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its rules, in the words they were given; a bad one is skipped by who reads them.
    pub rules: Vec<SecurityRule>,
    /// Whether it applies to all that runs.
    pub running_default: bool,
    /// Whether it applies to all that is staged.
    pub staging_default: bool,
    /// Spaces of this cell in which it applies to what runs.
    pub running_spaces: BTreeSet<String>,
    /// Spaces of this cell in which it applies to what is staged.
    pub staging_spaces: BTreeSet<String>,
}

impl Group {
    /// Whether it applies to such a container in `space`.
    #[must_use]
    pub fn applies(&self, workload: Workload, space: &str) -> bool {
        match workload {
            Workload::Running => self.running_default || self.running_spaces.contains(space),
            Workload::Staging => self.staging_default || self.staging_spaces.contains(space),
            Workload::Other => false,
        }
    }

    /// Whether it is bound to one of `spaces`.
    pub(super) fn is_bound_to(&self, spaces: &BTreeSet<String>) -> bool {
        !self.running_spaces.is_disjoint(spaces) || !self.staging_spaces.is_disjoint(spaces)
    }

    /// Forgets the spaces that `keep` refuses. False when the group then applies to nothing.
    pub(super) fn keep_spaces(&mut self, keep: impl Fn(&String) -> bool) -> bool {
        self.running_spaces.retain(&keep);
        self.staging_spaces.retain(&keep);
        let somewhere = !self.running_spaces.is_empty() || !self.staging_spaces.is_empty();
        somewhere || self.running_default || self.staging_default
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_what_the_runtime_calls_it() {
        let names = ["app", "task", "staging", "", "App", "sidecar"];
        let (running, other) = (Workload::Running, Workload::Other);
        assert_eq!(names.map(Workload::of), [running, running, Workload::Staging, other, other, other]);
    }

    #[test]
    fn a_group_applies_by_default_or_where_it_is_bound() {
        let bound =
            Group { running_spaces: ["s".to_owned()].into(), staging_default: true, ..Group::default() };
        assert!(bound.applies(Workload::Running, "s"));
        assert!(!bound.applies(Workload::Running, "t"));
        assert!(bound.applies(Workload::Staging, "t"));
        assert!(!bound.applies(Workload::Other, "s"));
    }

    #[test]
    fn a_group_that_is_bound_nowhere_any_more_applies_to_nothing() {
        let mut bound = Group { running_spaces: ["s".to_owned()].into(), ..Group::default() };
        assert!(bound.keep_spaces(|space| space == "s"));
        assert!(!bound.keep_spaces(|space| space == "t"));
        assert!(Group { running_default: true, ..bound }.keep_spaces(|_| false));
    }
}
