//! What survives: a killed controller, a wiped one, a damaged store.

use crate::harness::{Foundation, hello, within};
use c2c_proto::v1;
use c2c_proto::v1::change::Change;
use c2c_proto::v1::operator_client::OperatorClient;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tonic::transport::Channel;

#[tokio::test]
async fn a_killed_controller_comes_back_with_every_lease_and_policy_and_agents_resume() {
    let mut foundation = Foundation::new();
    let controller = foundation.start();
    let mut agent = foundation.connect(1, hello(1, &["a"])).await;
    let grant = agent.grant().await;
    assert_eq!(agent.snapshot().await.revision, 1);
    foundation.run(&["allow-access", "a", "b", "--port", "1", "--wait", "0"]).ok();
    foundation.run(&["allow-access", "a", "b", "--port", "2-9", "--protocol", "udp", "--wait", "0"]).ok();
    foundation.run(&["allow-access", "x", "y", "--port", "3"]).ok();
    let seen = agent.delta_to(2).await.to_revision;
    let before = ["list-access", "leases"].map(|list| foundation.run(&[list, "--json"]).json());
    controller.kill();
    let cut = loop {
        match agent.next().await {
            Ok(message) => assert!(message.is_some(), "the stream is cut, and does not end in order"),
            Err(status) => break status,
        }
    };
    assert_ne!(cut.code(), tonic::Code::Ok);

    let _controller = foundation.start();
    let policies = foundation.run(&["list-access", "--json"]).json();
    assert_eq!(policies, before[0]);
    let lease = |listed: &serde_json::Value| listed["leases"][0]["overlay_block"].clone();
    assert_eq!(lease(&foundation.run(&["leases", "--json"]).json()), lease(&before[1]));

    foundation.run(&["remove-access", "a", "b", "--port", "1"]).ok();
    let resumed = v1::Hello {
        held: grant.lease.clone(),
        store_id: grant.store_id.clone(),
        resume_revision: seen,
        ..hello(1, &["a"])
    };
    let mut agent = foundation.connect(1, resumed.clone()).await;
    assert_eq!(agent.grant().await, grant);
    let delta = agent.delta().await;
    assert_eq!((delta.from_revision, delta.to_revision), (2, 5));
    let changes: Vec<_> = delta.changes.iter().map(|change| change.change.as_ref().unwrap()).collect();
    assert!(
        matches!(changes[..], [Change::PolicyPut(put), Change::PolicyRemoved(removed)] if put.port_end == 9 && removed.port_end == 1),
        "{changes:?}"
    );
    let up_to_date = v1::Hello { resume_revision: 5, ..resumed };
    let mut agent = foundation.connect(1, up_to_date).await;
    agent.grant().await;
    let empty = agent.delta().await;
    assert_eq!((empty.from_revision, empty.to_revision, empty.changes.len()), (5, 5, 0));
}

#[tokio::test]
async fn a_wiped_controller_takes_leases_back_and_sends_snapshots() {
    let mut foundation = Foundation::new();
    let controller = foundation.start();
    let mut grants = Vec::new();
    for number in 1..=3 {
        grants.push(foundation.connect(number, hello(number, &[])).await.grant().await);
    }
    controller.kill();
    std::fs::remove_dir_all(foundation.data_dir()).unwrap();
    let _controller = foundation.start();
    for (number, grant) in (1..).zip(&grants) {
        let held = grant.lease.clone();
        let hello =
            v1::Hello { held, store_id: grant.store_id.clone(), resume_revision: 3, ..hello(number, &[]) };
        let mut agent = foundation.connect(number, hello).await;
        let again = agent.grant().await;
        assert_eq!(again.lease, grant.lease);
        assert_ne!(again.store_id, grant.store_id);
        assert_eq!(agent.snapshot().await.leases.len(), usize::from(number));
    }
}

/// Allows access and sets security groups, one after the other, until the controller is gone. Returns what was
/// acknowledged.
async fn write(mut client: OperatorClient<Channel>, app: String) -> BTreeSet<(Kind, String)> {
    let mut acknowledged = BTreeSet::new();
    for port in 1..=u16::MAX {
        let access = v1::AccessRequest {
            source_app: app.clone(),
            destination_app: "backend".to_owned(),
            protocol: "tcp".to_owned(),
            ports: port.to_string(),
            wait_milliseconds: 0,
        };
        if client.allow_access(access).await.is_err() {
            break;
        }
        acknowledged.insert((Kind::Access, format!("{app}-{port}")));
        let name = format!("{app}-{port}");
        let group =
            v1::SetSecurityGroupRequest { name: name.clone(), rules: Vec::new(), wait_milliseconds: 0 };
        if client.set_security_group(group).await.is_err() {
            break;
        }
        acknowledged.insert((Kind::Group, name));
    }
    acknowledged
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Access,
    Group,
}

/// Kills the controller in the middle of its work, some rounds; whatever it acknowledged must be there again.
#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    const ROUNDS: u32 = 4;
    const WRITERS: u32 = 4;
    let mut foundation = Foundation::new();
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let controller = foundation.start();
        let write = |writer| tokio::spawn(write(foundation.operator(), format!("app-{round}-{writer}")));
        let writers: Vec<_> = (0..WRITERS).map(write).collect();
        // Any moment will do; this is long enough for some hundreds of writes.
        let moment = Instant::now() + Duration::from_millis(200 + 70 * u64::from(round));
        tokio::time::sleep_until(moment.into()).await;
        controller.kill();
        for writer in writers {
            acknowledged.extend(within(writer).await.unwrap());
        }
    }
    let _controller = foundation.start();
    let access = foundation.run(&["list-access", "--json"]).json();
    let access = access["policies"].as_array().unwrap().iter().map(|policy| {
        (Kind::Access, format!("{}-{}", policy["source_app"].as_str().unwrap(), policy["port_start"]))
    });
    let groups = foundation.run(&["security-groups", "list", "--json"]).json();
    let groups = groups["groups"].as_array().unwrap().iter();
    let groups = groups.map(|group| (Kind::Group, group["name"].as_str().unwrap().to_owned()));
    let stored: BTreeSet<_> = access.chain(groups).collect();
    assert!(acknowledged.len() > 20, "the controller did not work: {}", acknowledged.len());
    assert_eq!(acknowledged.difference(&stored).collect::<Vec<_>>(), Vec::<&(Kind, String)>::new());
    assert!(
        stored.len() <= acknowledged.len() + (ROUNDS * WRITERS) as usize,
        "at most the one under way is more"
    );
}

#[test]
fn a_damaged_or_busy_store_is_one_clear_line() {
    let mut foundation = Foundation::new();
    let controller = foundation.start();
    foundation.run(&["allow-access", "a", "b", "--port", "1"]).ok();
    let second = || {
        let mut command = foundation.serve_command();
        crate::harness::Ran::from(command.args(["--listen", "127.0.0.1:0"]).output().unwrap())
    };
    let error = second().failed(1);
    assert!(error.ends_with("data is in use by another process; end that first"), "{error}");
    controller.kill();
    let database = foundation.data_dir().join("store/db");
    let whole = std::fs::read(&database).unwrap();
    std::fs::write(&database, &whole[..whole.len() / 2]).unwrap();
    let error = second().failed(1);
    assert!(error.contains("data is damaged: ") && error.contains("restore a backup"), "{error}");
    std::fs::write(&database, whole).unwrap();
    let _controller = foundation.start();
    let listed = foundation.run(&["list-access", "--json"]).json();
    assert_eq!(listed["policies"].as_array().unwrap().len(), 1);
}
