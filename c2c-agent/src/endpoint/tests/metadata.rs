//! The file that tells other programs of the cell about its containers.

use super::{Cell, add, descriptor, settings};
use crate::endpoint::Settings;
use crate::host::testing;
use c2c_proto::agent_api::Add;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use tempfile::TempDir;

const BLOCK: &str = "10.255.1.0/24";

/// A cell that tells, and where.
struct Telling {
    cell: Cell,
    dir: TempDir,
}

impl Telling {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let metadata_file = Some(dir.path().join("store.json"));
        Self { cell: Cell::with(BLOCK, Settings { metadata_file, ..settings() }), dir }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.dir.path().join(format!("store.json{suffix}"))
    }

    fn told(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("")).unwrap()).unwrap()
    }

    fn version(&self) -> u64 {
        fs::read_to_string(self.path("_version")).unwrap().parse().unwrap()
    }

    async fn recovered(self) -> Self {
        Self { cell: self.cell.recovered().await.0, dir: self.dir }
    }
}

fn entry(id: &str, ip: &str) -> Value {
    json!({"handle": id, "ip": ip, "metadata": {"policy_group_id": "frontend"}})
}

#[tokio::test]
async fn containers_are_told_as_they_come_and_go() {
    let (telling, first, second) = (Telling::new(), testing::namespace(), testing::namespace());
    telling.cell.add("one", &first).await.unwrap();
    assert_eq!((telling.told(), telling.version()), (json!({"one": entry("one", "10.255.1.2")}), 2));
    telling.cell.add("two", &second).await.unwrap();
    let both = json!({"one": entry("one", "10.255.1.2"), "two": entry("two", "10.255.1.3")});
    assert_eq!((telling.told(), telling.version()), (both, 3));
    telling.cell.del("one").await.unwrap();
    assert_eq!((telling.told(), telling.version()), (json!({"two": entry("two", "10.255.1.3")}), 4));
    telling.cell.del("two").await.unwrap();
    telling.cell.del("two").await.unwrap();
    assert_eq!((telling.told(), telling.version()), (json!({}), 5));
    let mut names: Vec<_> =
        fs::read_dir(telling.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["store.json", "store.json_lock", "store.json_version"]);
}

#[tokio::test]
async fn metadata_of_any_shape_is_told_whole() {
    let (telling, container) = (Telling::new(), testing::namespace());
    let metadata = json!({"policy_group_id": "a", "ports": "8080, 9090", "log_config": "{\"guid\":\"a\"}", "nested": {"list": [1, null]}});
    let fields: BTreeMap<_, _> = metadata.as_object().unwrap().clone().into_iter().collect();
    let call = Add { metadata: fields, ..add("one", &container) };
    telling.cell.manager.add(call, descriptor(&container)).await.unwrap();
    assert_eq!(telling.told()["one"]["metadata"], metadata);
}

#[tokio::test]
async fn a_start_tells_anew() {
    let (telling, container) = (Telling::new(), testing::namespace());
    telling.cell.add("one", &container).await.unwrap();
    for stale in [
        "",
        "{\"one\":",
        "{\"gone\":{\"handle\":\"gone\",\"ip\":\"10.255.1.9\",\"metadata\":null}}",
        "{\"one\":{\"handle\":\"one\",\"ip\":\"10.255.1.9\",\"metadata\":{\"stale\":\"yes\"}}}",
    ] {
        fs::write(telling.path(""), stale).unwrap();
        let before = telling.version();
        let report = telling.cell.manager.recover().await.unwrap();
        assert_eq!((report.done.len(), report.failed.len()), (1, 0), "{stale}: {report:?}");
        assert_eq!(
            (telling.told(), telling.version()),
            (json!({"one": entry("one", "10.255.1.2")}), before + 1)
        );
    }
    fs::remove_file(telling.path("")).unwrap();
    fs::write(telling.path("_version"), "nonsense").unwrap();
    let telling = telling.recovered().await;
    assert_eq!((telling.told(), telling.version()), (json!({"one": entry("one", "10.255.1.2")}), 2));
    assert_eq!(telling.cell.manager.repair().await.done, [""; 0], "nothing is left to tell");
    assert_eq!(telling.version(), 2);
}

#[tokio::test]
async fn what_others_write_about_a_container_stays() {
    let (telling, first, second) = (Telling::new(), testing::namespace(), testing::namespace());
    telling.cell.add("one", &first).await.unwrap();
    let mut told = telling.told();
    told["one"]["metadata"]["log_config"] = json!("refreshed");
    fs::write(telling.path(""), told.to_string()).unwrap();
    telling.cell.add("two", &second).await.unwrap();
    assert_eq!(telling.told()["one"], told["one"]);
    telling.cell.del("one").await.unwrap();
    telling.cell.add("one", &first).await.unwrap();
    assert_eq!(telling.told()["one"], entry("one", "10.255.1.4"));
}

#[tokio::test]
async fn the_files_keep_their_owner_and_mode() {
    let (telling, container) = (Telling::new(), testing::namespace());
    chown(telling.dir.path(), Some(1007), Some(1008)).unwrap();
    let seen = |telling: &Telling| {
        ["", "_version", "_lock"].map(|suffix| {
            let found = fs::metadata(telling.path(suffix)).unwrap();
            (found.uid(), found.gid(), found.mode() & 0o777)
        })
    };
    telling.cell.add("one", &container).await.unwrap();
    assert_eq!(seen(&telling), [(1007, 1008, 0o600); 3], "as their directory");
    chown(telling.path(""), Some(1001), Some(1002)).unwrap();
    fs::set_permissions(telling.path(""), fs::Permissions::from_mode(0o640)).unwrap();
    telling.cell.del("one").await.unwrap();
    assert_eq!(seen(&telling)[0], (1001, 1002, 0o640));
}

#[tokio::test]
async fn a_file_that_cannot_be_written_stops_no_container() {
    let (telling, container) = (Telling::new(), testing::namespace());
    let lock = File::create(telling.path("_lock")).unwrap();
    let held = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
    telling.cell.add("one", &container).await.unwrap();
    assert!(!telling.path("").exists());
    let report = telling.cell.manager.repair().await;
    assert!(
        report.failed.len() == 1 && report.failed[0].contains("store.json_lock is held by somebody else"),
        "{report:?}"
    );
    drop(held);
    assert_eq!(telling.cell.manager.repair().await.done, ["tell the containers' metadata"]);
    assert_eq!(telling.told(), json!({"one": entry("one", "10.255.1.2")}));
}
