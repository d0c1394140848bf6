//! The ledger over a store of its own.

use super::*;
use crate::domain::{Policy, Pool, Timestamp, Uptime};
use crate::store::MemoryStore;
use std::sync::atomic::Ordering::SeqCst;

const NOW: Moment = Moment { wall: Timestamp(0), up: Uptime(0) };

fn rules() -> Rules {
    Rules { pool: Pool::new("10.255.0.0/16".parse().unwrap(), 24).unwrap(), lease_seconds: 1000 }
}

fn allow(port: u16) -> Command {
    Command::Allow(Policy::parse("a", "b", "tcp", &port.to_string()).unwrap())
}

/// A store that fails when it is told to.
#[derive(Debug, Default)]
struct Failing {
    inner: MemoryStore,
    failing: std::sync::atomic::AtomicBool,
}

impl Store for Arc<Failing> {
    fn id(&self) -> StoreId {
        self.inner.id()
    }
    fn snapshot(&self) -> Result<State, StoreError> {
        self.inner.snapshot()
    }
    fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        if self.failing.load(SeqCst) {
            let source = "no space left on device".into();
            return Err(StoreError::Failed { tried: "written", place: "/store".into(), source });
        }
        self.inner.commit(commit)
    }
    fn renew(&self, renewals: &Renewals) -> Result<(), StoreError> {
        self.inner.renew(renewals)
    }
    fn changes_since(&self, revision: Revision) -> Result<Since, StoreError> {
        self.inner.changes_since(revision)
    }
    fn refill(self: Box<Self>, over: Revision, _state: &State) -> Result<Box<dyn Store>, StoreError> {
        Err(StoreError::Conflict { wanted: over, stored: self.inner.snapshot()?.revision() })
    }
}

/// A store that others share and that is asked in vain for as long as somebody holds the other end.
#[derive(Debug, Default)]
struct Away {
    inner: MemoryStore,
    asked: std::sync::atomic::AtomicUsize,
    held: Mutex<()>,
    is_back: std::sync::atomic::AtomicBool,
}

impl Store for Arc<Away> {
    fn id(&self) -> StoreId {
        self.inner.id()
    }
    fn snapshot(&self) -> Result<State, StoreError> {
        self.inner.snapshot()
    }
    fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        self.inner.commit(commit)
    }
    fn renew(&self, renewals: &Renewals) -> Result<(), StoreError> {
        self.inner.renew(renewals)
    }
    fn is_shared(&self) -> bool {
        true
    }
    fn others_since(&self, _known: Revision) -> Result<Others, StoreError> {
        self.asked.fetch_add(1, SeqCst);
        drop(self.held.lock().unwrap());
        if self.is_back.load(SeqCst) {
            return Ok(Others::Commits(Vec::new()));
        }
        Err(StoreError::Failed { tried: "read", place: "db".into(), source: "no route to host".into() })
    }
    fn changes_since(&self, revision: Revision) -> Result<Since, StoreError> {
        self.inner.changes_since(revision)
    }
    fn refill(self: Box<Self>, over: Revision, _state: &State) -> Result<Box<dyn Store>, StoreError> {
        Err(StoreError::Conflict { wanted: over, stored: self.inner.snapshot()?.revision() })
    }
}

#[test]
fn who_waited_while_an_attempt_failed_shares_its_failure() {
    let (before, problem) = (Instant::now(), "no route to host".to_owned());
    let failure = Some((before + Duration::from_secs(1), problem.clone()));
    let shared = shared_failure(failure.as_ref(), before).unwrap();
    assert!(matches!(&shared, StoreError::Away { problem: said } if *said == problem), "{shared}");
    assert!(shared.is_definite() && !shared.is_final());
    assert!(shared_failure(failure.as_ref(), before + Duration::from_secs(2)).is_none(), "it was before");
    assert!(shared_failure(None, before).is_none());
}

#[test]
fn nobody_waits_behind_another_attempt_at_a_store_that_was_away() {
    let store = Arc::new(Away::default());
    let ledger = Ledger::open(Box::new(Arc::clone(&store)), rules()).unwrap();
    let asked = |times: usize| {
        while store.asked.load(SeqCst) < times {
            std::thread::yield_now();
        }
    };
    assert!(matches!(ledger.refresh(NOW), Err(StoreError::Failed { .. })));
    asked(1);
    std::thread::scope(|scope| {
        let held = store.held.lock().unwrap();
        let next = scope.spawn(|| ledger.refresh(NOW));
        asked(2);
        let error = ledger.execute(&allow(1), NOW).unwrap_err();
        assert!(matches!(error, LedgerError::Store(StoreError::Away { .. })), "at once: {error}");
        store.is_back.store(true, SeqCst);
        drop(held);
        next.join().unwrap().unwrap();
    });
    ledger.execute(&allow(1), NOW).unwrap();
}

#[test]
fn after_a_failed_write_nothing_is_acknowledged_until_the_store_is_opened_again() {
    let store = Arc::new(Failing::default());
    let ledger = Ledger::open(Box::new(Arc::clone(&store)), rules()).unwrap();
    let (_, mut subscription) = ledger.subscribe(&Hosted::default(), None);
    ledger.execute(&allow(1), NOW).unwrap();
    store.failing.store(true, SeqCst);
    assert!(matches!(ledger.execute(&allow(2), NOW), Err(LedgerError::Store(_))));
    assert!(*ledger.failed().borrow());
    store.failing.store(false, SeqCst);
    assert!(matches!(ledger.execute(&allow(3), NOW), Err(LedgerError::Broken)));
    assert_eq!(ledger.revision(), Revision::new(1));
    assert_eq!(subscription.drain().unwrap().len(), 1, "watchers see what was stored and nothing else");
    let reopened = Ledger::open(Box::new(store), rules()).unwrap();
    assert_eq!(reopened.policies(None).1.len(), 1);
}

#[test]
fn when_policies_changed_only_grows_and_is_stored() {
    let store = Arc::new(Failing::default());
    let ledger = Ledger::open(Box::new(Arc::clone(&store)), rules()).unwrap();
    assert_eq!(ledger.stamp(), Stamp(0), "they never did");
    let at = |seconds| Moment { wall: Timestamp(seconds), up: Uptime(0) };
    let router = || Command::HoldTag(AppId::parse("id", "router").unwrap());
    let set = Command::SetGroup {
        name: GroupName::parse("name", "web").unwrap(),
        rules: crate::domain::GroupRules::none(),
    };
    const SECOND: u64 = 1_000_000_000;
    let steps = [
        (router(), 7, Stamp(0)),
        (Command::Stamp, 8, Stamp(8 * SECOND)),
        (allow(1), 9, Stamp(9 * SECOND)),
        (allow(1), 10, Stamp(9 * SECOND)),
        (allow(2), 9, Stamp(9 * SECOND + 1)),
        (router(), 10, Stamp(9 * SECOND + 1)),
        (Command::Stamp, 10, Stamp(9 * SECOND + 1)),
        (set, 10, Stamp(9 * SECOND + 1)),
        // The clock was set back.
        (allow(3), 2, Stamp(9 * SECOND + 2)),
        (Command::RemoveAll(Vec::new()), 11, Stamp(9 * SECOND + 2)),
        (Command::Remove(Policy::parse("a", "b", "tcp", "3").unwrap()), 11, Stamp(11 * SECOND)),
    ];
    for (command, seconds, expected) in steps {
        ledger.execute(&command, at(seconds)).unwrap();
        assert_eq!(ledger.stamp(), expected, "{command:?}");
    }
    let reopened = Ledger::open(Box::new(store), rules()).unwrap();
    assert_eq!(reopened.stamp(), Stamp(11 * SECOND));
    reopened.execute(&allow(4), at(1)).unwrap();
    assert_eq!(reopened.stamp(), Stamp(11 * SECOND + 1), "after a restart, too");
}

/// Watchers that come at any time, from any revision, while several threads write.
#[test]
fn a_watcher_sees_every_later_commit_once_and_in_order() {
    const COMMANDS: u16 = 300;
    let ledger = &Ledger::open(Box::new(MemoryStore::default()), rules()).unwrap();
    let last = Revision::new(3 * u64::from(COMMANDS));
    let write = |first: u16| {
        for port in 0..COMMANDS {
            ledger.execute(&allow(first + port), NOW).unwrap();
        }
    };
    let watch = |resume: bool| {
        let mut seen = Revision::ZERO;
        while seen < last {
            let resume = Some(seen).filter(|_| resume);
            let (start, mut subscription) = ledger.subscribe(&Hosted::default(), resume);
            let follow = |seen: Revision, commits: Vec<Arc<Commit>>| {
                commits.iter().fold(seen, |seen, commit| {
                    assert_eq!(commit.revision, seen.next());
                    commit.revision
                })
            };
            seen = match start {
                Start::Snapshot { revision, .. } => revision,
                Start::Resume(News { commits, .. }) => follow(seen, commits),
            };
            for _ in 0..10 {
                seen = follow(seen, subscription.drain().unwrap());
                std::thread::yield_now();
            }
        }
    };
    std::thread::scope(|scope| {
        (0..3_u16).for_each(|n| drop(scope.spawn(move || write(1 + n * 1000))));
        [true, false].into_iter().for_each(|resume| drop(scope.spawn(move || watch(resume))));
    });
}
