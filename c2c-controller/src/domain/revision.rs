//! The controller's only clock, and what happens at each of its ticks.

use super::{Lease, TagFreed, TaggedPolicy};
use std::fmt;

/// Counts the store's commits: 0 is the empty store, and every commit has the next number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// Before the first commit.
    pub const ZERO: Self = Self(0);

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
}
