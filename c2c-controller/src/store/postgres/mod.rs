//! The store in a PostgreSQL database, which any number of controllers share. A commit is one statement, so it is there
//! whole or not at all, and it is on the server's disk before it is acknowledged. The same statement notifies the others.
//!
//! All is said on one connection, from a thread of its own. A connection that is lost is made again, and what was being
//! done is done again: a commit carries a number by which one that was written already is known. `follow` listens for
//! notifications on a connection of its own, `lead` holds a duty on another. What is not here: encryption of connections.

#[cfg(test)]
mod cluster;
mod follow;
mod lead;
mod session;
mod url;

pub use url::PostgresUrl;

use super::record::{
    self, BindingRecord, CommitRecord, FreedRecord, GroupRecord, HeldRecord, LeaseRecord, PolicyRecord,
    StampRecord,
};
use super::{Duty, Lead, Others, Renewals, Since, Store, StoreError, StoreId, keys, log_start, rows};
use crate::domain::{Commit, Lease, Parts, Revision, SecurityGroup, Stamp, State};
use follow::Follower;
use serde::de::DeserializeOwned;
use session::{Later, Row, Session, Write, Written, answered, failed, is_lost};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a controller that starts waits for one that was just stopped to be gone.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);
/// How long a lost connection is tried to be made again before the store has failed: a restart or a failover of the
/// database, or the lock of our own lost session, takes less.
const LOST_PATIENCE: Duration = Duration::from_secs(60);
/// How long anybody waits for an answer: as long as a lost connection is tried to be made again, and as the database then lets
/// one statement run (`session`). A commit may still take longer: to wait for a synchronous standby is no part of a
/// statement's time.
const PATIENCE: Duration = Duration::from_secs(LOST_PATIENCE.as_secs() + 30);
/// How long behind one that has taken so long already.
const SHORT_PATIENCE: Duration = Duration::from_secs(5);
/// How long who closes the store waits for what is under way.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether it has ended.
const CLOSE_PAUSE: Duration = Duration::from_millis(2);
/// Between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Keeps everything in a database.
#[derive(Debug)]
pub struct PostgresStore {
    url: PostgresUrl,
    id: StoreId,
    /// Nothing when it is being dropped.
    jobs: Mutex<Option<Sender<Job>>>,
    follower: Follower,
    thread: Option<JoinHandle<()>>,
    busy: Busy,
    patience: Duration,
}

/// Since when the thread has been at what it does.
#[derive(Clone, Debug, Default)]
struct Busy(Arc<Mutex<Option<Instant>>>);

impl Busy {
    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn time(&self) -> Duration {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// What the thread has.
struct Connection {
    url: PostgresUrl,
    id: StoreId,
    session: Option<Session>,
    /// The last revision that anybody was told of.
    acknowledged: Revision,
}

impl PostgresStore {
    /// Opens the store in a database, or makes one there. Blocks while it connects.
    ///
    /// # Errors
    /// When somebody has it for himself, it is of another version, or the database cannot be used.
    pub fn open(url: &PostgresUrl) -> Result<Self, StoreError> {
        Self::open_with(url, PATIENCE)
    }

    /// The same with another patience for answers than [`PATIENCE`].
    fn open_with(url: &PostgresUrl, patience: Duration) -> Result<Self, StoreError> {
        let (jobs, todo) = channel();
        let (opened, answer) = sync_channel(1);
        let (theirs, busy) = (url.clone(), Busy::default());
        let ours = busy.clone();
        let run = move || match Session::open(&theirs, OPEN_PATIENCE) {
            Ok(session) => {
                // Fails only when nobody waits for it.
                let _ = opened.send(Ok(session.store.clone()));
                work(Connection::new(theirs, session), &todo, &ours);
            }
            Err(error) => drop(opened.send(Err(error))),
        };
        let thread = thread::Builder::new().name("postgres".to_owned()).spawn(run);
        let thread = thread.map_err(|error| StoreError::Failed {
            tried: "opened",
            place: url.to_string(),
            source: error.into(),
        })?;
        let id = answer.recv().map_err(|_| ended("opened", url))??;
        Ok(Self {
            url: url.clone(),
            id,
            jobs: Mutex::new(Some(jobs)),
            follower: Follower::default(),
            thread: Some(thread),
            busy,
            patience,
        })
    }

    /// Has the thread do it, and waits. Who waits in vain does not know whether it was or will be done.
    fn ask<T: Send + 'static>(
        &self,
        tried: &'static str,
        job: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (done, answer) = sync_channel(1);
        let job: Job = Box::new(move |connection| drop(done.send(job(connection))));
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        jobs.and_then(|jobs| jobs.send(job).ok()).ok_or_else(|| ended(tried, &self.url))?;
        let is_stuck = self.busy.time() > self.patience;
        let patience = if is_stuck { SHORT_PATIENCE.min(self.patience) } else { self.patience };
        match answer.recv_timeout(patience) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(ended(tried, &self.url)),
            Err(RecvTimeoutError::Timeout) => Err(StoreError::Failed {
                tried,
                place: self.url.to_string(),
                source: format!(
                    "the database has been at one statement for {} s; a commit waits for a synchronous standby that is away",
                    self.busy.time().as_secs()
                )
                .into(),
            }),
        }
    }

    /// The commits after one revision until another, which have to be all there.
    fn read_commits(
        &self,
        after: Revision,
        until: Revision,
        records: &[Vec<u8>],
    ) -> Result<Vec<Commit>, StoreError> {
        let read = records.iter().map(|bytes| record::decode::<CommitRecord, Commit>(bytes));
        let commits: Option<Vec<_>> = read.collect();
        let commits = commits.ok_or_else(|| damaged(&self.url, "a commit cannot be read"))?;
        let expected = (after.get()..until.get()).map(|number| Revision::new(number).next());
        if !commits.iter().map(|commit| commit.revision).eq(expected) {
            return Err(damaged(&self.url, "commits are missing"));
        }
        Ok(commits)
    }

    /// The commits after the revision that we know, of a store that is at another; nothing when its log does not go back so far.
    fn later(
        &self,
        known: Revision,
        stored: Revision,
        commits: &[Vec<u8>],
    ) -> Result<Option<Vec<Commit>>, StoreError> {
        if stored < known {
            let problem = format!("it is at revision {stored}, and revision {known} was seen");
            return Err(damaged(&self.url, &problem));
        }
        if known < log_start(stored) {
            return Ok(None);
        }
        self.read_commits(known, stored, commits).map(Some)
    }

    /// Commits of which one changed rules of a security group, with all rules as they are then.
    fn others_with_rules(&self, known: Revision) -> Result<Others, StoreError> {
        let read = move |session: &mut Session| session.commits_and_records_after(known, keys::GROUPS);
        let later = self.ask("read", move |connection| connection.retry("read", read))?;
        let Later { revision: stored, commits, records: groups } = later;
        let Some(commits) = self.later(known, stored, &commits)? else { return Ok(Others::Compacted) };
        let groups = read_all::<GroupRecord, SecurityGroup>(&self.url, &groups, keys::GROUPS)?;
        Ok(Others::Commits(follow::with_rules(commits, groups)))
    }

    fn write_of(&self, commit: &Commit) -> Result<Write, StoreError> {
        let unwritable = |error: serde_json::Error| StoreError::Failed {
            tried: "written",
            place: self.url.to_string(),
            source: error.into(),
        };
        let mut records = rows::Writes::new();
        commit.changes.iter().try_for_each(|change| rows::add(&mut records, change)).map_err(unwritable)?;
        let told = record::encode(&CommitRecord::from(commit)).map_err(unwritable)?;
        Ok(Write { revision: commit.revision, records, told, writer: rand::random() })
    }
}

/// Waits for the connection to end, so that the store can be opened again; but not for a database that does not answer.
impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.jobs.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = self.thread.take() else { return };
        let began = Instant::now();
        while !thread.is_finished() && began.elapsed() < CLOSE_PATIENCE {
            thread::sleep(CLOSE_PAUSE);
        }
    }
}

impl Store for PostgresStore {
    fn id(&self) -> StoreId {
        self.id.clone()
    }

    fn snapshot(&self) -> Result<State, StoreError> {
        let (revision, rows) = self.ask("read", |connection| connection.retry("read", Session::records))?;
        read_state(&self.url, revision, &rows)
    }

    fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        let (wanted, write) = (commit.revision, self.write_of(commit)?);
        let written = self.ask("written", move |connection| {
            let written = connection.retry("written", |session| session.write(&write))?;
            if written == Written::Yes {
                connection.acknowledged = wanted;
            }
            Ok(written)
        })?;
        match written {
            Written::Yes => Ok(()),
            Written::No(stored) => Err(StoreError::Conflict { wanted, stored }),
        }
    }

    fn renew(&self, renewals: &Renewals) -> Result<(), StoreError> {
        let renewals: BTreeMap<_, _> = renewals.iter().map(|(at, when)| (keys::lease(*at), *when)).collect();
        let keys: Vec<_> = renewals.keys().cloned().collect();
        let renewed = move |key: &[u8], bytes: &[u8]| {
            let mut lease = record::decode::<LeaseRecord, Lease>(bytes)?;
            lease.renewed = lease.renewed.max(*renewals.get(key)?);
            record::encode(&LeaseRecord::from(&lease)).ok()
        };
        self.ask("written", move |connection| {
            connection.retry("written", |session| session.replace(&keys, &renewed))
        })
    }

    fn renewals(&self) -> Result<Renewals, StoreError> {
        let read = |session: &mut Session| session.records_of(keys::LEASES);
        let rows = self.ask("read", move |connection| connection.retry("read", read))?;
        let leases = read_all::<LeaseRecord, Lease>(&self.url, &rows, keys::LEASES)?;
        Ok(leases.into_iter().map(|lease| (lease.underlay, lease.renewed)).collect())
    }

    fn silent_for(&self) -> Duration {
        self.busy.time()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn others_since(&self, known: Revision) -> Result<Others, StoreError> {
        let stored = self.ask("read", |connection| connection.retry("read", Session::stored_revision))?;
        if stored == known {
            return Ok(Others::Commits(Vec::new()));
        }
        let read = move |session: &mut Session| session.commits_after(known);
        let (stored, commits) = self.ask("read", move |connection| connection.retry("read", read))?;
        match self.later(known, stored, &commits)? {
            Some(commits) if commits.iter().any(follow::lacks_rules) => self.others_with_rules(known),
            Some(commits) => Ok(Others::Commits(commits)),
            None => Ok(Others::Compacted),
        }
    }

    fn wait(&self, known: Revision, patience: Duration) {
        self.follower.wait(&self.url, known, patience);
    }

    fn lead(&self, duty: Duty) -> Result<Option<Box<dyn Lead>>, StoreError> {
        lead::take(&self.url, duty)
    }

    fn changes_since(&self, revision: Revision) -> Result<Since, StoreError> {
        let (current, records) = self.ask("read", move |connection| {
            connection.retry("read", |session| session.commits_after(revision))
        })?;
        if revision > current || revision < log_start(current) {
            return Ok(Since::Compacted);
        }
        let commits = self.read_commits(revision, current, &records)?;
        Ok(Since::Commits(commits.into_iter().map(Arc::new).collect()))
    }

    fn refill(self: Box<Self>, over: Revision, state: &State) -> Result<Box<dyn Store>, StoreError> {
        let all = Commit { revision: Revision::FIRST, changes: state.parts().changes().collect() };
        let Write { records, .. } = self.write_of(&all)?;
        let write = Write { records, ..self.write_of(&super::refilled())? };
        let id = StoreId::random();
        // Done once: after an attempt whose answer was lost it would be another store than the one that was opened.
        let written = self.ask("written", move |connection| {
            let deadline = Instant::now();
            let url = connection.url.clone();
            let session = connection.session(deadline)?;
            if !session.alone().map_err(|error| failed("written", &url, error))? {
                return Err(StoreError::InUse { place: url.to_string() });
            }
            session.refill(over, &id, &write).map_err(|error| failed("written", &url, error))
        })?;
        if let Written::No(stored) = written {
            return Err(StoreError::Conflict { wanted: over, stored });
        }
        let url = self.url.clone();
        drop(self);
        Ok(Box::new(Self::open(&url)?))
    }
}

/// Does what is asked until nobody can ask any more.
fn work(mut connection: Connection, todo: &Receiver<Job>, busy: &Busy) {
    for job in todo {
        busy.set(Some(Instant::now()));
        job(&mut connection);
        busy.set(None);
    }
}

impl Connection {
    fn new(url: PostgresUrl, session: Session) -> Self {
        let (id, acknowledged) = (session.store.clone(), session.revision);
        Self { url, id, session: Some(session), acknowledged }
    }

    /// Does it, again when the connection was lost meanwhile. So it must be of no harm to do it twice.
    fn retry<T>(
        &mut self,
        tried: &'static str,
        mut job: impl FnMut(&mut Session) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + LOST_PATIENCE;
        loop {
            match job(self.session(deadline)?) {
                Ok(done) => return Ok(done),
                Err(error) if is_lost(&error) && Instant::now() < deadline => {
                    tracing::warn!(%error, store = %self.url, "the connection to the database was lost; it is made again");
                    self.session = None;
                }
                Err(error) => return Err(answered(tried, &self.url, error)),
            }
        }
    }

    /// The session, made again if there is none.
    fn session(&mut self, deadline: Instant) -> Result<&mut Session, StoreError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.reopen(deadline)?,
        };
        Ok(self.session.insert(session))
    }

    fn reopen(&self, deadline: Instant) -> Result<Session, StoreError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match Session::open(&self.url, left) {
                Ok(session) => return self.check(session),
                Err(StoreError::Failed { .. }) if !left.is_zero() => thread::sleep(RETRY_PAUSE),
                Err(error) => return Err(error),
            }
        }
    }

    /// After a failover it must be the same store, with all that was acknowledged.
    fn check(&self, session: Session) -> Result<Session, StoreError> {
        if session.store != self.id {
            let problem = format!("it was store {} and is store {} now", self.id, session.store);
            return Err(damaged(&self.url, &problem));
        }
        if session.revision < self.acknowledged {
            let (stored, last) = (session.revision, self.acknowledged);
            let problem = format!("it is at revision {stored}, and revision {last} was acknowledged");
            return Err(damaged(&self.url, &problem));
        }
        tracing::info!(store = %self.url, revision = %session.revision, "connected to the database again");
        Ok(session)
    }
}

fn read_state(url: &PostgresUrl, revision: Revision, rows: &[Row]) -> Result<State, StoreError> {
    let parts = Parts {
        revision,
        leases: read_all::<LeaseRecord, _>(url, rows, keys::LEASES)?,
        policies: read_all::<PolicyRecord, _>(url, rows, keys::POLICIES)?,
        held: read_all::<HeldRecord, _>(url, rows, keys::HELD_TAGS)?,
        stamp: read_all::<StampRecord, Stamp>(url, rows, keys::STAMPS)?
            .into_iter()
            .next()
            .unwrap_or_default(),
        freed: read_all::<FreedRecord, _>(url, rows, keys::FREED_TAGS)?,
        groups: read_all::<GroupRecord, _>(url, rows, keys::GROUPS)?,
        bindings: read_all::<BindingRecord, _>(url, rows, keys::BINDINGS)?,
    };
    State::restore(parts).map_err(|error| StoreError::inconsistent(url.to_string(), &error))
}

fn read_all<R, T>(url: &PostgresUrl, rows: &[Row], prefix: &[u8]) -> Result<Vec<T>, StoreError>
where
    R: DeserializeOwned + TryInto<T>,
{
    let of_kind = rows.iter().filter(|(key, _)| key.starts_with(prefix));
    let read = of_kind.map(|(_, value)| record::decode::<R, T>(value));
    read.collect::<Option<_>>().ok_or_else(|| damaged(url, "a record cannot be read"))
}

fn damaged(url: &PostgresUrl, problem: &str) -> StoreError {
    StoreError::Damaged { place: url.to_string(), problem: problem.to_owned() }
}

/// The thread is gone.
fn ended(tried: &'static str, url: &PostgresUrl) -> StoreError {
    StoreError::Failed { tried, place: url.to_string(), source: "its thread has ended".into() }
}

#[cfg(test)]
mod history;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod standby;
#[cfg(test)]
mod tests;
