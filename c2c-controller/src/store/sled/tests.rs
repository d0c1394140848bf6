//! What is particular to a store on a disk: that it is there again, and that it says what is wrong with it.

use super::*;
use crate::domain::{AppId, Tag};
use crate::store::conformance::{self, binding, commit, group_set, lease, policy};
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
    let router = TagHeld { tag: Tag::new(9).unwrap(), app: AppId::parse("app", "router").unwrap() };
    let web = vec![
        group_set("web", "80"),
        Change::GroupBound(binding("web", "running", "s")),
        Change::TagHeld(router),
        Change::Stamped(Stamp(7)),
    ];
    store.commit(&commit(3, web)).unwrap();
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
    assert!(matches!(store.changes_since(Revision::ZERO), Ok(Since::Commits(commits)) if commits.len() == 3));
    store.commit(&commit(4, vec![Change::LeaseRemoved(lease(1))])).unwrap();
}

#[test]
fn one_process_at_a_time() {
    let (directory, ..) = filled();
    let _store = open(&directory).unwrap();
    let error = open_now(&directory).unwrap_err().to_string();
    assert!(error.contains("data is in use by another process; end that first"), "{error}");
}

#[test]
fn another_schema_is_refused_and_left_alone() {
    let (directory, ..) = filled();
    tamper(&directory, |db| drop(db.insert(keys::SCHEMA, &9_u32.to_be_bytes()).unwrap()));
    let error = open_error(&directory);
    assert!(error.ends_with("has schema version 9; this controller reads versions up to 3"), "{error}");
}

/// Byte for byte what version 1 wrote: a lease, a policy and a freed tag, at revision 3.
#[test]
fn a_store_of_before_security_groups_opens_and_becomes_another_with_the_first() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("data")).unwrap();
    let record = |json: &str| [b"\x01", json.as_bytes()].concat();
    let lease_json = r#"{"cell":"cell-1","underlay":"192.0.2.1","block":"10.255.1.0/24","renewed":1000}"#;
    let policy_json = r#"{"source":"a","destination":"b","protocol":6,"start":7000,"end":7010,"source_tag":1,"destination_tag":2}"#;
    let freed_json = r#"{"tag":3,"app":"c","at":5}"#;
    let commits = [("lease_put", lease_json), ("policy_put", policy_json), ("tag_freed", freed_json)];
    tamper(&directory, |db| {
        db.insert("m/schema", &[0, 0, 0, 1]).unwrap();
        db.insert("m/store", "0123456789abcdef0123456789abcdef").unwrap();
        db.insert("m/revision", &3_u64.to_be_bytes()).unwrap();
        db.insert("m/counts", [1_u64.to_be_bytes(), 1_u64.to_be_bytes()].concat()).unwrap();
        db.insert(b"l/\xc0\x00\x02\x01", record(lease_json)).unwrap();
        db.insert(b"p/a\0b\0\x06\x1b\x58\x1b\x62", record(policy_json)).unwrap();
        db.insert(b"t/\0\x03", record(freed_json)).unwrap();
        for (revision, (change, json)) in (1_u64..).zip(commits) {
            let key = [b"c/", &revision.to_be_bytes()[..]].concat();
            let commit = format!(r#"{{"revision":{revision},"changes":[{{"{change}":{json}}}]}}"#);
            db.insert(key, record(&commit)).unwrap();
        }
    });
    let store = open(&directory).unwrap();
    let state = store.snapshot().unwrap();
    assert_eq!((state.leases().count(), state.policies().count(), state.freed_tags().count()), (1, 1, 1));
    assert!(matches!(store.changes_since(Revision::ZERO), Ok(Since::Commits(commits)) if commits.len() == 3));
    store.commit(&commit(4, vec![Change::PolicyPut(policy("a", "d", [1, 4]))])).unwrap();
    drop(store);
    let about = |key: &[u8]| {
        let mut found = None;
        tamper(&directory, |db| found = db.get(key).unwrap().map(|bytes| bytes.to_vec()));
        found.unwrap()
    };
    assert_eq!(
        (about(keys::SCHEMA), about(keys::COUNTS).len()),
        (vec![0, 0, 0, 1], 16),
        "still readable by that one"
    );
    let store = open(&directory).unwrap();
    store.commit(&commit(5, vec![group_set("web", "80")])).unwrap();
    let state = store.snapshot().unwrap();
    drop(store);
    assert_eq!(
        (about(keys::SCHEMA), about(keys::COUNTS).len()),
        (vec![0, 0, 0, 2], 32),
        "that one must not think that it could"
    );
    let store = open(&directory).unwrap();
    assert_eq!(store.snapshot().unwrap(), state);
    // What a policy's change is told with.
    store.commit(&commit(6, vec![Change::Stamped(Stamp(9))])).unwrap();
    let state = store.snapshot().unwrap();
    drop(store);
    assert_eq!((about(keys::SCHEMA), about(keys::COUNTS).len()), (vec![0, 0, 0, 3], 48));
    assert_eq!(open(&directory).unwrap().snapshot().unwrap(), state);
}

#[test]
fn what_is_missing_is_noticed() {
    type Damage = fn(&Db);
    let cases: [(Damage, &str); 12] = [
        (
            |db| drop(db.remove(keys::lease(lease(1).underlay)).unwrap()),
            "leases, policies, security groups, routers' tags or when policies changed are missing",
        ),
        (|db| drop(db.remove(keys::policy(&policy("a", "b", [1, 2]).policy)).unwrap()), "are missing"),
        (|db| drop(db.remove(keys::binding(&binding("web", "running", "s"))).unwrap()), "are missing"),
        (
            |db| drop(db.remove(keys::rules(&binding("web", "running", "s").group, 0)).unwrap()),
            "security group web is bound to space s for running and does not exist",
        ),
        (|db| drop(db.remove(keys::held_tag(Tag::new(9).unwrap())).unwrap()), "are missing"),
        (|db| drop(db.remove(keys::STAMP).unwrap()), "when policies changed are missing"),
        (|db| drop(db.remove(keys::commit(Revision::new(3))).unwrap()), "the last change is missing"),
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

#[test]
fn a_store_that_was_refilled_or_interrupted_in_it_is_opened_again() {
    let (directory, id, state) = filled();
    let beside = |name: &str| directory.path().join("data").join(name);
    let before = std::fs::read(beside("acknowledged")).unwrap();
    // Told what it would become, and never did.
    std::fs::write(beside("next-store-id"), "another\n").unwrap();
    assert_eq!(open(&directory).unwrap().snapshot().unwrap(), state);
    assert!(!beside("next-store-id").exists());

    let store: Box<dyn Store> = Box::new(open(&directory).unwrap());
    let empty = State::default();
    let refilled = store.refill(state.revision(), &empty).unwrap().id();
    let again = open(&directory).unwrap();
    assert_eq!((again.id(), again.snapshot().unwrap().revision()), (refilled.clone(), Revision::FIRST));
    drop(again);
    // Became it, and could not say so.
    std::fs::write(beside("next-store-id"), refilled.as_str()).unwrap();
    std::fs::write(beside("store-id"), id.as_str()).unwrap();
    std::fs::write(beside("acknowledged"), before).unwrap();
    assert_eq!(open(&directory).unwrap().id(), refilled);
    assert_eq!(open(&directory).unwrap().id(), refilled);
    std::fs::write(beside("store-id"), "another").unwrap();
    assert!(open_error(&directory).contains("the file store-id beside it says another"));
}
