//! The mirror against a naive controller that keeps the whole world and its history, over random interleavings.

use super::reference::{APPS, Reference, SPACES, any_change, apps, group, lease, names, policy};
use super::*;
use proptest::prelude::*;

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

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any_change().prop_map(Step::Change),
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
    /// The world as whoever takes the mirror's steps has it.
    followed: World,
}

impl Pair {
    fn new() -> Self {
        let reference = Reference { store: "0".into(), ..Reference::default() };
        Self { mirror: Mirror::default(), reference, followed: World::default() }
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

    fn follow(&mut self) {
        match self.mirror.step() {
            None => self.followed = self.mirror.world().clone(),
            Some(step) => {
                step.changes().iter().cloned().for_each(|change| self.followed.apply(change));
                self.followed.revision = self.mirror.world().revision;
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
                pair.follow();
                prop_assert_eq!(&pair.followed, pair.mirror.world(), "steps lead where the world is");
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
    // The view is ahead of the delta that removes it.
    pair.mirror.host(apps(&["a", "b"]));
    pair.step(Step::Change(Change::PolicyRemoved(policy(0, 1, 7).rule)));
    pair.announce();
    pair.deliver();
    assert!(pair.mirror.is_complete(&apps(&["b"])) && pair.mirror.world().policies.is_empty());
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
