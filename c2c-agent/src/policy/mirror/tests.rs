//! The mirror against a naive controller that keeps the whole world and its history, over random interleavings.

use super::*;
use crate::policy::world::{Protocol, Rule, Tags};
use proptest::prelude::*;
use std::collections::VecDeque;

const APPS: [&str; 4] = ["a", "b", "c", "d"];

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

fn apps(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The controller's side of one stream, and its store: every revision is one change.
#[derive(Default)]
struct Reference {
    store: String,
    history: Vec<Change>,
    compacted: u64,
    stream: Option<(BTreeSet<String>, u64)>,
    outbox: VecDeque<Update>,
}

impl Reference {
    fn at(&self, revision: u64) -> World {
        let mut world = World { store_id: self.store.clone(), revision, ..World::default() };
        self.history.iter().take(index(revision)).cloned().for_each(|change| world.apply(change));
        world
    }

    fn now(&self) -> World {
        self.at(self.history.len() as u64)
    }

    fn policies_of(&self, apps: &BTreeSet<String>) -> Vec<Policy> {
        let touched = self.now().policies.into_iter().filter(|(rule, _)| rule.touches(apps));
        touched.map(|(rule, tags)| Policy { rule, tags }).collect()
    }

    fn open(&mut self, opening: &Opening) {
        self.outbox.clear();
        let resumes =
            opening.store_id == self.store && opening.resume > 0 && opening.resume >= self.compacted;
        let from = if resumes { opening.resume } else { self.history.len() as u64 };
        self.stream = Some((opening.apps.clone(), from));
        if !resumes {
            let leases = self.now().leases.into_values().collect();
            self.outbox.push_back(Update::Snapshot {
                revision: from,
                leases,
                policies: self.policies_of(&opening.apps),
            });
        }
    }

    fn announced(&mut self, said: &Announcement) {
        let Some((apps, _)) = &mut self.stream else { return };
        apps.extend(said.added.iter().cloned());
        apps.retain(|app| !said.removed.contains(app));
        let view = Update::AppsView {
            serial: said.serial,
            revision: self.history.len() as u64,
            policies: self.policies_of(&said.added),
        };
        self.outbox.push_back(view);
    }

    /// Everything that happened since, as one delta.
    fn flush(&mut self) {
        let to = self.history.len() as u64;
        let Some((apps, sent)) = &mut self.stream else { return };
        if *sent == to {
            return;
        }
        let concerns = |change: &&Change| match change {
            Change::LeasePut(_) | Change::LeaseRemoved(_) => true,
            Change::PolicyPut(policy) => policy.rule.touches(apps),
            Change::PolicyRemoved(rule) => rule.touches(apps),
        };
        let changes = self.history[index(*sent)..].iter().filter(concerns).cloned().collect();
        self.outbox.push_back(Update::Delta { from: *sent, to, changes });
        *sent = to;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    Host(BTreeSet<String>),
    Flush,
    Announce,
    Deliver,
    Lose,
    Cut,
    Connect,
    Compact,
    Wipe,
}

fn any_step() -> impl Strategy<Value = Step> {
    let change = prop_oneof![
        (0u16..4, 0u16..4, 1u16..4).prop_map(|(s, d, p)| Change::PolicyPut(policy(s, d, p))),
        (0u16..4, 0u16..4, 1u16..4).prop_map(|(s, d, p)| Change::PolicyRemoved(policy(s, d, p).rule)),
        (1u8..4).prop_map(|n| Change::LeasePut(lease(n))),
        (1u8..4).prop_map(|n| Change::LeaseRemoved(lease(n))),
    ];
    prop_oneof![
        6 => change.prop_map(Step::Change),
        3 => proptest::sample::subsequence(APPS.to_vec(), 0..=4).prop_map(|names| Step::Host(apps(&names))),
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
            Step::Host(apps) => self.mirror.host(apps),
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
        want.policies.retain(|rule, _| rule.touches(pair.mirror.hosted()));
        want.apps = pair.mirror.hosted().clone();
        prop_assert_eq!(pair.mirror.world(), &want);
    }

    #[test]
    fn without_a_controller_nothing_known_is_forgotten(hosted in proptest::sample::subsequence(APPS.to_vec(), 0..=4)) {
        let mut pair = Pair::new();
        pair.mirror.host(apps(&APPS));
        pair.step(Step::Change(Change::PolicyPut(policy(0, 1, 7))));
        pair.settle();
        let before = pair.mirror.world().clone();
        pair.cut();
        pair.mirror.host(apps(&hosted));
        pair.mirror.host(apps(&APPS));
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
    assert_eq!(pair.mirror.open(), Opening { store_id: String::new(), resume: 0, apps: apps(&["a"]) });
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
    let mut mirror = Mirror::new(World { store_id: "old".into(), revision: 5, ..World::default() });
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
    assert!(!pair.mirror.is_complete("a"));
    pair.step(Step::Change(Change::PolicyPut(policy(0, 1, 7))));
    pair.settle();
    assert!(pair.mirror.is_complete("a"));
    assert_eq!(pair.mirror.world().policies.len(), 1);
}
