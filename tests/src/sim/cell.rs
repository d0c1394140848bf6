//! A simulated cell: a task that keeps a stream open, takes what it is told into its world, and is strict about it.
//! Between streams it pauses exactly as an agent does.

use super::controller::ADDRESS;
use super::plan::{Access, Plan};
use c2c_agent::control_stream::reconnect::{Ended, Reconnect};
use c2c_proto::MAX_MESSAGE_BYTES;
use c2c_proto::tls::{self, Identity};
use c2c_proto::v1;
use c2c_proto::v1::agent_message::Message as Say;
use c2c_proto::v1::change::Change;
use c2c_proto::v1::controller_message::Message as Heard;
use c2c_proto::v1::fabric_client::FabricClient;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, interval_at, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Of `fabric.proto`.
const PROTOCOL: u32 = 2;
/// As many messages may wait to be sent; a cell that says this much at once does something wrong.
const OUTBOX: usize = 16;

/// What all cells are told by the simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Lose the world before the next stream is opened.
    pub(super) forget: bool,
    /// End, and hand over the world.
    pub(super) stop: bool,
}

/// What a cell tells the simulation.
#[derive(Debug)]
pub(super) enum News {
    /// A stream is open and the world is the controller's.
    Ready {
        /// When.
        at: Instant,
        /// Whether that took a snapshot.
        snapshot: bool,
    },
    /// The controller said something that cannot be; the cell has ended.
    Wrong(String),
}

/// Why a stream ended.
#[derive(Debug)]
enum End {
    Broken,
    Wrong(String),
}

/// What survives the end of a stream.
#[derive(Debug, Default)]
struct Memory {
    lease: Option<v1::Lease>,
    store_id: String,
    revision: u64,
    world: BTreeSet<Access>,
}

/// A cell before it starts.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) number: u32,
    pub(super) identity: Identity,
    pub(super) apps: Vec<String>,
    pub(super) news: mpsc::UnboundedSender<News>,
    pub(super) orders: watch::Receiver<Orders>,
}

/// A stream that is open.
struct Stream {
    outbox: mpsc::Sender<v1::AgentMessage>,
    inbox: Streaming<v1::ControllerMessage>,
    heartbeat: Interval,
}

impl From<Status> for End {
    fn from(_: Status) -> Self {
        Self::Broken
    }
}

impl Cell {
    /// Lives until it is told to stop, and gives its world.
    pub(super) async fn live(mut self) -> BTreeSet<Access> {
        let (mut memory, mut reconnect) = (Memory::default(), Reconnect::default());
        let mut orders = self.orders.clone();
        tokio::select! {
            // Fails when the simulation is gone, which is a reason to stop as well.
            _ = orders.wait_for(|orders| orders.stop) => {}
            wrong = self.stay_connected(&mut memory, &mut reconnect) => {
                let wrong = format!("cell-{}: {wrong}", self.number);
                // Nobody listens once another cell was wrong.
                let _ = self.news.send(News::Wrong(wrong));
            }
        }
        memory.world
    }

    async fn stay_connected(&mut self, memory: &mut Memory, reconnect: &mut Reconnect) -> String {
        loop {
            if self.orders.borrow().forget {
                *memory = Memory::default();
            }
            match self.converse(memory, reconnect).await {
                End::Broken => sleep(reconnect.after(Ended::Broken, rand::random())).await,
                End::Wrong(what) => return what,
            }
        }
    }

    async fn converse(&mut self, memory: &mut Memory, reconnect: &mut Reconnect) -> End {
        let mut stream = match self.open(memory).await {
            Ok(stream) => stream,
            Err(end) => return end,
        };
        let granted = Instant::now();
        let end = match self.follow(memory, &mut stream).await {
            Ok(never) => never,
            Err(end) => end,
        };
        reconnect.held(granted.elapsed());
        end
    }

    async fn open(&self, memory: &mut Memory) -> Result<Stream, End> {
        let channel =
            tls::channel(ADDRESS, self.identity.clone()).map_err(|error| End::Wrong(error.to_string()))?;
        let (outbox, queue) = mpsc::channel(OUTBOX);
        say(&outbox, Say::Hello(self.hello(memory))).await?;
        let mut client = FabricClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut inbox = client.sync(ReceiverStream::new(queue)).await?.into_inner();
        let first = next(&mut inbox).await?;
        let Heard::LeaseGrant(grant) = first else {
            return Err(End::Wrong(format!("expected a lease, got {first:?}")));
        };
        if memory.lease.is_some() && memory.lease != grant.lease {
            return Err(End::Wrong(format!("held {:?} and was given {:?}", memory.lease, grant.lease)));
        }
        memory.lease = grant.lease;
        memory.store_id = grant.store_id;
        let period = Duration::from_secs(grant.heartbeat_seconds.max(1));
        Ok(Stream { outbox, inbox, heartbeat: interval_at(tokio::time::Instant::now() + period, period) })
    }

    fn hello(&self, memory: &Memory) -> v1::Hello {
        v1::Hello {
            cell: format!("cell-{}", self.number),
            underlay_address: Plan::underlay(self.number).to_string(),
            held: memory.lease.clone(),
            apps: self.apps.clone(),
            store_id: memory.store_id.clone(),
            resume_revision: memory.revision,
            protocol: PROTOCOL,
            spaces: Vec::new(),
        }
    }

    async fn follow(&self, memory: &mut Memory, stream: &mut Stream) -> Result<End, End> {
        let first = next(&mut stream.inbox).await?;
        let snapshot = matches!(first, Heard::Snapshot(_));
        hear(memory, first).map_err(End::Wrong)?;
        applied(memory, &stream.outbox).await?;
        // Nobody listens once another cell was wrong.
        let _ = self.news.send(News::Ready { at: Instant::now(), snapshot });
        loop {
            tokio::select! {
                heard = next(&mut stream.inbox) => {
                    if hear(memory, heard?).map_err(End::Wrong)? {
                        applied(memory, &stream.outbox).await?;
                    }
                }
                _ = stream.heartbeat.tick() => {
                    let beat = v1::Heartbeat { applied_revision: memory.revision };
                    say(&stream.outbox, Say::Heartbeat(beat)).await?;
                }
            }
        }
    }
}

async fn next(inbox: &mut Streaming<v1::ControllerMessage>) -> Result<Heard, End> {
    let message = inbox.message().await?.ok_or(End::Broken)?;
    message.message.ok_or_else(|| End::Wrong("an empty message".to_owned()))
}

async fn say(outbox: &mpsc::Sender<v1::AgentMessage>, message: Say) -> Result<(), End> {
    outbox.send(v1::AgentMessage { message: Some(message) }).await.map_err(|_| End::Broken)
}

async fn applied(memory: &Memory, outbox: &mpsc::Sender<v1::AgentMessage>) -> Result<(), End> {
    say(outbox, Say::Applied(v1::Applied { revision: memory.revision })).await
}

/// Takes a message into the world, and says whether the revision moved.
fn hear(memory: &mut Memory, heard: Heard) -> Result<bool, String> {
    match heard {
        Heard::Snapshot(snapshot) => {
            memory.world = snapshot.policies.iter().map(access).collect::<Result<_, _>>()?;
            memory.revision = snapshot.revision;
            Ok(true)
        }
        Heard::Delta(delta) if delta.from_revision != memory.revision => {
            Err(format!("a gap: at revision {}, told of {delta:?}", memory.revision))
        }
        Heard::Delta(delta) => {
            for change in delta.changes.into_iter().filter_map(|change| change.change) {
                take(&mut memory.world, change)?;
            }
            memory.revision = delta.to_revision;
            Ok(true)
        }
        Heard::HeartbeatAck(_) => Ok(false),
        other @ (Heard::LeaseGrant(_) | Heard::LeaseRefused(_) | Heard::AppsView(_)) => {
            Err(format!("not expected now: {other:?}"))
        }
    }
}

/// A change must change something.
fn take(world: &mut BTreeSet<Access>, change: Change) -> Result<(), String> {
    let news = match &change {
        Change::PolicyPut(policy) => world.insert(access(policy)?),
        Change::PolicyRemoved(policy) => world.remove(&access(policy)?),
        // Leases of others come and go; there are no security groups in a simulation.
        Change::LeasePut(_) | Change::LeaseRemoved(_) => true,
        Change::GroupPut(_) | Change::GroupRemoved(_) => false,
    };
    if news { Ok(()) } else { Err(format!("told of a change that is none: {change:?}")) }
}

fn access(policy: &v1::Policy) -> Result<Access, String> {
    Access::of(policy).ok_or_else(|| format!("a policy that nobody asked for: {policy:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Options;

    fn policy(number: u32) -> v1::Policy {
        let plan = Plan::new(&Options { cells: 1, apps: 9, policies: 0, samples: 9 }).unwrap();
        let request = plan.sample(number).request(0);
        v1::Policy {
            source_app: request.source_app,
            destination_app: request.destination_app,
            protocol: v1::Protocol::Udp.into(),
            port_start: 1 + number,
            port_end: 1 + number,
            ..v1::Policy::default()
        }
    }

    fn delta(from_revision: u64, change: Change) -> Heard {
        let changes = vec![v1::Change { change: Some(change) }];
        Heard::Delta(v1::Delta { from_revision, to_revision: from_revision + 1, changes })
    }

    #[test]
    fn a_world_follows_what_it_is_told() {
        let mut memory = Memory::default();
        let snapshot = v1::Snapshot { revision: 7, policies: vec![policy(1)], ..v1::Snapshot::default() };
        assert_eq!(hear(&mut memory, Heard::Snapshot(snapshot)), Ok(true));
        assert_eq!(hear(&mut memory, delta(7, Change::PolicyPut(policy(2)))), Ok(true));
        assert_eq!(hear(&mut memory, delta(8, Change::PolicyRemoved(policy(1)))), Ok(true));
        assert_eq!(hear(&mut memory, Heard::HeartbeatAck(v1::HeartbeatAck { revision: 9 })), Ok(false));
        assert_eq!((memory.revision, memory.world), (9, [Access::of(&policy(2)).unwrap()].into()));
    }

    #[test]
    fn a_gap_a_repetition_and_a_stranger_are_noticed() {
        let mut memory = Memory::default();
        let put = |from| delta(from, Change::PolicyPut(policy(1)));
        assert!(hear(&mut memory, put(1)).unwrap_err().starts_with("a gap: at revision 0"));
        assert_eq!(hear(&mut memory, put(0)), Ok(true));
        assert!(hear(&mut memory, put(1)).unwrap_err().starts_with("told of a change that is none"));
        let stranger = v1::Policy { source_app: "frontend".to_owned(), ..policy(2) };
        let told = hear(&mut memory, delta(1, Change::PolicyPut(stranger)));
        assert!(told.unwrap_err().starts_with("a policy that nobody asked for"));
    }
}
