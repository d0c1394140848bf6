//! Against a real server: that it does what every store does, and that what happens to the connection or the server loses
//! and repeats nothing.

use super::cluster::Cluster;
use super::*;
use crate::domain::Change;
use crate::store::conformance::{self, commit, group_set, lease, policy};
use std::sync::atomic::{AtomicBool, Ordering};

fn open(url: &str) -> Result<PostgresStore, StoreError> {
    PostgresStore::open(&url.parse().unwrap())
}

/// Ends every session of the store's database but the one that asks.
pub(super) const CUT: &str = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'c2c-controller'";

#[test]
fn conforms() {
    let cluster = Cluster::start();
    let mut number = 0;
    conformance::all(&mut || {
        number += 1;
        Box::new(open(&cluster.database(&format!("store_{number}"))).unwrap())
    });
}

#[test]
fn a_store_that_is_opened_again_is_the_same() {
    let cluster = Cluster::start();
    let url = cluster.database("net");
    let store = open(&url).unwrap();
    store.commit(&commit(1, vec![Change::LeasePut(lease(1)), group_set("web", "80")])).unwrap();
    store.commit(&commit(2, vec![Change::PolicyPut(policy("a", "b", [1, 2]))])).unwrap();
    let (id, state) = (store.id(), store.snapshot().unwrap());
    drop(store);
    let store = open(&url).unwrap();
    assert_eq!((store.id(), store.snapshot().unwrap()), (id, state));
    assert!(matches!(store.changes_since(Revision::ZERO), Ok(Since::Commits(commits)) if commits.len() == 2));
}

#[test]
fn a_store_that_others_have_is_not_refilled() {
    let cluster = Cluster::start();
    let url = cluster.database("net");
    let (mine, other) = (open(&url).unwrap(), open(&url).unwrap());
    let refused = Box::new(mine).refill(Revision::ZERO, &State::default()).unwrap_err().to_string();
    assert!(refused.ends_with("/net is in use by another process; end that first"), "{refused}");
    drop(other);
    let alone = Box::new(open(&url).unwrap());
    alone.refill(Revision::ZERO, &State::default()).unwrap();
}

#[test]
fn a_duty_is_one_controllers_until_it_ends() {
    let cluster = Cluster::start();
    let url = cluster.database("net");
    let (first, second) = (open(&url).unwrap(), open(&url).unwrap());
    let mut leading = first.lead(Duty::ImportGroups).unwrap().unwrap();
    assert!(second.lead(Duty::ImportGroups).unwrap().is_none());
    assert!(second.lead(Duty::CleanPolicies).unwrap().is_some(), "another duty");
    assert!(leading.still());
    cluster.client_of("net").execute(CUT, &[]).unwrap();
    assert!(!leading.still(), "the connection that held it is gone");
    assert!(second.lead(Duty::ImportGroups).unwrap().is_some());
}

#[test]
fn what_the_server_refuses_is_not_written_and_said_so() {
    let cluster = Cluster::start();
    let store = open(&cluster.database("net")).unwrap();
    let mut client = cluster.client_of("net");
    client.batch_execute("ALTER TABLE c2c.commits ADD CONSTRAINT never CHECK (revision < 0)").unwrap();
    let refused = store.commit(&commit(1, vec![Change::LeasePut(lease(1))])).unwrap_err();
    assert!(refused.is_definite(), "{refused:?}");
    assert_eq!(store.snapshot().unwrap(), State::default());
    client.batch_execute("ALTER TABLE c2c.commits DROP CONSTRAINT never").unwrap();
    store.commit(&commit(1, vec![Change::LeasePut(lease(1))])).unwrap();
}

#[test]
fn another_schema_and_what_is_damaged_is_refused() {
    let cluster = Cluster::start();
    let url = cluster.database("net");
    let store = open(&url).unwrap();
    store.commit(&commit(1, vec![Change::LeasePut(lease(1))])).unwrap();
    let mut client = cluster.client_of("net");
    client.execute("UPDATE c2c.records SET value = '\\x0178'", &[]).unwrap();
    let error = store.snapshot().unwrap_err().to_string();
    assert!(error.contains("/net is damaged: a record cannot be read"), "{error}");
    client.execute("DELETE FROM c2c.commits", &[]).unwrap();
    let error = store.changes_since(Revision::ZERO).unwrap_err().to_string();
    assert!(error.contains("/net is damaged: commits are missing"), "{error}");
    drop(store);
    client.execute("UPDATE c2c.about SET schema = 9", &[]).unwrap();
    let error = open(&url).unwrap_err().to_string();
    assert!(error.ends_with("has schema version 9; this controller reads versions up to 2"), "{error}");
}

#[test]
fn a_database_of_before_is_brought_up_to_date_with_what_is_in_it() {
    let cluster = Cluster::start();
    let url = cluster.database("net");
    let mut client = cluster.client_of("net");
    client.batch_execute(include_str!("migrations/0001_store.sql")).unwrap();
    let lease = r#"{"cell":"cell-1","underlay":"192.0.2.1","block":"10.255.1.0/24","renewed":1000}"#;
    let record = [b"\x01", lease.as_bytes()].concat();
    let key: &[u8] = b"l/\xc0\x00\x02\x01";
    client.execute("INSERT INTO c2c.records (key, value) VALUES ($1, $2)", &[&key, &record]).unwrap();
    let id: String = client.query_one("SELECT store FROM c2c.about", &[]).unwrap().get(0);
    for _ in 0..2 {
        let store = open(&url).unwrap();
        assert_eq!((store.id().as_str(), store.snapshot().unwrap().leases().count()), (id.as_str(), 1));
        let schema: i32 = client.query_one("SELECT schema FROM c2c.about", &[]).unwrap().get(0);
        assert_eq!(schema, 2, "a controller of before must not think that it could");
    }
}

#[test]
fn a_writer_whose_revision_was_taken_meanwhile_changes_nothing() {
    let cluster = Cluster::start();
    let store = open(&cluster.database("net")).unwrap();
    store.commit(&commit(1, vec![Change::LeasePut(lease(1))])).unwrap();
    cluster.client_of("net").execute("UPDATE c2c.about SET revision = 2", &[]).unwrap();
    let refused = store.commit(&commit(2, vec![Change::LeasePut(lease(2))])).unwrap_err();
    assert_eq!(refused.to_string(), "revision 2 does not follow the stored revision 2");
    assert_eq!(store.snapshot().unwrap().leases().count(), 1);
}

#[test]
fn a_write_that_is_repeated_is_written_once() {
    let cluster = Cluster::start();
    let store = open(&cluster.database("net")).unwrap();
    let write = store.write_of(&commit(1, vec![Change::LeasePut(lease(1))])).unwrap();
    let twice = store.ask("written", move |connection| {
        let first = connection.retry("written", |session| session.write(&write))?;
        Ok((first, connection.retry("written", |session| session.write(&write))?))
    });
    assert_eq!(twice.unwrap(), (Written::Yes, Written::Yes));
    let other = store.commit(&commit(1, vec![Change::LeasePut(lease(1))]));
    assert!(matches!(other, Err(StoreError::Conflict { .. })), "the same words of another writer: {other:?}");
}

#[test]
fn connections_that_are_cut_lose_and_repeat_nothing() {
    let cluster = Cluster::start();
    let store = open(&cluster.database("net")).unwrap();
    let mut client = cluster.client_of("net");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                client.execute(CUT, &[]).unwrap();
                thread::sleep(Duration::from_millis(5));
            }
        });
        (1..=100_u8).for_each(|n| store.commit(&commit(n.into(), vec![Change::LeasePut(lease(n))])).unwrap());
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(store.snapshot().unwrap().leases().count(), 100);
    assert!(
        matches!(store.changes_since(Revision::ZERO), Ok(Since::Commits(commits)) if commits.len() == 100)
    );
}

#[test]
fn a_server_that_crashes_keeps_what_was_acknowledged_and_is_found_again() {
    let mut cluster = Cluster::start();
    let store = open(&cluster.database("net")).unwrap();
    store.commit(&commit(1, vec![Change::LeasePut(lease(1))])).unwrap();
    cluster.crash();
    let written = thread::scope(|scope| {
        let writer = scope.spawn(|| store.commit(&commit(2, vec![Change::LeasePut(lease(2))])));
        cluster.start_again();
        writer.join().unwrap()
    });
    written.unwrap();
    assert_eq!(store.snapshot().unwrap().leases().count(), 2);
}

#[test]
fn a_commit_that_waits_for_a_standby_that_is_away_is_not_waited_for() {
    let cluster = Cluster::start();
    let url = cluster.database("net").parse().unwrap();
    let store = PostgresStore::open_with(&url, Duration::from_secs(1)).unwrap();
    let mut client = cluster.client_of("net");
    let mut standby = |name: &str| {
        client.execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"), &[]).unwrap();
        client.execute("SELECT pg_reload_conf()", &[]).unwrap();
    };
    standby("away");
    // Until the server has read its configuration again a commit does not wait.
    let mut numbers = 1_u8..;
    let (last, error) = loop {
        let n = numbers.next().unwrap();
        match store.commit(&commit(n.into(), vec![Change::LeasePut(lease(n))])) {
            Ok(()) => thread::sleep(Duration::from_millis(20)),
            Err(error) => break (n, error),
        }
    };
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(!error.is_definite() && said.contains("synchronous standby"), "{error}: {said}");
    assert!(store.silent_for() >= Duration::from_secs(1));
    assert!(store.others_since(Revision::ZERO).is_err(), "nor is who asks behind it");
    standby("");
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.silent_for() > Duration::ZERO {
        assert!(Instant::now() < deadline, "the commit goes on when nobody waits for the standby");
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(store.snapshot().unwrap().leases().count(), usize::from(last), "it was written all the same");
}

#[test]
fn another_store_or_an_older_one_is_not_gone_on_with() {
    let cluster = Cluster::start();
    let url = cluster.database("net");
    for (change, problem) in [
        ("UPDATE c2c.about SET revision = 0", "it is at revision 0, and revision 1 was acknowledged"),
        ("UPDATE c2c.about SET store = 'other', revision = 0", "is store other now"),
    ] {
        let mut client = cluster.client_of("net");
        client.batch_execute("DROP SCHEMA IF EXISTS c2c CASCADE").unwrap();
        let store = open(&url).unwrap();
        store.commit(&commit(1, vec![Change::LeasePut(lease(1))])).unwrap();
        client.batch_execute(change).unwrap();
        client.execute(CUT, &[]).unwrap();
        let error = store.snapshot().unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}
