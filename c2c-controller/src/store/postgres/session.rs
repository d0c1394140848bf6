//! One connection to the database, and what is said on it. A session holds the store's advisory lock, shared with those of
//! other controllers, as long as it lives: so whoever wants the store for himself is refused while anybody has it.
//!
//! A commit may be under way on the server when its connection is lost. It needs the one row of `c2c.about` at the revision
//! before its own, and every commit locks that row: so when another session asks again for the same commit, either that
//! waits for the first to end and finds it written, by its writer's number, or it writes it, and the first, whenever the
//! server comes to it, finds another revision and writes nothing.

use super::url::PostgresUrl;
use crate::domain::Revision;
use crate::store::rows::Writes;
use crate::store::{LOG_LENGTH, StoreError, StoreId};
use postgres::error::SqlState;
use postgres::types::ToSql;
use postgres::{Client, IsolationLevel, NoTls, Statement, Transaction};
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

/// Of the tables: the number of the last migration.
pub(super) const SCHEMA_VERSION: u32 = 2;

/// Each brings the tables from the version of its place to the next and says so in `c2c.about`. What is listed here once
/// is never changed.
const MIGRATIONS: [&str; SCHEMA_VERSION as usize] =
    [include_str!("migrations/0001_store.sql"), include_str!("migrations/0002_stamps.sql")];

/// "c2c-ctl1" in ASCII. Advisory locks are a database's own, so each database can be one store.
const LOCK: i64 = 0x6332_632d_6374_6c31;
/// Held by who brings the tables up to date.
const MIGRATION_LOCK: i64 = LOCK + 1;
/// Duties have the numbers from here.
pub(super) const FIRST_DUTY_LOCK: i64 = LOCK + 2;

/// How often the lock is asked for while another session has it.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// How many records a refilled store is given in one statement, so that none takes long.
const REFILL_RECORDS: usize = 10_000;

/// A statement that takes longer is given up; the server notices within 25 s that a client is gone, and frees its lock;
/// and what is acknowledged is on the disk, whatever the server's own settings are.
const SETTINGS: &str = "
    SET statement_timeout = '30s';
    SET idle_in_transaction_session_timeout = '30s';
    SET tcp_keepalives_idle = 10;
    SET tcp_keepalives_interval = 5;
    SET tcp_keepalives_count = 3;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';";

/// All of a commit in one statement, which is a transaction. Nothing is written where the revision does not follow.
const COMMIT: &str = "
    WITH advanced AS (UPDATE c2c.about SET revision = $1 WHERE revision = $1::bigint - 1 RETURNING revision),
    removed AS (DELETE FROM c2c.records USING advanced WHERE key = ANY ($2::bytea[])),
    put AS (
        INSERT INTO c2c.records (key, value)
        SELECT row.key, row.value FROM advanced, unnest($3::bytea[], $4::bytea[]) AS row (key, value)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value
    ),
    forgotten AS (DELETE FROM c2c.commits USING advanced WHERE commits.revision <= $1::bigint - $5::bigint)
    INSERT INTO c2c.commits (revision, writer, record) SELECT $1, $6, $7 FROM advanced
    RETURNING pg_notify('c2c', revision::text)";

/// A commit as it is written.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) revision: Revision,
    pub(super) records: Writes,
    /// The commit as watchers are told of it.
    pub(super) told: Vec<u8>,
    /// Tells this write from all others, of this process or another.
    pub(super) writer: [u8; 16],
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is there, from now or from an attempt whose answer was lost.
    Yes,
    /// It does not follow this revision.
    No(Revision),
}

/// A key and a value.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// What is stored, as of one moment.
pub(super) struct Later {
    pub(super) revision: Revision,
    pub(super) commits: Vec<Vec<u8>>,
    pub(super) records: Vec<Row>,
}

/// A connection that has the lock.
pub(super) struct Session {
    client: Client,
    commit: Statement,
    pub(super) store: StoreId,
    /// What was stored when it began.
    pub(super) revision: Revision,
}

impl Session {
    /// Connects, takes the lock, waiting for it as long as is said, and brings the tables up to date.
    pub(super) fn open(url: &PostgresUrl, patience: Duration) -> Result<Self, StoreError> {
        let failed = |error| failed("opened", url, error);
        let mut client = connect(url).map_err(failed)?;
        if !lock_shared(&mut client, patience).map_err(failed)? {
            return Err(StoreError::InUse { place: url.to_string() });
        }
        migrate(&mut client, url)?;
        let about = client.query_one("SELECT store, revision FROM c2c.about", &[]).map_err(failed)?;
        let (store, stored): (&str, i64) = (about.get(0), about.get(1));
        let (store, revision) = (StoreId::from(store), revision(stored));
        let commit = client.prepare(COMMIT).map_err(failed)?;
        Ok(Self { client, commit, store, revision })
    }

    /// Takes the store for this session alone, as long as it lives, if no other one has it.
    pub(super) fn alone(&mut self) -> Result<bool, postgres::Error> {
        Ok(self.client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])?.get(0))
    }

    /// The stored revision.
    pub(super) fn stored_revision(&mut self) -> Result<Revision, postgres::Error> {
        Ok(revision(self.client.query_one("SELECT revision FROM c2c.about", &[])?.get(0)))
    }

    /// Writes a commit, once however often it is asked to.
    pub(super) fn write(&mut self, write: &Write) -> Result<Written, postgres::Error> {
        let number = number(write.revision);
        let removed: Vec<&[u8]> = write
            .records
            .iter()
            .filter(|(_, value)| value.is_none())
            .map(|(key, _)| key.as_slice())
            .collect();
        let put = write.records.iter().filter_map(|(key, value)| Some((key.as_slice(), value.as_deref()?)));
        let (keys, values): (Vec<&[u8]>, Vec<&[u8]>) = put.unzip();
        let log_length = i64::try_from(LOG_LENGTH).unwrap_or(i64::MAX);
        let writer = write.writer.as_slice();
        let rows = self
            .client
            .execute(&self.commit, &[&number, &removed, &keys, &values, &log_length, &writer, &write.told])?;
        if rows == 1 {
            return Ok(Written::Yes);
        }
        let ours = "SELECT 1 FROM c2c.commits WHERE revision = $1 AND writer = $2";
        if self.client.query_opt(ours, &[&number, &writer])?.is_some() {
            return Ok(Written::Yes);
        }
        let stored = self.client.query_one("SELECT revision FROM c2c.about", &[])?;
        Ok(Written::No(revision(stored.get(0))))
    }

    /// Makes it another store, which holds this write alone, in one transaction.
    pub(super) fn refill(
        &mut self,
        over: Revision,
        store: &StoreId,
        write: &Write,
    ) -> Result<Written, postgres::Error> {
        let mut transaction = self.client.transaction()?;
        let becomes = "UPDATE c2c.about SET store = $1, revision = $2 WHERE revision = $3";
        let about = [&store.as_str() as &(dyn ToSql + Sync), &number(write.revision), &number(over)];
        if transaction.execute(becomes, &about)? == 0 {
            return Ok(Written::No(stored_revision(&mut transaction)?));
        }
        transaction.batch_execute("DELETE FROM c2c.records; DELETE FROM c2c.commits")?;
        let put = "INSERT INTO c2c.records (key, value) SELECT * FROM unnest($1::bytea[], $2::bytea[])";
        let put = transaction.prepare(put)?;
        let mut records =
            write.records.iter().filter_map(|(key, value)| Some((key.as_slice(), value.as_deref()?)));
        loop {
            let (keys, values): (Vec<&[u8]>, Vec<&[u8]>) = records.by_ref().take(REFILL_RECORDS).unzip();
            if keys.is_empty() {
                break;
            }
            transaction.execute(&put, &[&keys, &values])?;
        }
        let commit = "INSERT INTO c2c.commits (revision, writer, record) VALUES ($1, $2, $3)";
        transaction.execute(commit, &[&number(write.revision), &write.writer.as_slice(), &write.told])?;
        transaction.commit()?;
        Ok(Written::Yes)
    }

    /// All records, at one revision.
    pub(super) fn records(&mut self) -> Result<(Revision, Vec<Row>), postgres::Error> {
        let mut transaction = reading(&mut self.client)?;
        let revision = stored_revision(&mut transaction)?;
        let rows = transaction.query("SELECT key, value FROM c2c.records ORDER BY key", &[])?;
        Ok((revision, rows.iter().map(|row| (row.get(0), row.get(1))).collect()))
    }

    /// The stored revision, and the commits after another one, in order.
    pub(super) fn commits_after(
        &mut self,
        after: Revision,
    ) -> Result<(Revision, Vec<Vec<u8>>), postgres::Error> {
        commits_after(&mut reading(&mut self.client)?, after)
    }

    /// The stored revision, the commits after another one, in order, and the records of these kinds as they are then.
    pub(super) fn commits_and_records_after(
        &mut self,
        after: Revision,
        prefix: &[u8],
    ) -> Result<Later, postgres::Error> {
        let mut transaction = reading(&mut self.client)?;
        let (revision, commits) = commits_after(&mut transaction, after)?;
        Ok(Later { revision, commits, records: records_under(&mut transaction, prefix)? })
    }

    /// The records whose keys begin so.
    pub(super) fn records_of(&mut self, prefix: &[u8]) -> Result<Vec<Row>, postgres::Error> {
        let mut transaction = reading(&mut self.client)?;
        records_under(&mut transaction, prefix)
    }

    /// Replaces records by what is made of them, each by itself; nothing where there is none. Their last seconds may be lost
    /// with the server, so nobody waits for the disk.
    pub(super) fn replace(
        &mut self,
        keys: &[Vec<u8>],
        change: impl Fn(&[u8], &[u8]) -> Option<Vec<u8>>,
    ) -> Result<(), postgres::Error> {
        let mut transaction = self.client.transaction()?;
        transaction.batch_execute("SET LOCAL synchronous_commit = off")?;
        // A commit locks this row and then its records; who does it in the same order never waits for who waits for him.
        transaction.execute("SELECT FROM c2c.about FOR SHARE", &[])?;
        let stored = "SELECT key, value FROM c2c.records WHERE key = ANY ($1) ORDER BY key FOR UPDATE";
        let rows = transaction.query(stored, &[&keys])?;
        let changed = rows.iter().filter_map(|row| {
            let (key, value): (Vec<u8>, Vec<u8>) = (row.get(0), row.get(1));
            let value = change(&key, &value)?;
            Some((key, value))
        });
        let (keys, values): (Vec<Vec<u8>>, Vec<Vec<u8>>) = changed.unzip();
        let put = "UPDATE c2c.records SET value = new.value FROM unnest($1::bytea[], $2::bytea[]) AS new (key, value)
            WHERE records.key = new.key";
        transaction.execute(put, &[&keys, &values])?;
        transaction.commit()
    }
}

/// A connection as all of ours are set up.
pub(super) fn connect(url: &PostgresUrl) -> Result<Client, postgres::Error> {
    let mut client = url.config().connect(NoTls)?;
    client.batch_execute(SETTINGS)?;
    Ok(client)
}

/// The connection or the server is gone, and another attempt may find it again: everything that is not the server's answer
/// to what was asked, and those of its answers that say so.
pub(super) fn is_lost(error: &postgres::Error) -> bool {
    let gone = [
        &SqlState::ADMIN_SHUTDOWN,
        &SqlState::CRASH_SHUTDOWN,
        &SqlState::CANNOT_CONNECT_NOW,
        &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        // It is a replica now: another host of the database has become the primary.
        &SqlState::READ_ONLY_SQL_TRANSACTION,
    ];
    error.code().is_none_or(|code| gone.contains(&code) || code.code().starts_with("08"))
}

/// A connection that may be dropped where no thread may block, as on a runtime: it is ended elsewhere.
pub(super) struct Droppable(Option<Client>);

impl Droppable {
    pub(super) fn new(client: Client) -> Self {
        Self(Some(client))
    }

    /// Does something with it; nothing only while it is being dropped.
    pub(super) fn with<T>(&mut self, job: impl FnOnce(&mut Client) -> T) -> Option<T> {
        self.0.as_mut().map(job)
    }
}

impl Drop for Droppable {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            // Without a thread it is dropped here.
            let _ = thread::Builder::new().name("postgres-end".to_owned()).spawn(move || drop(client));
        }
    }
}

impl fmt::Debug for Droppable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Droppable").finish_non_exhaustive()
    }
}

/// What an error means that ended an attempt: when the server answered, its transaction has ended with it.
pub(super) fn answered(tried: &'static str, url: &PostgresUrl, error: postgres::Error) -> StoreError {
    match tried {
        "written" if !is_lost(&error) => {
            StoreError::NotTaken { place: url.to_string(), source: error.into() }
        }
        _ => failed(tried, url, error),
    }
}

pub(super) fn failed(tried: &'static str, url: &PostgresUrl, error: postgres::Error) -> StoreError {
    StoreError::Failed { tried, place: url.to_string(), source: error.into() }
}

fn lock_shared(client: &mut Client, patience: Duration) -> Result<bool, postgres::Error> {
    let deadline = Instant::now() + patience;
    loop {
        let locked = client.query_one("SELECT pg_try_advisory_lock_shared($1)", &[&LOCK])?.get(0);
        if locked || Instant::now() >= deadline {
            return Ok(locked);
        }
        thread::sleep(LOCK_PAUSE);
    }
}

/// One session at a time does it, each migration whole or not at all.
fn migrate(client: &mut Client, url: &PostgresUrl) -> Result<(), StoreError> {
    let failed = |error| failed("opened", url, error);
    client.execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK]).map_err(failed)?;
    let migrated = migrate_alone(client, url);
    client.execute("SELECT pg_advisory_unlock($1)", &[&MIGRATION_LOCK]).map_err(failed)?;
    migrated
}

fn migrate_alone(client: &mut Client, url: &PostgresUrl) -> Result<(), StoreError> {
    let failed = |error| failed("opened", url, error);
    let found = schema_version(client).map_err(failed)?;
    let place = || url.to_string();
    if found > SCHEMA_VERSION {
        return Err(StoreError::Schema { place: place(), found, expected: SCHEMA_VERSION });
    }
    for script in MIGRATIONS.iter().skip(found as usize) {
        let mut transaction = client.transaction().map_err(failed)?;
        transaction.batch_execute(script).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

/// 0 when there are no tables yet.
fn schema_version(client: &mut Client) -> Result<u32, postgres::Error> {
    let exists = client.query_one("SELECT to_regclass('c2c.about') IS NOT NULL", &[])?;
    if !exists.get::<_, bool>(0) {
        return Ok(0);
    }
    let version: i32 = client.query_one("SELECT schema FROM c2c.about", &[])?.get(0);
    Ok(u32::try_from(version).unwrap_or(u32::MAX))
}

fn reading(client: &mut Client) -> Result<Transaction<'_>, postgres::Error> {
    client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start()
}

fn commits_after(
    transaction: &mut Transaction<'_>,
    after: Revision,
) -> Result<(Revision, Vec<Vec<u8>>), postgres::Error> {
    let revision = stored_revision(transaction)?;
    let commits = "SELECT record FROM c2c.commits WHERE revision > $1 ORDER BY revision";
    let rows = transaction.query(commits, &[&number(after)])?;
    Ok((revision, rows.iter().map(|row| row.get(0)).collect()))
}

fn records_under(transaction: &mut Transaction<'_>, prefix: &[u8]) -> Result<Vec<Row>, postgres::Error> {
    // Every prefix ends with a slash, so the keys that begin so are those up to the next byte.
    let mut end = prefix.to_vec();
    end.extend(std::iter::repeat_n(0xff, 8));
    let rows = transaction.query(
        "SELECT key, value FROM c2c.records WHERE key >= $1 AND key < $2 ORDER BY key",
        &[&prefix, &end],
    )?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn stored_revision(transaction: &mut Transaction<'_>) -> Result<Revision, postgres::Error> {
    Ok(revision(transaction.query_one("SELECT revision FROM c2c.about", &[])?.get(0)))
}

/// The database counts with a sign; half of all revisions are enough.
fn number(revision: Revision) -> i64 {
    i64::try_from(revision.get()).unwrap_or(i64::MAX)
}

fn revision(number: i64) -> Revision {
    Revision::new(u64::try_from(number).unwrap_or_default())
}
