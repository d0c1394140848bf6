//! kill -9 at random moments of 10,000 writes, on both stores: every acknowledged write is there afterwards, none is half
//! there, no lease overlaps another, and revisions never go back.

use crate::cluster::Cluster;
use crate::harness::{Foundation, hello, within};
use c2c_proto::v1;
use c2c_proto::v1::agent_message::Message as ToController;
use c2c_proto::v1::operator_client::OperatorClient;
use futures::future::join_all;
use ipnet::Ipv4Net;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Channel;

const KILLS: usize = 50;
const WRITES: u64 = 10_000;
/// Writers of policies; there is one of security groups and one of leases beside them.
const POLICY_WRITERS: usize = 3;
const WRITERS: u64 = POLICY_WRITERS as u64 + 2;
/// The bindings of a group go with it, in one commit.
const BINDINGS: usize = 6;

/// Something that is in the store or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Policy {
        source: String,
        port: u32,
    },
    /// With so many bindings.
    Group {
        name: String,
        bindings: usize,
    },
    Lease {
        underlay: String,
        block: String,
    },
}

/// What one writer was told.
#[derive(Clone, Debug, Default)]
struct Told {
    there: BTreeSet<Thing>,
    gone: BTreeSet<Thing>,
    /// Groups that were to be deleted, when the controller was killed.
    interrupted: BTreeSet<String>,
    revision: u64,
    number: u32,
}

impl Told {
    /// It may be there or not: nobody said.
    fn forget(&mut self, thing: &Thing) {
        self.there.remove(thing);
        self.gone.remove(thing);
    }

    fn put(&mut self, thing: Thing) {
        self.gone.remove(&thing);
        self.there.insert(thing);
    }

    fn remove(&mut self, thing: Thing) {
        self.there.remove(&thing);
        self.gone.insert(thing);
    }
}

/// Counts what is acknowledged, so that the killer knows when its moment has come.
#[derive(Debug)]
struct Count {
    writes: AtomicU64,
    moment: watch::Sender<u64>,
}

impl Count {
    fn acknowledged(&self) {
        self.moment.send_replace(self.writes.fetch_add(1, Ordering::SeqCst) + 1);
    }
}

fn access(source: &str, port: u32) -> v1::AccessRequest {
    v1::AccessRequest {
        source_app: source.to_owned(),
        destination_app: "backend".to_owned(),
        protocol: "tcp".to_owned(),
        ports: port.to_string(),
        wait_milliseconds: 0,
    }
}

/// Allows, and takes back every third.
async fn write_policies(
    mut client: OperatorClient<Channel>,
    source: String,
    told: &mut Told,
    count: &Count,
) -> Result<(), Status> {
    loop {
        told.number += 1;
        let policy = |port| Thing::Policy { source: source.clone(), port };
        let reply = client.allow_access(access(&source, told.number)).await?.into_inner();
        told.put(policy(told.number));
        told.revision = reply.revision;
        count.acknowledged();
        if told.number.is_multiple_of(3) {
            let port = told.number - 1;
            told.forget(&policy(port));
            let reply = client.remove_access(access(&source, port)).await?.into_inner();
            told.remove(policy(port));
            told.revision = reply.revision;
            count.acknowledged();
        }
    }
}

/// Makes a group, binds it to spaces, and deletes every other one with all its bindings.
async fn write_groups(
    mut client: OperatorClient<Channel>,
    told: &mut Told,
    count: &Count,
) -> Result<(), Status> {
    loop {
        told.number += 1;
        let name = format!("group-{}", told.number);
        let group = |bindings| Thing::Group { name: name.clone(), bindings };
        let set = v1::SetSecurityGroupRequest { name: name.clone(), ..Default::default() };
        told.revision = client.set_security_group(set).await?.into_inner().revision;
        told.put(group(0));
        count.acknowledged();
        for bound in 0..BINDINGS {
            let (name, workload, space) = (name.clone(), "running".to_owned(), format!("space-{bound}"));
            let bind = v1::BindSecurityGroupRequest { name, workload, space, wait_milliseconds: 0 };
            told.forget(&group(bound));
            told.revision = client.bind_security_group(bind).await?.into_inner().revision;
            told.put(group(bound + 1));
            count.acknowledged();
        }
        if told.number.is_multiple_of(2) {
            told.forget(&group(BINDINGS));
            told.interrupted.insert(name.clone());
            let delete = v1::DeleteSecurityGroupRequest { name: name.clone(), wait_milliseconds: 0 };
            told.revision = client.delete_security_group(delete).await?.into_inner().revision;
            told.interrupted.remove(&name);
            told.remove(group(BINDINGS));
            count.acknowledged();
        }
    }
}

/// Cells come one after the other, and every other one leaves again.
async fn write_leases(foundation: &Foundation, told: &mut Told, count: &Count) -> Result<(), Status> {
    loop {
        told.number = told.number % 250 + 1;
        let number = u8::try_from(told.number).unwrap();
        let mut agent = foundation.connect_as(&foundation.cell(number), hello(number, &[])).await?;
        let Some(v1::controller_message::Message::LeaseGrant(grant)) = agent.next().await? else {
            return Ok(());
        };
        let lease = grant.lease.unwrap();
        let lease = Thing::Lease { underlay: lease.underlay_address, block: lease.overlay_block };
        told.put(lease.clone());
        count.acknowledged();
        if number % 2 == 0 {
            told.forget(&lease);
            if !agent.try_say(ToController::Release(v1::Release {})).await {
                return Ok(());
            }
            while agent.next().await?.is_some() {}
            told.remove(lease);
            count.acknowledged();
        }
    }
}

/// Everything that is there now, and its revision.
async fn stored(foundation: &Foundation) -> (u64, BTreeSet<Thing>) {
    let mut client = foundation.operator();
    let access = client.list_access(v1::ListAccessRequest::default()).await.unwrap().into_inner();
    let groups = client.list_security_groups(v1::ListSecurityGroupsRequest::default()).await.unwrap();
    let leases = client.list_leases(v1::ListLeasesRequest {}).await.unwrap().into_inner();
    let policies = access
        .policies
        .into_iter()
        .map(|policy| Thing::Policy { source: policy.source_app, port: policy.port_start });
    let groups = groups
        .into_inner()
        .groups
        .into_iter()
        .map(|group| Thing::Group { name: group.name, bindings: group.running_spaces.len() });
    let leases = leases.leases.into_iter().filter_map(|state| state.lease);
    let leases =
        leases.map(|lease| Thing::Lease { underlay: lease.underlay_address, block: lease.overlay_block });
    (access.revision, policies.chain(groups).chain(leases).collect())
}

fn check(told: &[Told], revision: u64, stored: &BTreeSet<Thing>) {
    for told in told {
        let lost: Vec<_> = told.there.difference(stored).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let back: Vec<_> = told.gone.intersection(stored).collect();
        assert!(back.is_empty(), "acknowledged as gone, and there: {back:?}");
    }
    let acknowledged = told.iter().map(|told| told.revision).max().unwrap();
    let range = acknowledged..=acknowledged + WRITERS;
    assert!(range.contains(&revision), "revision {revision} after {acknowledged} was acknowledged");
    let mut blocks = BTreeMap::new();
    for thing in stored {
        match thing {
            // A group is deleted with all its bindings or not at all.
            Thing::Group { name, bindings } if told.iter().any(|told| told.interrupted.contains(name)) => {
                assert_eq!(*bindings, BINDINGS, "{name} is half there");
            }
            Thing::Lease { underlay, block } => {
                let block: Ipv4Net = block.parse().unwrap();
                let other = blocks.insert(block.network(), underlay);
                assert_eq!(other, None, "two cells hold {block}");
            }
            Thing::Group { .. } | Thing::Policy { .. } => {}
        }
    }
}

/// Writes until the controller is gone.
async fn write(foundation: &Foundation, told: &mut [Told], count: &Count) {
    let (policies, rest) = told.split_at_mut(POLICY_WRITERS);
    let [groups, leases] = rest else { unreachable!() };
    let policies = policies.iter_mut().enumerate();
    let policies =
        policies.map(|(n, told)| write_policies(foundation.operator(), format!("app-{n}"), told, count));
    let groups = write_groups(foundation.operator(), groups, count);
    let ended = tokio::join!(join_all(policies), groups, write_leases(foundation, leases, count));
    let ended = ended.0.into_iter().chain([ended.1, ended.2]);
    let refused = |status: &Status| {
        ![tonic::Code::Unavailable, tonic::Code::Unknown, tonic::Code::Cancelled].contains(&status.code())
    };
    let refused: Vec<_> = ended.filter_map(Result::err).filter(refused).collect();
    assert!(refused.is_empty(), "only the kill ends a writer: {refused:?}");
}

async fn kill_at_random_moments(mut foundation: Foundation, flags: &[&str]) {
    // A line for each write would be most of the work.
    let flags = &[flags, &["--log", "warn,c2c_controller::assembly=info"]].concat();
    let seed = std::env::var("C2C_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    println!("C2C_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let count = Count { writes: AtomicU64::new(0), moment: watch::Sender::new(0) };
    let mut told = vec![Told::default(); POLICY_WRITERS + 2];
    let mut moments = count.moment.subscribe();
    for round in 1..=KILLS as u64 {
        let controller = foundation.start_with(flags);
        let (revision, stored) = stored(&foundation).await;
        check(&told, revision, &stored);
        // Somewhere around its share of the writes, and at any moment of one.
        let share = WRITES / KILLS as u64;
        let moment = WRITES * round / KILLS as u64 - random.random_range(0..share / 2);
        let pause = Duration::from_micros(random.random_range(0..3000));
        let kill = async {
            within(moments.wait_for(|writes| *writes >= moment)).await.unwrap();
            tokio::time::sleep(pause).await;
            controller.kill();
        };
        tokio::join!(kill, write(&foundation, &mut told, &count));
    }
    let _controller = foundation.start_with(flags);
    let (revision, stored) = stored(&foundation).await;
    check(&told, revision, &stored);
    println!(
        "{} acknowledged writes, {} things, revision {revision}",
        count.writes.into_inner(),
        stored.len()
    );
}

#[test]
fn ten_thousand_writes_survive_kill_9_on_a_disk() {
    Runtime::new().unwrap().block_on(kill_at_random_moments(Foundation::new(), &[]));
}

#[test]
fn ten_thousand_writes_survive_kill_9_on_a_database() {
    let cluster = Cluster::start();
    let url = cluster.database("net");
    Runtime::new().unwrap().block_on(kill_at_random_moments(Foundation::new(), &["--postgres", &url]));
}
