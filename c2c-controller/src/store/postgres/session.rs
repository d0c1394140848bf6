//! One connection to the database, and what is said on it. A session holds the store's advisory lock as long as it lives,
//! so at most one controller has the store; and a session that got the lock knows that nothing of an earlier one is still
//! under way, because the server lets go of a lock only after its session's last transaction has ended.

use super::url::PostgresUrl;
use crate::domain::Revision;
use crate::store::rows::Writes;
use crate::store::{LOG_LENGTH, StoreError, StoreId};
use postgres::error::SqlState;
use postgres::types::ToSql;
use postgres::{Client, IsolationLevel, NoTls, Statement, Transaction};
use std::thread;
use std::time::{Duration, Instant};

/// Of the tables: the number of the last migration.
pub(super) const SCHEMA_VERSION: u32 = 1;

/// Each brings the tables from the version of its place to the next and says so in `c2c.about`. What is listed here once
/// is never changed.
const MIGRATIONS: [&str; SCHEMA_VERSION as usize] = [include_str!("migrations/0001_store.sql")];

/// "c2c-ctl1" in ASCII. Advisory locks are a database's own, so each database can be one store.
const LOCK: i64 = 0x6332_632d_6374_6c31;

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
    INSERT INTO c2c.commits (revision, writer, record) SELECT $1, $6, $7 FROM advanced";

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
        let mut client = url.config().connect(NoTls).map_err(failed)?;
        client.batch_execute(SETTINGS).map_err(failed)?;
        if !lock(&mut client, patience).map_err(failed)? {
            return Err(StoreError::InUse { place: url.to_string() });
        }
        migrate(&mut client, url)?;
        let about = client.query_one("SELECT store, revision FROM c2c.about", &[]).map_err(failed)?;
        let (store, stored): (&str, i64) = (about.get(0), about.get(1));
        let (store, revision) = (StoreId::from(store), revision(stored));
        let commit = client.prepare(COMMIT).map_err(failed)?;
        Ok(Self { client, commit, store, revision })
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
        let mut transaction = reading(&mut self.client)?;
        let revision = stored_revision(&mut transaction)?;
        let commits = "SELECT record FROM c2c.commits WHERE revision > $1 ORDER BY revision";
        let rows = transaction.query(commits, &[&number(after)])?;
        Ok((revision, rows.iter().map(|row| row.get(0)).collect()))
    }

    /// Replaces a record by what is made of it; nothing when there is none. Its last seconds may be lost with the server,
    /// so nobody waits for the disk.
    pub(super) fn replace(
        &mut self,
        key: &[u8],
        change: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<(), postgres::Error> {
        let mut transaction = self.client.transaction()?;
        transaction.batch_execute("SET LOCAL synchronous_commit = off")?;
        let stored = "SELECT value FROM c2c.records WHERE key = $1 FOR UPDATE";
        let Some(row) = transaction.query_opt(stored, &[&key])? else { return Ok(()) };
        if let Some(value) = change(row.get(0)) {
            transaction.execute("UPDATE c2c.records SET value = $2 WHERE key = $1", &[&key, &value])?;
        }
        transaction.commit()
    }
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

pub(super) fn failed(tried: &'static str, url: &PostgresUrl, error: postgres::Error) -> StoreError {
    StoreError::Failed { tried, place: url.to_string(), source: error.into() }
}

fn lock(client: &mut Client, patience: Duration) -> Result<bool, postgres::Error> {
    let deadline = Instant::now() + patience;
    loop {
        let locked = client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])?.get(0);
        if locked || Instant::now() >= deadline {
            return Ok(locked);
        }
        thread::sleep(LOCK_PAUSE);
    }
}

/// Runs with the lock held, so nobody else does it meanwhile; each migration whole or not at all.
fn migrate(client: &mut Client, url: &PostgresUrl) -> Result<(), StoreError> {
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
