//! The controller's only clock, and what happens at each of its ticks.

use super::{Binding, GroupGuid, GroupName, GroupRules, Lease, Stamp, TagFreed, TagHeld, TaggedPolicy};
use std::fmt;

/// Counts the store's commits: 0 is the empty store, and every commit has the next number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// Before the first commit.
    pub const ZERO: Self = Self(0);
    /// The first commit's.
    pub const FIRST: Self = Self(1);

    /// A revision that was read from a store or a message.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The one that follows. At a million commits a second the last one is half a million years away.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Changes that were made together: all of them or none, at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The store's revision with these changes in it.
    pub revision: Revision,
    /// In the order they apply.
    pub changes: Vec<Change>,
}

impl Commit {
    /// The commit as it is kept for watchers and told to them. The rules of security groups are left out, or some
    /// thousand of these would be gigabytes: who is concerned takes the rules from the state.
    #[must_use]
    pub fn told(&self) -> Self {
        let told = |change: &Change| match change {
            Change::GroupSet { name, .. } => Change::GroupRulesChanged(name.clone()),
            Change::LeasePut(_)
            | Change::LeaseRemoved(_)
            | Change::PolicyPut(_)
            | Change::PolicyRemoved(_)
            | Change::TagFreed(_)
            | Change::TagHeld(_)
            | Change::Stamped(_)
            | Change::GroupRulesChanged(_)
            | Change::GroupBound(_)
            | Change::GroupUnbound(_)
            | Change::GroupRemoved(_) => change.clone(),
        };
        Self { revision: self.revision, changes: self.changes.iter().map(told).collect() }
    }
}

/// One thing that became different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A cell holds this lease.
    LeasePut(Lease),
    /// Nobody holds this lease any more.
    LeaseRemoved(Lease),
    /// This access is allowed.
    PolicyPut(TaggedPolicy),
    /// This access is not allowed any more.
    PolicyRemoved(TaggedPolicy),
    /// No policy names the tag's app any more. Agents need not know; the store must.
    TagFreed(TagFreed),
    /// A router holds this tag. Agents need not know.
    TagHeld(TagHeld),
    /// Policies changed in this commit, and this is when, for who polls.
    Stamped(Stamp),
    /// A security group has these rules; its bindings stay.
    GroupSet {
        /// Which; new when there was none.
        name: GroupName,
        /// Cloud Controller's GUID of it, if it is one of Cloud Controller's.
        guid: Option<GroupGuid>,
        /// What it allows.
        rules: GroupRules,
    },
    /// A security group has other rules: what [`Commit::told`] makes of `GroupSet`.
    GroupRulesChanged(GroupName),
    /// A security group applies there too.
    GroupBound(Binding),
    /// A security group does not apply there any more.
    GroupUnbound(Binding),
    /// There is no such security group any more. Its bindings were removed before, in the same commit.
    GroupRemoved(GroupName),
}

impl Change {
    /// The security group that it is about, if it is about one.
    #[must_use]
    pub fn group(&self) -> Option<&GroupName> {
        match self {
            Self::GroupSet { name, .. } | Self::GroupRulesChanged(name) | Self::GroupRemoved(name) => {
                Some(name)
            }
            Self::GroupBound(binding) | Self::GroupUnbound(binding) => Some(&binding.group),
            Self::LeasePut(_)
            | Self::LeaseRemoved(_)
            | Self::PolicyPut(_)
            | Self::PolicyRemoved(_)
            | Self::TagFreed(_)
            | Self::TagHeld(_)
            | Self::Stamped(_) => None,
        }
    }
}
