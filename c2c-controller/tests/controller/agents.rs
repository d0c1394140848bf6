//! Agents on the stream: leases, worlds, and what they are told when something cannot be.

use crate::harness::{Agent, Foundation, LOOPBACK, PATIENCE, hello, within};
use c2c_controller::api::{AgentService, Terms};
use c2c_controller::domain::{Command, Moment, Policy, Pool, Rules};
use c2c_controller::ledger::Ledger;
use c2c_controller::store::MemoryStore;
use c2c_proto::tls::{self, Identity};
use c2c_proto::v1;
use c2c_proto::v1::agent_message::Message as Say;
use c2c_proto::v1::change::Change;
use c2c_proto::v1::controller_message::Message as FromController;
use c2c_proto::v1::fabric_server::FabricServer;
use c2c_proto::v1::lease_refused::Reason;
use futures::future::join_all;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Code;
use tonic::transport::Server;

/// An agent with its lease and first snapshot.
async fn settled(
    foundation: &Foundation,
    number: u8,
    apps: &[&str],
) -> (Agent, v1::LeaseGrant, v1::Snapshot) {
    let mut agent = foundation.connect(number, hello(number, apps)).await;
    let grant = agent.grant().await;
    let snapshot = agent.snapshot().await;
    agent.applied(snapshot.revision).await;
    (agent, grant, snapshot)
}

fn puts(delta: &v1::Delta) -> Vec<&v1::Policy> {
    let changes = delta.changes.iter().filter_map(|change| change.change.as_ref());
    changes
        .filter_map(|change| if let Change::PolicyPut(policy) = change { Some(policy) } else { None })
        .collect()
}

#[tokio::test]
async fn a_cell_gets_a_lease_the_world_and_every_change_that_concerns_it() {
    let mut foundation = Foundation::new();
    let _controller =
        foundation.start_with(&["--vni", "7", "--udp-port", "4790", "--heartbeat-seconds", "11"]);
    let (mut first, grant, snapshot) = settled(&foundation, 1, &["frontend"]).await;
    let lease = grant.lease.clone().unwrap();
    assert_eq!((lease.cell.as_str(), lease.underlay_address.as_str()), ("cell-1", "192.0.2.1"));
    assert!(lease.overlay_block.starts_with("10.255.") && lease.overlay_block.ends_with(".0/24"));
    assert!(lease.hardware_address.starts_with("ee:ee:0a:ff:"));
    let terms = (grant.overlay_network.as_str(), grant.block_prefix_length, grant.vni, grant.udp_port);
    assert_eq!(terms, ("10.255.0.0/16", 24, 7, 4790));
    assert_eq!((grant.lease_seconds, grant.heartbeat_seconds), (604_800, 11));
    assert_eq!((snapshot.revision, snapshot.leases), (1, vec![lease]));

    let (mut second, ..) = settled(&foundation, 2, &["backend"]).await;
    let joined = first.delta().await;
    assert_eq!((joined.from_revision, joined.to_revision), (1, 2));
    assert!(matches!(&joined.changes[0].change, Some(Change::LeasePut(lease)) if lease.cell == "cell-2"));
    first.applied(2).await;

    let allow = ["allow-access", "frontend", "backend", "--port", "7000-7010", "--protocol", "TCP"];
    let (ran, ()) = tokio::join!(foundation.run_beside(&allow), async {
        for agent in [&mut first, &mut second] {
            let delta = agent.delta_to(3).await;
            let [policy] = puts(&delta)[..] else { panic!("{delta:?}") };
            let apps = (policy.source_app.as_str(), policy.destination_app.as_str());
            assert_eq!(apps, ("frontend", "backend"));
            assert_eq!(
                (policy.protocol(), policy.port_start, policy.port_end),
                (v1::Protocol::Tcp, 7000, 7010)
            );
            assert_eq!((policy.source_tag, policy.destination_tag), (1, 2));
            agent.applied(3).await;
        }
    });
    let said = ran.ok();
    let expected = "frontend -> backend tcp 7000-7010 allowed at revision 3; enforced by 2 of 2 cells in ";
    assert!(said.starts_with(expected) && said.ends_with(" ms"), "{said}");

    foundation.run(&["allow-access", "other", "unrelated", "--port", "1", "--wait", "0"]).ok();
    let unrelated = first.delta().await;
    assert_eq!((unrelated.from_revision, unrelated.to_revision, unrelated.changes.len()), (3, 4, 0));
}

#[tokio::test]
async fn an_operator_who_waits_is_told_how_many_cells_enforce() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let (mut prompt, ..) = settled(&foundation, 1, &["a"]).await;
    let (_mute, ..) = settled(&foundation, 2, &["b"]).await;
    let allow = ["allow-access", "a", "b", "--port", "1", "--wait", "1", "--json"];
    let (ran, ()) = tokio::join!(foundation.run_beside(&allow), async {
        prompt.delta_to(3).await;
        prompt.applied(3).await;
    });
    let reply = ran.json();
    assert_eq!((reply["cells_concerned"].as_u64(), reply["cells_enforcing"].as_u64()), (Some(2), Some(1)));
    assert!(reply["elapsed_microseconds"].as_u64().unwrap() >= 1_000_000, "{reply}");
}

#[tokio::test]
async fn apps_that_come_and_go_change_what_is_told() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    for ports in ["1", "2"] {
        foundation.run(&["allow-access", "a", "b", "--port", ports]).ok();
    }
    let (mut agent, _, snapshot) = settled(&foundation, 1, &[]).await;
    assert_eq!((snapshot.revision, snapshot.policies.len()), (3, 0));
    let changed = |serial, added: &[&str], removed: &[&str]| {
        let owned = |apps: &[&str]| apps.iter().map(|app| (*app).to_owned()).collect();
        Say::AppsChanged(v1::AppsChanged {
            serial,
            added: owned(added),
            removed: owned(removed),
            ..Default::default()
        })
    };
    agent.say(changed(1, &["b"], &[])).await;
    let view = agent.view().await;
    assert_eq!((view.serial, view.revision, view.policies.len()), (1, 3, 2));
    foundation.run(&["allow-access", "b", "c", "--port", "3", "--wait", "0"]).ok();
    assert_eq!(puts(&agent.delta_to(4).await).len(), 1);
    agent.say(changed(2, &[], &["b"])).await;
    assert_eq!((agent.view().await.serial), 2);
    foundation.run(&["allow-access", "b", "c", "--port", "4", "--wait", "0"]).ok();
    assert_eq!(agent.delta_to(5).await.changes.len(), 0);
    agent.say(changed(3, &["not legal"], &[])).await;
    let status = agent.next().await.unwrap_err();
    let expected = "added: \"not legal\" holds ' '; expected 1 to 255 characters of A-Z a-z 0-9 _ . -";
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, expected));
}

#[tokio::test]
async fn a_heartbeat_renews_the_lease_and_makes_no_revision() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let (mut agent, ..) = settled(&foundation, 1, &[]).await;
    agent.say(Say::Heartbeat(v1::Heartbeat { applied_revision: 1 })).await;
    assert_eq!(agent.heartbeat_ack().await.revision, 1);
    let listed = foundation.run(&["leases", "--json"]).json();
    let lease = &listed["leases"][0];
    assert_eq!((listed["revision"].as_u64(), lease["applied_revision"].as_u64()), (Some(1), Some(1)));
    assert!(lease["connected"].as_bool().unwrap() && lease["renewed_seconds_ago"].as_u64().unwrap() < 60);
}

#[tokio::test]
async fn cells_that_race_never_get_overlapping_leases() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start_with(&["--overlay-network", "10.255.0.0/20"]);
    (1..=16).for_each(|number| drop(foundation.cell(number)));
    let race = (1..=16).map(|number| {
        let foundation = &foundation;
        async move {
            let mut agent = foundation.connect(number, hello(number, &[])).await;
            match agent.next().await.unwrap() {
                Some(FromController::LeaseGrant(grant)) => Ok(grant.lease.unwrap().overlay_block),
                Some(FromController::LeaseRefused(refused)) => Err(refused),
                other => panic!("{other:?}"),
            }
        }
    });
    let (granted, refused): (Vec<_>, Vec<_>) = join_all(race).await.into_iter().partition(Result::is_ok);
    let blocks: BTreeSet<String> = granted.into_iter().map(Result::unwrap).collect();
    assert_eq!((blocks.len(), refused.len()), (15, 1), "a /20 has 15 blocks of /24 beside the reserved one");
    let refused = refused.into_iter().next().unwrap().unwrap_err();
    assert_eq!(refused.reason(), Reason::PoolExhausted);
    let expected = "all 15 blocks of 10.255.0.0/20 are leased and none has expired";
    assert!(refused.message.starts_with(expected), "{}", refused.message);
}

#[tokio::test]
async fn a_hello_that_cannot_be_right_is_refused_with_its_field() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let (_other, grant, _) = settled(&foundation, 9, &[]).await;
    let held = |block: &str| Some(v1::Lease { overlay_block: block.to_owned(), ..v1::Lease::default() });
    let good = || hello(1, &["a"]);
    let block_of_other = grant.lease.unwrap().overlay_block;
    let cases = [
        (
            v1::Hello { protocol: 1, ..good() },
            Reason::Invalid,
            "protocol: is version 1; expected version 2; upgrade the older side",
        ),
        (v1::Hello { cell: String::new(), ..good() }, Reason::Invalid, "cell: is empty; expected"),
        (
            v1::Hello { underlay_address: "x".into(), ..good() },
            Reason::Invalid,
            "underlay_address: \"x\" is not",
        ),
        (v1::Hello { apps: vec!["a b".into()], ..good() }, Reason::Invalid, "apps: \"a b\" holds ' '"),
        (v1::Hello { spaces: vec!["a b".into()], ..good() }, Reason::Invalid, "spaces: \"a b\" holds ' '"),
        (
            v1::Hello { held: held("10.255.1.0"), ..good() },
            Reason::Invalid,
            "held.overlay_block: \"10.255.1.0\"",
        ),
        (
            v1::Hello { underlay_address: "192.0.2.2".into(), ..good() },
            Reason::NotYou,
            "underlay_address: 192.0.2.2 is not among the addresses of the certificate of \"cell-1\"",
        ),
        (
            v1::Hello { held: held("10.1.0.0/24"), ..good() },
            Reason::Contradiction,
            "held lease 10.1.0.0/24 is not a",
        ),
        (v1::Hello { held: held(&block_of_other), ..good() }, Reason::Contradiction, "held lease 10.255."),
        (
            v1::Hello {
                held: held("10.255.1.0/24"),
                store_id: grant.store_id.clone(),
                resume_revision: 1,
                ..good()
            },
            Reason::Contradiction,
            "held lease 10.255.1.0/24 was taken away from this cell",
        ),
        (
            v1::Hello { cell: "cell-9".into(), ..good() },
            Reason::Contradiction,
            "cell name cell-9 is used by the cell",
        ),
    ];
    for (hello, reason, message) in cases {
        let refused = foundation.connect(1, hello).await.refused().await;
        assert_eq!(refused.reason(), reason, "{}", refused.message);
        assert!(refused.message.starts_with(message), "{}", refused.message);
    }
    let listed = foundation.run(&["leases", "--json"]).json();
    assert_eq!(listed["leases"].as_array().unwrap().len(), 1, "nothing changed: {listed}");
}

#[tokio::test]
async fn a_stream_that_does_not_follow_the_protocol_is_ended_with_a_reason() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let (mut agent, ..) = settled(&foundation, 1, &[]).await;
    agent.say(Say::Hello(hello(1, &[]))).await;
    let status = agent.next().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "hello: came twice; expected once, first")
    );
}

#[tokio::test]
async fn only_cells_follow_the_fabric() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let Err(status) = foundation.connect_as(&foundation.operator, hello(1, &[])).await else {
        panic!("let in")
    };
    let expected = "the certificate of \"admin\" has the role c2c-operator (organizationalUnitName); this call needs c2c-cell";
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, expected));
}

#[tokio::test]
async fn a_newer_stream_of_a_cell_takes_the_olders_place() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let (mut older, grant, _) = settled(&foundation, 1, &[]).await;
    let (newer, again, _) = settled(&foundation, 1, &[]).await;
    assert_eq!(grant.lease, again.lease);
    let status = older.next().await.unwrap_err();
    let expected = "a newer stream of the same cell took this one's place";
    assert_eq!((status.code(), status.message()), (Code::Aborted, expected));
    let listed = foundation.run(&["leases", "--json"]).json();
    assert_eq!(listed["leases"][0]["connected"], true, "the newer one stays");
    drop(newer);
}

#[tokio::test]
async fn an_evicted_cell_is_told_and_so_are_the_others() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let (mut first, grant, _) = settled(&foundation, 1, &[]).await;
    let (mut second, ..) = settled(&foundation, 2, &[]).await;
    first.delta_to(2).await;
    let block = grant.lease.unwrap().overlay_block;
    let said = foundation.run(&["evict", "cell-1"]).ok();
    assert_eq!(said, format!("cell cell-1 at 192.0.2.1 evicted at revision 3; {block} is free"));
    let refused = first.refused().await;
    assert_eq!(refused.reason(), Reason::Contradiction);
    assert!(refused.message.ends_with("was taken away at revision 3"), "{}", refused.message);
    let delta = second.delta().await;
    assert!(
        matches!(&delta.changes[0].change, Some(Change::LeaseRemoved(lease)) if lease.overlay_block == block)
    );
}

#[tokio::test]
async fn a_cell_that_leaves_frees_its_lease() {
    let mut foundation = Foundation::new();
    let _controller = foundation.start();
    let (mut agent, ..) = settled(&foundation, 1, &[]).await;
    agent.say(Say::Release(v1::Release {})).await;
    assert!(matches!(agent.next().await, Ok(None)), "the stream ends in order");
    assert_eq!(foundation.run(&["leases"]).ok(), "no lease of 10.255.0.0/16 at revision 2");
}

#[tokio::test]
async fn stopping_is_orderly_and_said() {
    let mut foundation = Foundation::new();
    let controller = foundation.start();
    let (mut agent, ..) = settled(&foundation, 1, &[]).await;
    let stopped = tokio::task::spawn_blocking(move || controller.terminate());
    let status = agent.next().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the controller is stopping"));
    assert!(within(stopped).await.unwrap().success());
}

#[tokio::test]
async fn a_hangup_reads_the_certificates_again() {
    let mut foundation = Foundation::new();
    let controller = foundation.start();
    let (mut agent, ..) = settled(&foundation, 1, &[]).await;
    let other = Foundation::new();
    for (from, to) in [
        (&other.controller.ca, &foundation.controller.ca),
        (&other.controller.cert, &foundation.controller.cert),
        (&other.controller.key, &foundation.controller.key),
    ] {
        std::fs::copy(from, to).unwrap();
    }
    controller.signal(Signal::SIGHUP);
    let deadline = Instant::now() + PATIENCE;
    while foundation.run_as(&other.operator, &["leases"]).code != Some(0) {
        assert!(Instant::now() < deadline, "the new certificates are not used");
    }
    agent.say(Say::Heartbeat(v1::Heartbeat { applied_revision: 1 })).await;
    assert_eq!(agent.heartbeat_ack().await.revision, 1, "an open stream stays");
}

/// The agents' service in this process, over a store without a disk, so that thousands of changes take no time.
async fn serve_here(foundation: &mut Foundation) -> Arc<Ledger> {
    let rules = Rules { pool: Pool::new("10.255.0.0/16".parse().unwrap(), 24).unwrap(), lease_seconds: 1000 };
    let ledger = Arc::new(Ledger::open(Box::new(MemoryStore::default()), rules).unwrap());
    let terms = Terms { vni: 1, udp_port: 4789, heartbeat_seconds: 30 };
    let (stop, stopping) = watch::channel(false);
    let service = AgentService::new(Arc::clone(&ledger), Arc::default(), terms, stopping);
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    foundation.is_at(listener.local_addr().unwrap().port());
    let incoming = tls::incoming(listener, Identity::load(&foundation.controller).unwrap());
    tokio::spawn(async move {
        let _running = stop;
        Server::builder().add_service(FabricServer::new(service)).serve_with_incoming(incoming).await
    });
    ledger
}

/// More changes than fit into the network's buffers and the agent's queue: the rest is dropped, and a new world sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_read_is_sent_a_snapshot_instead_of_what_was_dropped() {
    const CHANGES: u16 = 20_000;
    let mut foundation = Foundation::new();
    let ledger = serve_here(&mut foundation).await;
    // A long name fills the buffers sooner.
    let app = "a".repeat(255);
    let (mut agent, ..) = settled(&foundation, 1, &[&app]).await;
    for port in 1..=CHANGES {
        let policy = Policy::parse(&app, &app, "tcp", &port.to_string()).unwrap();
        ledger.execute(&Command::Allow(policy), Moment::default()).unwrap();
    }
    let last = ledger.revision().get();
    let (mut revision, mut snapshots) = (1, 0);
    while revision < last {
        let heard = agent.next().await.unwrap().unwrap();
        if let FromController::Snapshot(snapshot) = heard {
            snapshots += 1;
            assert_eq!(snapshot.policies.len() as u64, snapshot.revision - 1);
            revision = snapshot.revision;
        } else {
            let FromController::Delta(delta) = heard else { panic!("{heard:?}") };
            assert_eq!(delta.from_revision, revision);
            revision = delta.to_revision;
        }
    }
    assert!(snapshots > 0, "nothing was dropped");
}
