//! silk-controller's API: every row of its contract, and one pool with c2c's agents.

use crate::harness::{Api, within};
use c2c_proto::v1;
use c2c_proto::v1::controller_message::Message as FromController;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

fn acquire(underlay: &str, single: bool) -> String {
    format!(r#"{{"underlay_ip":"{underlay}","single_overlay_ip":{single}}}"#)
}

/// The subnet of a new lease.
async fn acquired(api: &Api, underlay: &str, single: bool) -> String {
    let reply = api.put("/leases/acquire", &acquire(underlay, single)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let subnet = reply.json()["overlay_subnet"].as_str().unwrap().to_owned();
    assert_eq!(reply.body, lease(underlay, &subnet), "byte for byte");
    subnet
}

/// A lease as Go writes it.
fn lease(underlay: &str, subnet: &str) -> String {
    let address: Ipv4Addr = subnet.split('/').next().unwrap().parse().unwrap();
    let [a, b, c, d] = address.octets();
    format!(
        r#"{{"underlay_ip":"{underlay}","overlay_subnet":"{subnet}","overlay_hardware_addr":"ee:ee:{a:02x}:{b:02x}:{c:02x}:{d:02x}"}}"#
    )
}

#[tokio::test]
async fn a_cell_comes_lives_and_leaves() {
    let mut api = Api::start();
    let subnet = acquired(&api, "10.0.3.1", false).await;
    assert!(
        subnet.starts_with("10.255.") && subnet.ends_with(".0/24") && subnet != "10.255.0.0/24",
        "{subnet}"
    );
    assert_eq!(acquired(&api, "10.0.3.1", false).await, subnet, "asked again it is the same");
    let held = lease("10.0.3.1", &subnet);
    let listed = format!(r#"{{"leases":[{held}]}}"#);
    for _ in 0..2 {
        assert_eq!(api.put("/leases/renew", &held).await.is(), (200, "{}"));
        assert_eq!(api.get("/leases").await.is(), (200, listed.as_str()));
        api.restart();
    }
    for _ in 0..2 {
        assert_eq!(api.put("/leases/release", r#"{"underlay_ip":"10.0.3.1"}"#).await.is(), (200, "{}"));
        assert_eq!(api.get("/leases").await.is(), (200, r#"{"leases":[]}"#));
    }
}

#[tokio::test]
async fn a_single_address_is_of_the_first_block_and_another_kind() {
    let api = Api::start();
    let single = acquired(&api, "10.0.3.2", true).await;
    assert!(
        single.starts_with("10.255.0.") && single.ends_with("/32") && single != "10.255.0.0/32",
        "{single}"
    );
    assert_eq!(acquired(&api, "10.0.3.2", true).await, single);
    assert_eq!(api.put("/leases/renew", &lease("10.0.3.2", &single)).await.is(), (200, "{}"));
    let block = acquired(&api, "10.0.3.2", false).await;
    assert!(block.ends_with(".0/24"), "the other kind is given anew: {block}");
    assert_eq!(api.get("/leases").await.json()["leases"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_lease_that_is_not_known_is_taken_over_if_that_hurts_nobody() {
    let api = Api::start();
    let renew = async |underlay: &str, subnet: &str| api.put("/leases/renew", &lease(underlay, subnet)).await;
    for (underlay, subnet) in [("10.0.3.1", "10.255.7.0/24"), ("10.0.3.2", "10.255.0.9/32")] {
        assert_eq!(renew(underlay, subnet).await.is(), (200, "{}"));
        assert_eq!(renew(underlay, subnet).await.is(), (200, "{}"));
    }
    let mismatch = (409, r#"{"error": "renew-subnet-lease: lease mismatch"}"#);
    assert_eq!(renew("10.0.3.1", "10.255.8.0/24").await.is(), mismatch);
    let wrong = lease("10.0.3.1", "10.255.7.0/24").replace("ee:ee:0a", "ee:ee:0b");
    assert_eq!(api.put("/leases/renew", &wrong).await.is(), mismatch);
    for (subnet, said) in [
        ("10.255.7.0/24", "held lease 10.255.7.0/24 overlaps lease 10.255.7.0/24 of cell silk/10.0.3.1"),
        ("10.255.0.9/32", "overlaps lease 10.255.0.9/32"),
        ("10.255.0.0/24", "is not a block"),
        ("10.255.0.0/32", "is not a block"),
        ("10.255.9.0/25", "is not a block"),
        ("192.168.0.0/24", "is not a block"),
    ] {
        let reply = renew("10.0.3.9", subnet).await;
        assert!(
            reply.status == 409 && reply.body.starts_with(r#"{"error": "renew-subnet-lease: "#),
            "{reply:?}"
        );
        assert!(reply.body.contains(said), "{reply:?}");
    }
    assert_eq!(api.get("/leases").await.json()["leases"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_wrong_is_said_in_silks_words() {
    let api = Api::start();
    for path in ["/leases/acquire", "/leases/renew", "/leases/release"] {
        for body in ["", "%%", "[1]x", r#"{"underlay_ip":1}"#] {
            let reply = api.put(path, body).await;
            assert!(
                reply.status == 400 && reply.body.starts_with(r#"{"error": "unmarshal-request: "#),
                "{reply:?}"
            );
            reply.json();
        }
        let reply = api.put(path, &"x".repeat(20_000)).await;
        assert!(reply.status == 400 && reply.body.starts_with(r#"{"error": "read-body: "#), "{reply:?}");
    }
    let escaped = r#"{"error": "invalid ipv4 address: a\"b"}"#;
    assert_eq!(api.put("/leases/acquire", r#"{"underlay_ip":"a\"b"}"#).await.is(), (500, escaped));
    assert_eq!(api.put("/leases/acquire", "{}").await.is(), (500, r#"{"error": "invalid ipv4 address: "}"#));
    assert_eq!(api.put("/leases/release", "{}").await.is(), (200, "{}"));
    for (underlay, subnet, said) in
        [("x", "10.255.1.0/24", "invalid ipv4"), ("10.0.0.1", "x", "invalid CIDR")]
    {
        let body = format!(
            r#"{{"underlay_ip":"{underlay}","overlay_subnet":"{subnet}","overlay_hardware_addr":""}}"#
        );
        let reply = api.put("/leases/renew", &body).await;
        assert!(reply.status == 409 && reply.body.contains(said), "{reply:?}");
    }
}

#[tokio::test]
async fn cells_that_come_at_once_share_nothing_and_the_pool_ends() {
    // Seven blocks and 15 single addresses.
    let api = Api::start_with(&["--overlay-network", "10.255.0.0/25", "--block-prefix-length", "28"]);
    for (single, size) in [(false, 7), (true, 15)] {
        let ask = async |n: u8| {
            let underlay = format!("10.0.{}.{n}", u8::from(single));
            api.put("/leases/acquire", &acquire(&underlay, single)).await
        };
        let replies = futures::future::join_all((1..=20).map(ask)).await;
        let given: BTreeSet<_> = replies
            .iter()
            .filter(|reply| reply.status == 200)
            .map(|reply| reply.json()["overlay_subnet"].to_string())
            .collect();
        assert_eq!(given.len(), size);
        let refused: Vec<_> = replies.iter().filter(|reply| reply.status != 200).collect();
        assert_eq!(refused.len(), 20 - size);
        refused.iter().for_each(|reply| assert_eq!(reply.is(), (409, r#"{"error": "no lease available"}"#)));
    }
}

fn granted(message: FromController) -> v1::Lease {
    let FromController::LeaseGrant(grant) = message else { panic!("{message:?}") };
    grant.lease.unwrap()
}

#[tokio::test]
async fn a_cell_keeps_its_block_when_it_is_migrated_and_back() {
    let api = Api::start();
    let underlay = Ipv4Addr::new(192, 0, 2, 1);
    let subnet = acquired(&api, "192.0.2.1", false).await;
    let lease = granted(api.hello("diego-cell/1", underlay).await);
    assert_eq!((lease.cell.as_str(), lease.overlay_block.as_str()), ("diego-cell/1", subnet.as_str()));
    assert_eq!(acquired(&api, "192.0.2.1", false).await, subnet);
    assert_eq!(api.put("/leases/renew", &self::lease("192.0.2.1", &subnet)).await.is(), (200, "{}"));
    let listed =
        within(api.operator().list_leases(v1::ListLeasesRequest::default())).await.unwrap().into_inner();
    assert_eq!(listed.leases.len(), 1);
    // A name that is another cell's as long as that runs Silk is nobody else's.
    let refused = api.hello("silk/192.0.2.2", underlay).await;
    assert!(
        matches!(&refused, FromController::LeaseRefused(refused) if refused.message.starts_with("cell: ")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn two_protocols_ask_one_pool_at_once() {
    let api = Api::start_with(&["--overlay-network", "10.255.0.0/25", "--block-prefix-length", "28"]);
    let ours = async |n: u8| {
        granted(api.hello(&format!("cell-{n}"), Ipv4Addr::new(192, 0, 2, n)).await).overlay_block
    };
    let silks = async |n: u8| acquired(&api, &format!("192.0.2.{n}"), false).await;
    let (ours, silks) = tokio::join!(
        futures::future::join_all((1..=3).map(ours)),
        futures::future::join_all((11..=14).map(silks))
    );
    let all: BTreeSet<_> = ours.into_iter().chain(silks).collect();
    assert_eq!(all.len(), 7, "{all:?}");
}
