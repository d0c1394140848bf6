//! The one place where state changes: decides a command on the current state, stores it, applies it, tells the watchers,
//! one command at a time. Applying and telling are one step to those who read or subscribe, so every watcher sees every
//! commit once and in order, and what it starts from and what follows fit together. Nobody who reads what is known waits
//! for a disk.
//!
//! A store may be shared with other controllers. Then a command is decided on what the store holds now, and decided again
//! when another controller's commit came first; commits of others are applied as they are heard of ([`Ledger::keep`]), and
//! whoever needs to know what is true now asks for it ([`Ledger::refresh`]). `world` holds what is known, `log` how it
//! came about.

mod keep;
mod log;
mod world;

use crate::domain::{
    AppId, CellName, Change, Command, Commit, Figures, GroupName, Lease, Moment, Parts, Refusal, Revision,
    Rules, SecurityGroup, SpaceId, Stamp, State, Tag, TaggedPolicy, Timestamp, decide, stamped,
};
use crate::metrics::{Asked, StoreMeter, in_one_line};
pub use crate::store::Renewals;
use crate::store::{Duty, Lead, Others, Since, Store, StoreError, StoreId, log_start};
use crate::watch::{Hosted, Moves, News, Start, Subscription};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use world::World;

/// How often a command is decided again because another controller was faster. Each time somebody got on.
const ATTEMPTS: usize = 1000;

/// The state, its store and its watchers.
#[derive(Debug)]
pub struct Ledger {
    store: Arc<dyn Store>,
    rules: Rules,
    /// Held by the one command that is being done, or by who learns what others did.
    writing: Mutex<Health>,
    /// Of a store that is ours alone: behind it by at most the commit that is being written.
    world: RwLock<World>,
    /// Renewals that the store has not been told of.
    renewals: Mutex<Renewals>,
    failed: watch::Sender<bool>,
    /// When a shared store could not be reached, and why, until it can.
    away: Mutex<Option<(Instant, String)>>,
    meter: StoreMeter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Good,
    /// What the store holds is not known until it is opened again.
    Broken,
}

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be written, or what is stored not be read.
    #[error("the change could not be stored")]
    Store(#[from] StoreError),
    /// An earlier write failed.
    #[error("the store failed earlier and the controller is stopping; try again when it is back")]
    Broken,
    /// Other controllers were faster every time.
    #[error("other controllers changed something {ATTEMPTS} times while this was being done; try again")]
    Busy,
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

/// Says that a duty is ours, as long as it lives and [`Leading::still`] says so.
#[derive(Debug)]
pub struct Leading(Box<dyn Lead>);

impl Leading {
    /// Whether the duty is still ours. Blocks while the store is asked.
    pub fn still(&mut self) -> bool {
        self.0.still()
    }
}

impl Ledger {
    /// Takes over a store.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    pub fn open(store: Box<dyn Store>, rules: Rules) -> Result<Self, StoreError> {
        let state = store.snapshot()?;
        let commits = match store.changes_since(log_start(state.revision()))? {
            Since::Commits(mut commits) => {
                // Another controller may have written meanwhile.
                commits.retain(|commit| commit.revision <= state.revision());
                commits
            }
            Since::Compacted => Vec::new(),
        };
        let (world, failed) = (RwLock::new(World::new(state, commits)), watch::Sender::new(false));
        Ok(Self {
            store: Arc::from(store),
            rules,
            writing: Mutex::new(Health::Good),
            world,
            renewals: Mutex::default(),
            failed,
            away: Mutex::default(),
            meter: StoreMeter::default(),
        })
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

    /// Becomes true when nothing can be stored any more: the process should end and start again.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<bool> {
        self.failed.subscribe()
    }

    /// Does what a command says. When this returns, it is stored and on its way to the watchers. Blocks while the store
    /// writes.
    ///
    /// # Errors
    /// When the command is refused, or cannot be stored. After an error of the store that is not
    /// [`StoreError::is_definite`] it may have been done all the same.
    pub fn execute(&self, command: &Command, now: Moment) -> Result<Done, LedgerError> {
        let mut health = self.turn()?;
        if *health == Health::Broken {
            return Err(LedgerError::Broken);
        }
        for _ in 0..ATTEMPTS {
            self.catch_up(now).map_err(|error| self.failed_by(&mut health, Asked::Read, error))?;
            let (changes, revision) = self.decide(command, now)?;
            if changes.is_empty() {
                return Ok(Done { revision, commit: None });
            }
            let commit = Arc::new(Commit { revision: revision.next(), changes });
            match self.commit(&commit) {
                Ok(()) => {
                    self.write().apply(&commit, now.up);
                    return Ok(Done { revision: commit.revision, commit: Some(commit) });
                }
                Err(StoreError::Conflict { .. }) if self.store.is_shared() => {}
                Err(error) => return Err(self.failed_by(&mut health, Asked::Write, error).into()),
            }
        }
        Err(LedgerError::Busy)
    }

    /// A cell says that it lives. Returns the current revision. The store is told within seconds.
    pub fn renew(&self, underlay: Ipv4Addr, now: Moment) -> Revision {
        self.pending().insert(underlay, now.wall);
        let mut world = self.write();
        world.renew(underlay, now);
        world.state.revision()
    }

    /// Learns what other controllers did until now: what is read afterwards is at least as new as all that was acknowledged
    /// to anybody before this was called. Blocks while the store is asked; does nothing when it is ours alone.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub fn refresh(&self, now: Moment) -> Result<(), StoreError> {
        if !self.store.is_shared() {
            return Ok(());
        }
        let mut health = self.turn()?;
        self.catch_up(now).map_err(|error| self.failed_by(&mut health, Asked::Read, error))?;
        self.meter.did(Asked::Read);
        Ok(())
    }

    /// The same with the renewals of leases, which make no revision.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub fn refresh_leases(&self, now: Moment) -> Result<(), StoreError> {
        self.refresh(now)?;
        self.learn_renewals(now)
    }

    /// Where a watcher starts, and everything that follows: what happened after `resume` when all of it is known, else the
    /// state as far as it concerns what the watcher hosts.
    pub fn subscribe(&self, hosted: &Hosted, resume: Option<Revision>) -> (Start, Subscription) {
        let world = self.read();
        let commits = resume.and_then(|revision| world.log.since(revision));
        let (state, subscription) = (&world.state, world.watch());
        let groups = state.groups_for(&hosted.spaces);
        let start = match commits {
            Some(commits) => Start::Resume(News { commits, groups }),
            None => Start::Snapshot {
                revision: state.revision(),
                leases: state.leases().cloned().collect(),
                policies: state.policies_naming(&hosted.apps),
                groups,
            },
        };
        (start, subscription)
    }

    /// The commits that a subscription yielded, and all that wait behind them, as news for a watcher that hosts this;
    /// nothing when the subscription fell behind.
    pub fn news(
        &self,
        mut commits: Vec<Arc<Commit>>,
        subscription: &mut Subscription,
        hosted: &Hosted,
    ) -> Option<News> {
        // As long as the world is locked, the last commit that waits is the one that made it.
        let world = self.read();
        commits.extend(subscription.drain()?);
        Some(news(&world.state, commits, hosted))
    }

    /// What is to be told to a watcher that hosts `hosted` until the moves; nothing when its subscription fell behind.
    pub fn view(&self, hosted: &Hosted, moves: &Moves, subscription: &mut Subscription) -> Option<View> {
        let world = self.read();
        let before = news(&world.state, subscription.drain()?, hosted);
        let added = &moves.added;
        Some(View {
            before,
            policies: world.state.policies_naming(&added.apps),
            groups: world.state.groups_bound(&added.spaces, &hosted.after(moves).spaces),
        })
    }

    /// The lease at this address, if it is held under this name.
    #[must_use]
    pub fn lease_of(&self, cell: &CellName, underlay: Ipv4Addr) -> Option<Lease> {
        self.read().state.lease_at(underlay).filter(|lease| lease.cell == *cell).cloned()
    }

    /// The policies that name the app, or all.
    #[must_use]
    pub fn policies(&self, app: Option<&AppId>) -> (Revision, Vec<TaggedPolicy>) {
        let state = &self.read().state;
        let policies = match app {
            Some(app) => state.policies_naming([app]),
            None => state.policies().collect(),
        };
        (state.revision(), policies)
    }

    /// The policies that name one of the apps on either side.
    #[must_use]
    pub fn policies_naming(&self, apps: &BTreeSet<AppId>) -> Vec<TaggedPolicy> {
        self.read().state.policies_naming(apps)
    }

    /// The tags that apps and routers have, by tag, and whether it is a router.
    #[must_use]
    pub fn tags(&self) -> Vec<(Tag, AppId, bool)> {
        let state = &self.read().state;
        state.tags().map(|(tag, app)| (tag, app.clone(), state.is_router(app))).collect()
    }

    /// The tag of an app or a router, and whether it is a router.
    #[must_use]
    pub fn tag_of(&self, app: &AppId) -> Option<(Tag, bool)> {
        let state = &self.read().state;
        state.tag_of(app).map(|tag| (tag, state.is_router(app)))
    }

    /// When policies last changed.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.read().state.stamp()
    }

    /// The security groups that concern these spaces, each with all its bindings.
    #[must_use]
    pub fn groups_of(&self, spaces: &BTreeSet<SpaceId>) -> Vec<SecurityGroup> {
        let state = &self.read().state;
        state.groups_for(spaces).iter().filter_map(|group| state.group(&group.name)).collect()
    }

    /// The security group of this name, or all.
    #[must_use]
    pub fn groups(&self, name: Option<&GroupName>) -> (Revision, Vec<SecurityGroup>) {
        let state = &self.read().state;
        let groups = match name {
            Some(name) => state.group(name).into_iter().collect(),
            None => state.groups().collect(),
        };
        (state.revision(), groups)
    }

    /// All leases.
    #[must_use]
    pub fn leases(&self) -> (Revision, Vec<Lease>) {
        let state = &self.read().state;
        (state.revision(), state.leases().cloned().collect())
    }

    /// The lease at this address.
    #[must_use]
    pub fn lease_at(&self, underlay: Ipv4Addr) -> Option<Lease> {
        self.read().state.lease_at(underlay).cloned()
    }

    /// All leases, each with whether it has expired.
    #[must_use]
    pub fn leases_by_age(&self, now: Moment) -> Vec<(Lease, bool)> {
        let world = self.read();
        let expired = |lease: &Lease| world.now(now).is_expired(lease, self.rules.lease_seconds);
        world.state.leases().map(|lease| (lease.clone(), expired(lease))).collect()
    }

    /// Everything.
    #[must_use]
    pub fn parts(&self) -> Parts {
        self.read().state.parts()
    }

    /// The current revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.read().state.revision()
    }

    /// How much there is of everything.
    #[must_use]
    pub fn figures(&self, now: Timestamp) -> Figures {
        Figures::of(&self.read().state, &self.rules, now)
    }

    /// How the store does.
    #[must_use]
    pub fn meter(&self) -> &StoreMeter {
        &self.meter
    }

    /// How long the store has been at what it was asked for.
    #[must_use]
    pub fn store_is_silent_for(&self) -> Duration {
        self.store.silent_for()
    }

    /// Takes a duty that one controller at a time does, if no other one has it. Blocks while the store is asked.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub fn lead(&self, duty: Duty) -> Result<Option<Leading>, StoreError> {
        Ok(self.store.lead(duty)?.map(Leading))
    }

    /// What the command changes, and after which revision. Leases that are to be given away are looked for among other
    /// controllers' renewals before.
    fn decide(&self, command: &Command, now: Moment) -> Result<(Vec<Change>, Revision), LedgerError> {
        let decided = self.decide_on_known(command, now)?;
        let gives_away = decided.0.iter().any(|change| matches!(change, Change::LeaseRemoved(_)));
        if !(gives_away && self.store.is_shared()) {
            return Ok(decided);
        }
        self.learn_renewals(now)?;
        Ok(self.decide_on_known(command, now)?)
    }

    fn decide_on_known(&self, command: &Command, now: Moment) -> Result<(Vec<Change>, Revision), Refusal> {
        let world = self.read();
        let changes = decide(&world.state, &self.rules, world.now(now), command)?;
        Ok((stamped(&world.state, now, changes), world.state.revision()))
    }

    /// Applies what others wrote. To be called by who holds the health.
    fn catch_up(&self, now: Moment) -> Result<(), StoreError> {
        let others = self.store.others_since(self.revision())?;
        *self.away() = None;
        match others {
            Others::Commits(commits) => commits.iter().for_each(|commit| self.write().apply(commit, now.up)),
            Others::Compacted => {
                tracing::warn!(known = %self.revision(), "other controllers changed more than the log keeps; reading all");
                let state = self.store.snapshot()?;
                self.write().restart(state);
            }
        }
        Ok(())
    }

    fn learn_renewals(&self, now: Moment) -> Result<(), StoreError> {
        let renewals = self.store.renewals()?;
        self.write().renewed_elsewhere(&renewals, now.up);
        Ok(())
    }

    /// Notes what an error of the store means for what comes next. With a shared store nothing is lost by it: whether a
    /// write was done after all is learned before the next command. In a store of our own what cannot be read is not known.
    fn failed_by(&self, health: &mut Health, asked: Asked, error: StoreError) -> StoreError {
        self.meter.failed(asked, &error);
        if self.store.is_shared() && matches!(error, StoreError::Failed { .. }) {
            *self.away() = Some((Instant::now(), in_one_line(&error)));
        }
        let unknown = !error.is_definite() && !self.store.is_shared();
        if unknown || error.is_final() {
            *health = Health::Broken;
            self.failed.send_replace(true);
        }
        error
    }

    fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        let began = Instant::now();
        self.store.commit(commit)?;
        self.meter.committed(began.elapsed());
        Ok(())
    }

    fn pending(&self) -> MutexGuard<'_, Renewals> {
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it may ask the store. Of a store that could not be reached, who would wait behind the next attempt is told
    /// at once, and who waited behind one that failed shares its failure: they would else wait one after the other, each for
    /// as long as a store is given, and take the threads that all others need.
    fn turn(&self) -> Result<MutexGuard<'_, Health>, StoreError> {
        let asked = Instant::now();
        match self.writing.try_lock() {
            Ok(health) => return Ok(health),
            Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
        if let Some((_, problem)) = &*self.away() {
            return Err(StoreError::Away { problem: problem.clone() });
        }
        let health = self.writing();
        shared_failure(self.away().as_ref(), asked).map_or(Ok(health), Err)
    }

    fn away(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, Health> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applying a commit does not panic, so even a poisoned lock holds a whole world.
    fn read(&self) -> RwLockReadGuard<'_, World> {
        self.world.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, World> {
        self.world.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store's last failure, for who asked before it and waited meanwhile.
fn shared_failure(last: Option<&(Instant, String)>, asked: Instant) -> Option<StoreError> {
    let (_, problem) = last.filter(|(when, _)| *when >= asked)?;
    Some(StoreError::Away { problem: problem.clone() })
}

/// Commits of which the last one made the state.
fn news(state: &State, commits: Vec<Arc<Commit>>, hosted: &Hosted) -> News {
    let groups = state.parts_of(News::touched(&commits), &hosted.spaces);
    News { commits, groups }
}

#[cfg(test)]
mod tests;
