//! Bandwidth: what is asked for is at both ends, and what is lost is put back. That the kernel keeps to the rate is tried
//! in the system tests.

use super::{Cell, add, attachment, descriptor, ip, settings};
use crate::endpoint::Settings;
use crate::host::{Netns, testing};
use c2c_proto::agent_api::{Add, Added, ApiError, Bandwidth, Check, code};
use std::process::Command;

const BLOCK: &str = "10.255.1.0/24";
const HOST: &str = "s-010255001002";
const ASKED: Bandwidth = Bandwidth {
    ingress_rate: 100_000_000,
    ingress_burst: 8,
    egress_rate: 10_000_000,
    egress_burst: 8_000_000,
};

async fn add_with(cell: &Cell, container: &Netns, bandwidth: Bandwidth) -> Result<Added, ApiError> {
    let call = Add { bandwidth, ..add("one", container) };
    cell.manager.add(call, descriptor(container)).await
}

/// The root qdisc of an interface, as iproute2 shows it.
fn root(netns: &Netns, interface: &str) -> String {
    let arguments = ["qdisc", "show", "dev", interface, "root"];
    let output = netns.run(|| Ok(Command::new("tc").args(arguments).output().unwrap())).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn limited(netns: &Netns, interface: &str, rate: &str) -> bool {
    let found = root(netns, interface);
    found.contains("qdisc tbf c2c: root") && found.contains(&format!("rate {rate} "))
}

#[tokio::test]
async fn both_directions_are_limited_where_they_leave() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    add_with(&cell, &container, ASKED).await.unwrap();
    assert!(limited(&cell.home, HOST, "103829Kbit"), "{}", root(&cell.home, HOST));
    assert!(limited(&container, "eth0", "10382Kbit"), "{}", root(&container, "eth0"));
    assert!(
        root(&cell.home, HOST).contains("burst 80Kb"),
        "a whole GSO packet fits: {}",
        root(&cell.home, HOST)
    );
    assert_eq!(cell.manager.list()[0].bandwidth, ASKED);
    cell.del("one").await.unwrap();
    cell.assert_nothing_is_left();
}

#[tokio::test]
async fn one_direction_can_be_limited_alone_and_none_costs_nothing() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    let egress = Bandwidth { ingress_rate: 0, ingress_burst: 0, ..ASKED };
    add_with(&cell, &container, egress).await.unwrap();
    assert!(!root(&cell.home, HOST).contains("tbf") && limited(&container, "eth0", "10382Kbit"));
    cell.del("one").await.unwrap();
    add_with(&cell, &container, Bandwidth::default()).await.unwrap();
    assert!(!root(&cell.home, "s-010255001003").contains("tbf") && !root(&container, "eth0").contains("tbf"));
}

#[tokio::test]
async fn who_asks_for_none_gets_the_default() {
    let default =
        Bandwidth { ingress_rate: 1_024_000, ingress_burst: 1_024_000, egress_rate: 0, egress_burst: 0 };
    let cell = Cell::with(BLOCK, Settings { bandwidth: default, ..settings() });
    let container = testing::namespace();
    add_with(&cell, &container, Bandwidth::default()).await.unwrap();
    assert_eq!(cell.manager.list()[0].bandwidth, default);
    cell.del("one").await.unwrap();
    let asked = Bandwidth { ingress_rate: 0, ingress_burst: 0, ..ASKED };
    add_with(&cell, &container, asked).await.unwrap();
    let expected = Bandwidth { egress_rate: ASKED.egress_rate, egress_burst: ASKED.egress_burst, ..default };
    assert_eq!(cell.manager.list()[0].bandwidth, expected, "each direction by itself");
}

#[tokio::test]
async fn limits_that_cannot_be_are_refused() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    let none = Bandwidth::default();
    let rows = [
        (
            Bandwidth { ingress_rate: 8000, ..none },
            "ingressRate 8000 with ingressBurst 0",
            "a rate without a burst",
        ),
        (
            Bandwidth { egress_burst: 8000, ..none },
            "egressRate 0 with egressBurst 8000",
            "a burst without a rate",
        ),
        (Bandwidth { egress_rate: 7, egress_burst: 8, ..none }, "egressRate 7", "below 8 bits"),
        (Bandwidth { egress_rate: 8, egress_burst: 8 << 32, ..none }, "egressRate 8", "4 GiB or more"),
    ];
    for (asked, found, expected) in rows {
        let error = add_with(&cell, &container, asked).await.unwrap_err();
        assert!(
            error.code == code::INVALID && error.msg.contains(found) && error.msg.contains(expected),
            "{error:?}"
        );
        cell.assert_nothing_is_left();
    }
    let largest = Bandwidth { egress_rate: u64::MAX, egress_burst: u64::from(u32::MAX) * 8, ..none };
    add_with(&cell, &container, largest).await.unwrap();
    assert_eq!(cell.manager.repair().await.done, [""; 0], "the kernel has it as it was asked for");
}

#[tokio::test]
async fn a_limit_that_is_lost_or_changed_is_put_back() {
    let (cell, container) = (Cell::new(BLOCK), testing::namespace());
    let address = add_with(&cell, &container, ASKED).await.unwrap().address;
    assert_eq!(cell.manager.repair().await.done, [""; 0]);
    let tc = |netns: &Netns, line: &str| {
        let arguments = line.split(' ');
        let output = netns.run(|| Ok(Command::new("tc").args(arguments).output().unwrap())).unwrap();
        assert!(output.status.success(), "tc {line}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for line in [
        "qdisc del dev s-010255001002 root",
        "qdisc replace dev s-010255001002 root tbf rate 1mbit burst 90kb limit 90kb",
        "qdisc change dev s-010255001002 root handle c2c: tbf rate 1mbit burst 90kb limit 90kb",
    ] {
        if !line.contains("change") || limited(&cell.home, HOST, "103829Kbit") {
            tc(&cell.home, line);
        }
        tc(&container, "qdisc del dev eth0 root");
        let check = Check { attachment: attachment("one"), address };
        let error = cell.manager.check(check, Some(descriptor(&container))).await.unwrap_err();
        assert!(error.details.contains("on the cell the limit of its rate is missing"), "{error:?}");
        assert!(error.details.contains("in the container the limit of its rate is missing"), "{error:?}");
        let report = cell.manager.repair().await;
        assert_eq!(report.done.len(), 1, "{report:?}");
        assert!(limited(&cell.home, HOST, "103829Kbit") && limited(&container, "eth0", "10382Kbit"));
        assert_eq!(cell.manager.repair().await.done, [""; 0]);
    }
    ip(&cell.home, "link set s-010255001002 mtu 1400");
    assert_eq!(cell.manager.repair().await.done.len(), 1, "the MTU alone");
}
