//! What of the news concerns one agent: every lease, the policies that name an app of its cell, and the security groups
//! that are bound to one of its spaces or to all.

use super::{Hosted, Moves, News};
use crate::domain::{Change, Commit, GroupName, Reach, SecurityGroup};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Knows what a cell hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    hosted: Hosted,
}

/// What became of a security group, for one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupNews<'a> {
    /// It is this now.
    Put(&'a SecurityGroup),
    /// It concerned the agent and does not any more.
    Removed(&'a GroupName),
}

/// What commits did to a group that may concern the cell.
#[derive(Debug, Default)]
struct Touched {
    rules: bool,
    /// Whom it applied to before them, of those that the cell hosts.
    before: BTreeSet<Reach>,
}

impl Filter {
    /// For a cell that hosts this.
    #[must_use]
    pub fn new(hosted: Hosted) -> Self {
        Self { hosted }
    }

    /// What the cell hosts.
    #[must_use]
    pub fn hosted(&self) -> &Hosted {
        &self.hosted
    }

    /// Some left, and some came.
    pub fn change(&mut self, moves: &Moves) {
        self.hosted = self.hosted.after(moves);
    }

    /// The changes of leases and policies that concern the cell, in order.
    pub fn changes<'a>(&'a self, commits: &'a [Arc<Commit>]) -> impl Iterator<Item = &'a Change> {
        commits.iter().flat_map(|commit| &commit.changes).filter(|change| self.concerns(change))
    }

    /// What became of the security groups that concern the cell or did, by name.
    #[must_use]
    pub fn groups<'a>(&self, news: &'a News) -> Vec<GroupNews<'a>> {
        let now: BTreeMap<&GroupName, &SecurityGroup> =
            news.groups.iter().map(|group| (&group.name, group)).collect();
        let touched = self.touched(news, &now);
        let became = touched.into_iter().filter_map(|(name, touched)| match now.get(name) {
            Some(group) if touched.rules || touched.before != group.reaches => Some(GroupNews::Put(group)),
            None if !touched.before.is_empty() => Some(GroupNews::Removed(name)),
            Some(_) | None => None,
        });
        became.collect()
    }

    /// The groups that the commits change. Walks back from what is now to what was before.
    fn touched<'a>(
        &self,
        news: &'a News,
        now: &BTreeMap<&GroupName, &SecurityGroup>,
    ) -> BTreeMap<&'a GroupName, Touched> {
        let mut all: BTreeMap<&GroupName, Touched> = BTreeMap::new();
        for change in news.commits.iter().flat_map(|commit| &commit.changes).rev() {
            let Some(name) = change.group() else { continue };
            let touched = all.entry(name).or_insert_with(|| Touched {
                rules: false,
                before: now.get(name).map(|group| group.reaches.clone()).unwrap_or_default(),
            });
            touched.walk_back(change, &self.hosted);
        }
        all
    }

    fn concerns(&self, change: &Change) -> bool {
        match change {
            Change::LeasePut(_) | Change::LeaseRemoved(_) => true,
            Change::PolicyPut(tagged) | Change::PolicyRemoved(tagged) => {
                self.hosted.is_named_by(&tagged.policy)
            }
            Change::TagFreed(_)
            | Change::TagHeld(_)
            | Change::Stamped(_)
            | Change::GroupSet { .. }
            | Change::GroupRulesChanged(_)
            | Change::GroupBound(_)
            | Change::GroupUnbound(_)
            | Change::GroupRemoved(_) => false,
        }
    }
}

impl Touched {
    fn walk_back(&mut self, change: &Change, hosted: &Hosted) {
        match change {
            Change::GroupSet { .. } | Change::GroupRulesChanged(_) => self.rules = true,
            Change::GroupBound(binding) => {
                self.before.remove(&binding.reach);
            }
            Change::GroupUnbound(binding) if hosted.is_reached_by(&binding.reach) => {
                self.before.insert(binding.reach.clone());
            }
            Change::GroupUnbound(_)
            | Change::GroupRemoved(_)
            | Change::LeasePut(_)
            | Change::LeaseRemoved(_)
            | Change::PolicyPut(_)
            | Change::PolicyRemoved(_)
            | Change::TagFreed(_)
            | Change::TagHeld(_)
            | Change::Stamped(_) => {}
        }
    }
}
