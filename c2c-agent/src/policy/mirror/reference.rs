//! For tests: a naive controller that keeps the whole world and its history, and speaks to one cell.

use super::{Announcement, Opening, Update};
use crate::lease::Lease;
use crate::policy::group::Group;
use crate::policy::world::{Change, Hosted, Policy, Protocol, Rule, Tags, World};
use c2c_proto::egress::SecurityRule;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub(crate) const APPS: [&str; 4] = ["a", "b", "c", "d"];
pub(crate) const SPACES: [&str; 3] = ["x", "y", "z"];
const GROUPS: [&str; 3] = ["dns", "public", "database"];

pub(crate) fn policy(source: u16, destination: u16, port: u16) -> Policy {
    let rule = Rule {
        source: APPS[usize::from(source % 4)].into(),
        destination: APPS[usize::from(destination % 4)].into(),
        protocol: Protocol::Tcp,
        port_start: port,
        port_end: port,
    };
    Policy { rule, tags: Tags { source: 1 + source % 4, destination: 1 + destination % 4 } }
}

pub(crate) fn lease(n: u8) -> Lease {
    Lease {
        cell: format!("cell-{n}"),
        underlay: [192, 0, 2, n].into(),
        block: format!("10.255.{n}.0/24").parse().unwrap(),
        mac: [0xee, 0xee, 10, 255, n, 0],
    }
}

fn index(revision: u64) -> usize {
    usize::try_from(revision).unwrap()
}

pub(crate) fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub(crate) fn apps(apps: &[&str]) -> Hosted {
    Hosted { apps: names(apps), spaces: BTreeSet::new() }
}

pub(crate) fn group(port: u16, default: bool, running: &[&str], staging: &[&str]) -> Group {
    let rule = SecurityRule {
        protocol: "tcp".into(),
        destination: "192.0.2.0/24".into(),
        ports: port.to_string(),
        ..SecurityRule::default()
    };
    Group {
        rules: vec![rule],
        running_default: default,
        staging_default: false,
        running_spaces: names(running),
        staging_spaces: names(staging),
    }
}

/// The controller's side of one stream, and its store: every revision is one change.
#[derive(Default)]
pub(crate) struct Reference {
    pub(crate) store: String,
    pub(crate) history: Vec<Change>,
    pub(crate) compacted: u64,
    pub(crate) stream: Option<(Hosted, u64)>,
    pub(crate) outbox: VecDeque<Update>,
}

impl Reference {
    fn at(&self, revision: u64) -> World {
        let mut world =
            World { store_id: self.store.clone(), revision, with_groups: true, ..World::default() };
        self.history.iter().take(index(revision)).cloned().for_each(|change| world.apply(change));
        world
    }

    pub(crate) fn now(&self) -> World {
        self.at(self.history.len() as u64)
    }

    fn policies_of(&self, hosted: &Hosted) -> Vec<Policy> {
        let now = self.now();
        let touched = now.policies.iter().filter(|(rule, _)| rule.touches(&hosted.apps));
        touched.map(|(rule, tags)| Policy { rule: rule.clone(), tags: *tags }).collect()
    }

    /// Those that concern `hosted`.
    fn groups_of(&self, hosted: &Hosted) -> BTreeMap<String, Group> {
        let mut groups = self.now().groups;
        groups.retain(|_, group| group.keep_spaces(|space| hosted.spaces.contains(space)));
        groups
    }

    pub(crate) fn open(&mut self, opening: &Opening) {
        self.outbox.clear();
        let resumes =
            opening.store_id == self.store && opening.resume > 0 && opening.resume >= self.compacted;
        let from = if resumes { opening.resume } else { self.history.len() as u64 };
        self.stream = Some((opening.hosted.clone(), from));
        if !resumes {
            self.outbox.push_back(Update::Snapshot {
                revision: from,
                leases: self.now().leases.into_values().collect(),
                policies: self.policies_of(&opening.hosted),
                groups: self.groups_of(&opening.hosted),
            });
        }
    }

    pub(crate) fn announced(&mut self, said: &Announcement) {
        let Some((hosted, _)) = &mut self.stream else { return };
        hosted.extend(said.added.clone());
        *hosted = hosted.without(&said.removed);
        let bound = |group: &Group| {
            let added = |space: &String| said.added.spaces.contains(space);
            group.running_spaces.iter().any(added) || group.staging_spaces.iter().any(added)
        };
        let groups = hosted.clone();
        let groups = self.groups_of(&groups).into_iter().filter(|(_, group)| bound(group)).collect();
        let view = Update::AppsView {
            serial: said.serial,
            revision: self.history.len() as u64,
            policies: self.policies_of(&said.added),
            groups,
        };
        self.outbox.push_back(view);
    }

    /// Everything that happened since, as one delta.
    pub(crate) fn flush(&mut self) {
        let to = self.history.len() as u64;
        let Some((hosted, sent)) = &mut self.stream else { return };
        if *sent == to {
            return;
        }
        let since = self.history[index(*sent)..].iter();
        let changes = since.filter_map(|change| concerning(change, hosted)).collect();
        self.outbox.push_back(Update::Delta { from: *sent, to, changes });
        *sent = to;
    }
}

/// The change as far as it concerns a cell that hosts these.
fn concerning(change: &Change, hosted: &Hosted) -> Option<Change> {
    let touches = match change {
        Change::LeasePut(_) | Change::LeaseRemoved(_) | Change::GroupRemoved(_) => true,
        Change::PolicyPut(policy) => policy.rule.touches(&hosted.apps),
        Change::PolicyRemoved(rule) => rule.touches(&hosted.apps),
        Change::GroupPut(name, group) => {
            let mut group = group.clone();
            let applies = group.keep_spaces(|space| hosted.spaces.contains(space));
            let removed = Change::GroupRemoved(name.clone());
            return Some(if applies { Change::GroupPut(name.clone(), group) } else { removed });
        }
        Change::Came(_) | Change::Left(_) => false,
    };
    touches.then(|| change.clone())
}

fn any_group() -> impl Strategy<Value = Group> {
    let spaces = || proptest::sample::subsequence(SPACES.to_vec(), 0..=3);
    let parts = (1u16..4, proptest::bool::weighted(0.2), spaces(), spaces());
    parts.prop_map(|(port, default, running, staging)| group(port, default, &running, &staging))
}

/// Any change that a store can see.
pub(crate) fn any_change() -> impl Strategy<Value = Change> {
    let name = || proptest::sample::select(GROUPS.to_vec()).prop_map(str::to_owned);
    prop_oneof![
        (0u16..4, 0u16..4, 1u16..4).prop_map(|(s, d, p)| Change::PolicyPut(policy(s, d, p))),
        (0u16..4, 0u16..4, 1u16..4).prop_map(|(s, d, p)| Change::PolicyRemoved(policy(s, d, p).rule)),
        (1u8..4).prop_map(|n| Change::LeasePut(lease(n))),
        (1u8..4).prop_map(|n| Change::LeaseRemoved(lease(n))),
        (name(), any_group()).prop_map(|(name, group)| Change::GroupPut(name, group)),
        name().prop_map(Change::GroupRemoved),
    ]
}
