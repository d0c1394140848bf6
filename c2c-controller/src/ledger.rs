//! The one place where state changes: decides a command on the current state, stores it, applies it, tells the watchers,
//! one command at a time. Applying and telling are one step to those who read or subscribe, so every watcher sees every
//! commit once and in order, and what it starts from and what follows fit together. Nobody who reads waits for a disk.

use crate::domain::{
    AppId, CellName, Command, Commit, GroupName, Lease, Parts, Refusal, Revision, Rules, SecurityGroup,
    State, Tag, TaggedPolicy, Timestamp, decide,
};
use crate::store::{Since, Store, StoreError, StoreId};
use crate::watch::{Hosted, Moves, News, Start, Subscription};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::{broadcast, watch};

/// How many commits a watcher may be behind before it has to take a snapshot instead. At a few hundred bytes each this is
/// all the memory that slow agents can cost, together, because they share it.
const QUEUE_LENGTH: usize = 1024;

/// The state, its store and its watchers.
#[derive(Debug)]
pub struct Ledger {
    store: Box<dyn Store>,
    rules: Rules,
    /// Held by the one command that is being done.
    writing: Mutex<Health>,
    /// Behind the store by at most the commit that is being written.
    state: RwLock<State>,
    commits: broadcast::Sender<Arc<Commit>>,
    failed: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Good,
    /// A write failed: what the store holds is not known until it is opened again.
    Broken,
}

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be written.
    #[error("the change could not be stored")]
    Store(#[from] StoreError),
    /// An earlier write failed.
    #[error("the store failed earlier and the controller is stopping; try again when it is back")]
    Broken,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The store's revision after it.
    pub revision: Revision,
    /// What it changed; nothing when all was so already.
    pub commit: Option<Arc<Commit>>,
}

/// What a watcher is told when apps or spaces came to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// What its subscription had not yielded and is in the rest already.
    pub before: News,
    /// The policies that name an app which came.
    pub policies: Vec<TaggedPolicy>,
    /// The security groups that are bound to a space which came, with all bindings that concern the watcher.
    pub groups: Vec<SecurityGroup>,
}

impl Ledger {
    /// Takes over a store.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    pub fn open(store: Box<dyn Store>, rules: Rules) -> Result<Self, StoreError> {
        let state = RwLock::new(store.snapshot()?);
        let (commits, failed) = (broadcast::Sender::new(QUEUE_LENGTH), watch::Sender::new(false));
        Ok(Self { store, rules, writing: Mutex::new(Health::Good), state, commits, failed })
    }

    /// How leases are given.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The store's identity.
    #[must_use]
    pub fn store_id(&self) -> StoreId {
        self.store.id()
    }

    /// Becomes true when a write failed: the process should end and start again.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<bool> {
        self.failed.subscribe()
    }

    /// Does what a command says. When this returns, it is stored and on its way to the watchers. Blocks while the store
    /// writes.
    ///
    /// # Errors
    /// When the command is refused, or cannot be stored.
    pub fn execute(&self, command: &Command, now: Timestamp) -> Result<Done, LedgerError> {
        let mut health = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if *health == Health::Broken {
            return Err(LedgerError::Broken);
        }
        let (changes, revision) = {
            let state = self.read();
            (decide(&state, &self.rules, now, command)?, state.revision())
        };
        if changes.is_empty() {
            return Ok(Done { revision, commit: None });
        }
        let commit = Arc::new(Commit { revision: revision.next(), changes });
        if let Err(error) = self.store.commit(&commit) {
            *health = Health::Broken;
            self.failed.send_replace(true);
            return Err(error.into());
        }
        let mut state = self.write();
        state.apply(&commit);
        // Fails only when nobody watches.
        let _ = self.commits.send(Arc::new(commit.told()));
        Ok(Done { revision: commit.revision, commit: Some(commit) })
    }

    /// A cell says that it lives. Returns the current revision. Blocks while the store writes.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn renew(&self, underlay: Ipv4Addr, now: Timestamp) -> Result<Revision, LedgerError> {
        self.store.renew(underlay, now)?;
        let mut state = self.write();
        state.renew(underlay, now);
        Ok(state.revision())
    }

    /// Where a watcher starts, and everything that follows: what happened after `resume` when the store has all of it,
    /// else the state as far as it concerns what the watcher hosts. Blocks while the store reads.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn subscribe(
        &self,
        hosted: &Hosted,
        resume: Option<Revision>,
    ) -> Result<(Start, Subscription), StoreError> {
        if let Some(revision) = resume {
            let (current, groups, subscription) = {
                let state = self.read();
                (state.revision(), state.groups_for(&hosted.spaces), self.watch())
            };
            if let Since::Commits(mut commits) = self.store.changes_since(revision)? {
                // The store may be ahead by a commit that the subscription will yield.
                commits.retain(|commit| commit.revision <= current);
                return Ok((Start::Resume(News { commits, groups }), subscription));
            }
        }
        let state = self.read();
        let start = Start::Snapshot {
            revision: state.revision(),
            leases: state.leases().cloned().collect(),
            policies: state.policies_naming(&hosted.apps),
            groups: state.groups_for(&hosted.spaces),
        };
        Ok((start, self.watch()))
    }

    /// The commits that a subscription yielded, and all that wait behind them, as news for a watcher that hosts this;
    /// nothing when the subscription fell behind.
    pub fn news(
        &self,
        mut commits: Vec<Arc<Commit>>,
        subscription: &mut Subscription,
        hosted: &Hosted,
    ) -> Option<News> {
        // As long as the state is locked, the last commit that waits is the one that made it.
        let state = self.read();
        commits.extend(subscription.drain()?);
        Some(news(&state, commits, hosted))
    }

    /// What is to be told to a watcher that hosts `hosted` until the moves; nothing when its subscription fell behind.
    pub fn view(&self, hosted: &Hosted, moves: &Moves, subscription: &mut Subscription) -> Option<View> {
        let state = self.read();
        let before = news(&state, subscription.drain()?, hosted);
        let added = &moves.added;
        Some(View {
            before,
            policies: state.policies_naming(&added.apps),
            groups: state.groups_bound(&added.spaces, &hosted.after(moves).spaces),
        })
    }

    /// The lease at this address, if it is held under this name.
    #[must_use]
    pub fn lease_of(&self, cell: &CellName, underlay: Ipv4Addr) -> Option<Lease> {
        self.read().lease_at(underlay).filter(|lease| lease.cell == *cell).cloned()
    }

    /// The policies that name the app, or all.
    #[must_use]
    pub fn policies(&self, app: Option<&AppId>) -> (Revision, Vec<TaggedPolicy>) {
        let state = self.read();
        let policies = match app {
            Some(app) => state.policies_naming([app]),
            None => state.policies().collect(),
        };
        (state.revision(), policies)
    }

    /// The policies that name one of the apps on either side.
    #[must_use]
    pub fn policies_naming(&self, apps: &BTreeSet<AppId>) -> Vec<TaggedPolicy> {
        self.read().policies_naming(apps)
    }

    /// The tags that apps have, by tag.
    #[must_use]
    pub fn tags(&self) -> Vec<(Tag, AppId)> {
        self.read().tags().map(|(tag, app)| (tag, app.clone())).collect()
    }

    /// The security group of this name, or all.
    #[must_use]
    pub fn groups(&self, name: Option<&GroupName>) -> (Revision, Vec<SecurityGroup>) {
        let state = self.read();
        let groups = match name {
            Some(name) => state.group(name).into_iter().collect(),
            None => state.groups().collect(),
        };
        (state.revision(), groups)
    }

    /// Everything.
    #[must_use]
    pub fn parts(&self) -> Parts {
        self.read().parts()
    }

    /// All leases.
    #[must_use]
    pub fn leases(&self) -> (Revision, Vec<Lease>) {
        let state = self.read();
        (state.revision(), state.leases().cloned().collect())
    }

    /// The current revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.read().revision()
    }

    /// To be called while the state is locked: so the subscription begins right after it.
    fn watch(&self) -> Subscription {
        Subscription::new(self.commits.subscribe())
    }

    /// Applying a commit does not panic, so even a poisoned lock holds a whole state.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Commits of which the last one made the state.
fn news(state: &State, commits: Vec<Arc<Commit>>, hosted: &Hosted) -> News {
    let groups = state.parts_of(News::touched(&commits), &hosted.spaces);
    News { commits, groups }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Policy, Pool};
    use crate::store::MemoryStore;

    const NOW: Timestamp = Timestamp(0);

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
            if self.failing.load(std::sync::atomic::Ordering::SeqCst) {
                let source = "no space left on device".into();
                return Err(StoreError::Failed { tried: "written", place: "/store".into(), source });
            }
            self.inner.commit(commit)
        }
        fn renew(&self, underlay: Ipv4Addr, now: Timestamp) -> Result<(), StoreError> {
            self.inner.renew(underlay, now)
        }
        fn changes_since(&self, revision: Revision) -> Result<Since, StoreError> {
            self.inner.changes_since(revision)
        }
        fn refill(self: Box<Self>, over: Revision, _state: &State) -> Result<Box<dyn Store>, StoreError> {
            Err(StoreError::Conflict { wanted: over, stored: self.inner.snapshot()?.revision() })
        }
    }

    #[test]
    fn after_a_failed_write_nothing_is_acknowledged_until_the_store_is_opened_again() {
        let store = Arc::new(Failing::default());
        let ledger = Ledger::open(Box::new(Arc::clone(&store)), rules()).unwrap();
        let (_, mut subscription) = ledger.subscribe(&Hosted::default(), None).unwrap();
        ledger.execute(&allow(1), NOW).unwrap();
        store.failing.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(matches!(ledger.execute(&allow(2), NOW), Err(LedgerError::Store(_))));
        assert!(*ledger.failed().borrow());
        store.failing.store(false, std::sync::atomic::Ordering::SeqCst);
        assert!(matches!(ledger.execute(&allow(3), NOW), Err(LedgerError::Broken)));
        assert_eq!(ledger.revision(), Revision::new(1));
        assert_eq!(subscription.drain().unwrap().len(), 1, "watchers see what was stored and nothing else");
        let reopened = Ledger::open(Box::new(store), rules()).unwrap();
        assert_eq!(reopened.policies(None).1.len(), 1);
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
                let (start, mut subscription) = ledger.subscribe(&Hosted::default(), resume).unwrap();
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
}
