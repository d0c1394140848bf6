//! What is known in memory: the state at a revision, how it came there, what was heard of leases and tags, and who watches.
//! All of it moves at once, so that what a watcher starts from and what follows fit together.

use super::log::Log;
use crate::domain::{Commit, Heard, Moment, Now, Revision, State, Uptime};
use crate::watch::Subscription;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::sync::broadcast;

/// How many commits a watcher may be behind before it has to take a snapshot instead. At a few hundred bytes each this is
/// all the memory that slow agents can cost, together, because they share it.
const QUEUE_LENGTH: usize = 1024;

/// The state and what belongs to it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) state: State,
    pub(super) log: Log,
    heard: Heard,
    watchers: broadcast::Sender<Arc<Commit>>,
}

impl World {
    /// A state that was read, with the commits that the store still has.
    pub(super) fn new(state: State, commits: Vec<Arc<Commit>>) -> Self {
        let before = commits.first().map_or(state.revision(), |first| {
            Revision::new(first.revision.get().saturating_sub(Revision::FIRST.get()))
        });
        let mut log = Log::from(before);
        commits.into_iter().for_each(|commit| log.push(commit));
        Self { state, log, heard: Heard::default(), watchers: broadcast::Sender::new(QUEUE_LENGTH) }
    }

    /// When something is decided on this state.
    pub(super) fn now(&self, moment: Moment) -> Now<'_> {
        Now { moment, heard: &self.heard }
    }

    /// The commit that follows was stored: it applies, and everybody is told.
    pub(super) fn apply(&mut self, commit: &Commit, up: Uptime) {
        self.state.apply(commit);
        self.heard.committed(commit, up);
        let told = Arc::new(commit.told());
        self.log.push(Arc::clone(&told));
        // Fails only when nobody watches.
        let _ = self.watchers.send(told);
    }

    /// The cell at this address was heard of.
    pub(super) fn renew(&mut self, underlay: Ipv4Addr, now: Moment) {
        self.state.renew(underlay, now.wall);
        self.heard.renewed(underlay, now.up);
    }

    /// The store says when leases were renewed; those that are news were heard of now.
    pub(super) fn renewed_elsewhere(&mut self, renewals: &super::Renewals, up: Uptime) {
        for (underlay, at) in renewals {
            if self.state.lease_at(*underlay).is_some_and(|lease| lease.renewed < *at) {
                self.state.renew(*underlay, *at);
                self.heard.renewed(*underlay, up);
            }
        }
    }

    /// Begins again with another state, between which and ours some commits are not known. The watchers' subscriptions
    /// end; what was heard stays, because it is about time and not about the state.
    pub(super) fn restart(&mut self, state: State) {
        let heard = std::mem::take(&mut self.heard);
        *self = Self { heard, ..Self::new(state, Vec::new()) };
    }

    /// To be called while the world is locked: so the subscription begins right after it.
    pub(super) fn watch(&self) -> Subscription {
        Subscription::new(self.watchers.subscribe())
    }
}
