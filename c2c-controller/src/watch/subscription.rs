//! A place in the sequence of commits.

use crate::domain::{Commit, GroupName, Lease, Revision, SecurityGroup, TaggedPolicy};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

/// Where a watcher starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// From a whole world.
    Snapshot {
        /// Of this revision.
        revision: Revision,
        /// All leases.
        leases: Vec<Lease>,
        /// The policies that concern the watcher.
        policies: Vec<TaggedPolicy>,
        /// The security groups that concern the watcher, with the bindings that do.
        groups: Vec<SecurityGroup>,
    },
    /// From the revision that it has: everything since.
    Resume(News),
}

/// What happened, as one watcher is told of it. Commits do not say what a security group allows, so the groups
/// are told beside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// In order, each once.
    pub commits: Vec<Arc<Commit>>,
    /// Of the security groups that concern the watcher at the last of these commits, at least those that they changed,
    /// with the bindings that concern it.
    pub groups: Vec<SecurityGroup>,
}

impl News {
    /// The security groups that commits change, each once.
    pub(crate) fn touched(commits: &[Arc<Commit>]) -> BTreeSet<&GroupName> {
        commits.iter().flat_map(|commit| &commit.changes).filter_map(|change| change.group()).collect()
    }
}

/// What a subscription yields next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Commits that follow what was yielded before; at least one.
    Commits(Vec<Arc<Commit>>),
    /// Some were dropped because the watcher was slow: subscribe again, without resuming.
    Behind,
    /// There will be no more.
    Closed,
}

/// The commits after a [`Start`]. Bounded: what a slow watcher does not take is dropped, and it is told.
#[derive(Debug)]
pub struct Subscription {
    commits: Receiver<Arc<Commit>>,
    /// Once commits were dropped, those that are left are of no use.
    behind: bool,
}

impl Subscription {
    pub(crate) fn new(commits: Receiver<Arc<Commit>>) -> Self {
        Self { commits, behind: false }
    }

    /// Waits for a commit, and takes all that are there. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Next {
        if self.behind {
            return Next::Behind;
        }
        match self.commits.recv().await {
            Ok(first) => match self.drain() {
                Some(more) => Next::Commits([vec![first], more].concat()),
                None => Next::Behind,
            },
            Err(RecvError::Lagged(_)) => {
                self.behind = true;
                Next::Behind
            }
            Err(RecvError::Closed) => Next::Closed,
        }
    }

    /// Takes all that are there, without waiting; nothing when some were dropped.
    pub fn drain(&mut self) -> Option<Vec<Arc<Commit>>> {
        let mut taken = Vec::new();
        while !self.behind {
            match self.commits.try_recv() {
                Ok(commit) => taken.push(commit),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Some(taken),
                Err(TryRecvError::Lagged(_)) => self.behind = true,
            }
        }
        None
    }
}
