//! One agent's stream, from Hello to its end.

use super::super::convert::{self, Hello};
use super::super::{blocking, now};
use super::AgentService;
use super::machine::{Machine, Step};
use crate::domain::{Acquire, Command, Commit, Lease, Revision};
use crate::ledger::{Done, Ledger, LedgerError};
use crate::watch::{Hosted, Next, Session, Start, Subscription};
use c2c_proto::tls::Peer;
use c2c_proto::v1;
use c2c_proto::v1::agent_message::Message as Heard;
use c2c_proto::v1::controller_message::Message;
use c2c_proto::v1::lease_refused::Reason;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// An agent says Hello at once; who does not is no agent.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// How long an agent is not told of commits that do not concern it. Each cell then costs a message a second at most.
const HOLD: Duration = Duration::from_secs(1);

type Incoming = Streaming<v1::AgentMessage>;
type Outgoing = mpsc::Sender<Result<v1::ControllerMessage, Status>>;

/// Why a stream ends before the agent ends it.
enum End {
    /// All was said.
    Said,
    /// The agent is told by a status.
    Status(Box<Status>),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// What a conversation is held with.
pub(super) struct Conversation {
    service: AgentService,
    peer: Arc<Peer>,
    outgoing: Outgoing,
}

/// A conversation with a cell that holds a lease.
struct Leased {
    ledger: Arc<Ledger>,
    outgoing: Outgoing,
    machine: Machine,
    subscription: Subscription,
    session: Session,
    lease: Lease,
    /// When the agent is told of what was held back, if anything was.
    held_until: Option<Instant>,
}

impl Conversation {
    pub(super) fn new(service: AgentService, peer: Arc<Peer>, outgoing: Outgoing) -> Self {
        Self { service, peer, outgoing }
    }

    pub(super) async fn run(self, incoming: Incoming) {
        let (outgoing, peer) = (self.outgoing.clone(), Arc::clone(&self.peer));
        let mut stopping = self.service.stopping.clone();
        let end = tokio::select! {
            end = self.converse(incoming) => end,
            () = outgoing.closed() => Err(End::Said),
            () = stopped(&mut stopping) => Err(Status::unavailable("the controller is stopping").into()),
        };
        if let Err(End::Status(status)) = end {
            tracing::info!(agent = peer.name, code = ?status.code(), reason = status.message(), "stream ended");
            // An agent that does not read would not read this either.
            let _ = outgoing.try_send(Err(*status));
        } else {
            tracing::info!(agent = peer.name, "stream ended");
        }
    }

    async fn converse(self, mut incoming: Incoming) -> Result<(), End> {
        let hello = hear_hello(&mut incoming).await?;
        let hello = match Hello::try_from(hello) {
            Ok(hello) => hello,
            Err(invalid) => return self.refuse(Reason::Invalid, invalid.to_string()).await,
        };
        if !self.peer.addresses.contains(&IpAddr::V4(hello.underlay)) {
            let message = format!(
                "underlay_address: {} is not among the addresses of the certificate of {:?} ({:?}); expected one of them",
                hello.underlay, self.peer.name, self.peer.addresses
            );
            return self.refuse(Reason::NotYou, message).await;
        }
        self.learn_of(&hello).await?;
        match self.acquire(&hello).await? {
            Ok(lease) => self.follow(incoming, hello, lease).await,
            Err(refused) => self.say_refused(refused).await,
        }
    }

    /// Learns what another controller told the agent already: an older world than it has would undo some of that.
    async fn learn_of(&self, hello: &Hello) -> Result<(), End> {
        let ledger = Arc::clone(&self.service.ledger);
        let newer = hello.has.as_ref().filter(|(store, revision)| {
            *store == ledger.store_id().as_str() && *revision > ledger.revision()
        });
        if newer.is_none() {
            return Ok(());
        }
        let refreshed = blocking(move || ledger.refresh(now())).await?;
        refreshed.map_err(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                agent = self.peer.name,
                "an agent knows more"
            );
            Status::unavailable(format!("this controller is behind what the cell has seen: {error}")).into()
        })
    }

    async fn acquire(&self, hello: &Hello) -> Result<Result<Lease, v1::LeaseRefused>, End> {
        let ledger = Arc::clone(&self.service.ledger);
        let (cell, underlay) = (hello.cell.clone(), hello.underlay);
        let (held, from_this_store) = (hello.held, self.resume(hello).is_some());
        let request = Acquire { cell: cell.clone(), underlay, held, from_this_store, pick: rand::random() };
        let done = blocking(move || {
            let done = ledger.execute(&Command::Acquire(request), now())?;
            ledger.renew(underlay, now());
            Ok((done, ledger.lease_of(&cell, underlay)))
        });
        match done.await? {
            Ok((Done { revision, commit }, Some(lease))) => {
                tracing::info!(cell = %lease.cell, underlay = %lease.underlay, block = %lease.block, %revision,
                    new = commit.is_some(), "leased");
                Ok(Ok(lease))
            }
            // Taken away again by somebody else in the same moment.
            Ok((_, None)) => {
                Err(Status::aborted("the lease was taken away while it was given; try again").into())
            }
            Err(LedgerError::Refused(refusal)) => Ok(Err(convert::lease_refused(&refusal))),
            Err(error @ (LedgerError::Store(_) | LedgerError::Broken | LedgerError::Busy)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a lease could not be stored");
                Err(Status::unavailable(error.to_string()).into())
            }
        }
    }

    /// The revision that the agent may go on from: one of this store, and not one that it is yet to have (as after a
    /// backup was restored).
    fn resume(&self, hello: &Hello) -> Option<Revision> {
        let (store, revision) = hello.has.as_ref()?;
        let known =
            *store == self.service.ledger.store_id().as_str() && *revision <= self.service.ledger.revision();
        known.then_some(*revision)
    }

    async fn refuse(&self, reason: Reason, message: String) -> Result<(), End> {
        self.say_refused(convert::refused(reason, message)).await
    }

    async fn say_refused(&self, refused: v1::LeaseRefused) -> Result<(), End> {
        tracing::warn!(agent = self.peer.name, reason = ?refused.reason(), refused.message, "no lease");
        say(&self.outgoing, Message::LeaseRefused(refused)).await
    }

    async fn follow(self, incoming: Incoming, hello: Hello, lease: Lease) -> Result<(), End> {
        say(&self.outgoing, Message::LeaseGrant(self.grant(&lease))).await?;
        let resume = self.resume(&hello);
        let session = self.service.sessions.enter(hello.cell.clone(), hello.hosted.clone());
        let mut replaced = session.on_replaced();
        let ledger = Arc::clone(&self.service.ledger);
        let (start, subscription) = subscribe(&ledger, &hello.hosted, resume).await?;
        let told = resume.unwrap_or_default();
        let mut leased = Leased {
            machine: Machine::new(hello.cell, hello.underlay, hello.hosted, told),
            outgoing: self.outgoing.clone(),
            session,
            ledger,
            subscription,
            lease,
            held_until: None,
        };
        let first = leased.machine.start(start);
        tokio::select! {
            end = leased.run(incoming, first) => end,
            () = replaced.wait() => {
                Err(Status::aborted("a newer stream of the same cell took this one's place").into())
            }
        }
    }

    fn grant(&self, lease: &Lease) -> v1::LeaseGrant {
        let (rules, terms) = (self.service.ledger.rules(), self.service.terms);
        v1::LeaseGrant {
            lease: Some(convert::lease(lease)),
            overlay_network: rules.pool.network().to_string(),
            block_prefix_length: u32::from(rules.pool.block_prefix()),
            vni: terms.vni,
            udp_port: u32::from(terms.udp_port),
            lease_seconds: rules.lease_seconds,
            heartbeat_seconds: terms.heartbeat_seconds,
            store_id: self.service.ledger.store_id().as_str().to_owned(),
        }
    }
}

impl Leased {
    async fn run(&mut self, mut incoming: Incoming, first: Message) -> Result<(), End> {
        say(&self.outgoing, first).await?;
        // From here on a lease that is taken away arrives as a commit; before, it has to be looked for.
        if self.ledger.lease_of(&self.lease.cell, self.lease.underlay).is_none() {
            return Err(Status::aborted("the lease was taken away while it was given; try again").into());
        }
        loop {
            tokio::select! {
                heard = incoming.message() => match heard?.map(|heard| heard.message) {
                    None => return Ok(()),
                    Some(None) => return Err(Status::invalid_argument("message: is empty; expected one").into()),
                    Some(Some(heard)) => self.hear(heard).await?,
                },
                next = self.subscription.next() => match next {
                    Next::Commits(commits) => self.tell(commits).await?,
                    Next::Behind => self.resnapshot().await?,
                    Next::Closed => return Ok(()),
                },
                () = moment(self.held_until) => self.tell_held().await?,
            }
        }
    }

    async fn hear(&mut self, heard: Heard) -> Result<(), End> {
        match heard {
            Heard::Hello(_) => {
                Err(Status::invalid_argument("hello: came twice; expected once, first").into())
            }
            Heard::AppsChanged(changed) => self.apps_changed(changed).await,
            Heard::Heartbeat(beat) => self.heartbeat(beat).await,
            Heard::Applied(applied) => {
                self.session.set_applied(self.machine.applied(applied.revision));
                Ok(())
            }
            Heard::Release(_) => self.release().await,
        }
    }

    async fn tell(&mut self, commits: Vec<Arc<Commit>>) -> Result<(), End> {
        match self.ledger.news(commits, &mut self.subscription, self.machine.hosted()) {
            Some(news) => {
                let step = self.machine.news(&news);
                self.step(step).await
            }
            None => self.resnapshot().await,
        }
    }

    async fn tell_held(&mut self) -> Result<(), End> {
        self.held_until = None;
        match self.machine.held() {
            Some(message) => say(&self.outgoing, message).await,
            None => Ok(()),
        }
    }

    async fn apps_changed(&mut self, changed: v1::AppsChanged) -> Result<(), End> {
        let moves = convert::moves(&changed);
        let moves = moves.map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
        let view = loop {
            if let Some(view) = self.ledger.view(self.machine.hosted(), &moves, &mut self.subscription) {
                break view;
            }
            self.resnapshot().await?;
        };
        for step in self.machine.view(changed.serial, &moves, &view) {
            self.step(step).await?;
        }
        self.session.set_hosted(self.machine.hosted());
        Ok(())
    }

    async fn heartbeat(&mut self, beat: v1::Heartbeat) -> Result<(), End> {
        self.session.set_applied(self.machine.applied(beat.applied_revision));
        // Needs no store, so that it goes on when all threads that may block wait for one.
        let revision = self.ledger.renew(self.lease.underlay, now());
        say(&self.outgoing, Message::HeartbeatAck(v1::HeartbeatAck { revision: revision.get() })).await
    }

    async fn release(&mut self) -> Result<(), End> {
        let (ledger, underlay) = (Arc::clone(&self.ledger), self.lease.underlay);
        let done = blocking(move || ledger.execute(&Command::Release { underlay }, now())).await?;
        done.map_err(|error| Status::unavailable(error.to_string()))?;
        tracing::info!(cell = %self.lease.cell, block = %self.lease.block, "released");
        Err(End::Said)
    }

    /// The agent was too slow for its queue: it gets a new world instead of what was dropped.
    async fn resnapshot(&mut self) -> Result<(), End> {
        tracing::warn!(cell = %self.lease.cell, "the agent fell behind; sending a snapshot");
        let (start, subscription) = subscribe(&self.ledger, self.machine.hosted(), None).await?;
        self.subscription = subscription;
        let message = self.machine.start(start);
        say(&self.outgoing, message).await
    }

    async fn step(&mut self, step: Step) -> Result<(), End> {
        match step {
            Step::Say(message) => say(&self.outgoing, message).await,
            Step::Hold => {
                self.held_until.get_or_insert_with(|| Instant::now() + HOLD);
                Ok(())
            }
            Step::End(message) => {
                say(&self.outgoing, message).await?;
                Err(End::Said)
            }
        }
    }
}

async fn hear_hello(incoming: &mut Incoming) -> Result<v1::Hello, Status> {
    let first = tokio::time::timeout(HELLO_DEADLINE, incoming.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello came within 10 s"))??;
    match first.and_then(|first| first.message) {
        Some(Heard::Hello(hello)) => Ok(hello),
        Some(_) | None => Err(Status::invalid_argument("the first message is not a hello; expected one")),
    }
}

async fn subscribe(
    ledger: &Arc<Ledger>,
    hosted: &Hosted,
    resume: Option<Revision>,
) -> Result<(Start, Subscription), Status> {
    let (ledger, hosted) = (Arc::clone(ledger), hosted.clone());
    blocking(move || ledger.subscribe(&hosted, resume)).await
}

async fn say(outgoing: &Outgoing, message: Message) -> Result<(), End> {
    let message = v1::ControllerMessage { message: Some(message) };
    outgoing.send(Ok(message)).await.map_err(|_| End::Said)
}

/// Returns at this moment; without one, never.
async fn moment(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the process is ending.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}
