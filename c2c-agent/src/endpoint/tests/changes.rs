//! Ports and egress rules: of an ADD, and of what Garden changes later.

use super::{Cell, add, attachment, descriptor, port, settings};
use crate::endpoint::{Record, Settings};
use crate::host::{Netns, testing};
use c2c_proto::agent_api::{
    Add, Added, ApiError, IpRange, NetIn, NetOut, NetOutRule, PortMapping, PortRange, PortRequest, Transport,
    code,
};
use std::fs;

const BLOCK: &str = "10.255.1.0/24";

async fn add_with(
    cell: &Cell,
    id: &str,
    container: &Netns,
    ports: &[PortRequest],
) -> Result<Added, ApiError> {
    let call = Add { ports: ports.to_vec(), ..add(id, container) };
    cell.manager.add(call, descriptor(container)).await
}

fn given(ports: &[PortMapping]) -> Vec<(u16, u16)> {
    ports.iter().map(|port| (port.host_port, port.container_port)).collect()
}

fn net_in(id: &str, port: PortRequest) -> NetIn {
    NetIn { container_id: id.to_owned(), port }
}

fn net_out(id: &str, rules: &[NetOutRule]) -> NetOut {
    NetOut { container_id: id.to_owned(), rules: rules.to_vec() }
}

/// TCP to one address and port.
fn rule(address: &str, port: u16) -> NetOutRule {
    NetOutRule {
        protocol: 1,
        networks: vec![IpRange { start: address.to_owned(), end: address.to_owned() }],
        ports: vec![PortRange { start: port, end: port }],
        ..NetOutRule::default()
    }
}

fn on_disk(cell: &Cell, id: &str) -> Record {
    serde_json::from_slice(&fs::read(cell.record_file(id)).unwrap()).unwrap()
}

/// What the datapath was told of the only container.
fn enforced(cell: &Cell) -> Record {
    cell.wire.entered.lock().unwrap().values().next().unwrap().clone()
}

#[tokio::test]
async fn an_add_answers_what_it_was_told_to() {
    let told = Settings {
        dns_servers: Some(vec!["169.254.0.2".to_owned()]),
        search_domains: Some(Vec::new()),
        ..settings()
    };
    let (cell, container) = (Cell::with(BLOCK, told), testing::namespace());
    let added =
        add_with(&cell, "one", &container, &[port(0, 8080), port(9000, 90), port(0, 2222)]).await.unwrap();
    assert_eq!(given(&added.ports), [(61_000, 8080), (9000, 90), (61_001, 2222)]);
    assert_eq!(added.cell_address.to_string(), "192.0.2.7");
    assert_eq!(
        (added.dns_servers, added.search_domains),
        (Some(vec!["169.254.0.2".to_owned()]), Some(vec![]))
    );
    assert_eq!(on_disk(&cell, "one").ports, added.ports);
    assert_eq!(enforced(&cell).ports, added.ports);
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    let added = cell.add("one", &container).await.unwrap();
    assert_eq!((added.ports, added.dns_servers, added.search_domains), (vec![], None, None));
}

#[tokio::test]
async fn a_port_is_not_given_again_at_once_even_after_a_restart() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    for expected in [61_000, 61_001] {
        let added = add_with(&cell, "one", &container, &[port(0, 8080)]).await.unwrap();
        assert_eq!(given(&added.ports), [(expected, 8080)]);
        cell.del("one").await.unwrap();
    }
    let (cell, _) = cell.recovered().await;
    let added = add_with(&cell, "one", &container, &[port(0, 8080), port(61_000, 80)]).await.unwrap();
    assert_eq!(given(&added.ports), [(61_002, 8080), (61_000, 80)], "a free one can be asked for");
}

#[tokio::test]
async fn ports_that_cannot_be_had_leave_nothing() {
    let (cell, containers) = (Cell::new(BLOCK), [testing::namespace(), testing::namespace()]);
    add_with(&cell, "one", &containers[0], &[port(9000, 90)]).await.unwrap();
    let rows: [(&[PortRequest], &str); 5] = [
        (&[port(0, 1), port(9000, 1)], "the cell's port 9000 leads into a container already"),
        (&[port(0, 1), port(80, 1), port(80, 2)], "port 80 leads into a container already"),
        (&[port(20_000, 1)], "port 20000 cannot lead into a container"),
        (&[port(4_789, 1)], "port 4789 cannot lead into a container"),
        (&[port(0, 1); 9], "every port of the cell from 61000 to 61007"),
    ];
    for (ports, expected) in rows {
        let error = add_with(&cell, "two", &containers[1], ports).await.unwrap_err();
        assert!(error.code == code::NO_PORT && error.msg.contains(expected), "{error:?}");
        assert!(error.msg.starts_with("container two (eth0) cannot have"), "{error:?}");
        assert_eq!((cell.names().len(), cell.files().len(), cell.wire.entered().len()), (1, 1, 1));
    }
    let added = add_with(&cell, "two", &containers[1], &[port(0, 1)]).await.unwrap();
    assert_eq!(given(&added.ports), [(61_000, 1)], "none was lost");
    cell.del("one").await.unwrap();
    cell.del("two").await.unwrap();
    cell.assert_nothing_is_left();
}

#[tokio::test]
async fn what_a_failed_add_took_is_free_again() {
    let (cell, container) = (Cell::new("10.255.1.0/30"), testing::namespace());
    cell.refuse(Some("add"));
    add_with(&cell, "one", &container, &[port(9000, 90)]).await.unwrap_err();
    cell.refuse(None);
    add_with(&cell, "one", &container, &[port(9000, 90)]).await.unwrap();
    let second = testing::namespace();
    let error = add_with(&cell, "two", &second, &[port(9001, 90)]).await.unwrap_err();
    assert_eq!(error.code, code::NO_ADDRESS, "{error:?}");
    cell.manager.net_in(net_in("one", port(9001, 91))).await.unwrap();
}

#[tokio::test]
async fn a_kill_loses_no_port() {
    let (cell, containers) = (Cell::new(BLOCK), [testing::namespace(), testing::namespace()]);
    add_with(&cell, "one", &containers[0], &[port(0, 8080), port(9000, 90)]).await.unwrap();
    cell.manager.net_in(net_in("one", port(0, 9090))).await.unwrap();
    let before = cell.manager.list();
    let (cell, report) = cell.recovered().await;
    assert_eq!((cell.manager.list(), report.failed.len()), (before.clone(), 0));
    assert_eq!(enforced(&cell), before[0]);
    let error = add_with(&cell, "two", &containers[1], &[port(9000, 90)]).await.unwrap_err();
    assert_eq!(error.code, code::NO_PORT);
    let added = add_with(&cell, "two", &containers[1], &[port(0, 8080)]).await.unwrap();
    assert_eq!(given(&added.ports), [(61_002, 8080)]);
}

#[tokio::test]
async fn net_in_leads_one_more_port_into_a_container() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    add_with(&cell, "one", &container, &[port(0, 8080)]).await.unwrap();
    let udp = PortRequest { protocol: Some(Transport::Udp), ..port(9000, 53) };
    let rows = [(port(0, 9090), (61_001, 9090)), (port(9000, 90), (9000, 90)), (port(9001, 0), (9001, 9001))];
    for (asked, expected) in rows {
        let mapping = cell.manager.net_in(net_in("one", asked)).await.unwrap();
        assert_eq!((mapping.host_port, mapping.container_port), expected);
    }
    assert_eq!(cell.manager.net_in(net_in("one", udp)).await.unwrap_err().code, code::NO_PORT);
    let again = cell.manager.net_in(net_in("one", port(9000, 90))).await.unwrap();
    assert_eq!((again.host_port, again.container_port), (9000, 90), "asking again changes nothing");
    assert_eq!(
        given(&on_disk(&cell, "one").ports),
        [(61_000, 8080), (61_001, 9090), (9000, 90), (9001, 9001)]
    );
    assert_eq!(enforced(&cell), on_disk(&cell, "one"));
    cell.del("one").await.unwrap();
    cell.assert_nothing_is_left();
    add_with(&cell, "one", &container, &[port(9000, 90)]).await.unwrap();
}

#[tokio::test]
async fn net_out_is_a_set() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    let (first, second) = (rule("8.8.8.8", 53), rule("8.8.4.4", 53));
    let call = Add { egress: vec![first.clone(), first.clone()], ..add("one", &container) };
    cell.manager.add(call, descriptor(&container)).await.unwrap();
    assert_eq!(on_disk(&cell, "one").egress, std::slice::from_ref(&first));
    for _ in 0..2 {
        cell.manager.net_out(net_out("one", &[second.clone(), first.clone()])).await.unwrap();
        assert_eq!(on_disk(&cell, "one").egress, [first.clone(), second.clone()]);
        assert_eq!(enforced(&cell).egress, [first.clone(), second.clone()]);
    }
    cell.manager.net_out(net_out("one", &[])).await.unwrap();
}

#[tokio::test]
async fn a_rule_that_cannot_be_used_changes_nothing() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("one", &container).await.unwrap();
    let bad = [
        NetOutRule { protocol: 9, ..NetOutRule::default() },
        rule("nowhere", 53),
        NetOutRule { ports: vec![PortRange { start: 9, end: 8 }], ..rule("8.8.8.8", 53) },
    ];
    for bad in bad {
        let error = cell.manager.net_out(net_out("one", &[rule("8.8.8.8", 53), bad])).await.unwrap_err();
        assert!(error.code == code::INVALID && error.msg.contains("cannot be used"), "{error:?}");
        assert!(!error.msg.contains('\n'), "{error:?}");
    }
    assert_eq!((&on_disk(&cell, "one").egress[..], &enforced(&cell).egress[..]), (&[][..], &[][..]));
}

#[tokio::test]
async fn what_the_datapath_refuses_is_not_remembered() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("one", &container).await.unwrap();
    let before = (cell.manager.list(), on_disk(&cell, "one"));
    cell.refuse(Some("update"));
    let error = cell.manager.net_in(net_in("one", port(9000, 90))).await.unwrap_err();
    assert_eq!((error.code, error.details.as_str()), (code::DATAPATH, "map ENDPOINTS is full (64 entries)"));
    let error = cell.manager.net_out(net_out("one", &[rule("8.8.8.8", 53)])).await.unwrap_err();
    assert_eq!(error.code, code::DATAPATH);
    assert_eq!((cell.manager.list(), on_disk(&cell, "one")), before);
    cell.refuse(None);
    cell.manager.net_in(net_in("one", port(9000, 90))).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_written_is_not_enforced() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("one", &container).await.unwrap();
    fs::remove_dir_all(cell.dir.path().join("endpoints")).unwrap();
    let error = cell.manager.net_in(net_in("one", port(9000, 90))).await.unwrap_err();
    assert_eq!(error.code, code::STATE, "{error:?}");
    assert_eq!((enforced(&cell).ports, &cell.manager.list()[0].ports), (vec![], &vec![]));
}

#[tokio::test]
async fn only_a_wired_container_can_be_changed() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    let unknown = async |cell: &Cell| {
        let mapped = cell.manager.net_in(net_in("one", port(0, 1))).await.unwrap_err();
        let let_out = cell.manager.net_out(net_out("one", &[])).await.unwrap_err();
        assert_eq!((mapped.code, let_out.code), (code::UNKNOWN_CONTAINER, code::UNKNOWN_CONTAINER));
        assert_eq!(mapped.msg, "the container \"one\" is not wired on this cell");
    };
    unknown(&cell).await;
    cell.add("one", &container).await.unwrap();
    cell.refuse(Some("remove"));
    cell.del("one").await.unwrap_err();
    unknown(&cell).await;
}

#[tokio::test]
async fn records_of_an_older_agent_are_read() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    cell.add("one", &container).await.unwrap();
    let file = cell.record_file("one");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for key in ["ports", "egress", "bandwidth"] {
        record.as_object_mut().unwrap().remove(key).unwrap();
    }
    fs::write(&file, record.to_string()).unwrap();
    let before = cell.manager.list();
    let (cell, _) = cell.recovered().await;
    assert_eq!(cell.manager.list(), before);
}

#[tokio::test]
async fn two_records_of_one_port_cannot_be() {
    let (cell, containers) = (Cell::new(BLOCK), [testing::namespace(), testing::namespace()]);
    add_with(&cell, "one", &containers[0], &[port(9000, 90)]).await.unwrap();
    add_with(&cell, "two", &containers[1], &[port(9001, 90)]).await.unwrap();
    let file = cell.record_file("two");
    let text = fs::read_to_string(&file).unwrap().replace("9001", "9000");
    fs::write(file, text).unwrap();
    let (cell, report) = cell.recovered().await;
    assert_eq!(report.done, ["rebuild the lost record of container two (eth0) from its interface"]);
    let ports: Vec<_> = cell.manager.list().iter().map(|record| given(&record.ports)).collect();
    assert_eq!(ports, [vec![(9000, 90)], vec![]]);
    assert_eq!(attachment("two"), cell.manager.list()[1].attachment);
}
