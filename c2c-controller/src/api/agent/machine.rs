//! What is said to one agent: a sans-IO machine that knows which revision the agent has been told of, and turns commits
//! into deltas that follow one another without a gap. Commits that do not concern the agent are held back: most concern few
//! cells, and a thousand agents that answer each of them would be all that the controller does.

use super::super::convert;
use crate::domain::{CellName, Change, Commit, Lease, Revision};
use crate::ledger::View;
use crate::watch::{Filter, Hosted, Moves, News, Start};
use c2c_proto::v1;
use c2c_proto::v1::controller_message::Message;
use c2c_proto::v1::lease_refused::Reason;
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
    /// Up to here nothing more concerns it.
    seen: Revision,
}

/// What to do about commits.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Say this.
    Say(Message),
    /// Say nothing now; [`Machine::held`] says it later, with what came until then.
    Hold,
    /// Say this and end the stream: the lease is not the cell's any more.
    End(Message),
}

impl Machine {
    /// For an agent that has `told` and hosts `hosted`.
    pub(super) fn new(cell: CellName, underlay: Ipv4Addr, hosted: Hosted, told: Revision) -> Self {
        Self { cell, underlay, filter: Filter::new(hosted), told, seen: told }
    }

    pub(super) fn hosted(&self) -> &Hosted {
        self.filter.hosted()
    }

    /// The revision that the agent says it enforces, which cannot be later than what it was told.
    pub(super) fn applied(&self, said: u64) -> Revision {
        Revision::new(said).min(self.told)
    }

    /// The first thing after the lease, and the answer to having fallen behind.
    pub(super) fn start(&mut self, start: Start) -> Message {
        match start {
            Start::Snapshot { revision, leases, policies, groups } => {
                (self.told, self.seen) = (revision, revision);
                Message::Snapshot(v1::Snapshot {
                    revision: revision.get(),
                    leases: leases.iter().map(convert::lease).collect(),
                    policies: policies.iter().map(convert::policy).collect(),
                    groups: groups.iter().map(convert::group).collect(),
                })
            }
            Start::Resume(news) => {
                let changes = self.changes(&news);
                Message::Delta(self.delta(changes))
            }
        }
    }

    /// News that follow what the agent was told.
    pub(super) fn news(&mut self, news: &News) -> Step {
        match self.lease_taken(&news.commits) {
            Some((lease, revision)) => Step::End(Message::LeaseRefused(convert::refused(
                Reason::Contradiction,
                format!("the lease {lease} was taken away at revision {revision}"),
            ))),
            None => {
                let changes = self.changes(news);
                if changes.is_empty() { Step::Hold } else { Step::Say(Message::Delta(self.delta(changes))) }
            }
        }
    }

    /// What was held back, if anything: that the agent is further than it knows.
    pub(super) fn held(&mut self) -> Option<Message> {
        (self.told < self.seen).then(|| Message::Delta(self.delta(Vec::new())))
    }

    /// The answer to apps and spaces that came and left: first what the view holds already and the agent does not know,
    /// then the view.
    pub(super) fn view(&mut self, serial: u64, moves: &Moves, view: &View) -> Vec<Step> {
        let mut steps = Vec::new();
        if !view.before.commits.is_empty() {
            steps.push(self.news(&view.before));
        }
        // The view is of one revision, and the agent has to be there.
        steps.extend(self.held().map(Step::Say));
        self.filter.change(moves);
        steps.push(Step::Say(Message::AppsView(v1::AppsView {
            serial,
            revision: self.told.get(),
            policies: view.policies.iter().map(convert::policy).collect(),
            groups: view.groups.iter().map(convert::group).collect(),
        })));
        steps
    }

    /// What of the news concerns the agent.
    fn changes(&mut self, news: &News) -> Vec<v1::Change> {
        self.seen = news.commits.last().map_or(self.seen, |commit| commit.revision);
        let changes = self.filter.changes(&news.commits).filter_map(convert::change);
        let groups = self.filter.groups(news);
        changes.chain(groups.iter().map(convert::group_news)).collect()
    }

    /// These changes, and everything that was held back before them.
    fn delta(&mut self, changes: Vec<v1::Change>) -> v1::Delta {
        let from = std::mem::replace(&mut self.told, self.seen);
        v1::Delta { from_revision: from.get(), to_revision: self.told.get(), changes }
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
            | Change::TagFreed(_)
            | Change::TagHeld(_)
            | Change::Stamped(_)
            | Change::GroupSet { .. }
            | Change::GroupRulesChanged(_)
            | Change::GroupBound(_)
            | Change::GroupUnbound(_)
            | Change::GroupRemoved(_) => taken,
        })
    }
}
