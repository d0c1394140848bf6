//! Puts the rooms together: opens them in order, runs their tasks, stops them in order.
//!
//! Start: programs and maps are opened or adopted, lease, world and containers restored from disk, DELs done that came
//! while the agent was away; then the socket is served, and the controller is asked last: the agent works without it.
//! Stop: no new requests, then the stream, the passes, the state on disk, the pages. Everything pinned stays.

mod dismantle;
mod events;
mod handler;
mod log;
mod open;
mod tasks;

pub use dismantle::{Dismantled, dismantle};
pub use open::OpenError;
pub(crate) use open::container_mtu;

use crate::cni_api::Socket;
use crate::config::{Config, ConfigError, Network};
use crate::control_stream::{self, Stream};
use crate::fabric::report_chain;
use crate::host::Underlay;
use crate::lease::{Keeper, Tenure};
use crate::self_test::SelfTest;
use crate::status::{Observer, Passes};
use anyhow::Context;
use c2c_proto::pages;
use c2c_proto::tls::{self, Identity};
use handler::Handler;
use log::Log;
use open::{Cell, Kept, Lock};
use sd_notify::NotifyState;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use tasks::{Reconciler, Saver, Tasks};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tonic::transport::Channel;

/// The agent waits for the network and the kernel, seldom for a processor.
const WORKERS: usize = 2;
/// What still runs in a blocking thread when everything was stopped is cut off after this.
const LAST_DEADLINE: Duration = Duration::from_secs(5);

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When it cannot start, or one of its tasks ended unasked. `reload` reads the configuration again, for SIGHUP.
pub fn run(config: Config, reload: impl Fn() -> Result<Config, ConfigError>) -> anyhow::Result<()> {
    let log = Log::start(&config.log)?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start the agent's threads")?;
    let served = runtime.block_on(serve(config, &log, reload));
    runtime.shutdown_timeout(LAST_DEADLINE);
    served
}

/// Reads all that [`run`] reads before it touches anything: certificates, the underlay device, which ports of the host are taken.
/// Gives what the device is, as the agent would use it.
///
/// # Errors
/// When [`run`] would refuse to start for any of these.
pub fn check(config: &Config) -> anyhow::Result<Underlay> {
    Identity::load(&config.identity)?;
    let tunnel_port = Kept::read(&config.state_dir).udp_port();
    open::check_ports(&config.network, tunnel_port).map_err(OpenError::from)?;
    Ok(open::underlay(&config.datapath.underlay, config.underlay_address)?)
}

async fn serve(
    config: Config,
    log: &Log,
    reload: impl Fn() -> Result<Config, ConfigError>,
) -> anyhow::Result<()> {
    let signals = Signals::new()?;
    let identity = Identity::load(&config.identity)?;
    let lock = Lock::take(&config.state_dir)?;
    let kept = Kept::read(&config.state_dir);
    open::check_ports(&config.network, kept.udp_port()).map_err(OpenError::from)?;
    let doors = Doors::open(&config, &identity).await?;
    let cell = open::open(&config, lock, kept).await?;
    let lost = events::start(&config, &cell).context("cannot read the events of the programs")?;
    let (mut tasks, agent) = start(&config, cell, identity, (doors, lost));
    notify(&[NotifyState::Ready]);
    tracing::info!(cell = config.cell, socket = %config.socket.display(), metrics = %config.metrics_address, "serving");
    let ended = agent.attend(signals, &mut tasks, log, reload).await;
    notify(&[NotifyState::Stopping]);
    tasks.stop().await;
    tracing::info!("stopped; programs and maps stay pinned and enforce what they hold");
    ended
}

/// Where the agent is asked, and where it asks. Opened before anything is touched, because most faults of a
/// configuration show here. Who asks before the rest is ready waits.
struct Doors {
    socket: Socket,
    pages: TcpListener,
    channel: Channel,
}

impl Doors {
    async fn open(config: &Config, identity: &Identity) -> anyhow::Result<Self> {
        let channel = tls::channel(&config.controller, identity.clone())?;
        let pages = pages::listen(config.metrics_address).await?;
        Ok(Self { socket: Socket::bind(&config.socket)?, pages, channel })
    }
}

/// What signals act on.
struct Agent {
    cell: Cell,
    identity: Identity,
    config: Config,
}

fn start(
    config: &Config,
    cell: Cell,
    identity: Identity,
    (doors, flow_log_lost): (Doors, Arc<AtomicU64>),
) -> (Tasks, Agent) {
    let (stream_view, stream_seen) = watch::channel(control_stream::View::default());
    let (passes, passes_seen) = watch::channel(Passes::default());
    let (lease, lease_seen) = watch::channel(cell.tenure.clone());
    let (self_test, self_test_seen) = SelfTest::new(
        (config.offload_self_test, &config.datapath.underlay),
        Arc::clone(&cell.fabric),
        cell.saved.clone(),
        lease_seen.clone(),
    );
    let observer = Observer {
        cell: config.cell.clone(),
        underlay: cell.facts.underlay,
        controller: config.controller.clone(),
        started: Instant::now(),
        fabric: Arc::clone(&cell.fabric),
        manager: Arc::clone(&cell.manager),
        stream: stream_seen,
        passes: passes_seen.clone(),
        self_test: self_test_seen,
        flow_log_lost,
    };
    let stream = Stream {
        cell: config.cell.clone(),
        underlay: cell.facts.underlay,
        channel: doors.channel.clone(),
        fabric: Arc::clone(&cell.fabric),
        keeper: Keeper::new(config.partition_tolerance, cell.tenure.clone()),
        lease,
        view: stream_view,
    };
    let tasks = spawn(
        config,
        &cell,
        (observer, stream, self_test),
        (doors, identity.clone()),
        Channels { passes, passes_seen, lease_seen },
    );
    (tasks, Agent { cell, identity, config: config.clone() })
}

/// What the tasks tell each other.
struct Channels {
    passes: watch::Sender<Passes>,
    passes_seen: watch::Receiver<Passes>,
    lease_seen: watch::Receiver<Option<Tenure>>,
}

/// In the order in which they are to be stopped.
fn spawn(
    config: &Config,
    cell: &Cell,
    (observer, stream, self_test): (Observer, Stream, SelfTest),
    (doors, identity): (Doors, Identity),
    channels: Channels,
) -> Tasks {
    let mut tasks = Tasks::default();
    let handler = Arc::new(Handler { manager: Arc::clone(&cell.manager), observer: observer.clone() });
    tasks.add("cni_api", |mut stop| async move {
        doors.socket.serve(handler, stop.said()).await;
        Ok(())
    });
    tasks.add("control_stream", |stop| async move {
        stream.run(stop).await;
        Ok(())
    });
    tasks.add("self_test", |stop| async move {
        self_test.run(stop).await;
        Ok(())
    });
    let reconciler = Reconciler::new(config, cell, channels.passes, channels.lease_seen.clone());
    tasks.add("reconcile", |stop| reconciler.run(stop));
    let saver = Saver::new(cell, channels.lease_seen);
    tasks.add("certificates", |stop| tasks::certificates(identity, stop));
    tasks.add("saver", |stop| saver.run(stop));
    tasks.add("metrics", |mut stop| async move {
        Ok(pages::serve(doors.pages, observer, async move { stop.said().await }).await?)
    });
    tasks.add("watchdog", |stop| tasks::watchdog(channels.passes_seen, stop));
    tasks
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }
}

impl Agent {
    /// Until a signal says stop, or a task ends unasked.
    async fn attend(
        mut self,
        mut signals: Signals,
        tasks: &mut Tasks,
        log: &Log,
        reload: impl Fn() -> Result<Config, ConfigError>,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.interrupt.recv() => return Ok(()),
                _ = signals.hangup.recv() => self.reload(log, &reload),
                ended = tasks.ended() => return ended,
            }
        }
    }

    fn reload(&mut self, log: &Log, reload: &impl Fn() -> Result<Config, ConfigError>) {
        let started = NotifyState::monotonic_usec_now();
        match started {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
        match reload() {
            Ok(config) => self.take_over(log, config),
            Err(error) => {
                tracing::error!(error = report_chain(&error), "keeping the configuration as it was");
            }
        }
        notify(&[NotifyState::Ready]);
    }

    /// The part that can change while the agent runs; each of it stays as it was when the new one is refused.
    fn take_over(&mut self, log: &Log, config: Config) {
        let results = [
            ("certificates", self.identity.reload().map_err(|error| report_chain(&error))),
            (
                "trace",
                self.cell.fabric.set_trace(config.datapath.trace).map_err(|error| report_chain(&error)),
            ),
            ("log", log.set(&config.log).map_err(|error| report_chain(&error))),
        ];
        for (what, result) in results {
            match result {
                Ok(()) => tracing::info!(what, "read again"),
                Err(error) => tracing::error!(what, error, "kept as it was"),
            }
        }
        self.config.network = changed(&self.config.network, &config.network);
        self.cell.fabric.set_network(self.config.network.clone());
        if self.config.needs_restart_for(&config) {
            tracing::warn!(
                "of the configuration, only certificates, trace, log, no_masquerade, host_*, deny_networks_*, outbound_* and \
                 static_egress change without a restart"
            );
        }
        self.config.log = config.log;
        self.config.datapath.trace = config.datapath.trace;
    }
}

/// What a running agent takes over of the new. Pools of ports, name servers and bandwidth are in containers already.
fn changed(old: &Network, new: &Network) -> Network {
    Network {
        no_masquerade: new.no_masquerade.clone(),
        host: new.host.clone(),
        deny: new.deny.clone(),
        outbound: new.outbound.clone(),
        static_egress: new.static_egress,
        ..old.clone()
    }
}

/// Without systemd nobody listens, and that is no failure.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

/// A task of the agent, named for messages.
type TaskResult = anyhow::Result<()>;

/// What a task is, until it is spawned.
trait Work: Future<Output = TaskResult> + Send + 'static {}
impl<T: Future<Output = TaskResult> + Send + 'static> Work for T {}
