//! What every store must do, whatever it is made of. Each implementation's tests run [`all`].

use super::{LOG_LENGTH, Since, Store, StoreError};
use crate::domain::{
    AppId, Binding, CellName, Change, Commit, GroupGuid, GroupName, GroupRules, Lease, Parts, Policy, Reach,
    Revision, Stamp, State, Tag, TagFreed, TagHeld, TaggedPolicy, Timestamp,
};
use c2c_proto::egress::SecurityRule;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Runs the suite; `fresh` makes an empty store each time.
pub(super) fn all(fresh: &mut dyn FnMut() -> Box<dyn Store>) {
    let tests: [fn(&dyn Store); 8] = [
        an_empty_store_is_at_revision_zero,
        a_snapshot_is_what_was_committed,
        groups_are_kept_like_everything_else,
        a_commit_that_does_not_follow_changes_nothing,
        a_renewal_makes_no_revision,
        watch_is_gapless,
        the_log_forgets_the_oldest_and_says_so,
        no_overlap_among_writers_that_race,
    ];
    for test in tests {
        test(fresh().as_ref());
    }
    assert_ne!(fresh().id(), fresh().id(), "two stores are never the same");
    a_refilled_store_is_another_and_holds_that_state_alone(fresh);
}

pub(crate) fn commit(revision: u64, changes: Vec<Change>) -> Commit {
    Commit { revision: Revision::new(revision), changes }
}

pub(crate) fn lease(n: u8) -> Lease {
    Lease {
        cell: CellName::parse("cell", &format!("cell-{n}")).unwrap(),
        underlay: Ipv4Addr::new(192, 0, 2, n),
        block: format!("10.255.{n}.0/24").parse().unwrap(),
        renewed: Timestamp(1000),
    }
}

pub(crate) fn policy(source: &str, destination: &str, tags: [u16; 2]) -> TaggedPolicy {
    let [source_tag, destination_tag] = tags.map(|tag| Tag::new(tag).unwrap());
    let policy = Policy::parse(source, destination, "tcp", "7000-7010").unwrap();
    TaggedPolicy { policy, source_tag, destination_tag }
}

pub(crate) fn group_set(name: &str, ports: &str) -> Change {
    let rule = SecurityRule { protocol: "tcp".into(), ports: ports.into(), ..SecurityRule::default() };
    let rules = GroupRules::parse("rules", vec![rule]).unwrap();
    Change::GroupSet { name: GroupName::parse("name", name).unwrap(), guid: None, rules }
}

fn with_guid(change: Change) -> Change {
    let Change::GroupSet { name, rules, .. } = change else { panic!("{change:?}") };
    Change::GroupSet { name, guid: Some(GroupGuid::parse("guid", "g-1").unwrap()), rules }
}

pub(crate) fn binding(name: &str, workload: &str, space: &str) -> Binding {
    let group = GroupName::parse("name", name).unwrap();
    Binding { group, reach: Reach::parse(workload, space).unwrap() }
}

fn freed(tag: u16, app: &TaggedPolicy, at: u64) -> TagFreed {
    TagFreed { tag: Tag::new(tag).unwrap(), app: app.policy.source.clone(), at: Timestamp(at) }
}

fn router(tag: u16) -> TagHeld {
    TagHeld { tag: Tag::new(tag).unwrap(), app: AppId::parse("app", "router").unwrap() }
}

fn since(store: &dyn Store, revision: u64) -> Since {
    store.changes_since(Revision::new(revision)).unwrap()
}

fn an_empty_store_is_at_revision_zero(store: &dyn Store) {
    assert_eq!(store.snapshot().unwrap(), State::default());
    assert_eq!(since(store, 0), Since::Commits(Vec::new()));
    assert_eq!(since(store, 1), Since::Compacted, "a revision that is yet to come");
    assert_eq!(store.id(), store.id());
}

fn a_snapshot_is_what_was_committed(store: &dyn Store) {
    let (ab, ac) = (policy("a", "b", [1, 2]), policy("a", "c", [1, 3]));
    let commits = [
        vec![Change::LeasePut(lease(1)), Change::LeasePut(lease(2)), Change::PolicyPut(ab.clone())],
        vec![Change::PolicyPut(ac.clone())],
        vec![
            Change::LeaseRemoved(lease(1)),
            Change::PolicyRemoved(ab.clone()),
            Change::TagFreed(freed(2, &ab, 5)),
        ],
        // The lease of one cell goes to another in one commit; a freed tag is taken.
        vec![Change::LeaseRemoved(lease(2)), Change::LeasePut(Lease { cell: lease(3).cell, ..lease(2) })],
        vec![Change::PolicyPut(policy("a", "d", [1, 2]))],
        vec![Change::PolicyRemoved(ac.clone()), Change::TagFreed(freed(3, &ac, 6))],
        vec![Change::TagHeld(router(3)), Change::Stamped(Stamp(u64::MAX - 1))],
        vec![Change::Stamped(Stamp(u64::MAX)), Change::PolicyPut(policy("router", "d", [3, 2]))],
    ];
    let mut expected = State::default();
    for (revision, changes) in (1..).zip(commits) {
        let commit = commit(revision, changes);
        store.commit(&commit).unwrap();
        expected.apply(&commit);
        assert_eq!(store.snapshot().unwrap(), expected, "at revision {revision}");
    }
}

fn groups_are_kept_like_everything_else(store: &dyn Store) {
    let long = "8080,".repeat(30_000);
    let [of_space, of_all, of_other] =
        [("web", "running", "s"), ("web", "staging", ""), ("dns", "running", "s")]
            .map(|(a, b, c)| binding(a, b, c));
    let commits = [
        vec![group_set("web", "80")],
        vec![group_set("dns", "53"), Change::GroupBound(of_other)],
        vec![Change::GroupBound(of_space.clone())],
        vec![Change::GroupBound(of_all.clone()), group_set("web", "not a port")],
        vec![Change::GroupUnbound(of_space.clone()), Change::PolicyPut(policy("a", "b", [1, 2]))],
        vec![Change::GroupUnbound(of_all), Change::GroupRemoved(of_space.group)],
        vec![group_set("web", "443")],
        // One of Cloud Controller's.
        vec![with_guid(group_set("Büro / 1", "80")), Change::GroupBound(binding("Büro / 1", "running", "s"))],
        // Rules that are long, short, and one and the other at once; beside a name that begins alike.
        vec![group_set("web", &long), group_set("we", "80")],
        vec![group_set("web", "80")],
        vec![group_set("web", &long), group_set("web", "81"), group_set("web-2", &long)],
        vec![group_set("web", &long), Change::GroupRemoved(binding("web", "running", "").group)],
    ];
    let mut expected = State::default();
    let mut log = Vec::new();
    for (revision, changes) in (1..).zip(commits) {
        let commit = commit(revision, changes);
        store.commit(&commit).unwrap();
        expected.apply(&commit);
        log.push(Arc::new(commit.told()));
        assert_eq!(store.snapshot().unwrap(), expected, "at revision {revision}");
        assert_eq!(since(store, 0), Since::Commits(log.clone()));
    }
}

fn a_commit_that_does_not_follow_changes_nothing(store: &dyn Store) {
    store.commit(&commit(1, vec![Change::LeasePut(lease(1))])).unwrap();
    let before = store.snapshot().unwrap();
    for wrong in [0, 1, 3] {
        let refused = store.commit(&commit(wrong, vec![Change::LeasePut(lease(2))]));
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{wrong}: {refused:?}");
    }
    assert_eq!(store.snapshot().unwrap(), before);
    assert!(matches!(since(store, 0), Since::Commits(commits) if commits.len() == 1));
}

fn a_renewal_makes_no_revision(store: &dyn Store) {
    store.commit(&commit(1, vec![Change::LeasePut(lease(1))])).unwrap();
    let renewed = |at| {
        store.renew(&[(lease(1).underlay, Timestamp(at))].into()).unwrap();
        store.snapshot().unwrap().lease_at(lease(1).underlay).unwrap().renewed
    };
    assert_eq!(renewed(2000), Timestamp(2000));
    assert_eq!(renewed(1500), Timestamp(2000), "a clock that was set back");
    store.renew(&[(lease(2).underlay, Timestamp(2000))].into()).unwrap();
    let state = store.snapshot().unwrap();
    assert_eq!(
        (state.revision(), state.leases().count()),
        (Revision::new(1), 1),
        "a lease that is not there"
    );
    assert_eq!(since(store, 1), Since::Commits(Vec::new()));
}

/// A watcher that saw revision r sees every later change once and in order.
fn watch_is_gapless(store: &dyn Store) {
    let commits: Vec<Arc<Commit>> =
        (1..=20).map(|n| Arc::new(commit(u64::from(n), vec![Change::LeasePut(lease(n))]))).collect();
    for commit in &commits {
        store.commit(commit).unwrap();
    }
    for from in 0..=20 {
        assert_eq!(since(store, from as u64), Since::Commits(commits[from..].to_vec()), "from {from}");
    }
    assert_eq!(since(store, 21), Since::Compacted);
}

fn the_log_forgets_the_oldest_and_says_so(store: &dyn Store) {
    let (put, removed) = (Change::LeasePut(lease(1)), Change::LeaseRemoved(lease(1)));
    let last = LOG_LENGTH + 3;
    for revision in 1..=last {
        let change = if revision % 2 == 1 { put.clone() } else { removed.clone() };
        store.commit(&commit(revision, vec![change])).unwrap();
    }
    for forgotten in 0..3 {
        assert_eq!(since(store, forgotten), Since::Compacted, "from {forgotten}");
    }
    let Since::Commits(kept) = since(store, 3) else { panic!("the last {LOG_LENGTH} commits must be kept") };
    let revisions: Vec<u64> = kept.iter().map(|commit| commit.revision.get()).collect();
    assert_eq!(revisions, (4..=last).collect::<Vec<_>>());
}

/// Writers that decided on the same state cannot both have their way.
fn no_overlap_among_writers_that_race(store: &dyn Store) {
    let claim = |n: u8| {
        let mine = Lease { block: lease(1).block, ..lease(n) };
        store.commit(&commit(1, vec![Change::LeasePut(mine)])).is_ok()
    };
    let won = std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=8).map(|n| scope.spawn(move || claim(n))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!((won, store.snapshot().unwrap().leases().count()), (1, 1));
}

fn a_refilled_store_is_another_and_holds_that_state_alone(fresh: &mut dyn FnMut() -> Box<dyn Store>) {
    let state = {
        let bound = Change::GroupBound(binding("web", "staging", "s"));
        let all = [
            vec![Change::LeasePut(lease(1)), Change::PolicyPut(policy("a", "b", [1, 2]))],
            vec![group_set("web", &"8080,".repeat(30_000)), bound],
            vec![Change::TagFreed(freed(9, &policy("c", "d", [9, 10]), 5))],
            vec![Change::TagHeld(router(12)), Change::Stamped(Stamp(17))],
        ];
        let mut state = State::default();
        (1..).zip(all).for_each(|(revision, changes)| state.apply(&commit(revision, changes)));
        state
    };
    let refill_over_empty = fresh().refill(Revision::ZERO, &state).unwrap();
    let store = fresh();
    store
        .commit(&commit(1, vec![Change::LeasePut(lease(2)), group_set("dns", &"53,".repeat(30_000))]))
        .unwrap();
    store.commit(&commit(2, vec![Change::GroupBound(binding("dns", "running", ""))])).unwrap();
    let (id, last) = (store.id(), Revision::new(2));
    for store in [refill_over_empty, store.refill(last, &state).unwrap()] {
        assert_ne!(store.id(), id);
        let refilled = State::restore(Parts { revision: Revision::FIRST, ..state.parts() }).unwrap();
        assert_eq!(store.snapshot().unwrap(), refilled);
        assert_eq!(since(&*store, 1), Since::Commits(Vec::new()));
        assert_eq!(since(&*store, 2), Since::Compacted);
        let next = commit(2, vec![Change::LeasePut(lease(3))]);
        store.commit(&next).unwrap();
        assert_eq!(since(&*store, 1), Since::Commits(vec![Arc::new(next)]));
        let wrong = store.refill(Revision::FIRST, &state).map(|store| store.id());
        assert!(matches!(wrong, Err(StoreError::Conflict { .. })), "{wrong:?}");
    }
}
