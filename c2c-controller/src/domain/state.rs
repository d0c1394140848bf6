//! Everything the controller knows, at one revision.

use super::group::Groups;
use super::tag::Tags;
use super::{
    AppId, Binding, CellName, Change, Commit, GroupName, Lease, Moment, Policy, Revision, SecurityGroup,
    SpaceId, Stamp, Tag, TagFreed, TagHeld, TaggedPolicy, Timestamp,
};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The leases, policies, tags and security groups of a foundation. Changed by [`State::apply`] alone.
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
    pub(super) groups: Groups,
    stamp: Stamp,
}

/// What a state is made of, as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The last commit's.
    pub revision: Revision,
    /// All leases.
    pub leases: Vec<Lease>,
    /// All policies.
    pub policies: Vec<TaggedPolicy>,
    /// The tags that are nobody's.
    pub freed: Vec<TagFreed>,
    /// The tags that routers hold.
    pub held: Vec<TagHeld>,
    /// When policies last changed.
    pub stamp: Stamp,
    /// All security groups, without their bindings.
    pub groups: Vec<SecurityGroup>,
    /// Their bindings.
    pub bindings: Vec<Binding>,
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
    /// A router's tag is somebody else's.
    #[error("router {0} holds tag {1}, which does not agree with the policies")]
    Router(AppId, Tag),
    /// A binding of no group.
    #[error("security group {} is bound to {} and does not exist", .0.group, .0.reach)]
    Unbound(Box<Binding>),
}

impl Parts {
    /// What makes an empty state this one.
    pub fn changes(self) -> impl Iterator<Item = Change> {
        let Self { revision: _, leases, policies, freed, held, stamp, groups, bindings } = self;
        let leases = leases.into_iter().map(Change::LeasePut);
        let set = |SecurityGroup { name, guid, rules, .. }| Change::GroupSet { name, guid, rules };
        let groups = groups.into_iter().map(set);
        let bindings = bindings.into_iter().map(Change::GroupBound);
        let freed = freed.into_iter().map(Change::TagFreed);
        let policies = policies.into_iter().map(Change::PolicyPut);
        let held = held.into_iter().map(Change::TagHeld);
        let stamp = (stamp != Stamp::default()).then_some(Change::Stamped(stamp));
        leases.chain(groups).chain(bindings).chain(freed).chain(policies).chain(held).chain(stamp)
    }
}

impl State {
    /// A state as it was stored, if it can be one.
    ///
    /// # Errors
    /// When leases overlap, tags contradict each other or a bound group is not there: then the store is damaged.
    pub fn restore(parts: Parts) -> Result<Self, Inconsistent> {
        let mut state = Self { revision: parts.revision, stamp: parts.stamp, ..Self::default() };
        for lease in parts.leases {
            if let Some(other) = state.clash(&lease) {
                return Err(Inconsistent::Overlap(Box::new(lease), Box::new(other.clone())));
            }
            state.put_lease(lease);
        }
        for policy in parts.policies {
            state.check_tags(&policy)?;
            state.put_policy(&policy);
        }
        for held in parts.held {
            if !state.agrees(&held.app, held.tag) {
                return Err(Inconsistent::Router(held.app, held.tag));
            }
            state.tags.hold(&held);
        }
        parts.freed.into_iter().for_each(|freed| state.tags.quarantine(freed));
        for SecurityGroup { name, guid, rules, .. } in &parts.groups {
            state.groups.set(name, guid.as_ref(), rules);
        }
        for binding in parts.bindings {
            if state.groups.rules(&binding.group).is_none() {
                return Err(Inconsistent::Unbound(Box::new(binding)));
            }
            state.groups.bind(&binding);
        }
        Ok(state)
    }

    /// What it is made of: what [`State::restore`] makes it of again.
    #[must_use]
    pub fn parts(&self) -> Parts {
        let groups = self.groups().map(|group| SecurityGroup { reaches: BTreeSet::new(), ..group });
        let bindings = self.groups.names().flat_map(|group| {
            let reaches = self.groups.reaches(group).cloned();
            reaches.map(|reach| Binding { group: group.clone(), reach })
        });
        Parts {
            revision: self.revision,
            leases: self.leases().cloned().collect(),
            policies: self.policies().collect(),
            freed: self.freed_tags().cloned().collect(),
            held: self.tags.routers().collect(),
            stamp: self.stamp,
            groups: groups.collect(),
            bindings: bindings.collect(),
        }
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

    /// How many policies there are.
    #[must_use]
    pub fn policy_count(&self) -> usize {
        self.policies.len()
    }

    /// When policies last changed.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Policies are taken to have changed now, whatever was told before.
    pub fn restamp(&mut self, after: Stamp, now: Moment) {
        self.stamp = self.stamp.max(after).next(now);
    }

    /// Whether the app holds its tag without a policy.
    #[must_use]
    pub fn is_router(&self, app: &AppId) -> bool {
        self.tags.is_router(app)
    }

    /// The tag of an app.
    #[must_use]
    pub fn tag_of(&self, app: &AppId) -> Option<Tag> {
        self.tags.of(app)
    }

    /// The tags that apps have, by tag.
    pub fn tags(&self) -> impl Iterator<Item = (Tag, &AppId)> {
        self.tags.held()
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

    /// How many policies have this app as their source.
    #[must_use]
    pub fn policies_from(&self, app: &AppId) -> usize {
        let policies = self.by_app.get(app).into_iter().flatten();
        policies.filter(|policy| policy.source == *app).count()
    }

    /// The policies that name any of the apps, each once, in order.
    #[must_use]
    pub fn policies_naming<'a>(&self, apps: impl IntoIterator<Item = &'a AppId>) -> Vec<TaggedPolicy> {
        let named: BTreeSet<&Policy> =
            apps.into_iter().filter_map(|app| self.by_app.get(app)).flatten().collect();
        named.into_iter().filter_map(|policy| self.policy(policy)).collect()
    }

    /// All security groups, in order.
    pub fn groups(&self) -> impl Iterator<Item = SecurityGroup> {
        self.groups.names().filter_map(|name| self.group(name))
    }

    /// A security group with all its bindings.
    #[must_use]
    pub fn group(&self, name: &GroupName) -> Option<SecurityGroup> {
        self.groups.whole(name)
    }

    /// The security groups that concern a cell which hosts these spaces: those that are bound to one of them or to all.
    /// Each is given with those bindings alone.
    #[must_use]
    pub fn groups_for(&self, spaces: &BTreeSet<SpaceId>) -> Vec<SecurityGroup> {
        let bound: Vec<_> = spaces.iter().cloned().map(Some).chain([None]).collect();
        self.parts_of(self.groups.bound_to(&bound), spaces)
    }

    /// Of the security groups that concern a cell which hosts these spaces, those that are bound to one of `some`.
    #[must_use]
    pub fn groups_bound(&self, some: &BTreeSet<SpaceId>, spaces: &BTreeSet<SpaceId>) -> Vec<SecurityGroup> {
        let bound: Vec<_> = some.iter().cloned().map(Some).collect();
        self.parts_of(self.groups.bound_to(&bound), spaces)
    }

    /// Of the named security groups, those that concern a cell which hosts these spaces.
    #[must_use]
    pub fn parts_of<'a>(
        &self,
        names: impl IntoIterator<Item = &'a GroupName>,
        spaces: &BTreeSet<SpaceId>,
    ) -> Vec<SecurityGroup> {
        names.into_iter().filter_map(|name| self.groups.part(name, spaces)).collect()
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
                Change::TagHeld(held) => self.tags.hold(held),
                Change::Stamped(stamp) => self.stamp = *stamp,
                Change::GroupSet { name, guid, rules } => self.groups.set(name, guid.as_ref(), rules),
                // Only in a commit as it was told, and that leaves the rules out.
                Change::GroupRulesChanged(_) => {}
                Change::GroupBound(binding) => self.groups.bind(binding),
                Change::GroupUnbound(binding) => self.groups.unbind(binding),
                Change::GroupRemoved(name) => self.groups.remove(name),
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

    /// Whether nobody has another tag or another owner of it.
    fn agrees(&self, app: &AppId, tag: Tag) -> bool {
        self.tags.of(app).is_none_or(|held| held == tag)
            && self.tags.owner(tag).is_none_or(|owner| owner == app)
    }

    fn check_tags(&self, put: &TaggedPolicy) -> Result<(), Inconsistent> {
        let TaggedPolicy { policy, source_tag, destination_tag } = put;
        for (app, tag) in [(&policy.source, *source_tag), (&policy.destination, *destination_tag)] {
            if !self.agrees(app, tag) {
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
