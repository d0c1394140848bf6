//! The store in a directory on disk, by sled 0.34. A commit is one batch in one tree, so it is there whole or not at all,
//! and it is flushed before it is acknowledged.
//!
//! sled drops the end of a log that it cannot read and starts an empty database where it recognises nothing. So the
//! store's identity and the last acknowledged revision also lie in files beside it, and every commit counts what should be
//! there: what sled lost in silence is noticed here.

mod beside;
mod keys;

use super::record::{self, CommitRecord, FreedRecord, LeaseRecord, PolicyRecord};
use super::{LOG_LENGTH, Since, Store, StoreError, StoreId, log_start};
use crate::domain::{Change, Commit, Lease, Revision, State, TagFreed, TaggedPolicy, Timestamp};
use ::sled::{Batch, Db, IVec, Tree};
use beside::Acknowledged;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::DirBuilder;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Of the keys and records. A controller that finds another one says so and touches nothing.
const SCHEMA_VERSION: u32 = 1;

/// sled's own directory in ours.
const DATABASE: &str = "store";

/// sled's page cache; a foundation of 10,000 policies has about 5 MB of records.
const CACHE_BYTES: u64 = 32 << 20;

/// Keeps everything in a directory.
#[derive(Debug)]
pub struct SledStore {
    db: Db,
    path: PathBuf,
    id: StoreId,
    acknowledged: Acknowledged,
    /// What is stored now; held while a commit is written.
    written: Mutex<Written>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Written {
    revision: Revision,
    leases: u64,
    policies: u64,
}

impl SledStore {
    /// Opens the store in a directory, or makes one there.
    ///
    /// # Errors
    /// When another process has it, it is damaged or of another version, or the directory cannot be used.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.to_owned();
        let failed = |source: io::Error| failed("opened", &path, source);
        // Who may reach whom is nobody else's business on this machine.
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let known_id = beside::read_id(directory).map_err(failed)?;
        let (acknowledged, last) = Acknowledged::open(directory).map_err(failed)?;
        // Some damage makes sled panic; that must not be all that an operator gets to read.
        let open = || open_and_read(&path, known_id.as_deref());
        let opened = catch_unwind(AssertUnwindSafe(open));
        let (db, id, written) =
            opened.unwrap_or_else(|_| Err(damaged(&path, "the database cannot be read")))?;
        if written.revision < last {
            let problem =
                format!("it is at revision {}, and revision {last} was acknowledged", written.revision);
            return Err(damaged(&path, &problem));
        }
        if known_id.is_none() {
            beside::write_id(directory, &id).map_err(failed)?;
        }
        Ok(Self { db, path, id, acknowledged, written: Mutex::new(written) })
    }

    fn batch(&self, commit: &Commit, now: Written) -> Result<Batch, StoreError> {
        let mut batch = Batch::default();
        for change in &commit.changes {
            self.add_change(&mut batch, change)?;
        }
        batch.insert(keys::commit(commit.revision), self.encode(&CommitRecord::from(commit))?);
        if let Some(old) = commit.revision.get().checked_sub(LOG_LENGTH) {
            batch.remove(keys::commit(Revision::new(old)));
        }
        batch.insert(keys::REVISION, &now.revision.get().to_be_bytes());
        batch.insert(keys::COUNTS, counts(now).as_slice());
        Ok(batch)
    }

    fn add_change(&self, batch: &mut Batch, change: &Change) -> Result<(), StoreError> {
        match change {
            Change::LeasePut(lease) => {
                batch.insert(keys::lease(lease.underlay), self.encode(&LeaseRecord::from(lease))?);
            }
            Change::LeaseRemoved(lease) => batch.remove(keys::lease(lease.underlay)),
            Change::PolicyPut(put) => {
                batch.remove(keys::freed_tag(put.source_tag));
                batch.remove(keys::freed_tag(put.destination_tag));
                batch.insert(keys::policy(&put.policy), self.encode(&PolicyRecord::from(put))?);
            }
            Change::PolicyRemoved(removed) => batch.remove(keys::policy(&removed.policy)),
            Change::TagFreed(freed) => {
                batch.insert(keys::freed_tag(freed.tag), self.encode(&FreedRecord::from(freed))?);
            }
        }
        Ok(())
    }

    /// What will be stored after the commit.
    fn count(&self, commit: &Commit, mut now: Written) -> Result<Written, StoreError> {
        let mut seen = std::collections::BTreeMap::new();
        for change in &commit.changes {
            let (key, put) = match change {
                Change::LeasePut(lease) => (keys::lease(lease.underlay), true),
                Change::LeaseRemoved(lease) => (keys::lease(lease.underlay), false),
                Change::PolicyPut(put) => (keys::policy(&put.policy), true),
                Change::PolicyRemoved(removed) => (keys::policy(&removed.policy), false),
                Change::TagFreed(_) => continue,
            };
            seen.insert(key, put);
        }
        for (key, put) in seen {
            let was = self.db.contains_key(&key).map_err(|error| self.failed("read", error))?;
            let count = if key.starts_with(keys::LEASES) { &mut now.leases } else { &mut now.policies };
            *count = count.saturating_add(u64::from(put && !was)).saturating_sub(u64::from(!put && was));
        }
        Ok(Written { revision: commit.revision, ..now })
    }

    fn encode(&self, record: &impl Serialize) -> Result<Vec<u8>, StoreError> {
        record::encode(record).map_err(|error| self.failed("written", error))
    }

    fn failed(
        &self,
        tried: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> StoreError {
        failed(tried, &self.path, source)
    }
}

impl Store for SledStore {
    fn id(&self) -> StoreId {
        self.id.clone()
    }

    fn snapshot(&self) -> Result<State, StoreError> {
        let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        read_state(&self.db, &self.path, written.revision)
    }

    fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if commit.revision != written.revision.next() {
            return Err(StoreError::Conflict { wanted: commit.revision, stored: written.revision });
        }
        let now = self.count(commit, *written)?;
        let batch = self.batch(commit, now)?;
        self.db.apply_batch(batch).map_err(|error| self.failed("written", error))?;
        self.db.flush().map_err(|error| self.failed("written", error))?;
        *written = now;
        self.acknowledged.write(now.revision).map_err(|error| self.failed("written", error))
    }

    fn renew(&self, underlay: Ipv4Addr, now: Timestamp) -> Result<(), StoreError> {
        // A commit that takes the lease away must not come between reading and writing it.
        let _written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let key = keys::lease(underlay);
        let stored = self.db.get(&key).map_err(|error| self.failed("read", error))?;
        let Some(mut lease) = stored.and_then(|bytes| record::decode::<LeaseRecord, Lease>(&bytes)) else {
            return Ok(());
        };
        lease.renewed = lease.renewed.max(now);
        let bytes = self.encode(&LeaseRecord::from(&lease))?;
        self.db.insert(key, bytes).map_err(|error| self.failed("written", error))?;
        Ok(())
    }

    fn changes_since(&self, revision: Revision) -> Result<Since, StoreError> {
        let current = self.written.lock().unwrap_or_else(PoisonError::into_inner).revision;
        if revision > current || revision < log_start(current) {
            return Ok(Since::Compacted);
        }
        let range = keys::commit(revision.next())..=keys::commit(current);
        let mut commits = Vec::new();
        for entry in self.db.range(range) {
            let (_, value) = entry.map_err(|error| self.failed("read", error))?;
            let commit = record::decode::<CommitRecord, Commit>(&value);
            commits.push(Arc::new(commit.ok_or_else(|| damaged(&self.path, "a commit cannot be read"))?));
        }
        // A commit that is being written may have dropped the first ones meanwhile.
        match commits.first() {
            Some(first) if first.revision != revision.next() => Ok(Since::Compacted),
            None if revision != current => Ok(Since::Compacted),
            Some(_) | None => Ok(Since::Commits(commits)),
        }
    }
}

fn open_and_read(path: &Path, known_id: Option<&str>) -> Result<(Db, StoreId, Written), StoreError> {
    let db = ::sled::Config::new().path(path.join(DATABASE)).cache_capacity(CACHE_BYTES).open();
    let db = db.map_err(|error| open_error(path, error))?;
    let read = |key: &[u8]| db.get(key).map_err(|error| open_error(path, error));
    match (read(keys::SCHEMA)?, read(keys::STORE)?) {
        (None, None) if known_id.is_none() && db.is_empty() => {
            let id = create(&db, path)?;
            Ok((db, id, Written::default()))
        }
        (Some(schema), Some(id)) => {
            check_schema(path, &schema)?;
            let id = check_id(path, &id, known_id)?;
            let written = check_content(&db, path, read(keys::REVISION)?, read(keys::COUNTS)?)?;
            Ok((db, id, written))
        }
        (Some(_) | None, Some(_) | None) => Err(damaged(path, "its identity is lost")),
    }
}

fn create(db: &Db, path: &Path) -> Result<StoreId, StoreError> {
    let id = StoreId::random();
    let mut batch = Batch::default();
    batch.insert(keys::SCHEMA, &SCHEMA_VERSION.to_be_bytes());
    batch.insert(keys::STORE, id.as_str());
    batch.insert(keys::REVISION, &0_u64.to_be_bytes());
    batch.insert(keys::COUNTS, counts(Written::default()).as_slice());
    db.apply_batch(batch).and_then(|()| db.flush()).map_err(|error| failed("written", path, error))?;
    Ok(id)
}

fn check_schema(path: &Path, stored: &[u8]) -> Result<(), StoreError> {
    let found = stored.try_into().map(u32::from_be_bytes).map_err(|_| damaged(path, "it has no version"))?;
    if found == SCHEMA_VERSION {
        return Ok(());
    }
    Err(StoreError::Schema { path: path.to_owned(), found, expected: SCHEMA_VERSION })
}

fn check_id(path: &Path, stored: &[u8], known_id: Option<&str>) -> Result<StoreId, StoreError> {
    let stored = std::str::from_utf8(stored).map_err(|_| damaged(path, "its identity is lost"))?;
    match known_id {
        Some(known) if known != stored => {
            Err(damaged(path, &format!("it is store {stored}, and the file store-id beside it says {known}")))
        }
        Some(_) | None => Ok(StoreId::from(stored)),
    }
}

/// Reads everything once: what is there must be as much as was written, and make a state.
fn check_content(
    db: &Tree,
    path: &Path,
    revision: Option<IVec>,
    stored_counts: Option<IVec>,
) -> Result<Written, StoreError> {
    let revision = revision.and_then(|bytes| bytes.as_ref().try_into().ok()).map(u64::from_be_bytes);
    let revision = Revision::new(revision.ok_or_else(|| damaged(path, "its revision is lost"))?);
    let state = read_state(db, path, revision)?;
    let written = Written {
        revision,
        leases: state.leases().count() as u64,
        policies: state.policies().count() as u64,
    };
    if stored_counts.as_deref() != Some(counts(written).as_slice()) {
        return Err(damaged(path, "leases or policies are missing"));
    }
    let last = db.scan_prefix(keys::COMMITS).keys().next_back().transpose();
    let last = last.map_err(|error| open_error(path, error))?;
    if revision != Revision::ZERO && last.as_deref() != Some(keys::commit(revision).as_slice()) {
        return Err(damaged(path, "the last change is missing"));
    }
    Ok(written)
}

fn read_state(db: &Tree, path: &Path, revision: Revision) -> Result<State, StoreError> {
    let leases = read_all::<LeaseRecord, Lease>(db, path, keys::LEASES)?;
    let policies = read_all::<PolicyRecord, TaggedPolicy>(db, path, keys::POLICIES)?;
    let freed = read_all::<FreedRecord, TagFreed>(db, path, keys::FREED_TAGS)?;
    State::restore(revision, leases, policies, freed)
        .map_err(|error| StoreError::inconsistent(path.to_owned(), &error))
}

fn read_all<R, T>(db: &Tree, path: &Path, prefix: &[u8]) -> Result<Vec<T>, StoreError>
where
    R: DeserializeOwned + TryInto<T>,
{
    let entries = db.scan_prefix(prefix).values();
    let read = entries.map(|value| {
        let value = value.map_err(|error| failed("read", path, error))?;
        record::decode::<R, T>(&value).ok_or_else(|| damaged(path, "a record cannot be read"))
    });
    read.collect()
}

fn counts(written: Written) -> Vec<u8> {
    [written.leases.to_be_bytes(), written.policies.to_be_bytes()].concat()
}

fn open_error(path: &Path, error: ::sled::Error) -> StoreError {
    use ::sled::Error;
    match error {
        // The wording is sled 0.34's own; it gives this case no kind of its own.
        Error::Io(error) if error.to_string().contains("could not acquire lock") => {
            StoreError::InUse { path: path.to_owned() }
        }
        Error::Corruption { .. } | Error::Unsupported(_) | Error::ReportableBug(_) => {
            damaged(path, &error.to_string())
        }
        Error::Io(_) | Error::CollectionNotFound(_) => failed("opened", path, error),
    }
}

fn damaged(path: &Path, problem: &str) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), problem: problem.to_owned() }
}

fn failed(
    tried: &'static str,
    path: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Failed { tried, path: path.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests;
