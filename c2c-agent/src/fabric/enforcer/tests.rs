//! What is written when, and what a refusal leads to, against a kernel that remembers.

use super::*;
use crate::fabric::fake::{CELL, Fake, grant, network};
use crate::fabric::report::Report;
use crate::lease::Lease;
use crate::policy::group::Workload;
use crate::policy::world::{Change, Protocol, Rule, Tags, World};
use c2c_common::layout::{self, PolicyKey};

mod interleavings;
mod outside;

fn policy(port: u16) -> Policy {
    let rule = Rule {
        source: "f".into(),
        destination: "g".into(),
        protocol: Protocol::Tcp,
        port_start: port,
        port_end: port,
    };
    Policy { rule, tags: Tags { source: 1, destination: 2 } }
}

fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 255, 1, n)
}

fn place(app: &str, n: u32) -> Placed {
    Placed { app: app.into(), host_name: format!("s-{n}"), ifindex: n, ..Placed::default() }
}

fn snapshot(revision: u64, ports: &[u16]) -> Update {
    Update::Snapshot {
        revision,
        leases: Vec::new(),
        policies: ports.iter().map(|port| policy(*port)).collect(),
        groups: BTreeMap::new(),
    }
}

/// A cell with a lease, and a stream on which the lease was granted.
fn leased(kernel: Fake) -> Enforcer<Fake> {
    let mut enforcer = Enforcer::new(kernel, (CELL, network()), Mirror::new(World::default()), None);
    enforcer.restore(BTreeMap::new()).unwrap();
    enforcer.mirror().open();
    enforcer.mirror().granted("s");
    enforcer.set_lease(Some(grant()), true);
    enforcer
}

fn roomy() -> Fake {
    Fake { room: 100, ..Fake::default() }
}

fn log(enforcer: &mut Enforcer<Fake>) -> Vec<String> {
    std::mem::take(&mut enforcer.datapath().log)
}

#[test]
fn tunnels_lead_to_whole_blocks_of_other_cells_and_need_a_lease() {
    let lease = |cell: &str, block: &str, n| Lease {
        cell: cell.into(),
        underlay: [192, 0, 2, n].into(),
        block: block.parse().unwrap(),
        mac: [0xee; 6],
    };
    let own = grant().lease;
    let leases = vec![own, lease("b", "10.255.2.0/24", 12), lease("silk", "10.255.0.7/32", 13)];
    let mut enforcer = leased(roomy());
    let world = Update::Snapshot { revision: 1, leases, policies: Vec::new(), groups: BTreeMap::new() };
    enforcer.take([world]).unwrap();
    let tunnels = enforcer.tunnels().unwrap();
    assert_eq!((tunnels.own, tunnels.underlay), ([10, 255, 1, 0].into(), CELL.underlay));
    assert_eq!(tunnels.others, [([10, 255, 2, 0].into(), [192, 0, 2, 12].into())].into());
    enforcer.set_lease(None, false);
    assert_eq!(enforcer.tunnels(), None);
}

#[test]
fn a_container_is_attached_before_it_is_entered_and_left_before_it_is_detached() {
    let mut enforcer = leased(roomy());
    log(&mut enforcer);
    enforcer.add(address(2), place("h", 20)).unwrap();
    assert_eq!(log(&mut enforcer), ["attach s-20", "endpoint 10.255.1.2 tag 0"]);
    enforcer.remove(address(2), "s-20").unwrap();
    assert_eq!(log(&mut enforcer), ["no endpoint 10.255.1.2", "detach s-20"]);
    enforcer.remove(address(2), "s-20").unwrap();
}

#[test]
fn a_container_that_the_kernel_refuses_leaves_nothing() {
    let mut enforcer = leased(roomy());
    for n in 2..5 {
        enforcer.add(address(n), place("h", u32::from(n))).unwrap();
    }
    let refused = enforcer.add(address(9), place("new", 9)).unwrap_err();
    assert!(chain(&refused).contains("map ENDPOINTS is full"), "{}", chain(&refused));
    assert!(!enforcer.datapath().attached.contains("s-9"));
    assert_eq!(enforcer.live(), 3);
    assert!(!enforcer.mirror().hosted().apps.contains("new"));
    assert!(matches!(enforcer.add(address(9), place("new", 0)), Err(FabricError::Attach { .. })));
}

#[test]
fn tags_are_written_before_policies_and_policies_before_the_configuration() {
    let mut enforcer = leased(roomy());
    enforcer.add(address(2), place("f", 20)).unwrap();
    log(&mut enforcer);
    let applied = enforcer.take([snapshot(5, &[80])]).unwrap();
    assert_eq!(applied, Applied { received: 5, enforced: 5 });
    let written = ["0 leases", "endpoint 10.255.1.2 tag 1", "1 policies", "0 mappings", "configure"];
    assert_eq!(log(&mut enforcer), written);
}

#[test]
fn a_revision_that_changes_nothing_writes_nothing() {
    let mut enforcer = leased(roomy());
    enforcer.take([snapshot(5, &[])]).unwrap();
    log(&mut enforcer);
    let applied = enforcer.take([Update::Delta { from: 5, to: 8, changes: Vec::new() }]).unwrap();
    assert_eq!(applied.enforced, 8);
    assert_eq!(log(&mut enforcer), Vec::<String>::new());
}

#[test]
fn a_full_map_is_told_not_acknowledged_and_tried_again() {
    let mut enforcer = leased(Fake { room: 1, ..Fake::default() });
    enforcer.add(address(2), place("f", 20)).unwrap();
    let applied = enforcer.take([snapshot(5, &[80, 8_000])]).unwrap();
    assert_eq!(applied, Applied { received: 5, enforced: 0 });
    assert!(enforcer.view().failure.unwrap().contains("map POLICIES is full"));
    assert_eq!(enforcer.datapath().policies.len(), 1);
    assert_eq!(enforcer.reconcile(CELL).failed.len(), 1);
    let empty = enforcer.take([Update::Delta { from: 5, to: 6, changes: Vec::new() }]).unwrap();
    assert_eq!(empty.enforced, 0, "what is owing is not forgotten by a revision without changes");
    enforcer.datapath().room = 2;
    assert_eq!(enforcer.reconcile(CELL), Report::default());
    assert_eq!((enforcer.applied().enforced, enforcer.view().failure), (6, None));
}

#[test]
fn drift_is_put_back_and_said_and_then_there_is_none() {
    let mut enforcer = leased(roomy());
    enforcer.add(address(2), place("f", 20)).unwrap();
    enforcer.take([snapshot(5, &[80])]).unwrap();
    assert_eq!(enforcer.reconcile(CELL), Report::default());
    enforcer.datapath().policies.clear();
    enforcer.datapath().endpoints.clear();
    enforcer.datapath().endpoints.insert(address(77), layout::Endpoint::default());
    enforcer.datapath().attached.insert("s-77".into());
    let report = enforcer.reconcile(CELL);
    assert_eq!((report.repaired.len(), report.failed.len()), (4, 0), "{report:?}");
    assert_eq!(enforcer.datapath().endpoints.keys().copied().collect::<Vec<_>>(), [address(2)]);
    assert_eq!(enforcer.datapath().attached_endpoints(), ["s-20"]);
    assert_eq!(enforcer.reconcile(CELL), Report::default());
}

#[test]
fn nothing_is_taken_for_a_leftover_before_the_containers_are_restored() {
    let mut kernel = roomy();
    kernel.attached.insert("s-20".into());
    kernel.endpoints.insert(address(2), layout::Endpoint::default());
    let mut enforcer = Enforcer::new(kernel, (CELL, network()), Mirror::new(World::default()), None);
    enforcer.reconcile(CELL);
    assert_eq!(enforcer.datapath().attached_endpoints(), ["s-20"]);
    assert_eq!(enforcer.datapath().endpoints.len(), 1);
}

#[test]
fn no_policy_is_removed_before_the_containers_are_restored() {
    let mut kernel = Fake { adopted: true, ..roomy() };
    kernel.policies.insert(PolicyKey::default(), 1);
    let world = World { revision: 5, ..World::default() };
    let mut enforcer = Enforcer::new(kernel, (CELL, network()), Mirror::new(world), Some(grant()));
    enforcer.reconcile(CELL);
    assert_eq!(enforcer.datapath().policies.len(), 1);
    enforcer.restore(BTreeMap::new()).unwrap();
    assert_eq!(enforcer.datapath().policies.len(), 0, "there is no container, so they are of none");
}

#[test]
fn adopted_maps_stay_as_they_are_until_lease_and_world_are_known() {
    let mut kernel = Fake { adopted: true, ..roomy() };
    let row = layout::Endpoint { tag: 7, ifindex: 20, ..layout::Endpoint::default() };
    kernel.endpoints.insert(address(2), row);
    kernel.policies.insert(PolicyKey::default(), 1);
    kernel.config.ready = 1;
    let mut enforcer = Enforcer::new(kernel, (CELL, network()), Mirror::new(World::default()), None);
    enforcer.restore([(address(2), place("f", 20))].into()).unwrap();
    enforcer.reconcile(CELL);
    enforcer.mirror().open();
    enforcer.mirror().granted("s");
    enforcer.set_lease(Some(grant()), true);
    enforcer.reconcile(CELL);
    let kernel = enforcer.datapath();
    assert_eq!((kernel.policies.len(), kernel.config.ready, kernel.endpoints[&address(2)].tag), (1, 1, 7));
    enforcer.take([snapshot(3, &[80])]).unwrap();
    let kernel = enforcer.datapath();
    assert_eq!((kernel.policies.len(), kernel.endpoints[&address(2)].tag), (1, 1));
    assert!(!kernel.policies.contains_key(&PolicyKey::default()));
}

#[test]
fn maps_that_nobody_filled_are_filled_before_containers_are_attached_to() {
    let world = World::default();
    let mut enforcer = Enforcer::new(roomy(), (CELL, network()), Mirror::new(world), Some(grant()));
    enforcer.restore([(address(2), place("f", 20)), (address(3), place("g", 21))].into()).unwrap();
    let said = log(&mut enforcer);
    let at = |what: &str| said.iter().position(|line| line.starts_with(what)).expect(what);
    assert!(at("endpoint 10.255.1.2") < at("configure") && at("configure") < at("attach s-20"), "{said:?}");
    assert_eq!(enforcer.datapath().endpoints.len(), 2);
}

#[test]
fn what_could_not_be_attached_to_at_the_start_is_tried_again() {
    for adopted in [false, true] {
        let kernel = Fake { adopted, busy: Some("s-21".into()), ..roomy() };
        let mut enforcer =
            Enforcer::new(kernel, (CELL, network()), Mirror::new(World::default()), Some(grant()));
        enforcer.restore([(address(2), place("f", 20)), (address(3), place("g", 21))].into()).unwrap_err();
        let report = enforcer.reconcile(CELL);
        assert_eq!((report.repaired.len(), report.failed.len()), (0, 1), "{report:?}");
        assert_eq!(enforcer.datapath().attached_endpoints(), ["s-20"]);
        enforcer.datapath().busy = None;
        assert_eq!(enforcer.reconcile(CELL).failed, [""; 0]);
        assert_eq!(enforcer.datapath().attached_endpoints(), ["s-20", "s-21"]);
        assert_eq!(enforcer.datapath().endpoints.len(), 2);
    }
}

#[test]
fn an_address_is_given_only_while_the_lease_admits() {
    let mut enforcer = leased(roomy());
    assert_eq!(enforcer.cell_lease().unwrap().block, grant().lease.block);
    enforcer.set_lease(Some(grant()), false);
    assert_eq!(enforcer.cell_lease(), None);
    assert_eq!(enforcer.datapath().config.ready, 1, "what runs keeps running");
    enforcer.set_lease(None, false);
    assert_eq!(enforcer.datapath().config, layout::Config::default());
}

#[test]
fn a_container_without_an_app_name_is_wired_and_never_announced() {
    let mut enforcer = leased(roomy());
    enforcer.add(address(2), place("", 20)).unwrap();
    enforcer.add(address(3), place("not a name", 21)).unwrap();
    assert_eq!(enforcer.live(), 2);
    assert_eq!(enforcer.mirror().announce(), None);
    assert!(!enforcer.awaits("", ""));
}

#[test]
fn a_world_is_on_disk_before_it_is_in_the_maps() {
    let dir = tempfile::tempdir().unwrap();
    let saved = Saved::new(dir.path());
    // A kernel with room for no policy: what was received is remembered although it is not enforced.
    let mut enforcer = leased(Fake::default());
    enforcer.add(address(2), place("f", 20)).unwrap();
    enforcer.remember_in(saved.clone());
    enforcer.take([snapshot(7, &[7000])]).unwrap();
    assert_eq!((saved.world().unwrap().unwrap().revision, enforcer.applied().enforced), (7, 0));
    saved.sync_world().unwrap();
}

#[test]
fn what_cannot_be_remembered_is_enforced_and_remembered_later() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone");
    let mut enforcer = leased(roomy());
    enforcer.remember_in(Saved::new(&gone));
    enforcer.take([snapshot(7, &[7000])]).unwrap();
    assert_eq!(enforcer.applied().enforced, 7);
    assert!(enforcer.remember_owed().is_err());
    std::fs::create_dir(&gone).unwrap();
    enforcer.remember_owed().unwrap();
    assert_eq!(Saved::new(&gone).world().unwrap().unwrap().revision, 7);
}

#[test]
fn updates_that_come_together_are_written_once() {
    let mut enforcer = leased(roomy());
    enforcer.add(address(2), place("f", 20)).unwrap();
    log(&mut enforcer);
    let applied = enforcer.take([snapshot(5, &[80]), snapshot(6, &[80, 81])]).unwrap();
    assert_eq!(applied.enforced, 6);
    assert_eq!(log(&mut enforcer).iter().filter(|line| *line == "configure").count(), 1);
}

#[test]
fn what_came_before_an_update_that_does_not_fit_is_enforced() {
    let mut enforcer = leased(roomy());
    let gap = Update::Delta { from: 8, to: 9, changes: Vec::new() };
    assert!(enforcer.take([snapshot(5, &[80]), gap]).is_err());
    assert_eq!(enforcer.applied().enforced, 5);
}

fn delta(from: u64, changes: Vec<Change>) -> Update {
    Update::Delta { from, to: from + 1, changes }
}

/// A cell that hosts `f`, with a world in force and on disk.
fn in_force(dir: &std::path::Path) -> Enforcer<Fake> {
    let mut enforcer = leased(roomy());
    enforcer.add(address(2), place("f", 20)).unwrap();
    enforcer.remember_in(Saved::new(dir));
    enforcer.take([snapshot(5, &[80, 90])]).unwrap();
    enforcer
}

#[test]
fn a_step_writes_the_rows_that_it_changes_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut enforcer = in_force(dir.path());
    log(&mut enforcer);
    let steps = [
        delta(5, vec![Change::PolicyPut(policy(8_000))]),
        delta(6, vec![Change::PolicyRemoved(policy(80).rule)]),
    ];
    assert_eq!(enforcer.take(steps).unwrap(), Applied { received: 7, enforced: 7 });
    assert_eq!(log(&mut enforcer), ["2 of 2 policies"], "ports 80 and 90 share a row");
    let last = vec![Change::PolicyRemoved(policy(90).rule), Change::PolicyRemoved(policy(8_000).rule)];
    enforcer.take([delta(7, last)]).unwrap();
    assert_eq!(log(&mut enforcer), ["endpoint 10.255.1.2 tag 0", "2 of 0 policies"]);
    assert_eq!(enforcer.reconcile(CELL), Report::default(), "it is what the whole comes to");
    assert_eq!(Saved::new(dir.path()).world().unwrap().as_ref(), Some(enforcer.mirror().world()));
}

#[test]
fn steps_are_put_behind_the_world_that_they_start_from() {
    let dir = tempfile::tempdir().unwrap();
    let mut enforcer = in_force(dir.path());
    let world = || std::fs::read(dir.path().join("world")).unwrap();
    let first = world();
    enforcer.take([delta(5, vec![Change::PolicyPut(policy(81))])]).unwrap();
    assert_eq!(world(), first, "a step does not write the world anew");
    // What an app's leaving takes from the world is a step too.
    enforcer.remove(address(2), "s-20").unwrap();
    enforcer.add(address(3), place("g", 21)).unwrap();
    log(&mut enforcer);
    enforcer.take([delta(6, Vec::new()), delta(7, vec![Change::PolicyPut(policy(82))])]).unwrap();
    assert_eq!(log(&mut enforcer), ["endpoint 10.255.1.3 tag 2", "1 of 1 policies"]);
    assert_eq!(world(), first);
    assert_eq!(Saved::new(dir.path()).world().unwrap().as_ref(), Some(enforcer.mirror().world()));
}

#[test]
fn many_steps_make_the_world_be_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut enforcer = in_force(dir.path());
    let size = || std::fs::metadata(dir.path().join("steps")).unwrap().len();
    let mut largest = 0;
    for revision in 5..1_005 {
        let port = u16::try_from(revision).unwrap();
        enforcer.take([delta(revision, vec![Change::PolicyPut(policy(port))])]).unwrap();
        largest = largest.max(size());
    }
    assert!(size() < largest, "{} of {largest} bytes", size());
    assert_eq!(Saved::new(dir.path()).world().unwrap().as_ref(), Some(enforcer.mirror().world()));
}

#[test]
fn a_step_that_finds_no_room_is_told_and_the_whole_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut enforcer = in_force(dir.path());
    enforcer.datapath().room = 1;
    let applied = enforcer.take([delta(5, vec![Change::PolicyPut(policy(8_000))])]).unwrap();
    assert_eq!((applied.received, applied.enforced), (6, 5));
    assert!(enforcer.view().failure.unwrap().contains("map POLICIES is full"));
    enforcer.datapath().room = 2;
    let applied = enforcer.take([delta(6, vec![Change::PolicyPut(policy(8_001))])]).unwrap();
    assert_eq!((applied.enforced, enforcer.datapath().policies.len()), (7, 2));
}
