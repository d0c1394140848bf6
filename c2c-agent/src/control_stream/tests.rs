//! The stream against a scripted controller, over a Unix socket; no kernel, no certificates.

use super::*;
use crate::fabric::fake::{CELL, Fake, grant, network};
use crate::fabric::{CellLease, Fabric};
use crate::policy::compile::Placed;
use crate::policy::group::Workload;
use crate::policy::world::World;
use crate::stop;
use c2c_proto::v1::agent_message::Message as Said;
use c2c_proto::v1::controller_message::Message as Word;
use c2c_proto::v1::fabric_server::{Fabric as Service, FabricServer};
use std::collections::BTreeMap;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response};

/// No step of a test takes longer, unless it hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// One stream, seen from the controller.
struct Line {
    said: Streaming<v1::AgentMessage>,
    words: mpsc::Sender<Result<v1::ControllerMessage, Status>>,
}

impl Line {
    async fn hear(&mut self) -> Said {
        let said = timeout(LIMIT, self.said.message()).await.expect("the agent says nothing");
        said.unwrap().expect("the agent ended the stream").message.unwrap()
    }

    async fn say(&self, word: Word) {
        self.words.send(Ok(v1::ControllerMessage { message: Some(word) })).await.unwrap();
    }

    async fn hello(&mut self) -> v1::Hello {
        let Said::Hello(hello) = self.hear().await else { panic!("no hello") };
        hello
    }

    /// Until the agent has ended it.
    async fn ended(mut self) {
        while let Ok(Ok(Some(_))) = timeout(LIMIT, self.said.message()).await {}
    }
}

struct Controller(mpsc::Sender<Line>);

#[tonic::async_trait]
impl Service for Controller {
    type SyncStream = ReceiverStream<Result<v1::ControllerMessage, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let (words, queue) = mpsc::channel(16);
        self.0.send(Line { said: request.into_inner(), words }).await.map_err(|_| Status::aborted("over"))?;
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

/// An agent that runs, and the controller's end of its streams.
struct Pair {
    lines: mpsc::Receiver<Line>,
    fabric: Arc<Fabric<Fake>>,
    lease: watch::Receiver<Option<Tenure>>,
    view: watch::Receiver<View>,
    agent: JoinHandle<()>,
    stopper: stop::Stopper,
    _dir: TempDir,
}

impl Pair {
    fn new(containers: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("controller.sock");
        let (lines_in, lines) = mpsc::channel(4);
        let listener = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
        let service = FabricServer::new(Controller(lines_in));
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(listener));
        let endpoint = Endpoint::try_from(format!("unix://{}", path.display())).unwrap();
        let kernel = Fake { room: 100, ..Fake::default() };
        let fabric = Arc::new(Fabric::new(kernel, (CELL, network()), World::default(), None));
        fabric.restore_for_test(containers);
        let (lease_out, lease) = watch::channel(None);
        let (view_out, view) = watch::channel(View::default());
        let stream = Stream {
            cell: "a".into(),
            underlay: CELL.underlay,
            channel: endpoint.connect_lazy(),
            fabric: Arc::clone(&fabric),
            keeper: Keeper::new(Duration::from_secs(3600), None),
            lease: lease_out,
            view: view_out,
        };
        let (stopper, stop) = stop::channel();
        let agent = tokio::spawn(stream.run(stop));
        Self { lines, fabric, lease, view, agent, stopper, _dir: dir }
    }

    async fn line(&mut self) -> Line {
        timeout(LIMIT, self.lines.recv()).await.expect("the agent does not call").unwrap()
    }

    /// A stream on which the lease was granted and an empty world sent.
    async fn live(&mut self) -> Line {
        let mut line = self.line().await;
        line.hello().await;
        line.say(Word::LeaseGrant(grant_word(1))).await;
        line.say(Word::Snapshot(v1::Snapshot { revision: 4, ..v1::Snapshot::default() })).await;
        assert_eq!(line.hear().await, Said::Applied(v1::Applied { revision: 4 }));
        line
    }

    async fn until(&mut self, what: &str, seen: impl FnMut(&View) -> bool) {
        let found = timeout(LIMIT, self.view.wait_for(seen)).await;
        found.unwrap_or_else(|_| panic!("never: {what}")).unwrap();
    }
}

impl Fabric<Fake> {
    fn restore_for_test(&self, containers: usize) {
        let placed = (0..containers).map(|n| {
            let n = u8::try_from(n).unwrap() + 2;
            let place = Placed {
                app: "f".into(),
                space: "space".into(),
                workload: Workload::Running,
                host_name: format!("s-{n}"),
                ifindex: n.into(),
                ..Placed::default()
            };
            (Ipv4Addr::new(10, 255, 1, n), place)
        });
        self.restore(placed.collect::<BTreeMap<_, _>>()).unwrap();
    }
}

fn grant_word(heartbeat_seconds: u64) -> v1::LeaseGrant {
    let grant = grant();
    v1::LeaseGrant {
        lease: Some(v1::Lease {
            cell: grant.lease.cell,
            underlay_address: grant.lease.underlay.to_string(),
            overlay_block: grant.lease.block.to_string(),
            hardware_address: "ee:ee:0a:ff:01:00".into(),
        }),
        overlay_network: grant.overlay.to_string(),
        block_prefix_length: grant.block_prefix.into(),
        vni: grant.vni,
        udp_port: grant.udp_port.into(),
        lease_seconds: grant.lease_seconds,
        heartbeat_seconds,
        store_id: grant.store_id,
    }
}

fn policy_word() -> v1::Policy {
    v1::Policy {
        source_app: "f".into(),
        destination_app: "g".into(),
        protocol: 6,
        port_start: 80,
        port_end: 80,
        source_tag: 1,
        destination_tag: 2,
    }
}

fn delta(from: u64, to: u64) -> Word {
    let change = v1::Change { change: Some(v1::change::Change::PolicyPut(policy_word())) };
    Word::Delta(v1::Delta { from_revision: from, to_revision: to, changes: vec![change] })
}

fn refusal(reason: v1::lease_refused::Reason) -> Word {
    Word::LeaseRefused(v1::LeaseRefused { reason: reason.into(), message: "no".into() })
}

#[tokio::test]
async fn a_lease_is_enforced_saved_and_kept_by_heartbeats() {
    let mut pair = Pair::new(0);
    let mut line = pair.live().await;
    let lease: CellLease = pair.fabric.cell_lease().unwrap();
    assert_eq!((lease.block, lease.mtu), (grant().lease.block, CELL.mtu));
    let first = pair.lease.borrow_and_update().clone().unwrap();
    assert_eq!(first.grant.lease, grant().lease);
    assert_eq!(line.hear().await, Said::Heartbeat(v1::Heartbeat { applied_revision: 4 }));
    line.say(Word::HeartbeatAck(v1::HeartbeatAck { revision: 9 })).await;
    timeout(LIMIT, pair.lease.changed()).await.unwrap().unwrap();
    assert!(pair.lease.borrow().as_ref().unwrap().renewed > first.renewed);
    pair.until("the agent knows that it is behind", |view| view.behind() == 5).await;
}

#[tokio::test]
async fn every_change_is_acknowledged_after_it_is_enforced_and_resumed_from() {
    let mut pair = Pair::new(1);
    let mut line = pair.live().await;
    line.say(delta(4, 7)).await;
    assert_eq!(line.hear().await, Said::Applied(v1::Applied { revision: 7 }));
    assert_eq!(pair.fabric.view().policies, 1);
    drop(line);
    let hello = pair.line().await.hello().await;
    assert_eq!((hello.resume_revision, hello.store_id.as_str(), hello.protocol), (7, "s", 2));
    assert_eq!((hello.apps, hello.spaces), (vec!["f".to_owned()], vec!["space".to_owned()]));
    assert_eq!(hello.held.unwrap().overlay_block, grant().lease.block.to_string());
    assert!(pair.fabric.cell_lease().is_some(), "a broken stream takes nothing away");
}

#[tokio::test]
async fn what_cannot_be_right_ends_the_stream_and_asks_for_a_snapshot() {
    let bad = v1::Policy { port_start: 0, ..policy_word() };
    let change = v1::Change { change: Some(v1::change::Change::PolicyPut(bad)) };
    let bad_port = Word::Delta(v1::Delta { from_revision: 4, to_revision: 5, changes: vec![change] });
    for word in [bad_port, delta(5, 6)] {
        let mut pair = Pair::new(1);
        let line = pair.live().await;
        line.say(word).await;
        line.ended().await;
        let hello = pair.line().await.hello().await;
        assert_eq!((hello.resume_revision, hello.store_id.as_str()), (0, ""));
        assert_eq!(pair.fabric.applied().enforced, 4);
    }
}

#[tokio::test]
async fn an_app_and_a_space_that_come_are_announced_and_what_concerns_them_taken() {
    let mut pair = Pair::new(0);
    let mut line = pair.live().await;
    pair.fabric.restore_for_test(1);
    let Said::AppsChanged(changed) = line.hear().await else { panic!("not announced") };
    assert_eq!((changed.added, changed.removed), (vec!["f".to_owned()], Vec::new()));
    assert_eq!((changed.spaces_added, changed.spaces_removed), (vec!["space".to_owned()], Vec::new()));
    let group = v1::SecurityGroup {
        name: "dns".into(),
        running_spaces: vec!["space".into()],
        ..v1::SecurityGroup::default()
    };
    let (policies, groups) = (vec![policy_word()], vec![group]);
    line.say(Word::AppsView(v1::AppsView { serial: changed.serial, revision: 4, policies, groups })).await;
    let mut world = pair.fabric.watch_world();
    if pair.fabric.view().policies == 0 {
        timeout(LIMIT, world.changed()).await.unwrap().unwrap();
    }
    assert_eq!(pair.fabric.view().apps, [("f".to_owned(), 1)].into());
    assert_eq!(pair.fabric.view().groups, 1);
}

#[tokio::test]
async fn a_lease_taken_away_is_given_up_and_asked_anew_when_no_container_uses_it() {
    let mut pair = Pair::new(0);
    let line = pair.live().await;
    line.say(refusal(v1::lease_refused::Reason::Contradiction)).await;
    let hello = pair.line().await.hello().await;
    assert_eq!(hello.held, None);
    assert_eq!(pair.fabric.cell_lease(), None);
    assert!(pair.lease.borrow().is_none(), "what is saved is forgotten");
}

#[tokio::test]
async fn a_lease_taken_away_stays_enforced_while_containers_use_it() {
    let mut pair = Pair::new(1);
    let line = pair.live().await;
    line.say(refusal(v1::lease_refused::Reason::Contradiction)).await;
    pair.until("an alarm", |view| view.alarm.is_some() && view.lease_state == "lost").await;
    assert_eq!(pair.fabric.cell_lease(), None, "new containers are refused");
    let enforced = pair.fabric.view().lease.map(|enforced| enforced.lease);
    assert_eq!(enforced, Some(grant().lease), "and the old ones keep theirs");
    assert!(pair.lease.borrow().is_some());
}

#[tokio::test]
async fn it_stops_when_it_is_told() {
    let mut pair = Pair::new(0);
    let line = pair.live().await;
    pair.stopper.stop();
    timeout(LIMIT, pair.agent).await.unwrap().unwrap();
    line.ended().await;
    assert!(pair.fabric.cell_lease().is_some(), "stopping gives nothing up");
}
