//! Finding the way back.

use super::{Cell, add, attachment, descriptor, ip};
use crate::endpoint::{Record, Report, State};
use crate::host::testing;
use c2c_proto::agent_api::PendingDel;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

const BLOCK: &str = "10.255.1.0/24";
const NOTHING: [String; 0] = [];

/// Writes the record of a container back to an earlier or later state, as if the agent had been killed there.
fn rewrite(cell: &Cell, id: &str, change: impl FnOnce(&mut Record)) {
    let file = cell.record_file(id);
    let mut record: Record = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut record);
    fs::write(file, serde_json::to_vec(&record).unwrap()).unwrap();
}

fn leave_pending(cell: &Cell, id: &str, requested_at: u64) -> PathBuf {
    let dir = cell.dir.path().join("pending-del");
    fs::create_dir_all(&dir).unwrap();
    let pending = PendingDel { attachment: attachment(id), requested_at };
    fs::write(dir.join(attachment(id).file_name()), serde_json::to_vec(&pending).unwrap()).unwrap();
    dir
}

#[tokio::test]
async fn an_add_that_was_killed_is_undone() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.wire.gate.forget_permits(1000);
    let manager = cell.manager.clone();
    let (call, netns) = (add("one", &container), descriptor(&container));
    let adding = tokio::spawn(async move { manager.add(call, netns).await });
    drop(cell.wire.waiting.acquire().await.unwrap()); // the pair exists, the programs do not yet
    adding.abort();
    assert!(adding.await.unwrap_err().is_cancelled());
    assert_eq!((cell.names().len(), cell.files().len()), (1, 1));
    let (cell, report) = cell.recovered().await;
    assert_eq!((report.done.len(), &report.failed[..]), (1, &NOTHING[..]), "{report:?}");
    cell.assert_nothing_is_left();
    cell.add("one", &container).await.unwrap();
}

#[tokio::test]
async fn whatever_a_kill_left_is_undone_or_finished() {
    type Stage = (&'static str, fn(&Cell));
    let stages: [Stage; 4] = [
        ("nothing made yet", |cell| ip(&cell.home, "link del s-010255001002")),
        ("made and not marked", |cell| {
            ip(&cell.home, "link set s-010255001002 down");
            ip(&cell.home, "link set s-010255001002 alias ");
        }),
        ("made and marked", |cell| ip(&cell.home, "link set s-010255001002 down")),
        ("brought up", |_| {}),
    ];
    for state in [State::Wiring, State::Unwiring] {
        for (stage, leave) in stages {
            let (cell, container) = (Cell::new(BLOCK), testing::namespace());
            cell.add("one", &container).await.unwrap();
            rewrite(&cell, "one", |record| record.state = state);
            leave(&cell);
            let (cell, report) = cell.recovered().await;
            assert_eq!((report.done.len(), &report.failed[..]), (1, &NOTHING[..]), "{stage}: {report:?}");
            cell.assert_nothing_is_left();
        }
    }
}

#[tokio::test]
async fn a_restart_takes_over_what_is_wired() {
    let cell = Cell::new(BLOCK);
    let containers = [testing::namespace(), testing::namespace()];
    for (id, container) in ["one", "two"].iter().zip(&containers) {
        cell.add(id, container).await.unwrap();
    }
    let before = (cell.manager.list(), cell.links());
    let (cell, report) = cell.recovered().await;
    assert_eq!(report, Report::default());
    assert_eq!((cell.manager.list(), cell.links()), before);
    assert_eq!(cell.wire.entered().len(), 2);
    let third = testing::namespace();
    assert_eq!(cell.add("three", &third).await.unwrap().address, Ipv4Addr::new(10, 255, 1, 4));
}

#[tokio::test]
async fn an_address_is_not_used_again_at_once_even_after_a_restart() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    let first = cell.add("one", &container).await.unwrap().address;
    cell.del("one").await.unwrap();
    let (cell, _) = cell.recovered().await;
    assert_ne!(cell.add("one", &container).await.unwrap().address, first);
}

#[tokio::test]
async fn a_container_whose_interface_is_gone_is_let_go() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("one", &container).await.unwrap();
    ip(&cell.home, "link del s-010255001002");
    let (cell, report) = cell.recovered().await;
    assert_eq!(report.done, ["let go container one (eth0), whose interface is gone"]);
    cell.assert_nothing_is_left();
}

#[tokio::test]
async fn an_interface_that_nobody_owns_is_removed_if_it_is_ours() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("one", &container).await.unwrap();
    fs::remove_file(cell.record_file("one")).unwrap();
    ip(&cell.home, "link set s-010255001002 down"); // not wired to the end
    ip(&cell.home, "link add s-010255001009 type veth peer name other"); // our name, not our mark
    ip(&cell.home, "link add uplink type veth peer name far"); // our mark, not our name
    ip(&cell.home, "link set uplink alias c2c_uplink");
    let (cell, report) = cell.recovered().await;
    assert_eq!(report.done, ["remove the interface s-010255001002, which no container owns"]);
    let mut names = cell.names();
    names.sort();
    assert_eq!(names, ["far", "other", "s-010255001009", "uplink"]);
}

#[tokio::test]
async fn containers_go_on_when_the_state_directory_is_lost() {
    let cell = Cell::new(BLOCK);
    let containers = [testing::namespace(), testing::namespace()];
    for (id, container) in ["one", "two"].iter().zip(&containers) {
        cell.add(id, container).await.unwrap();
    }
    let links = cell.links();
    fs::remove_dir_all(cell.record_file("one").parent().unwrap()).unwrap();
    let (cell, report) = cell.recovered().await;
    assert_eq!(report.done.len(), 2, "{report:?}");
    assert_eq!((cell.files(), cell.links()), (vec!["one@eth0.json".into(), "two@eth0.json".into()], links));
    assert_eq!(cell.wire.entered().len(), 2);
    cell.del("one").await.unwrap();
}

#[tokio::test]
async fn a_damaged_record_is_kept_aside_and_rebuilt() {
    let cell = Cell::new(BLOCK);
    let containers = [testing::namespace(), testing::namespace()];
    for (id, container) in ["one", "two"].iter().zip(&containers) {
        cell.add(id, container).await.unwrap();
    }
    let before = cell.manager.list();
    let whole = fs::read(cell.record_file("one")).unwrap();
    fs::write(cell.record_file("one"), &whole[..whole.len() / 2]).unwrap();
    let links = cell.links();
    let (cell, report) = cell.recovered().await;
    assert_eq!(report.done, ["rebuild the lost record of container one (eth0) from its interface"]);
    assert_eq!(cell.files(), ["one@eth0.json", "one@eth0.json.damaged", "two@eth0.json"]);
    assert_eq!((cell.links(), cell.wire.entered().len()), (links, 2), "the container goes on");
    let rebuilt = cell.manager.list().remove(0);
    let expected =
        Record { netns: String::new(), netns_id: rebuilt.netns_id, created: 0, ..before[0].clone() };
    assert_eq!(rebuilt, expected);
    cell.del("one").await.unwrap();
    cell.del("two").await.unwrap();
    assert_eq!(cell.files(), ["one@eth0.json.damaged"]);
}

#[tokio::test]
async fn damage_of_any_kind_does_not_stop_the_start() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("good", &container).await.unwrap();
    let good = fs::read_to_string(cell.record_file("good")).unwrap();
    for (id, text) in [("empty", ""), ("binary", "\0\0\0\0"), ("other", "[]"), ("foreign", good.as_str())] {
        fs::write(cell.record_file(id), text).unwrap();
    }
    let twin = good.replace("\"good\"", "\"twin\"");
    fs::write(cell.record_file("twin"), twin).unwrap();
    fs::write(cell.dir.path().join("last-address"), "nonsense").unwrap();
    fs::write(cell.dir.path().join("endpoints/.writing-x"), "half").unwrap();
    let (cell, report) = cell.recovered().await;
    assert_eq!(report.failed, NOTHING);
    assert_eq!(cell.manager.list().len(), 1);
    assert_eq!((cell.names().len(), cell.wire.entered().len()), (1, 1));
    let aside = cell.files().into_iter().filter(|name| name.ends_with(".damaged")).count();
    assert_eq!(aside, 5, "{:?}", cell.files());
}

#[tokio::test]
async fn pending_dels_are_done_once() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("one", &container).await.unwrap();
    let created = cell.manager.list()[0].created;
    let dir = leave_pending(&cell, "one", created);
    leave_pending(&cell, "never-was", created);
    fs::write(dir.join("broken@eth0.json"), "{").unwrap();
    fs::write(dir.join(".draft@eth0.json.17"), "{").unwrap();
    let report = cell.manager.do_pending(&dir).await;
    assert_eq!(report.done, ["do the pending DEL of container one (eth0)"]);
    assert_eq!(report.failed.len(), 1, "{report:?}");
    cell.assert_nothing_is_left();
    let mut left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".draft@eth0.json.17", "broken@eth0.json.damaged"]);
    assert_eq!(cell.manager.do_pending(&dir).await, Report::default());
    assert_eq!(cell.manager.do_pending(&dir.join("none")).await, Report::default());
}

#[tokio::test]
async fn a_pending_del_does_not_hit_a_later_container_of_the_same_name() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("one", &container).await.unwrap();
    let dir = leave_pending(&cell, "one", cell.manager.list()[0].created - 1);
    assert_eq!(cell.manager.do_pending(&dir).await, Report::default());
    assert_eq!((cell.names().len(), fs::read_dir(&dir).unwrap().count()), (1, 0));
}

#[tokio::test]
async fn a_pending_del_that_fails_is_kept() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("one", &container).await.unwrap();
    let dir = leave_pending(&cell, "one", cell.manager.list()[0].created);
    cell.refuse(Some("remove"));
    assert_eq!(cell.manager.do_pending(&dir).await.failed.len(), 1);
    cell.refuse(None);
    assert_eq!(cell.manager.do_pending(&dir).await.done.len(), 1);
    cell.assert_nothing_is_left();
}

#[tokio::test]
async fn repair_puts_back_what_drifted_and_then_finds_nothing() {
    let cell = Cell::new(BLOCK);
    let containers = [testing::namespace(), testing::namespace()];
    for (id, container) in ["one", "two"].iter().zip(&containers) {
        cell.add(id, container).await.unwrap();
    }
    assert_eq!(cell.manager.repair().await, Report::default());
    ip(&cell.home, "neigh flush dev s-010255001002 nud permanent");
    ip(&cell.home, "link set s-010255001002 mtu 1400");
    ip(&containers[1], "route del default");
    let report = cell.manager.repair().await;
    assert_eq!(
        report.done,
        [
            "put container one (eth0) right: the MTU is 1400, the permanent neighbour is missing",
            "put container two (eth0) right: the default route is missing",
        ]
    );
    assert_eq!(cell.manager.repair().await, Report::default());
}

#[tokio::test]
async fn repair_lets_go_a_container_whose_interface_is_gone() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("one", &container).await.unwrap();
    ip(&container, "link del eth0");
    let report = cell.manager.repair().await;
    assert_eq!(report.done, ["let go container one (eth0), whose interface is gone"]);
    cell.assert_nothing_is_left();
}
