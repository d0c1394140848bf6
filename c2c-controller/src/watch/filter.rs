//! What of a commit concerns one agent: every lease, and the policies that name an app of its cell.

use crate::domain::{AppId, Change, Commit};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The apps that a cell hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    apps: BTreeSet<AppId>,
}

impl Filter {
    /// For a cell that hosts these.
    #[must_use]
    pub fn new(apps: BTreeSet<AppId>) -> Self {
        Self { apps }
    }

    /// The apps.
    #[must_use]
    pub fn apps(&self) -> &BTreeSet<AppId> {
        &self.apps
    }

    /// Apps left, and apps came.
    pub fn change(&mut self, removed: &BTreeSet<AppId>, added: impl IntoIterator<Item = AppId>) {
        self.apps.retain(|app| !removed.contains(app));
        self.apps.extend(added);
    }

    /// The changes that concern the cell, in order.
    pub fn changes<'a>(&'a self, commits: &'a [Arc<Commit>]) -> impl Iterator<Item = &'a Change> {
        commits.iter().flat_map(|commit| &commit.changes).filter(|change| self.concerns(change))
    }

    fn concerns(&self, change: &Change) -> bool {
        match change {
            Change::LeasePut(_) | Change::LeaseRemoved(_) => true,
            Change::PolicyPut(tagged) | Change::PolicyRemoved(tagged) => {
                self.apps.contains(&tagged.policy.source) || self.apps.contains(&tagged.policy.destination)
            }
            Change::TagFreed(_) => false,
        }
    }
}
