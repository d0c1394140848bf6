//! The store in a directory on disk, by sled 0.34. A commit is one batch in one tree, so it is there whole or not at all,
//! and it is flushed before it is acknowledged.
//!
//! sled drops the end of a log that it cannot read and starts an empty database where it recognises nothing. So the
//! store's identity and the last acknowledged revision also lie in files beside it, and every commit counts what should be
//! there: what sled lost in silence is noticed here.

mod beside;

use super::record::{
    self, BindingRecord, CommitRecord, FreedRecord, GroupRecord, HeldRecord, LeaseRecord, PolicyRecord,
    StampRecord,
};
use super::rows::Writes;
use super::{LOG_LENGTH, Renewals, Since, Store, StoreError, StoreId, keys, log_start, rows};
use crate::domain::{
    Binding, Change, Commit, GroupName, Lease, Parts, Revision, SecurityGroup, Stamp, State, TagFreed,
    TagHeld, TaggedPolicy, Timestamp,
};
use ::sled::{Batch, Db, Tree};
use beside::{Acknowledged, Identities};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::DirBuilder;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Of the keys and records. A controller that finds a later one says so and touches nothing. Version 2 is version 1 with
/// security groups, and version 3 that with routers' tags and when policies changed; a store becomes that when it is told
/// of the first one, so that until then the controller of before can still read it.
const SCHEMA_VERSION: u32 = 3;
const WITH_GROUPS: u32 = 2;
const WITHOUT_GROUPS: u32 = 1;

/// sled's own directory in ours.
const DATABASE: &str = "store";

/// sled's page cache; a foundation of 10,000 policies has about 5 MB of records.
const CACHE_BYTES: u64 = 32 << 20;

/// Nothing is written on a disk that has less room than this. sled does not survive a disk that is full: a write that
/// fails halfway ends all later ones and may end the database. The largest request is 10 MiB of policies, some 30 MiB here
/// with their log, and what sled has in memory follows by itself.
const RESERVE_BYTES: u64 = 64 << 20;

/// A group's rules are written in pieces of this size. What is larger than half a megabyte sled puts into a file of its
/// own, at every change of what lies beside it, and keeps these files for thousands of changes.
const PIECE_BYTES: usize = 32 << 10;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    /// Of what was ever written.
    schema: u32,
    revision: Revision,
    counts: Counts,
}

/// How many records there are of each kind of which none may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    leases: u64,
    policies: u64,
    /// Pieces of their rules.
    groups: u64,
    bindings: u64,
    held_tags: u64,
    /// One once policies changed.
    stamps: u64,
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
        let identities = Identities::read(directory).map_err(failed)?;
        let (acknowledged, last) = Acknowledged::open(directory).map_err(failed)?;
        // Some damage makes sled panic; that must not be all that an operator gets to read.
        let open = || open_and_read(&path, &identities);
        let opened = catch_unwind(AssertUnwindSafe(open));
        let (db, id, written) =
            opened.unwrap_or_else(|_| Err(damaged(&path, "the database cannot be read")))?;
        let was_refilled = identities.next.as_deref() == Some(id.as_str());
        if written.revision < last && !was_refilled {
            let problem =
                format!("it is at revision {}, and revision {last} was acknowledged", written.revision);
            return Err(damaged(&path, &problem));
        }
        if was_refilled {
            acknowledged.restart(written.revision).map_err(failed)?;
        }
        if identities.known.as_deref() != Some(id.as_str()) {
            beside::write_id(directory, &id).map_err(failed)?;
        }
        if identities.next.is_some() {
            beside::remove_next_id(directory).map_err(failed)?;
        }
        Ok(Self { db, path, id, acknowledged, written: Mutex::new(written) })
    }

    /// What a commit writes under each key, or removes, and what is stored then.
    fn plan(&self, commit: &Commit, now: Written) -> Result<(Writes, Written), StoreError> {
        let mut writes = Writes::new();
        for change in &commit.changes {
            self.add_change(&mut writes, change)?;
        }
        let mut after = Written { revision: commit.revision, ..now };
        for (key, value) in &writes {
            let Some(count) = after.counts.of(key) else { continue };
            let was = self.db.contains_key(key).map_err(|error| self.failed("read", error))?;
            let put = value.is_some();
            *count = count.saturating_add(u64::from(put && !was)).saturating_sub(u64::from(!put && was));
            after.note(key);
        }
        writes.insert(keys::commit(commit.revision), Some(self.encode(&CommitRecord::from(commit))?));
        if let Some(old) = commit.revision.get().checked_sub(LOG_LENGTH) {
            writes.insert(keys::commit(Revision::new(old)), None);
        }
        writes.extend(after.records());
        Ok((writes, after))
    }

    fn renew_one(&self, underlay: Ipv4Addr, at: Timestamp) -> Result<(), StoreError> {
        let key = keys::lease(underlay);
        let stored = self.db.get(&key).map_err(|error| self.failed("read", error))?;
        let Some(mut lease) = stored.and_then(|bytes| record::decode::<LeaseRecord, Lease>(&bytes)) else {
            return Ok(());
        };
        lease.renewed = lease.renewed.max(at);
        let bytes = self.encode(&LeaseRecord::from(&lease))?;
        self.db.insert(key, bytes).map_err(|error| self.failed("written", error))?;
        Ok(())
    }

    /// Refuses to write on a disk that is nearly full.
    fn check_room(&self) -> Result<(), StoreError> {
        let disk =
            rustix::fs::statvfs(&self.path).map_err(|error| self.failed("read", io::Error::from(error)))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free >= RESERVE_BYTES {
            return Ok(());
        }
        let place = self.path.display().to_string();
        Err(StoreError::NoRoom { place, free: free >> 20, reserve: RESERVE_BYTES >> 20 })
    }

    fn add_change(&self, writes: &mut Writes, change: &Change) -> Result<(), StoreError> {
        match change {
            Change::GroupSet { name, guid, rules } => {
                self.remove_rules(writes, name)?;
                let record = self.encode(&GroupRecord::new(name, guid.as_ref(), rules))?;
                let pieces = (0..).zip(record.chunks(PIECE_BYTES));
                writes
                    .extend(pieces.map(|(number, piece)| (keys::rules(name, number), Some(piece.to_vec()))));
                Ok(())
            }
            Change::GroupRemoved(name) => self.remove_rules(writes, name),
            Change::LeasePut(_)
            | Change::LeaseRemoved(_)
            | Change::PolicyPut(_)
            | Change::PolicyRemoved(_)
            | Change::TagFreed(_)
            | Change::TagHeld(_)
            | Change::Stamped(_)
            | Change::GroupRulesChanged(_)
            | Change::GroupBound(_)
            | Change::GroupUnbound(_) => {
                rows::add(writes, change).map_err(|error| self.failed("written", error))
            }
        }
    }

    /// Removes all pieces of a group's rules, those that this very commit writes, too.
    fn remove_rules(&self, writes: &mut Writes, name: &GroupName) -> Result<(), StoreError> {
        let all = keys::all_rules(name);
        for key in self.db.scan_prefix(&all).keys() {
            writes.insert(key.map_err(|error| self.failed("read", error))?.to_vec(), None);
        }
        let of_group = writes.range_mut(all.clone()..).take_while(|(key, _)| key.starts_with(&all));
        of_group.for_each(|(_, value)| *value = None);
        Ok(())
    }

    /// What makes the database another store with this state alone.
    fn plan_refill(&self, id: &StoreId, state: &State) -> Result<(Writes, Written), StoreError> {
        let mut writes = Writes::new();
        for key in self.db.iter().keys() {
            writes.insert(key.map_err(|error| self.failed("read", error))?.to_vec(), None);
        }
        for change in state.parts().changes() {
            self.add_change(&mut writes, &change)?;
        }
        let mut after = Written { revision: Revision::FIRST, ..Written::NOTHING };
        for (key, _) in writes.iter().filter(|(_, value)| value.is_some()) {
            after.note(key);
            after.counts.of(key).into_iter().for_each(|count| *count = count.saturating_add(1));
        }
        writes.insert(
            keys::commit(after.revision),
            Some(self.encode(&CommitRecord::from(&super::refilled()))?),
        );
        writes.insert(keys::STORE.to_vec(), Some(id.as_str().into()));
        writes.extend(after.records());
        Ok((writes, after))
    }

    /// Writes all of it or nothing; it is on the disk when this returns.
    fn write(&self, writes: Writes) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).map_err(|error| self.failed("written", error))?;
        self.db.flush().map_err(|error| self.failed("written", error))?;
        Ok(())
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

impl Written {
    /// Nothing yet.
    const NOTHING: Self = Self {
        schema: WITHOUT_GROUPS,
        revision: Revision::ZERO,
        counts: Counts { leases: 0, policies: 0, groups: 0, bindings: 0, held_tags: 0, stamps: 0 },
    };

    /// A record is written or removed that is not of every schema.
    fn note(&mut self, key: &[u8]) {
        if key.starts_with(keys::GROUPS) || key.starts_with(keys::BINDINGS) {
            self.schema = self.schema.max(WITH_GROUPS);
        }
        if key.starts_with(keys::HELD_TAGS) || key.starts_with(keys::STAMPS) {
            self.schema = SCHEMA_VERSION;
        }
    }

    /// As it is stored.
    fn records(&self) -> [(Vec<u8>, Option<Vec<u8>>); 3] {
        [
            (keys::SCHEMA.to_vec(), Some(self.schema.to_be_bytes().to_vec())),
            (keys::REVISION.to_vec(), Some(self.revision.get().to_be_bytes().to_vec())),
            (keys::COUNTS.to_vec(), Some(self.counts_record())),
        ]
    }

    fn counts_record(&self) -> Vec<u8> {
        let Counts { leases, policies, groups, bindings, held_tags, stamps } = self.counts;
        let counts = [leases, policies, groups, bindings, held_tags, stamps].map(u64::to_be_bytes);
        let kinds = match self.schema {
            WITHOUT_GROUPS => 2,
            WITH_GROUPS => 4,
            _ => counts.len(),
        };
        counts.into_iter().take(kinds).flatten().collect()
    }
}

impl Counts {
    fn stored(db: &Tree) -> Self {
        let count = |prefix: &[u8]| db.scan_prefix(prefix).count() as u64;
        Self {
            leases: count(keys::LEASES),
            policies: count(keys::POLICIES),
            groups: count(keys::GROUPS),
            bindings: count(keys::BINDINGS),
            held_tags: count(keys::HELD_TAGS),
            stamps: count(keys::STAMPS),
        }
    }

    /// The count that a key's record is part of.
    fn of(&mut self, key: &[u8]) -> Option<&mut u64> {
        let kinds = [
            (keys::LEASES, &mut self.leases),
            (keys::POLICIES, &mut self.policies),
            (keys::GROUPS, &mut self.groups),
            (keys::BINDINGS, &mut self.bindings),
            (keys::HELD_TAGS, &mut self.held_tags),
            (keys::STAMPS, &mut self.stamps),
        ];
        kinds.into_iter().find(|(prefix, _)| key.starts_with(prefix)).map(|(_, count)| count)
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
        self.check_room()?;
        let (writes, now) = self.plan(commit, *written)?;
        self.write(writes)?;
        *written = now;
        self.acknowledged.write(now.revision).map_err(|error| self.failed("written", error))
    }

    fn renew(&self, renewals: &Renewals) -> Result<(), StoreError> {
        // A commit that takes a lease away must not come between reading and writing it.
        let _written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_room()?;
        renewals.iter().try_for_each(|(underlay, at)| self.renew_one(*underlay, *at))
    }

    fn has_room(&self) -> Result<(), StoreError> {
        self.check_room()
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

    fn refill(mut self: Box<Self>, over: Revision, state: &State) -> Result<Box<dyn Store>, StoreError> {
        let written = *self.written.get_mut().unwrap_or_else(PoisonError::into_inner);
        if written.revision != over {
            return Err(StoreError::Conflict { wanted: over, stored: written.revision });
        }
        let id = StoreId::random();
        let (writes, now) = self.plan_refill(&id, state)?;
        beside::write_next_id(&self.path, &id).map_err(|error| self.failed("written", error))?;
        self.write(writes)?;
        self.id = id;
        self.written = Mutex::new(now);
        let noted = self.acknowledged.restart(now.revision);
        let noted = noted.and_then(|()| beside::write_id(&self.path, &self.id));
        let noted = noted.and_then(|()| beside::remove_next_id(&self.path));
        noted.map_err(|error| self.failed("written", error))?;
        Ok(self)
    }
}

fn open_and_read(path: &Path, identities: &Identities) -> Result<(Db, StoreId, Written), StoreError> {
    let db = ::sled::Config::new().path(path.join(DATABASE)).cache_capacity(CACHE_BYTES).open();
    let db = db.map_err(|error| open_error(path, error))?;
    let read = |key: &[u8]| db.get(key).map_err(|error| open_error(path, error));
    match (read(keys::SCHEMA)?, read(keys::STORE)?) {
        (None, None) if identities.known.is_none() && db.is_empty() => {
            let id = create(&db, path)?;
            Ok((db, id, Written::NOTHING))
        }
        (Some(schema), Some(id)) => {
            let schema = check_schema(path, &schema)?;
            let id = check_id(path, &id, identities)?;
            let written = check_content(&db, path, schema)?;
            Ok((db, id, written))
        }
        (Some(_) | None, Some(_) | None) => Err(damaged(path, "its identity is lost")),
    }
}

fn create(db: &Db, path: &Path) -> Result<StoreId, StoreError> {
    let id = StoreId::random();
    let mut batch = Batch::default();
    batch.insert(keys::STORE, id.as_str());
    for (key, value) in Written::NOTHING.records() {
        batch.insert(key, value.unwrap_or_default());
    }
    db.apply_batch(batch).and_then(|()| db.flush()).map_err(|error| failed("written", path, error))?;
    Ok(id)
}

fn check_schema(path: &Path, stored: &[u8]) -> Result<u32, StoreError> {
    let found = stored.try_into().map(u32::from_be_bytes).map_err(|_| damaged(path, "it has no version"))?;
    if (WITHOUT_GROUPS..=SCHEMA_VERSION).contains(&found) {
        return Ok(found);
    }
    Err(StoreError::Schema { place: path.display().to_string(), found, expected: SCHEMA_VERSION })
}

fn check_id(path: &Path, stored: &[u8], identities: &Identities) -> Result<StoreId, StoreError> {
    let stored = std::str::from_utf8(stored).map_err(|_| damaged(path, "its identity is lost"))?;
    if identities.allow(stored) {
        return Ok(StoreId::from(stored));
    }
    let known = identities.known.as_deref().unwrap_or_default();
    Err(damaged(path, &format!("it is store {stored}, and the file store-id beside it says {known}")))
}

/// Reads everything once: what is there must be as much as was written, and make a state.
fn check_content(db: &Tree, path: &Path, schema: u32) -> Result<Written, StoreError> {
    let read = |key: &[u8]| db.get(key).map_err(|error| open_error(path, error));
    let revision = read(keys::REVISION)?;
    let revision = revision.and_then(|bytes| bytes.as_ref().try_into().ok()).map(u64::from_be_bytes);
    let revision = Revision::new(revision.ok_or_else(|| damaged(path, "its revision is lost"))?);
    read_state(db, path, revision)?;
    let written = Written { schema, revision, counts: Counts::stored(db) };
    if read(keys::COUNTS)?.as_deref() != Some(written.counts_record().as_slice()) {
        return Err(damaged(
            path,
            "leases, policies, security groups, routers' tags or when policies changed are missing",
        ));
    }
    let last = db.scan_prefix(keys::COMMITS).keys().next_back().transpose();
    let last = last.map_err(|error| open_error(path, error))?;
    if revision != Revision::ZERO && last.as_deref() != Some(keys::commit(revision).as_slice()) {
        return Err(damaged(path, "the last change is missing"));
    }
    Ok(written)
}

fn read_state(db: &Tree, path: &Path, revision: Revision) -> Result<State, StoreError> {
    let parts = Parts {
        revision,
        leases: read_all::<LeaseRecord, Lease>(db, path, keys::LEASES)?,
        policies: read_all::<PolicyRecord, TaggedPolicy>(db, path, keys::POLICIES)?,
        held: read_all::<HeldRecord, TagHeld>(db, path, keys::HELD_TAGS)?,
        stamp: read_all::<StampRecord, Stamp>(db, path, keys::STAMPS)?.into_iter().next().unwrap_or_default(),
        freed: read_all::<FreedRecord, TagFreed>(db, path, keys::FREED_TAGS)?,
        groups: read_groups(db, path)?,
        bindings: read_all::<BindingRecord, Binding>(db, path, keys::BINDINGS)?,
    };
    State::restore(parts).map_err(|error| StoreError::inconsistent(path.display().to_string(), &error))
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

/// Puts the pieces together again.
fn read_groups(db: &Tree, path: &Path) -> Result<Vec<SecurityGroup>, StoreError> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for entry in db.scan_prefix(keys::GROUPS) {
        let (key, piece) = entry.map_err(|error| failed("read", path, error))?;
        let group = keys::without_piece(&key);
        match records.last_mut() {
            Some((last, record)) if last == group => record.extend_from_slice(&piece),
            Some(_) | None => records.push((group.to_vec(), piece.to_vec())),
        }
    }
    let read = records.iter().map(|(_, bytes)| {
        let group = record::decode::<GroupRecord, SecurityGroup>(bytes);
        group.ok_or_else(|| damaged(path, "a record cannot be read"))
    });
    read.collect()
}

fn open_error(path: &Path, error: ::sled::Error) -> StoreError {
    use ::sled::Error;
    match error {
        // The wording is sled 0.34's own; it gives this case no kind of its own.
        Error::Io(error) if error.to_string().contains("could not acquire lock") => {
            StoreError::InUse { place: path.display().to_string() }
        }
        Error::Corruption { .. } | Error::Unsupported(_) | Error::ReportableBug(_) => {
            damaged(path, &error.to_string())
        }
        Error::Io(_) | Error::CollectionNotFound(_) => failed("opened", path, error),
    }
}

fn damaged(path: &Path, problem: &str) -> StoreError {
    StoreError::Damaged { place: path.display().to_string(), problem: problem.to_owned() }
}

fn failed(
    tried: &'static str,
    path: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Failed { tried, place: path.display().to_string(), source: source.into() }
}

#[cfg(test)]
mod tests;
