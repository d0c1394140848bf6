//! Backups of running controllers, and stores that are filled with them: of either kind, whole or not at all.

use crate::cluster::Cluster;
use crate::harness::{Foundation, Ran, binary, hello, within};
use c2c_proto::v1;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const LISTS: [&[&str]; 2] = [&["list-access", "--json"], &["security-groups", "list", "--json"]];

/// A foundation with some of everything, running.
async fn filled(foundation: &mut Foundation, flags: &[&str]) -> crate::harness::Controller {
    let controller = foundation.start_with(flags);
    for port in ["1", "2-9"] {
        foundation.run(&["allow-access", "a", "b", "--port", port, "--wait", "0"]).ok();
    }
    foundation.run(&["allow-access", "a", "gone", "--port", "1", "--wait", "0"]).ok();
    foundation.run(&["remove-access", "a", "gone", "--port", "1", "--wait", "0"]).ok();
    let rules = foundation.path().join("web.json");
    std::fs::write(&rules, "[{\"protocol\":\"tcp\",\"destination\":\"0.0.0.0/0\",\"ports\":\"443\"}]")
        .unwrap();
    let rules = rules.to_str().unwrap();
    foundation.run(&["security-groups", "set", "web", rules]).ok();
    foundation.run(&["security-groups", "bind", "web", "--space", "s"]).ok();
    foundation.connect(1, hello(1, &["a"])).await.grant().await;
    controller
}

/// What an operator sees, without revisions.
fn seen(foundation: &Foundation) -> Vec<Value> {
    let mut seen: Vec<Value> = LISTS.iter().map(|list| foundation.run(list).json()).collect();
    let leases = foundation.run(&["leases", "--json"]).json();
    seen.push(leases["leases"][0]["overlay_block"].clone());
    seen.iter_mut().filter_map(Value::as_object_mut).for_each(|object| drop(object.remove("revision")));
    seen
}

fn restore(file: &Path, flags: &[&str]) -> Ran {
    Ran::from(binary().arg("restore").arg(file).args(flags).output().unwrap())
}

/// When policies last changed, as a backup that is taken now says it.
fn policies_changed(foundation: &Foundation) -> u64 {
    let backup = foundation.run(&["backup", "-"]).ok();
    let header: Value = serde_json::from_str(backup.lines().next().unwrap()).unwrap();
    header["policies_changed"].as_u64().unwrap()
}

#[test]
fn a_backup_of_one_kind_of_store_fills_another_and_agents_take_a_snapshot_of_it() {
    let cluster = Cluster::start();
    let url = cluster.database("net");
    tokio::runtime::Runtime::new().unwrap().block_on(there_and_back(&url));
}

async fn there_and_back(url: &str) {
    let mut foundation = Foundation::new();
    let data = foundation.data_dir();
    let controller = filled(&mut foundation, &[]).await;
    let agent = foundation.connect(1, hello(1, &["a"])).await.grant().await;
    let before = seen(&foundation);
    let [first, second] = ["first", "second"].map(|name| foundation.path().join(name));
    let said = foundation.run(&["backup", first.to_str().unwrap(), "--json"]).json();
    assert_eq!((&said["revision"], &said["policies"], &said["leases"]), (&7.into(), &2.into(), &1.into()));
    assert_eq!(first.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let changed = policies_changed(&foundation);
    controller.kill();

    let said: Value = restore(&first, &["--postgres", url, "--json"]).json();
    assert_eq!((&said["from_revision"], &said["revision"]), (&7.into(), &1.into()));
    assert_ne!(said["store"], said["from_store"]);
    let controller = foundation.start_with(&["--postgres", url]);
    assert_eq!(seen(&foundation), before);
    let changed_again = policies_changed(&foundation);
    assert!(changed_again > changed, "who polls takes the policies anew: {changed_again} {changed}");
    let resumed = v1::Hello {
        held: agent.lease.clone(),
        store_id: agent.store_id.clone(),
        resume_revision: 7,
        ..hello(1, &["a"])
    };
    let mut agent = foundation.connect(1, resumed).await;
    assert_eq!(Value::from(agent.grant().await.store_id), said["store"]);
    assert_eq!(agent.snapshot().await.policies.len(), 2, "revisions of the lost store mean nothing");

    foundation.run(&["backup", second.to_str().unwrap()]).ok();
    controller.kill();
    let refused = restore(&second, &["--data-dir", data.to_str().unwrap()]).failed(1);
    let line =
        "at revision 7, with 1 leases, 2 policies and 1 security groups; expected an empty one, or --force";
    assert!(
        refused.starts_with("error: the store is not empty: it is ") && refused.contains(line),
        "{refused}"
    );
    let table = restore(&second, &["--data-dir", data.to_str().unwrap(), "--force"]).ok();
    let row =
        |kind: &str| table.lines().find(|line| line.starts_with(kind)).unwrap().split_whitespace().count();
    assert_eq!((row("policies"), row("freed tags")), (3, 4), "{table}");
    let _controller = foundation.start();
    assert_eq!(seen(&foundation), before);
    assert!(policies_changed(&foundation) > changed_again, "than what was there and what was restored");
}

#[tokio::test]
async fn what_is_no_whole_backup_changes_nothing() {
    let mut foundation = Foundation::new();
    let controller = filled(&mut foundation, &[]).await;
    let file = foundation.path().join("net.backup");
    foundation.run(&["backup", file.to_str().unwrap()]).ok();
    let data = foundation.data_dir();
    let force = ["--data-dir", data.to_str().unwrap(), "--force"];
    let busy = restore(&file, &force).failed(1);
    assert!(busy.ends_with("in use by another process; end that first"), "{busy}");
    let before = seen(&foundation);
    controller.kill();
    let whole = std::fs::read_to_string(&file).unwrap();
    for (text, problem) in [
        (whole[..whole.len() / 2].to_owned(), "the backup ends after"),
        (whole.replace("\"start\":2", "\"start\":3"), "the backup was altered: its checksum is another one"),
        (String::new(), "the first line is not that of a backup"),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = restore(&file, &force).failed(1);
        assert!(error.contains(problem), "{error}");
    }
    assert!(restore(Path::new("/none"), &force).failed(2).contains("cannot read /none"));
    assert!(restore(&file, &[]).failed(2).contains("--data-dir"));
    let _controller = foundation.start();
    assert_eq!(seen(&foundation), before);
}

#[tokio::test]
async fn what_the_controller_could_not_read_is_not_written() {
    let mut foundation = Foundation::new();
    let controller = filled(&mut foundation, &[]).await;
    let file = foundation.path().join("net.backup");
    foundation.run(&["backup", file.to_str().unwrap()]).ok();
    controller.kill();
    let anothers = foundation.path().join("another's");
    std::fs::create_dir(&anothers).unwrap();
    std::os::unix::fs::chown(&anothers, Some(65_534), None).unwrap();
    let refused = restore(&file, &["--data-dir", anothers.to_str().unwrap()]).failed(1);
    assert!(refused.ends_with("run this as that user, as with sudo -u '#65534'"), "{refused}");
    assert_eq!(std::fs::read_dir(&anothers).unwrap().count(), 0);
}

#[tokio::test]
async fn backups_are_for_operators_and_go_to_standard_output_too() {
    let mut foundation = Foundation::new();
    let _controller = filled(&mut foundation, &[]).await;
    let printed = foundation.run(&["backup", "-"]).ok();
    let first = printed.lines().next().unwrap();
    assert!(first.starts_with("{\"format\":\"c2c-controller backup\",\"version\":2,"), "{first}");
    assert!(printed.lines().last().unwrap().starts_with("{\"end\":{\"sha256\":\""));
    let refused = foundation.run_as(&foundation.cell(1), &["backup", "-"]).failed(1);
    assert!(refused.contains("this call needs c2c-operator"), "{refused}");
    let nowhere = foundation.run(&["backup", "/none/net.backup"]).failed(2);
    assert!(nowhere.contains("file: cannot write /none/net.backup"), "{nowhere}");
    let mut stopped = foundation.operator();
    let mut chunks = within(stopped.backup(v1::BackupRequest {})).await.unwrap().into_inner();
    let mut text = Vec::new();
    while let Some(chunk) = within(chunks.message()).await.unwrap() {
        text.extend(chunk.data);
    }
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), printed.lines().count());
}
