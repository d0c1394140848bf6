//! What is particular to a store on a disk: that it is there again, and that it says what is wrong with it.

use super::*;
use crate::store::conformance::{self, commit, lease, policy};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn open_now(directory: &TempDir) -> Result<SledStore, StoreError> {
    SledStore::open(&directory.path().join("data"))
}

/// Opens a store that this process may just have closed: sled lets go of its lock a little later, from another thread.
fn open(directory: &TempDir) -> Result<SledStore, StoreError> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match open_now(directory) {
            Err(StoreError::InUse { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

fn open_error(directory: &TempDir) -> String {
    open(directory).unwrap_err().to_string()
}

/// A store with a lease and a policy, closed.
fn filled() -> (TempDir, StoreId, State) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).unwrap();
    store.commit(&commit(1, vec![Change::LeasePut(lease(1))])).unwrap();
    store.commit(&commit(2, vec![Change::PolicyPut(policy("a", "b", [1, 2]))])).unwrap();
    (directory, store.id(), store.snapshot().unwrap())
}

/// Changes the closed store behind its back.
fn tamper(directory: &TempDir, change: impl FnOnce(&Db)) {
    let path = directory.path().join("data/store");
    let deadline = Instant::now() + Duration::from_secs(10);
    let attempts = std::iter::repeat_with(|| ::sled::open(&path)).take_while(|_| Instant::now() < deadline);
    let db = attempts.flatten().next().unwrap();
    change(&db);
    db.flush().unwrap();
}

#[test]
fn conforms() {
    let mut directories = Vec::new();
    conformance::all(&mut || {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory).unwrap();
        directories.push(directory);
        Box::new(store)
    });
}

#[test]
fn a_store_that_is_opened_again_is_the_same() {
    let (directory, id, state) = filled();
    let store = open(&directory).unwrap();
    assert_eq!((store.id(), store.snapshot().unwrap()), (id, state));
    assert!(matches!(store.changes_since(Revision::ZERO), Ok(Since::Commits(commits)) if commits.len() == 2));
    store.commit(&commit(3, vec![Change::LeaseRemoved(lease(1))])).unwrap();
}

#[test]
fn one_process_at_a_time() {
    let (directory, ..) = filled();
    let _store = open(&directory).unwrap();
    let error = open_now(&directory).unwrap_err().to_string();
    assert!(error.contains("data is in use by another process; one controller at a time"), "{error}");
}

#[test]
fn another_schema_is_refused_and_left_alone() {
    let (directory, ..) = filled();
    tamper(&directory, |db| drop(db.insert(keys::SCHEMA, &9_u32.to_be_bytes()).unwrap()));
    let error = open_error(&directory);
    assert!(error.ends_with("has schema version 9; this controller reads version 1"), "{error}");
}

#[test]
fn what_is_missing_is_noticed() {
    type Damage = fn(&Db);
    let cases: [(Damage, &str); 8] = [
        (|db| drop(db.remove(keys::lease(lease(1).underlay)).unwrap()), "leases or policies are missing"),
        (|db| drop(db.remove(keys::policy(&policy("a", "b", [1, 2]).policy)).unwrap()), "are missing"),
        (|db| drop(db.remove(keys::commit(Revision::new(2))).unwrap()), "the last change is missing"),
        (|db| drop(db.remove(keys::REVISION).unwrap()), "its revision is lost"),
        (|db| drop(db.remove(keys::STORE).unwrap()), "its identity is lost"),
        (|db| drop(db.insert(keys::STORE, "another").unwrap()), "it is store another, and the file store-id"),
        (
            |db| drop(db.insert(keys::lease(lease(1).underlay), &[1, b'x'][..]).unwrap()),
            "a record cannot be read",
        ),
        (|db| db.clear().unwrap(), "its identity is lost"),
    ];
    for (damage, message) in cases {
        let (directory, ..) = filled();
        tamper(&directory, damage);
        let error = open_error(&directory);
        assert!(error.contains(" is damaged: ") && error.contains(message), "{message}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_damaged_database_file_is_never_taken_for_an_empty_store() {
    let (directory, ..) = filled();
    let file = directory.path().join("data/store/db");
    let whole = std::fs::read(&file).unwrap();
    let garbage = vec![0x5a; whole.len()];
    for damaged in [&garbage[..], &[], &whole[..whole.len() / 3]] {
        std::fs::write(&file, damaged).unwrap();
        let error = open_error(&directory);
        assert!(error.contains("data is damaged: "), "{error}");
    }
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let error = SledStore::open(Path::new("/proc/none/data")).unwrap_err();
    assert_eq!(error.to_string(), "the store /proc/none/data cannot be opened");
}
