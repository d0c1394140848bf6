//! The mirror against a naive controller that keeps the whole world and its history, over random interleavings.

use super::*;
use crate::policy::world::{Protocol, Rule, Tags};
use c2c_proto::egress::SecurityRule;
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};

const APPS: [&str; 4] = ["a", "b", "c", "d"];
const SPACES: [&str; 3] = ["x", "y", "z"];
const GROUPS: [&str; 3] = ["dns", "public", "database"];

fn policy(source: u16, destination: u16, port: u16) -> Policy {
    let rule = Rule {
        source: APPS[usize::from(source % 4)].into(),
        destination: APPS[usize::from(destination % 4)].into(),
        protocol: Protocol::Tcp,
        port_start: port,
        port_end: port,
    };
    Policy { rule, tags: Tags { source: 1 + source % 4, destination: 1 + destination % 4 } }
}

fn lease(n: u8) -> Lease {
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

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn apps(apps: &[&str]) -> Hosted {
    Hosted { apps: names(apps), spaces: BTreeSet::new() }
}

fn group(port: u16, default: bool, running: &[&str], staging: &[&str]) -> Group {
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
struct Reference {
    store: String,
    history: Vec<Change>,
    compacted: u64,
    stream: Option<(Hosted, u64)>,
    outbox: VecDeque<Update>,
}

impl Reference {
    fn at(&self, revision: u64) -> World {
        let mut world =
            World { store_id: self.store.clone(), revision, with_groups: true, ..World::default() };
        self.history.iter().take(index(revision)).cloned().for_each(|change| world.apply(change));
        world
    }

    fn now(&self) -> World {
        self.at(self.history.len() as u64)
    }

    fn policies_of(&self, hosted: &Hosted) -> Vec<Policy> {
        let touched = self.now().policies.into_iter().filter(|(rule, _)| rule.touches(&hosted.apps));
        touched.map(|(rule, tags)| Policy { rule, tags }).collect()
    }

    /// Those that concern `hosted`.
    fn groups_of(&self, hosted: &Hosted) -> BTreeMap<String, Group> {
        let mut groups = self.now().groups;
        groups.retain(|_, group| group.keep_spaces(|space| hosted.spaces.contains(space)));
        groups
    }

    fn open(&mut self, opening: &Opening) {
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

    fn announced(&mut self, said: &Announcement) {
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
    fn flush(&mut self) {
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
    };
    touches.then(|| change.clone())
}

#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    Host(Hosted),
    Flush,
    Announce,
    Deliver,
    Lose,
    Cut,
    Connect,
    Compact,
    Wipe,
}

fn any_hosted() -> impl Strategy<Value = Hosted> {
    let apps = proptest::sample::subsequence(APPS.to_vec(), 0..=4);
    let spaces = proptest::sample::subsequence(SPACES.to_vec(), 0..=3);
    (apps, spaces).prop_map(|(apps, spaces)| Hosted { apps: names(&apps), spaces: names(&spaces) })
}

fn any_group() -> impl Strategy<Value = Group> {
    let spaces = || proptest::sample::subsequence(SPACES.to_vec(), 0..=3);
    let parts = (1u16..4, proptest::bool::weighted(0.2), spaces(), spaces());
    parts.prop_map(|(port, default, running, staging)| group(port, default, &running, &staging))
}

fn any_step() -> impl Strategy<Value = Step> {
    let name = || proptest::sample::select(GROUPS.to_vec()).prop_map(str::to_owned);
    let change = prop_oneof![
        (0u16..4, 0u16..4, 1u16..4).prop_map(|(s, d, p)| Change::PolicyPut(policy(s, d, p))),
        (0u16..4, 0u16..4, 1u16..4).prop_map(|(s, d, p)| Change::PolicyRemoved(policy(s, d, p).rule)),
        (1u8..4).prop_map(|n| Change::LeasePut(lease(n))),
        (1u8..4).prop_map(|n| Change::LeaseRemoved(lease(n))),
        (name(), any_group()).prop_map(|(name, group)| Change::GroupPut(name, group)),
        name().prop_map(Change::GroupRemoved),
    ];
    prop_oneof![
        6 => change.prop_map(Step::Change),
        3 => any_hosted().prop_map(Step::Host),
        4 => Just(Step::Flush),
        3 => Just(Step::Announce),
        8 => Just(Step::Deliver),
        1 => Just(Step::Lose),
        1 => Just(Step::Cut),
        2 => Just(Step::Connect),
        1 => Just(Step::Compact),
        1 => Just(Step::Wipe),
    ]
}

struct Pair {
    mirror: Mirror,
    reference: Reference,
}

impl Pair {
    fn new() -> Self {
        let reference = Reference { store: "0".into(), ..Reference::default() };
        Self { mirror: Mirror::default(), reference }
    }

    fn connect(&mut self) {
        let opening = self.mirror.open();
        self.reference.open(&opening);
        self.mirror.granted(&self.reference.store.clone());
    }

    fn cut(&mut self) {
        self.mirror.close();
        self.reference.stream = None;
        self.reference.outbox.clear();
    }

    fn announce(&mut self) {
        if self.reference.stream.is_some()
            && let Some(said) = self.mirror.announce()
        {
            self.reference.announced(&said);
        }
    }

    fn deliver(&mut self) {
        if let Some(update) = self.reference.outbox.pop_front()
            && self.mirror.take(update).is_err()
        {
            self.cut();
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Change(change) => self.reference.history.push(change),
            Step::Host(hosted) => self.mirror.host(hosted),
            Step::Flush => self.reference.flush(),
            Step::Announce => self.announce(),
            Step::Deliver => self.deliver(),
            Step::Lose => drop(self.reference.outbox.pop_front()),
            Step::Cut => self.cut(),
            Step::Connect => self.connect(),
            Step::Compact => self.reference.compacted = self.reference.history.len() as u64,
            Step::Wipe => {
                let store = format!("{}'", self.reference.store);
                self.reference = Reference { store, ..Reference::default() };
                self.mirror.close();
            }
        }
    }

    /// Lets everything arrive that is on its way; reconnects when that is what the protocol asks for.
    fn settle(&mut self) {
        for _ in 0..4 {
            if self.reference.stream.is_none() {
                self.connect();
            }
            self.announce();
            self.reference.flush();
            while !self.reference.outbox.is_empty() {
                self.deliver();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_mirror_ends_where_the_naive_world_is(steps in proptest::collection::vec(any_step(), 0..80)) {
        let mut pair = Pair::new();
        // A lost view is noticed by nobody; the transport does not lose messages, it loses streams.
        for step in steps {
            let lost_view = matches!(step, Step::Lose)
                && matches!(pair.reference.outbox.front(), Some(Update::AppsView { .. } | Update::Snapshot { .. }));
            if !lost_view {
                pair.step(step);
            }
        }
        // One more change makes a lost delta visible.
        pair.step(Step::Change(Change::LeasePut(lease(9))));
        pair.settle();
        let mut want = pair.reference.now();
        want.complete = pair.mirror.hosted().clone();
        want.retain(pair.mirror.hosted());
        prop_assert_eq!(pair.mirror.world(), &want);
    }

    #[test]
    fn without_a_controller_nothing_known_is_forgotten(hosted in any_hosted()) {
        let all = Hosted { apps: names(&APPS), spaces: names(&SPACES) };
        let mut pair = Pair::new();
        pair.mirror.host(all.clone());
        pair.step(Step::Change(Change::PolicyPut(policy(0, 1, 7))));
        pair.step(Step::Change(Change::GroupPut("dns".into(), group(53, false, &["x"], &[]))));
        pair.settle();
        let before = pair.mirror.world().clone();
        pair.cut();
        pair.mirror.host(hosted);
        pair.mirror.host(all);
        prop_assert_eq!(pair.mirror.world(), &before);
        prop_assert_eq!(pair.mirror.open().resume, before.revision);
    }
}

#[test]
fn a_gap_changes_nothing_and_asks_for_a_snapshot() {
    let mut pair = Pair::new();
    pair.mirror.host(apps(&["a"]));
    pair.step(Step::Change(Change::PolicyPut(policy(0, 1, 7))));
    pair.settle();
    let before = pair.mirror.world().clone();
    let gap = pair.mirror.take(Update::Delta { from: 5, to: 6, changes: vec![Change::LeasePut(lease(1))] });
    assert_eq!(gap, Err(Mismatch::Gap { from: 5, to: 6, have: 1 }));
    assert_eq!(pair.mirror.world(), &before);
    assert_eq!(pair.mirror.open(), Opening { store_id: String::new(), resume: 0, hosted: apps(&["a"]) });
}

#[test]
fn an_app_that_came_while_the_controller_was_away_asks_for_a_snapshot() {
    let mut pair = Pair::new();
    pair.mirror.host(apps(&["a"]));
    pair.step(Step::Change(Change::LeasePut(lease(1))));
    pair.settle();
    pair.cut();
    pair.mirror.host(apps(&["a", "b"]));
    assert_eq!(pair.mirror.open().resume, 0);
}

#[test]
fn a_delta_of_another_store_is_not_taken() {
    let old = World { store_id: "old".into(), revision: 5, with_groups: true, ..World::default() };
    let mut mirror = Mirror::new(old);
    assert_eq!(mirror.open().resume, 5);
    mirror.granted("new");
    assert!(!mirror.is_live());
    let delta = Update::Delta { from: 5, to: 6, changes: Vec::new() };
    assert_eq!(mirror.take(delta), Err(Mismatch::Unsynced));
}

#[test]
fn a_view_completes_its_apps_and_replaces_what_was_known_of_them() {
    let mut pair = Pair::new();
    pair.settle();
    pair.mirror.host(apps(&["a"]));
    assert!(!pair.mirror.is_complete(&apps(&["a"])));
    pair.step(Step::Change(Change::PolicyPut(policy(0, 1, 7))));
    pair.settle();
    assert!(pair.mirror.is_complete(&apps(&["a"])));
    assert_eq!(pair.mirror.world().policies.len(), 1);
}

#[test]
fn a_space_is_announced_like_an_app_and_its_view_brings_its_groups() {
    let mut pair = Pair::new();
    pair.step(Step::Change(Change::GroupPut("dns".into(), group(53, false, &["x", "y"], &[]))));
    pair.step(Step::Change(Change::GroupPut("all".into(), group(1, true, &[], &[]))));
    pair.settle();
    assert_eq!(pair.mirror.world().groups.keys().collect::<Vec<_>>(), ["all"]);
    let hosted = Hosted { spaces: names(&["x"]), ..Hosted::default() };
    pair.mirror.host(hosted.clone());
    let said = pair.mirror.announce().unwrap();
    assert_eq!((said.added.clone(), said.removed.is_empty()), (hosted.clone(), true));
    assert!(!pair.mirror.is_complete(&hosted));
    pair.reference.announced(&said);
    pair.settle();
    assert!(pair.mirror.is_complete(&hosted));
    assert_eq!(pair.mirror.world().groups["dns"].running_spaces, names(&["x"]));
    pair.mirror.host(Hosted::default());
    assert_eq!(pair.mirror.world().groups.keys().collect::<Vec<_>>(), ["all"]);
}

#[test]
fn a_space_that_came_while_the_controller_was_away_asks_for_a_snapshot() {
    let mut pair = Pair::new();
    pair.step(Step::Change(Change::LeasePut(lease(1))));
    pair.settle();
    pair.cut();
    pair.mirror.host(Hosted { spaces: names(&["x"]), ..Hosted::default() });
    assert_eq!(pair.mirror.open().resume, 0);
}

#[test]
fn a_world_without_groups_is_kept_and_resynchronised() {
    let old = World { store_id: "0".into(), revision: 5, ..World::default() };
    let mut mirror = Mirror::new(old.clone());
    assert_eq!(mirror.open().resume, 0);
    assert_eq!(mirror.world(), &old);
}
