//! Several ledgers on one real database, as several controllers have it.

use super::PostgresStore;
use super::cluster::Cluster;
use super::history::{Call, Record, judge};
use crate::api::now;
use crate::domain::{
    Acquire, CellName, Change, Command, Commit, Lease, Moment, Policy, Pool, Reach, Revision, Rules,
    Timestamp, Uptime,
};
use crate::domain::{Binding, GroupName, GroupRules, SpaceId};
use crate::ledger::Ledger;
use crate::store::Store;
use crate::watch::{Hosted, Next, Start, Subscription};
use c2c_proto::egress::SecurityRule;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const LEASE_SECONDS: u64 = 1000;

fn ledger(url: &str) -> Ledger {
    // Two blocks.
    let rules = Rules {
        pool: Pool::new("10.255.0.0/22".parse().unwrap(), 24).unwrap(),
        lease_seconds: LEASE_SECONDS,
    };
    Ledger::open(Box::new(PostgresStore::open(&url.parse().unwrap()).unwrap()), rules).unwrap()
}

fn policy(port: u16) -> Policy {
    Policy::parse("a", "b", "tcp", &port.to_string()).unwrap()
}

fn acquire(n: u8) -> Command {
    let cell = CellName::parse("cell", &format!("cell-{n}")).unwrap();
    let underlay = Ipv4Addr::new(192, 0, 2, n);
    Command::Acquire(Acquire { cell, underlay, held: None, from_this_store: false, pick: u64::from(n) })
}

fn at(wall: u64, up: u64) -> Moment {
    Moment { wall: Timestamp(wall), up: Uptime(up) }
}

fn hosted() -> Hosted {
    Hosted { apps: BTreeSet::new(), spaces: [SpaceId::parse("space", "s").unwrap()].into() }
}

/// Takes commits until this revision; each has to follow the one before.
fn follow(mut seen: Revision, subscription: &mut Subscription, last: Revision) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    while seen < last {
        let next = async { tokio::time::timeout(Duration::from_secs(20), subscription.next()).await };
        let Ok(Next::Commits(commits)) = runtime.block_on(next) else { panic!("no more after {seen}") };
        for commit in commits {
            assert_eq!(commit.revision, seen.next());
            seen = commit.revision;
        }
    }
}

#[test]
fn what_one_writes_another_decides_on_and_its_watchers_see_once_and_in_order() {
    const EACH: u16 = 60;
    let cluster = Cluster::start();
    let url = cluster.database("net");
    let ledgers = [Arc::new(ledger(&url)), Arc::new(ledger(&url))];
    ledgers.iter().for_each(|ledger| ledger.keep(now).unwrap());
    let last = Revision::new(2 * u64::from(EACH));
    let subscriptions = ledgers.each_ref().map(|ledger| ledger.subscribe(&hosted(), None).1);
    thread::scope(|scope| {
        for ((ledger, first), mut subscription) in ledgers.iter().zip([1, 1001]).zip(subscriptions) {
            scope.spawn(move || follow(Revision::ZERO, &mut subscription, last));
            scope.spawn(move || {
                for port in first..first + EACH {
                    ledger.execute(&Command::Allow(policy(port)), now()).unwrap();
                }
            });
        }
    });
    let [first, second] = &ledgers;
    assert_eq!(first.policies(None), second.policies(None));
    assert_eq!(first.policies(None).1.len(), usize::from(2 * EACH));
    let removed = second.execute(&Command::Remove(policy(1)), now()).unwrap();
    assert!(removed.commit.is_some(), "written by the other");
    let again = first.execute(&Command::Remove(policy(1)), now()).unwrap();
    assert_eq!((again.revision, again.commit), (removed.revision, None), "decided on what is stored now");
}

#[test]
fn rules_of_groups_come_with_the_commits_of_others() {
    let cluster = Cluster::start();
    let url = cluster.database("net");
    let (writer, reader) = (ledger(&url), ledger(&url));
    let name = |name: &str| GroupName::parse("name", name).unwrap();
    let set = |group: &str, ports: &str| {
        let rule = SecurityRule { protocol: "tcp".into(), ports: ports.into(), ..SecurityRule::default() };
        Command::SetGroup { name: name(group), rules: GroupRules::parse("rules", vec![rule]).unwrap() }
    };
    let bind =
        |group| Command::Bind(Binding { group: name(group), reach: Reach::parse("running", "s").unwrap() });
    for command in [set("web", "80"), bind("web"), set("gone", "1"), bind("gone"), set("web", "443")] {
        writer.execute(&command, now()).unwrap();
    }
    writer.execute(&Command::DeleteGroup(name("gone")), now()).unwrap();
    let (_, mut subscription) = reader.subscribe(&hosted(), None);
    reader.refresh(now()).unwrap();
    assert_eq!(reader.groups(None), writer.groups(None));
    let news = reader.news(Vec::new(), &mut subscription, &hosted()).unwrap();
    assert_eq!((news.commits.len(), news.groups), (6, writer.groups(None).1));
}

#[test]
fn a_notification_that_never_comes_is_noticed() {
    let cluster = Cluster::start();
    let url = cluster.database("net");
    let (writer, reader) = (ledger(&url), Arc::new(ledger(&url)));
    reader.keep(now).unwrap();
    // Its like is written, and nobody is told.
    writer.execute(&Command::Allow(policy(1)), now()).unwrap();
    let (start, mut subscription) = reader.subscribe(&hosted(), None);
    let Start::Snapshot { revision, .. } = start else { panic!("{start:?}") };
    follow(revision, &mut subscription, Revision::new(1));
    cluster.client_of("net").batch_execute(
        "INSERT INTO c2c.commits SELECT 2, writer, replace(convert_from(record, 'UTF8'), '\"revision\":1', '\"revision\":2')::bytea FROM c2c.commits;
         UPDATE c2c.about SET revision = 2").unwrap();
    follow(Revision::new(1), &mut subscription, Revision::new(2));
}

#[test]
fn who_was_away_for_longer_than_the_log_begins_again_and_its_watchers_too() {
    let cluster = Cluster::start();
    let url = cluster.database("net");
    let (writer, reader) = (ledger(&url), ledger(&url));
    let (_, mut subscription) = reader.subscribe(&hosted(), None);
    writer.execute(&Command::Allow(policy(1)), now()).unwrap();
    // As if 20,000 commits had followed.
    cluster
        .client_of("net")
        .batch_execute("DELETE FROM c2c.commits; UPDATE c2c.about SET revision = 20001")
        .unwrap();
    reader.refresh(now()).unwrap();
    assert_eq!(reader.revision(), Revision::new(20_001));
    assert_eq!(reader.policies(None).1.len(), 1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(subscription.next()), Next::Closed);
    let (start, _) = reader.subscribe(&hosted(), Some(Revision::new(1)));
    assert!(
        matches!(start, Start::Snapshot { revision, .. } if revision == Revision::new(20_001)),
        "{start:?}"
    );
}

#[test]
fn a_database_that_went_back_is_not_followed() {
    let cluster = Cluster::start();
    let url = cluster.database("net");
    let (writer, reader) = (ledger(&url), ledger(&url));
    writer.execute(&Command::Allow(policy(1)), now()).unwrap();
    reader.refresh(now()).unwrap();
    cluster.client_of("net").execute("UPDATE c2c.about SET revision = 0", &[]).unwrap();
    let error = reader.refresh(now()).unwrap_err().to_string();
    assert!(error.contains("it is at revision 0, and revision 1 was seen"), "{error}");
    assert!(*reader.failed().borrow());
}

#[test]
fn a_lease_that_another_controller_hears_of_is_not_given_away() {
    let cluster = Cluster::start();
    let url = cluster.database("net");
    let (hearing, deciding) = (ledger(&url), ledger(&url));
    for n in 1..=3 {
        hearing.execute(&acquire(n), at(0, 0)).unwrap();
    }
    let lives = Ipv4Addr::new(192, 0, 2, 1);
    let begins = at(5, 5);
    deciding.refresh(begins).unwrap();
    for wall in [600, 1200, 1800] {
        hearing.renew(lives, at(wall, wall));
    }
    // What a controller was told of is stored when it ends, or within seconds.
    drop(hearing);
    // The clock of the one that decides is a day ahead.
    let ahead = |up: u64| at(86_400 + up, up);
    let refused = deciding.execute(&acquire(4), ahead(500)).unwrap_err().to_string();
    assert!(refused.contains("are leased and none has expired"), "{refused}");
    let given = deciding.execute(&acquire(4), ahead(700)).unwrap().commit.unwrap();
    let holder = |lease: &Lease| lease.underlay == lives;
    assert!(removed(&given).all(|lease| !holder(lease)), "{given:?}");
    let (_, leases) = deciding.leases();
    assert!(leases.iter().any(holder) && leases.len() == 3, "{leases:?}");
}

fn removed(commit: &Commit) -> impl Iterator<Item = &Lease> {
    commit.changes.iter().filter_map(|change| {
        let Change::LeaseRemoved(lease) = change else { return None };
        Some(lease)
    })
}

/// Cut all connections again and again while two controllers write.
#[test]
fn connections_that_are_cut_lose_and_repeat_nothing_of_two_writers() {
    const EACH: u16 = 40;
    let cluster = Cluster::start();
    let url = cluster.database("net");
    let ledgers = [ledger(&url), ledger(&url)];
    let mut client = cluster.client_of("net");
    let left = AtomicU64::new(ledgers.len() as u64);
    thread::scope(|scope| {
        scope.spawn(|| {
            while left.load(Ordering::Relaxed) > 0 {
                client.execute(super::tests::CUT, &[]).unwrap();
                thread::sleep(Duration::from_millis(7));
            }
        });
        for (ledger, first) in ledgers.iter().zip([1, 1001]) {
            let left = &left;
            scope.spawn(move || {
                for port in first..first + EACH {
                    let done = ledger.execute(&Command::Allow(policy(port)), now());
                    assert!(done.as_ref().is_ok_and(|done| done.commit.is_some()), "{port}: {done:?}");
                }
                left.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    for ledger in &ledgers {
        ledger.refresh(now()).unwrap();
        assert_eq!(ledger.revision(), Revision::new(2 * u64::from(EACH)));
        assert_eq!(ledger.policies(None).1.len(), usize::from(2 * EACH));
    }
}

#[test]
fn a_server_that_crashes_between_two_controllers_loses_nothing() {
    let mut cluster = Cluster::start();
    let url = cluster.database("net");
    let ledgers = [ledger(&url), ledger(&url)];
    let stop = AtomicBool::new(false);
    let written = thread::scope(|scope| {
        let stop = &stop;
        let writers: Vec<_> = ledgers
            .iter()
            .zip([1_u16, 10_001])
            .map(|(ledger, first)| {
                scope.spawn(move || {
                    let mut port = first;
                    while !stop.load(Ordering::Relaxed) {
                        ledger.execute(&Command::Allow(policy(port)), now()).unwrap();
                        port += 1;
                    }
                    port - first
                })
            })
            .collect();
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(100));
            cluster.crash();
            cluster.start_again();
            cluster.client();
        }
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| usize::from(writer.join().unwrap())).sum::<usize>()
    });
    for ledger in &ledgers {
        ledger.refresh(now()).unwrap();
        assert_eq!(ledger.policies(None).1.len(), written);
        assert_eq!(ledger.revision(), Revision::new(written as u64), "nothing twice");
    }
    let reopened = PostgresStore::open(&url.parse().unwrap()).unwrap();
    assert_eq!(reopened.snapshot().unwrap().policies().count(), written);
}

/// Writers and readers of a few ports by two controllers, while connections are cut.
#[test]
fn what_callers_of_two_controllers_are_told_is_what_one_would_have_told_them() {
    const CALLERS: u64 = 6;
    const EACH: u64 = 60;
    let cluster = Cluster::start();
    let url = cluster.database("net");
    let ledgers = [ledger(&url), ledger(&url)];
    let ticks = AtomicU64::new(0);
    let mut client = cluster.client_of("net");
    let left = AtomicU64::new(CALLERS);
    let history = thread::scope(|scope| {
        let (ticks, left) = (&ticks, &left);
        scope.spawn(move || {
            while left.load(Ordering::Relaxed) > 0 {
                client.execute(super::tests::CUT, &[]).unwrap();
                thread::sleep(Duration::from_millis(50));
            }
        });
        let callers = (0..CALLERS).zip(ledgers.iter().cycle());
        let callers: Vec<_> = callers
            .map(|(caller, ledger)| {
                scope.spawn(move || {
                    let made: Vec<_> = (0..EACH).map(|n| call(ledger, ticks, caller * EACH + n)).collect();
                    left.fetch_sub(1, Ordering::Relaxed);
                    made
                })
            })
            .collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(history.len() as u64, CALLERS * EACH);
    assert!(history.iter().any(|record| record.changed) && history.iter().any(|record| !record.changed));
    judge(history).unwrap();
}

fn call(ledger: &Ledger, ticks: &AtomicU64, number: u64) -> Record {
    let port = 1 + u16::try_from(number * 7919 % 3).unwrap();
    let tick = || ticks.fetch_add(1, Ordering::SeqCst);
    let began = tick();
    let (call, command) = match number * 104_729 % 5 {
        0 | 1 => (Call::Allow(port), Command::Allow(policy(port))),
        2 | 3 => (Call::Remove(port), Command::Remove(policy(port))),
        _ => {
            ledger.refresh(now()).unwrap();
            let (revision, policies) = ledger.policies(None);
            let ports = policies.iter().map(|tagged| tagged.policy.ports.start()).collect();
            let (revision, ended) = (revision.get(), tick());
            return Record { call: Call::List(ports), began, ended, revision, changed: false };
        }
    };
    let done = ledger.execute(&command, now()).unwrap();
    Record { call, began, ended: tick(), revision: done.revision.get(), changed: done.commit.is_some() }
}

/// The primary dies in the middle of everything, and its synchronous standby takes over.
#[test]
fn a_failover_loses_nothing_that_was_acknowledged_and_leaves_no_gap() {
    const EACH: u16 = 100;
    let mut primary = Cluster::start();
    primary.database("net");
    let standby = primary.standby();
    let url = primary.url_of_both(&standby, "net");
    let ledgers = [Arc::new(ledger(&url)), Arc::new(ledger(&url))];
    ledgers.iter().for_each(|ledger| ledger.keep(now).unwrap());
    let cells: Vec<_> = (1..=3).map(|n| ledgers[usize::from(n % 2)].execute(&acquire(n), now())).collect();
    assert!(cells.iter().all(Result::is_ok), "{cells:?}");
    ledgers.iter().for_each(|ledger| ledger.refresh(now()).unwrap());
    let (from, last) = (Revision::new(3), Revision::new(3 + 2 * u64::from(EACH)));
    let subscriptions = ledgers.each_ref().map(|ledger| ledger.subscribe(&hosted(), None).1);
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        let done = &done;
        for ((ledger, first), mut subscription) in ledgers.iter().zip([1, 1001]).zip(subscriptions) {
            scope.spawn(move || follow(from, &mut subscription, last));
            scope.spawn(move || {
                for port in first..first + EACH {
                    ledger.execute(&Command::Allow(policy(port)), now()).unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while done.load(Ordering::Relaxed) < u64::from(EACH / 2) {
            thread::sleep(Duration::from_millis(2));
        }
        primary.crash();
        standby.client().execute("SELECT pg_promote()", &[]).unwrap();
    });
    for ledger in &ledgers {
        ledger.refresh(now()).unwrap();
        assert_eq!(ledger.policies(None).1.len(), usize::from(2 * EACH));
        let refused = ledger.execute(&acquire(4), now()).unwrap_err().to_string();
        assert!(refused.contains("are leased and none has expired"), "{refused}");
    }
    assert_eq!(ledgers[0].leases(), ledgers[1].leases());
    let stored = PostgresStore::open(&standby.url("net").parse().unwrap()).unwrap().snapshot().unwrap();
    assert_eq!((stored.policies().count(), stored.leases().count()), (usize::from(2 * EACH), 3));
}
