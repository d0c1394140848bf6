//! What is said to one agent: a sans-IO machine that knows which revision the agent has been told of, and turns commits
//! into deltas that follow one another without a gap.

use super::super::convert;
use crate::domain::{AppId, CellName, Change, Commit, Lease, Revision, TaggedPolicy};
use crate::watch::{Filter, Start};
use c2c_proto::v1;
use c2c_proto::v1::controller_message::Message;
use c2c_proto::v1::lease_refused::Reason;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// One agent's stream.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    cell: CellName,
    underlay: Ipv4Addr,
    filter: Filter,
    /// What the agent was told last, or said that it has.
    told: Revision,
}

/// What to do about commits.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Say this.
    Say(Message),
    /// Say this and end the stream: the lease is not the cell's any more.
    End(Message),
}

impl Machine {
    /// For an agent that has `told` and hosts `apps`.
    pub(super) fn new(cell: CellName, underlay: Ipv4Addr, apps: BTreeSet<AppId>, told: Revision) -> Self {
        Self { cell, underlay, filter: Filter::new(apps), told }
    }

    pub(super) fn apps(&self) -> &BTreeSet<AppId> {
        self.filter.apps()
    }

    /// The revision that the agent says it enforces, which cannot be later than what it was told.
    pub(super) fn applied(&self, said: u64) -> Revision {
        Revision::new(said).min(self.told)
    }

    /// The first thing after the lease, and the answer to having fallen behind.
    pub(super) fn start(&mut self, start: Start) -> Message {
        match start {
            Start::Snapshot { revision, leases, policies } => {
                self.told = revision;
                Message::Snapshot(v1::Snapshot {
                    revision: revision.get(),
                    leases: leases.iter().map(convert::lease).collect(),
                    policies: policies.iter().map(convert::policy).collect(),
                })
            }
            Start::Resume(commits) => Message::Delta(self.delta(&commits)),
        }
    }

    /// Commits that follow what the agent was told.
    pub(super) fn commits(&mut self, commits: &[Arc<Commit>]) -> Step {
        match self.lease_taken(commits) {
            Some((lease, revision)) => Step::End(Message::LeaseRefused(convert::refused(
                Reason::Contradiction,
                format!("the lease {lease} was taken away at revision {revision}"),
            ))),
            None => Step::Say(Message::Delta(self.delta(commits))),
        }
    }

    /// The answer to apps that came and left: first what the view holds already and the agent does not know, then the
    /// view.
    pub(super) fn view(
        &mut self,
        serial: u64,
        [removed, added]: [&BTreeSet<AppId>; 2],
        before: &[Arc<Commit>],
        policies: &[TaggedPolicy],
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        if !before.is_empty() {
            steps.push(self.commits(before));
        }
        self.filter.change(removed, added.iter().cloned());
        let policies = policies.iter().map(convert::policy).collect();
        let view = v1::AppsView { serial, revision: self.told.get(), policies };
        steps.push(Step::Say(Message::AppsView(view)));
        steps
    }

    fn delta(&mut self, commits: &[Arc<Commit>]) -> v1::Delta {
        let from = self.told;
        self.told = commits.last().map_or(from, |commit| commit.revision);
        v1::Delta {
            from_revision: from.get(),
            to_revision: self.told.get(),
            changes: self.filter.changes(commits).filter_map(convert::change).collect(),
        }
    }

    /// The cell's lease, if the commits leave it without one.
    fn lease_taken<'a>(&self, commits: &'a [Arc<Commit>]) -> Option<(&'a Lease, Revision)> {
        let changes = commits
            .iter()
            .flat_map(|commit| commit.changes.iter().map(move |change| (change, commit.revision)));
        let mine = |lease: &Lease| lease.cell == self.cell && lease.underlay == self.underlay;
        changes.fold(None, |taken, (change, revision)| match change {
            Change::LeaseRemoved(lease) if mine(lease) => Some((lease, revision)),
            Change::LeasePut(lease) if mine(lease) => None,
            Change::LeaseRemoved(_)
            | Change::LeasePut(_)
            | Change::PolicyPut(_)
            | Change::PolicyRemoved(_)
            | Change::TagFreed(_) => taken,
        })
    }
}
