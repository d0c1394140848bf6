//! The one stream to the controller: opens it, keeps it, and passes on what it says. What it means is decided by the
//! lease keeper, the mirror and the reconnect machine, which know nothing of sockets; this is their shell.

pub mod convert;
pub mod reconnect;
mod view;

pub use view::{StreamState, View};

use crate::datapath::Datapath;
use crate::fabric::{Fabric, Kernel, report_chain};
use crate::lease::{Command, Input, Keeper, Refusal, Tenure};
use crate::policy::mirror::{Mismatch, Update};
use crate::stop::Stop;
use c2c_proto::tls;
use c2c_proto::v1;
use c2c_proto::v1::fabric_client::FabricClient;
use convert::{BadMessage, Heard};
use futures::FutureExt;
use reconnect::{Ended, Reconnect};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// How often the machines hear that time passes.
const TICK: Duration = Duration::from_secs(1);
/// The controller answers a Hello within milliseconds; one that does not for this long is not well.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// Messages that may wait to be sent. The agent says little; a controller that lets so many wait does not read.
const OUTBOX: usize = 64;
/// Updates that are enforced together at most, so that a controller that never pauses is still told how far the cell is.
const MAX_UPDATES: usize = 1_024;
/// A snapshot of 100,000 policies, about 120 bytes each, with room.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Who speaks, and for whom.
#[derive(Debug)]
pub struct Stream<K = Datapath> {
    /// The cell's name.
    pub cell: String,
    /// Its address on the underlay.
    pub underlay: Ipv4Addr,
    /// To the controller; connects when used.
    pub channel: Channel,
    /// What hears of it.
    pub fabric: Arc<Fabric<K>>,
    /// Keeps the lease.
    pub keeper: Keeper,
    /// Told what the lease is, to be saved.
    pub lease: watch::Sender<Option<Tenure>>,
    /// Told what can be told.
    pub view: watch::Sender<View>,
}

/// Why a stream was ended by this side, or by the other.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the stream to the controller failed")]
    Status(#[from] Status),
    #[error("the controller ended the stream")]
    Finished,
    #[error("the controller did not answer for {} s", ANSWER_DEADLINE.as_secs())]
    Silent,
    #[error("the controller does not read: {OUTBOX} messages wait to be sent")]
    Clogged,
    #[error("the controller sent something that cannot be right")]
    BadMessage(#[from] BadMessage),
    #[error("the controller sent something that does not fit")]
    Mismatch(#[from] Mismatch),
    #[error("the agent is being stopped")]
    Stopped,
    #[error("the lease was refused or given up")]
    Lease(Ended),
}

impl Fault {
    fn ended(&self) -> Ended {
        match self {
            Self::Status(_) | Self::Finished | Self::Silent | Self::Clogged | Self::Stopped => Ended::Broken,
            Self::BadMessage(_) | Self::Mismatch(_) => Ended::Mismatched,
            Self::Lease(ended) => *ended,
        }
    }

    /// In one line. When no connection could be made, the reason says more than the call's status.
    fn why(&self) -> String {
        if let Self::Status(status) = self {
            return tls::cause(status)
                .map_or_else(|| status.message().to_owned(), |cause| report_chain(cause));
        }
        report_chain(self)
    }
}

/// One open stream.
struct Session {
    outbox: mpsc::Sender<v1::AgentMessage>,
    inbox: Streaming<v1::ControllerMessage>,
    opened: Instant,
    /// When the lease was granted on it.
    granted: Option<Instant>,
    /// The revision that the controller was last told is enforced.
    acknowledged: u64,
    /// What was read while updates were gathered and is none.
    ahead: Option<Result<Heard, Fault>>,
}

impl Session {
    /// What the controller says next. Nothing is lost when the future is dropped.
    async fn next(&mut self) -> Result<Heard, Fault> {
        match self.ahead.take() {
            Some(heard) => heard,
            None => self.read().await,
        }
    }

    async fn read(&mut self) -> Result<Heard, Fault> {
        let message = self.inbox.message().await?.ok_or(Fault::Finished)?;
        Ok(convert::heard(message)?)
    }

    /// This update and those that are here already: a cell that is behind catches up by writing its maps once for many
    /// changes.
    fn updates(&mut self, first: Update) -> Vec<Update> {
        let mut updates = vec![first];
        while updates.len() < MAX_UPDATES {
            match self.read().now_or_never() {
                None => break,
                Some(Ok(Heard::Update(update))) => updates.push(update),
                other => {
                    self.ahead = other;
                    break;
                }
            }
        }
        updates
    }

    fn say(&self, message: v1::AgentMessage) -> Result<(), Fault> {
        self.outbox.try_send(message).map_err(|_| Fault::Clogged)
    }

    /// Says how far the cell has got, once.
    fn acknowledge(&mut self, enforced: u64) -> Result<(), Fault> {
        if self.granted.is_none() || enforced <= self.acknowledged {
            return Ok(());
        }
        self.acknowledged = enforced;
        self.say(convert::applied(enforced))
    }
}

impl<K: Kernel> Stream<K> {
    /// Follows the controller until `stop` is true. The controller may be away for as long as it likes.
    pub async fn run(mut self, mut stop: Stop) {
        let mut reconnect = Reconnect::default();
        self.publish();
        while !stop.is_said() {
            let fault = self.attempt(&mut reconnect, &mut stop).await;
            self.close(&fault);
            let pause = reconnect.after(fault.ended(), rand::random());
            self.wait(pause, &mut stop).await;
        }
    }

    async fn attempt(&mut self, reconnect: &mut Reconnect, stop: &mut Stop) -> Fault {
        self.view.send_modify(View::connecting);
        let mut stop = stop.clone();
        let session = tokio::select! {
            session = self.open() => session,
            () = stop.said() => Err(Fault::Stopped),
        };
        match session {
            Ok(mut session) => {
                let ended = self.follow(&mut session, &mut stop).await.err().unwrap_or(Fault::Finished);
                reconnect.held(session.granted.map_or(Duration::ZERO, |granted| granted.elapsed()));
                ended
            }
            Err(fault) => fault,
        }
    }

    async fn open(&mut self) -> Result<Session, Fault> {
        let opening = self.fabric.open();
        let held = self.keeper.tenure().map(|tenure| tenure.grant.lease.clone());
        tracing::debug!(
            resume = opening.resume,
            apps = opening.hosted.apps.len(),
            spaces = opening.hosted.spaces.len(),
            "opening a stream to the controller"
        );
        let (outbox, queue) = mpsc::channel(OUTBOX);
        let hello = convert::hello(&self.cell, self.underlay, held.as_ref(), opening);
        outbox.try_send(hello).map_err(|_| Fault::Clogged)?;
        let mut client = FabricClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let answer = timeout(ANSWER_DEADLINE, client.sync(ReceiverStream::new(queue))).await;
        let inbox = answer.map_err(|_| Fault::Silent)??.into_inner();
        self.heed(Input::Opened)?;
        Ok(Session { outbox, inbox, opened: Instant::now(), granted: None, acknowledged: 0, ahead: None })
    }

    async fn follow(&mut self, session: &mut Session, stop: &mut Stop) -> Result<(), Fault> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut apps = self.fabric.watch_apps();
        loop {
            tokio::select! {
                heard = session.next() => self.hear(heard?, session).await?,
                _ = apps.changed() => self.announce(session)?,
                _ = tick.tick() => self.tick(session)?,
                () = stop.said() => return Err(Fault::Stopped),
            }
        }
    }

    async fn hear(&mut self, heard: Heard, session: &mut Session) -> Result<(), Fault> {
        match heard {
            Heard::Granted(grant) => {
                let (store, block) = (grant.store_id.clone(), grant.lease.block);
                self.heed(Input::Granted(grant))?;
                self.fabric.granted(&store);
                session.granted = Some(Instant::now());
                tracing::info!(%block, store, "the lease is held");
                self.view.send_modify(|view| view.live(now()));
                self.announce(session)
            }
            Heard::Refused(reason, message) => {
                self.heed_refusal(reason, message)?;
                Err(Fault::Finished)
            }
            Heard::Update(update) => self.take(update, session).await,
            Heard::Ack(revision) => {
                self.view.send_modify(|view| view.known(revision));
                self.heed(Input::Acked)?;
                Ok(())
            }
        }
    }

    /// The maps are written on a thread that may block: a first snapshot can be thousands of rows.
    async fn take(&mut self, update: Update, session: &mut Session) -> Result<(), Fault> {
        let (fabric, updates) = (Arc::clone(&self.fabric), session.updates(update));
        let taken = tokio::task::spawn_blocking(move || fabric.take(updates)).await;
        let applied = taken.map_err(|error| Status::internal(error.to_string()))??;
        self.view.send_modify(|view| view.applied(applied, now()));
        tracing::debug!(revision = applied.received, enforced = applied.enforced, "the world changed");
        session.acknowledge(applied.enforced)
    }

    fn announce(&self, session: &Session) -> Result<(), Fault> {
        if session.granted.is_none() {
            return Ok(());
        }
        self.fabric.announce().map_or(Ok(()), |said| session.say(convert::apps_changed(said)))
    }

    fn tick(&mut self, session: &mut Session) -> Result<(), Fault> {
        if session.granted.is_none() && session.opened.elapsed() > ANSWER_DEADLINE {
            return Err(Fault::Silent);
        }
        let applied = self.fabric.applied();
        self.view.send_modify(|view| view.applied(applied, now()));
        for _ in 0..self.heed(Input::Tick)? {
            session.say(convert::heartbeat(applied.enforced))?;
        }
        session.acknowledge(applied.enforced)
    }

    fn heed_refusal(&mut self, reason: Refusal, message: String) -> Result<usize, Fault> {
        match self.heed(Input::Refused(reason, message)) {
            Err(Fault::Lease(Ended::Refused(_))) => Err(Fault::Lease(Ended::Refused(reason))),
            other => other,
        }
    }

    /// Gives the keeper an input and does what it says; answers how many heartbeats are to be sent.
    fn heed(&mut self, input: Input) -> Result<usize, Fault> {
        let live = self.fabric.live_containers();
        let commands = self.keeper.on(input, live, now());
        self.publish();
        let mut heartbeats = 0;
        for command in commands {
            match command {
                Command::Heartbeat => heartbeats += 1,
                Command::Alarm(alarm) => self.alarm(alarm.to_string()),
                Command::EndStream { ask_anew: true } => return Err(Fault::Lease(Ended::AskAnew)),
                Command::EndStream { ask_anew: false } => {
                    return Err(Fault::Lease(Ended::Refused(Refusal::Contradiction)));
                }
            }
        }
        Ok(heartbeats)
    }

    fn alarm(&self, alarm: String) {
        tracing::error!(alarm, "the lease needs the operator");
        self.view.send_modify(|view| view.alarm = Some(alarm));
    }

    /// Whatever the keeper holds is enforced, saved and shown.
    fn publish(&self) {
        let tenure = self.keeper.tenure().cloned();
        self.fabric.set_lease(tenure.as_ref().map(|tenure| tenure.grant.clone()), self.keeper.admits());
        self.view.send_modify(|view| view.lease(self.keeper.state()));
        self.lease.send_if_modified(|known| {
            let changed = *known != tenure;
            *known = tenure;
            changed
        });
    }

    fn close(&mut self, fault: &Fault) {
        let ended = fault.ended();
        self.fabric.close(ended == Ended::Mismatched);
        // The keeper answers Closed with nothing to do.
        let _ = self.heed(Input::Closed);
        let why = fault.why();
        let said = self.view.borrow().last_error.as_ref() == Some(&why);
        match ended {
            Ended::Mismatched => {
                tracing::error!(why, "the stream is ended, the next one starts with a snapshot");
            }
            // A controller that is away for long is told once.
            Ended::Broken | Ended::Refused(_) if said => tracing::debug!(why, "the stream has ended"),
            Ended::Broken | Ended::Refused(_) | Ended::AskAnew => tracing::info!(why, "the stream has ended"),
        }
        self.view.send_modify(|view| view.waiting(why));
    }

    /// Waits, while time passes for the keeper; a lease that is given up meanwhile ends the wait.
    async fn wait(&mut self, pause: Duration, stop: &mut Stop) {
        let until = Instant::now() + pause;
        let mut tick = interval(TICK);
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                _ = tick.tick() => if self.heed(Input::Tick).is_err() { return },
                () = stop.said() => return,
            }
        }
    }
}

/// Since the Unix epoch. A clock before it counts as at it.
#[must_use]
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
