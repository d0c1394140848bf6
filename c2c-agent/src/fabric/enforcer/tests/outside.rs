//! Egress rules and mapped ports: what is written when containers, groups and the operator's word change.

use super::*;
use crate::config::StaticEgress;
use crate::datapath::MappedPort;
use crate::policy::group::{Group, Workload};
use crate::policy::select::Source;
use crate::policy::world::Change as Difference;
use c2c_proto::agent_api::{IpRange, NetOutRule, PortMapping};
use c2c_proto::egress::SecurityRule;

fn rule(destination: &str) -> SecurityRule {
    SecurityRule { protocol: "all".into(), destination: destination.into(), ..SecurityRule::default() }
}

fn group(destinations: &[&str], spaces: &[&str]) -> Group {
    Group {
        rules: destinations.iter().map(|destination| rule(destination)).collect(),
        running_spaces: spaces.iter().map(|space| (*space).to_owned()).collect(),
        ..Group::default()
    }
}

fn static_rule(address: &str) -> NetOutRule {
    NetOutRule {
        networks: vec![IpRange { start: address.into(), ..IpRange::default() }],
        ..NetOutRule::default()
    }
}

fn tenant(space: &str, n: u32) -> Placed {
    Placed { space: space.into(), workload: Workload::Running, ..place("h", n) }
}

fn groups(revision: u64, groups: &[(&str, Group)]) -> Update {
    Update::Snapshot {
        revision,
        leases: Vec::new(),
        policies: Vec::new(),
        groups: groups.iter().map(|(name, group)| ((*name).to_owned(), group.clone())).collect(),
    }
}

fn set(enforcer: &mut Enforcer<Fake>, n: u8) -> u32 {
    enforcer.datapath().endpoints[&address(n)].egress
}

fn ranges(enforcer: &mut Enforcer<Fake>) -> usize {
    enforcer.datapath().egress.ranges.len()
}

/// A container in space s, under a group with one rule.
fn grouped() -> Enforcer<Fake> {
    let mut enforcer = leased(roomy());
    enforcer.add(address(2), tenant("s", 20)).unwrap();
    enforcer.take([groups(5, &[("dns", group(&["192.0.2.1"], &["s"]))])]).unwrap();
    log(&mut enforcer);
    enforcer
}

#[test]
fn rules_are_written_before_the_endpoint_that_has_them_and_removed_after_the_last() {
    let mut enforcer = leased(roomy());
    enforcer.add(address(2), tenant("s", 20)).unwrap();
    log(&mut enforcer);
    enforcer.take([groups(5, &[("dns", group(&["192.0.2.1"], &["s"]))])]).unwrap();
    let with = "endpoint 10.255.1.2 tag 0 with egress rules";
    let ends = ["0 policies", "0 mappings", "- 0 egress ranges", "configure"];
    assert_eq!(log(&mut enforcer), [&["0 leases", "+ 1 egress ranges", with][..], &ends].concat());
    let before = set(&mut enforcer, 2);
    let other = Difference::GroupPut("dns".into(), group(&["192.0.2.2"], &["s"]));
    enforcer.take([Update::Delta { from: 5, to: 6, changes: vec![other] }]).unwrap();
    assert_eq!(log(&mut enforcer), ["+ 1 egress ranges", with, "- 1 egress ranges"]);
    assert_ne!(set(&mut enforcer, 2), before, "a set never changes under its id");
}

#[test]
fn one_more_container_with_known_rules_is_one_row() {
    let mut enforcer = grouped();
    enforcer.add(address(3), tenant("s", 30)).unwrap();
    assert_eq!(log(&mut enforcer), ["attach s-30", "endpoint 10.255.1.3 tag 0 with egress rules"]);
    assert_eq!(set(&mut enforcer, 3), set(&mut enforcer, 2));
    enforcer.remove(address(3), "s-30").unwrap();
    assert_eq!(log(&mut enforcer), ["no endpoint 10.255.1.3", "detach s-30"]);
    assert_eq!(enforcer.reconcile(CELL), Report::default());
}

#[test]
fn rules_of_a_container_that_left_are_removed_by_the_next_pass_and_are_no_drift() {
    let mut enforcer = grouped();
    enforcer.remove(address(2), "s-20").unwrap();
    assert_eq!(ranges(&mut enforcer), 1);
    assert_eq!(enforcer.reconcile(CELL), Report::default());
    assert_eq!(ranges(&mut enforcer), 0);
}

#[test]
fn static_rules_hold_until_a_group_is_bound_and_again_after() {
    let mut enforcer = leased(roomy());
    enforcer.take([groups(5, &[])]).unwrap();
    let own = Placed { egress: vec![static_rule("198.51.100.1")], ..tenant("s", 20) };
    enforcer.add(address(2), own).unwrap();
    let mine = set(&mut enforcer, 2);
    assert_ne!(mine, 0);
    let bound = Difference::GroupPut("dns".into(), group(&["192.0.2.1"], &["s"]));
    enforcer.take([Update::Delta { from: 5, to: 6, changes: vec![bound] }]).unwrap();
    assert_ne!(set(&mut enforcer, 2), mine);
    assert_eq!(enforcer.egress()[0].choice.source, Source::Groups(vec!["dns".into()]));
    let unbound = Difference::GroupRemoved("dns".into());
    enforcer.take([Update::Delta { from: 6, to: 7, changes: vec![unbound] }]).unwrap();
    assert_eq!(set(&mut enforcer, 2), mine);
    let ignoring = Network { static_egress: StaticEgress::Ignore, ..network() };
    enforcer.set_network(ignoring);
    assert_eq!(set(&mut enforcer, 2), 0);
}

#[test]
fn a_bad_rule_is_skipped_and_seen_and_the_others_are_enforced() {
    let mut enforcer = leased(roomy());
    enforcer.add(address(2), tenant("s", 20)).unwrap();
    enforcer.take([groups(5, &[("dns", group(&["192.0.2.1", "nowhere"], &["s"]))])]).unwrap();
    assert_eq!((ranges(&mut enforcer), enforcer.applied().enforced), (1, 5));
    let skipped = enforcer.view().skipped;
    assert!(skipped.len() == 1 && skipped[0].contains("nowhere"), "{skipped:?}");
    assert_eq!(enforcer.egress()[0].selected.skipped, skipped);
    enforcer.take([groups(6, &[("dns", group(&["192.0.2.1"], &["s"]))])]).unwrap();
    assert_eq!(enforcer.view().skipped, Vec::<String>::new());
}

#[test]
fn without_room_for_its_rules_a_container_keeps_the_old_ones_and_a_new_one_is_refused() {
    let mut enforcer = grouped();
    let before = set(&mut enforcer, 2);
    enforcer.datapath().room = 1;
    let more = Difference::GroupPut("dns".into(), group(&["192.0.2.1", "198.51.100.1"], &["s"]));
    let applied = enforcer.take([Update::Delta { from: 5, to: 6, changes: vec![more] }]).unwrap();
    assert_eq!((applied.enforced, set(&mut enforcer, 2)), (5, before));
    assert!(enforcer.view().failure.unwrap().contains("map EGRESS is full"));
    let own = Placed { egress: vec![static_rule("203.0.113.1")], ..place("h", 30) };
    let refused = enforcer.add(address(3), own).unwrap_err();
    assert!(chain(&refused).contains("map EGRESS is full"), "{}", chain(&refused));
    assert_eq!((enforcer.live(), enforcer.datapath().attached.len()), (1, 1));
    enforcer.add(address(4), place("h", 40)).unwrap();
    enforcer.datapath().room = 100;
    assert_eq!(enforcer.reconcile(CELL).failed, Vec::<String>::new());
    assert_ne!(set(&mut enforcer, 2), before);
    assert_eq!((enforcer.applied().enforced, ranges(&mut enforcer)), (6, 2));
}

#[test]
fn ports_lead_to_a_container_as_long_as_it_is_there() {
    let port = |host_port| PortMapping { host_port, container_port: 8080, protocol: None };
    let mut enforcer = leased(Fake { room: 5, ..Fake::default() });
    let with_port = Placed { ports: vec![port(61_000)], ..place("h", 20) };
    log(&mut enforcer);
    enforcer.add(address(2), with_port.clone()).unwrap();
    assert_eq!(log(&mut enforcer), ["attach s-20", "endpoint 10.255.1.2 tag 0", "2 mappings"]);
    let more = Placed { ports: vec![port(61_000), port(61_001)], ..with_port.clone() };
    enforcer.update(address(2), more.clone()).unwrap();
    let key = MappedPort { protocol: 17, port: 61_001 };
    assert_eq!(enforcer.datapath().mappings[&key], (address(2), 8080));
    let too_many = Placed { ports: (61_000..61_003).map(port).collect(), ..with_port.clone() };
    assert!(matches!(enforcer.update(address(2), too_many), Err(FabricError::Ports { .. })));
    assert_eq!((enforcer.datapath().mappings.len(), enforcer.placed[&address(2)].ports.len()), (4, 2));
    let refused = enforcer.add(address(3), Placed { ports: vec![port(61_007)], ..place("h", 30) });
    assert!(matches!(refused, Err(FabricError::Ports { .. })));
    assert_eq!((enforcer.live(), enforcer.datapath().endpoints.len()), (1, 1));
    log(&mut enforcer);
    enforcer.remove(address(2), "s-20").unwrap();
    assert_eq!(log(&mut enforcer), ["0 mappings", "no endpoint 10.255.1.2", "detach s-20"]);
    assert!(matches!(enforcer.update(address(2), more), Err(FabricError::Unknown { .. })));
}

#[test]
fn more_static_rules_are_another_set_for_that_container_alone() {
    let mut enforcer = leased(roomy());
    let own = |addresses: &[&str], n| Placed {
        egress: addresses.iter().map(|address| static_rule(address)).collect(),
        ..place("h", n)
    };
    enforcer.add(address(2), own(&["192.0.2.1"], 20)).unwrap();
    enforcer.add(address(3), own(&["192.0.2.1"], 30)).unwrap();
    let before = set(&mut enforcer, 2);
    log(&mut enforcer);
    enforcer.update(address(2), own(&["192.0.2.1", "198.51.100.1"], 20)).unwrap();
    let with = "endpoint 10.255.1.2 tag 0 with egress rules";
    assert_eq!(log(&mut enforcer), ["+ 3 egress ranges", with]);
    assert_ne!(set(&mut enforcer, 2), before);
    assert_eq!(set(&mut enforcer, 3), before);
}

#[test]
fn what_the_operator_says_anew_is_enforced_at_once() {
    let mut enforcer = grouped();
    let before = set(&mut enforcer, 2);
    let mut changed = network();
    changed.deny.running = vec!["192.0.2.0/24".parse().unwrap()];
    changed.no_masquerade = vec!["10.0.0.0/8".parse().unwrap()];
    changed.host.accept = vec![Ipv4Addr::new(192, 0, 2, 9)];
    changed.outbound.max_connections = 3;
    enforcer.set_network(changed);
    assert_ne!(set(&mut enforcer, 2), before);
    let kernel = enforcer.datapath();
    assert_eq!((kernel.services.len(), kernel.config.max_connections), (1, 3));
    assert!(kernel.egress.ranges.keys().any(|range| range.set == layout::NO_MASQUERADE));
}

#[test]
fn the_cells_addresses_are_followed_and_are_no_drift() {
    let mut enforcer = leased(roomy());
    let more = Cell { locals: [Ipv4Addr::new(203, 0, 113, 1)].into(), ..CELL };
    assert_eq!(enforcer.reconcile(more.clone()), Report::default());
    assert_eq!(enforcer.datapath().locals, more.locals);
    enforcer.datapath().locals.clear();
    assert_eq!(enforcer.reconcile(more).repaired.len(), 1);
}

#[test]
fn adopted_rules_and_ports_stay_until_the_world_is_known_and_containers_are_restored() {
    let mut kernel = Fake { adopted: true, ..roomy() };
    let row = layout::Endpoint { tag: 7, ifindex: 20, egress: 99, ..layout::Endpoint::default() };
    kernel.endpoints.insert(address(2), row);
    let port = PortMapping { host_port: 61_000, container_port: 80, protocol: None };
    let kept = MappedPort { protocol: 6, port: 61_000 };
    kernel.mappings.insert(kept, (address(2), 80));
    let mut enforcer = Enforcer::new(kernel, (CELL, network()), Mirror::new(World::default()), None);
    enforcer.reconcile(CELL);
    assert_eq!(enforcer.datapath().mappings.len(), 1);
    enforcer.restore([(address(2), Placed { ports: vec![port], ..tenant("s", 20) })].into()).unwrap();
    assert_eq!((set(&mut enforcer, 2), enforcer.datapath().mappings.len()), (99, 2));
    enforcer.mirror().open();
    enforcer.mirror().granted("s");
    enforcer.set_lease(Some(grant()), true);
    enforcer.take([groups(3, &[("dns", group(&["192.0.2.1"], &["s"]))])]).unwrap();
    assert!(![0, 99].contains(&set(&mut enforcer, 2)));
}

#[test]
fn an_add_awaits_the_groups_of_a_space_that_was_asked_for() {
    let mut enforcer = leased(roomy());
    enforcer.take([groups(5, &[])]).unwrap();
    enforcer.add(address(2), tenant("s", 20)).unwrap();
    assert!(enforcer.awaits("h", "s"));
    let serial = enforcer.mirror().announce().unwrap().serial;
    let (policies, groups) = (Vec::new(), [("dns".to_owned(), group(&["192.0.2.1"], &["s"]))].into());
    enforcer.take([Update::AppsView { serial, revision: 5, policies, groups }]).unwrap();
    assert!(!enforcer.awaits("h", "s"));
    assert_ne!(set(&mut enforcer, 2), 0);
}

#[test]
fn a_container_of_an_earlier_run_whose_rules_find_no_room_keeps_those_it_had() {
    let mut kernel = Fake { adopted: true, ..Fake::default() };
    kernel
        .endpoints
        .insert(address(2), layout::Endpoint { ifindex: 20, egress: 99, ..layout::Endpoint::default() });
    let world = World { store_id: "s".into(), revision: 3, with_groups: true, ..World::default() };
    let mut enforcer = Enforcer::new(kernel, (CELL, network()), Mirror::new(world), Some(grant()));
    let own = Placed { egress: vec![static_rule("203.0.113.1")], ..place("h", 20) };
    enforcer.restore([(address(2), own)].into()).unwrap();
    assert_eq!((enforcer.live(), set(&mut enforcer, 2)), (1, 99));
    assert!(enforcer.view().failure.unwrap().contains("map EGRESS is full"));
}
