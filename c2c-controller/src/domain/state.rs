//! Everything the controller knows, at one revision.

use super::tag::Tags;
use super::{
    AppId, CellName, Change, Commit, Lease, Policy, Revision, Tag, TagFreed, TaggedPolicy, Timestamp,
};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The leases, policies and tags of a foundation. Changed by [`State::apply`] alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    revision: Revision,
    /// By underlay address.
    leases: BTreeMap<Ipv4Addr, Lease>,
    /// The underlay address of the lease whose block begins here. Blocks never overlap, so this also finds overlaps.
    blocks: BTreeMap<Ipv4Addr, Ipv4Addr>,
    policies: BTreeMap<Policy, (Tag, Tag)>,
    /// The policies that name an app on either side.
    by_app: BTreeMap<AppId, BTreeSet<Policy>>,
    pub(super) tags: Tags,
}

/// A stored state that no sequence of commands could have made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// Two leases share addresses.
    #[error("lease {0} overlaps lease {1}")]
    Overlap(Box<Lease>, Box<Lease>),
    /// An app has two tags, or a tag two apps.
    #[error("policy {0} gives tag {1} to an app, which does not agree with the other policies")]
    Tag(Box<Policy>, Tag),
}

impl State {
    /// A state as it was stored, if it can be one.
    ///
    /// # Errors
    /// When leases overlap or tags contradict each other: then the store is damaged.
    pub fn restore(
        revision: Revision,
        leases: impl IntoIterator<Item = Lease>,
        policies: impl IntoIterator<Item = TaggedPolicy>,
        freed: impl IntoIterator<Item = TagFreed>,
    ) -> Result<Self, Inconsistent> {
        let mut state = Self { revision, ..Self::default() };
        for lease in leases {
            if let Some(other) = state.clash(&lease) {
                return Err(Inconsistent::Overlap(Box::new(lease), Box::new(other.clone())));
            }
            state.put_lease(lease);
        }
        for policy in policies {
            state.check_tags(&policy)?;
            state.put_policy(&policy);
        }
        freed.into_iter().for_each(|freed| state.tags.quarantine(freed));
        Ok(state)
    }

    /// The last commit's.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// All leases, by underlay address.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// All policies, in order.
    pub fn policies(&self) -> impl Iterator<Item = TaggedPolicy> {
        self.policies.iter().map(|(policy, tags)| tagged(policy, *tags))
    }

    /// The tags that are nobody's, and may still be in quarantine.
    pub fn freed_tags(&self) -> impl Iterator<Item = &TagFreed> {
        self.tags.quarantined()
    }

    /// The lease held at an underlay address.
    #[must_use]
    pub fn lease_at(&self, underlay: Ipv4Addr) -> Option<&Lease> {
        self.leases.get(&underlay)
    }

    /// The lease held under a cell's name.
    #[must_use]
    pub fn lease_of(&self, cell: &CellName) -> Option<&Lease> {
        self.leases.values().find(|lease| lease.cell == *cell)
    }

    /// The leases that share addresses with the block, highest first.
    pub fn leases_overlapping(&self, block: Ipv4Net) -> impl Iterator<Item = &Lease> {
        let below = self.blocks.range(..=block.broadcast()).rev();
        below
            .filter_map(|(_, underlay)| self.leases.get(underlay))
            .take_while(move |lease| lease.block.broadcast() >= block.network())
    }

    /// A policy with its tags, if it is allowed.
    #[must_use]
    pub fn policy(&self, policy: &Policy) -> Option<TaggedPolicy> {
        self.policies.get(policy).map(|tags| tagged(policy, *tags))
    }

    /// The policies that name any of the apps, each once, in order.
    #[must_use]
    pub fn policies_naming<'a>(&self, apps: impl IntoIterator<Item = &'a AppId>) -> Vec<TaggedPolicy> {
        let named: BTreeSet<&Policy> =
            apps.into_iter().filter_map(|app| self.by_app.get(app)).flatten().collect();
        named.into_iter().filter_map(|policy| self.policy(policy)).collect()
    }

    /// The cell of the lease at this address lives.
    pub fn renew(&mut self, underlay: Ipv4Addr, now: Timestamp) {
        if let Some(lease) = self.leases.get_mut(&underlay) {
            lease.renewed = lease.renewed.max(now);
        }
    }

    /// Makes the changes of a commit, which was decided on this very state.
    pub fn apply(&mut self, commit: &Commit) {
        for change in &commit.changes {
            match change {
                Change::LeasePut(lease) => self.put_lease(lease.clone()),
                Change::LeaseRemoved(lease) => self.remove_lease(lease.underlay),
                Change::PolicyPut(policy) => self.put_policy(policy),
                Change::PolicyRemoved(policy) => self.remove_policy(&policy.policy),
                Change::TagFreed(freed) => self.tags.quarantine(freed.clone()),
            }
        }
        self.revision = commit.revision;
    }

    /// A lease that cannot exist beside this one.
    fn clash(&self, lease: &Lease) -> Option<&Lease> {
        self.leases_overlapping(lease.block).next().or_else(|| self.leases.get(&lease.underlay))
    }

    fn put_lease(&mut self, lease: Lease) {
        self.remove_lease(lease.underlay);
        self.blocks.insert(lease.block.network(), lease.underlay);
        self.leases.insert(lease.underlay, lease);
    }

    fn remove_lease(&mut self, underlay: Ipv4Addr) {
        if let Some(old) = self.leases.remove(&underlay) {
            self.blocks.remove(&old.block.network());
        }
    }

    fn put_policy(&mut self, put: &TaggedPolicy) {
        let TaggedPolicy { policy, source_tag, destination_tag } = put;
        if self.policies.insert(policy.clone(), (*source_tag, *destination_tag)).is_some() {
            return;
        }
        for (app, tag) in [(&policy.source, *source_tag), (&policy.destination, *destination_tag)] {
            self.tags.take(app, tag);
            self.by_app.entry(app.clone()).or_default().insert(policy.clone());
        }
    }

    fn remove_policy(&mut self, policy: &Policy) {
        if self.policies.remove(policy).is_none() {
            return;
        }
        for app in [&policy.source, &policy.destination] {
            self.tags.release(app);
            let Some(policies) = self.by_app.get_mut(app) else { continue };
            policies.remove(policy);
            if policies.is_empty() {
                self.by_app.remove(app);
            }
        }
    }

    fn check_tags(&self, put: &TaggedPolicy) -> Result<(), Inconsistent> {
        let TaggedPolicy { policy, source_tag, destination_tag } = put;
        for (app, tag) in [(&policy.source, *source_tag), (&policy.destination, *destination_tag)] {
            let agrees = self.tags.of(app).is_none_or(|held| held == tag)
                && self.tags.owner(tag).is_none_or(|owner| owner == app);
            if !agrees {
                return Err(Inconsistent::Tag(Box::new(policy.clone()), tag));
            }
        }
        match (source_tag == destination_tag) == (policy.source == policy.destination) {
            true => Ok(()),
            false => Err(Inconsistent::Tag(Box::new(policy.clone()), *destination_tag)),
        }
    }
}

fn tagged(policy: &Policy, (source_tag, destination_tag): (Tag, Tag)) -> TaggedPolicy {
    TaggedPolicy { policy: policy.clone(), source_tag, destination_tag }
}
