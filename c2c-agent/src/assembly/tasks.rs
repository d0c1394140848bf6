//! The agent's tasks: how they are started, watched and stopped, and the three that are nobody else's.

use super::open::{Cell, VXLAN_PORT, check_ports, look, report_of};
use super::{TaskResult, Work};
use crate::config::{Config, Network};
use crate::datapath::Swept;
use crate::endpoint::Manager;
use crate::fabric::{Fabric, Report, report_chain};
use crate::lease::Tenure;
use crate::policy::compile;
use crate::policy::saved::{Saved, SavedError, SavedLease};
use crate::status::Passes;
use crate::stop::{self, Stop, Stopper};
use anyhow::{Context, anyhow};
use c2c_proto::tls::Identity;
use futures::future::select_all;
use sd_notify::NotifyState;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// What is asked to stop is cut off after this. The socket gives requests that are being done 10 s; the unit's own limit
/// is longer than all tasks' together.
const STOP_DEADLINE: Duration = Duration::from_secs(12);
/// Drift is found within this, also when nothing signals it.
const PASS_PERIOD: Duration = Duration::from_secs(10);
/// A stream of changes is saved at most this often; each write is a sync of the disk.
const SAVE_PAUSE: Duration = Duration::from_millis(200);
/// After a failed save (the disk is full) it is tried again.
const SAVE_AGAIN: Duration = Duration::from_secs(10);
/// A rotated certificate is used within this.
const CERTIFICATES_PERIOD: Duration = Duration::from_secs(60);
/// The watchdog is fed only while passes end: a process whose passes hang is better restarted.
const PASS_OVERDUE: Duration = Duration::from_secs(60);

/// Tasks in the order in which they are stopped.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    tasks: Vec<Task>,
}

#[derive(Debug)]
struct Task {
    name: &'static str,
    stop: Stopper,
    handle: JoinHandle<TaskResult>,
}

impl Tasks {
    /// Starts a task that ends when its `stop` becomes true.
    pub(super) fn add<W: Work>(&mut self, name: &'static str, work: impl FnOnce(Stop) -> W) {
        let (stop, told) = stop::channel();
        self.tasks.push(Task { name, stop, handle: tokio::spawn(work(told)) });
    }

    /// Waits until a task ends; none should while nobody stops it.
    pub(super) async fn ended(&mut self) -> TaskResult {
        let (ended, index, _) = select_all(self.tasks.iter_mut().map(|task| &mut task.handle)).await;
        let name = self.tasks.remove(index).name;
        match ended.with_context(|| format!("the task {name} was lost"))? {
            Ok(()) => Err(anyhow!("the task {name} ended unasked")),
            Err(error) => Err(error.context(format!("the task {name} has failed"))),
        }
    }

    /// Stops all, one after the other.
    pub(super) async fn stop(self) {
        for mut task in self.tasks {
            task.stop.stop();
            match timeout(STOP_DEADLINE, &mut task.handle).await {
                Ok(Ok(Ok(()))) => tracing::debug!(task = task.name, "stopped"),
                Ok(Ok(Err(error))) => {
                    tracing::error!(task = task.name, error = report_chain(error.as_ref()), "stopped");
                }
                Ok(Err(error)) => tracing::error!(task = task.name, %error, "stopped"),
                Err(_) => {
                    tracing::error!(task = task.name, "did not stop in time and is cut off");
                    task.handle.abort();
                }
            }
        }
    }
}

/// Looks again, on signal and on period, and puts back what drifted.
#[derive(Debug)]
pub(super) struct Reconciler {
    underlay: String,
    address: Option<Ipv4Addr>,
    pending: PathBuf,
    network: Arc<Network>,
    facts: compile::Cell,
    fabric: Arc<Fabric>,
    manager: Arc<Manager>,
    passes: watch::Sender<Passes>,
    lease: watch::Receiver<Option<Tenure>>,
    last: Report,
}

impl Reconciler {
    pub(super) fn new(
        config: &Config,
        cell: &Cell,
        passes: watch::Sender<Passes>,
        lease: watch::Receiver<Option<Tenure>>,
    ) -> Self {
        Self {
            underlay: config.datapath.underlay.clone(),
            address: config.underlay_address,
            pending: config.pending_dir.clone(),
            network: Arc::new(config.network.clone()),
            facts: cell.facts.clone(),
            fabric: Arc::clone(&cell.fabric),
            manager: Arc::clone(&cell.manager),
            passes,
            lease,
            last: Report::default(),
        }
    }

    pub(super) async fn run(mut self, mut stop: Stop) -> TaskResult {
        loop {
            let (report, swept) = self.pass().await?;
            self.passes.send_modify(|passes| passes.take(report.clone(), swept, Instant::now()));
            if report != self.last {
                log_report(&report);
                self.last = report;
            }
            tokio::select! {
                () = sleep(PASS_PERIOD) => {}
                Ok(()) = self.lease.changed() => {}
                () = stop.said() => return Ok(()),
            }
        }
    }

    async fn pass(&mut self) -> anyhow::Result<(Report, Swept)> {
        let mut report = report_of(self.manager.do_pending(&self.pending).await);
        report.merge(report_of(self.manager.repair().await));
        report.merge(self.kernel().await?);
        let swept = self.sweep(&mut report).await?;
        Ok((report, swept))
    }

    /// When the host cannot be looked at, what is known of it is still compared with the kernel's maps.
    async fn kernel(&mut self) -> anyhow::Result<Report> {
        let (underlay, address, known) = (self.underlay.clone(), self.address, self.facts.clone());
        let (fabric, network) = (Arc::clone(&self.fabric), Arc::clone(&self.network));
        let pass = tokio::task::spawn_blocking(move || {
            let port = fabric.udp_port().unwrap_or(VXLAN_PORT);
            let looked = look(&underlay, address, port);
            let facts = looked.as_ref().unwrap_or(&known).clone();
            let mut report = fabric.reconcile(facts.clone());
            report.note("looking at the host", looked.map(drop));
            report.note("looking at the host's ports", check_ports(&network, port));
            (facts, report)
        });
        let (facts, report) = pass.await?;
        self.facts = facts;
        Ok(report)
    }

    async fn sweep(&self, report: &mut Report) -> anyhow::Result<Swept> {
        let fabric = Arc::clone(&self.fabric);
        let swept = tokio::task::spawn_blocking(move || fabric.sweep()).await?;
        let failed = |error| report.failed("sweeping flows with the outside that have ended", &error);
        Ok(swept.map_err(failed).unwrap_or_default())
    }
}

/// Tells what a pass did.
pub(super) fn log_report(report: &Report) {
    for what in &report.repaired {
        tracing::warn!(what, "put back");
    }
    for what in &report.failed {
        tracing::error!(what, "could not be put back; the next pass tries again");
    }
}

/// Writes lease and world to disk when they change.
#[derive(Debug)]
pub(super) struct Saver {
    fabric: Arc<Fabric>,
    saved: Saved,
    lease: watch::Receiver<Option<Tenure>>,
    world: watch::Receiver<()>,
}

impl Saver {
    pub(super) fn new(cell: &Cell, lease: watch::Receiver<Option<Tenure>>) -> Self {
        Self {
            fabric: Arc::clone(&cell.fabric),
            saved: cell.saved.clone(),
            lease,
            world: cell.fabric.watch_world(),
        }
    }

    pub(super) async fn run(mut self, mut stop: Stop) -> TaskResult {
        let (mut lease, mut world) = (false, false);
        loop {
            let again = if lease || world { SAVE_AGAIN } else { Duration::MAX };
            tokio::select! {
                changed = self.lease.changed() => match changed {
                    Ok(()) => lease = true,
                    // The stream is stopped before this task is told to: what it said last is saved all the same.
                    Err(_) => return self.save(true, true).await.map(drop),
                },
                changed = self.world.changed() => { changed.context("the fabric is gone")?; world = true; }
                () = sleep(again) => {}
                () = stop.said() => return self.save(true, true).await.map(drop),
            }
            (lease, world) = self.save(lease, world).await?;
            sleep(SAVE_PAUSE).await;
        }
    }

    /// Saves what is asked for; answers what is still owing.
    async fn save(&mut self, lease: bool, world: bool) -> anyhow::Result<(bool, bool)> {
        let tenure = lease.then(|| self.lease.borrow_and_update().clone());
        if world {
            self.world.borrow_and_update();
        }
        let (saved, fabric) = (self.saved.clone(), Arc::clone(&self.fabric));
        let saving = tokio::task::spawn_blocking(move || {
            let lease_owing = tenure.is_some_and(|tenure| owing(save_lease(&saved, tenure)));
            let world_owing = world && owing(save_world(&saved, &fabric));
            (lease_owing, world_owing)
        });
        Ok(saving.await?)
    }
}

fn save_lease(saved: &Saved, tenure: Option<Tenure>) -> Result<(), SavedError> {
    match tenure {
        Some(tenure) => saved.put_lease(&SavedLease { grant: tenure.grant, renewed: tenure.renewed }),
        None => saved.forget_lease(),
    }
}

/// The fabric has written it down before it enforced it; here the disk is made to hold it. A world that was never
/// received is no file.
fn save_world(saved: &Saved, fabric: &Fabric) -> Result<(), SavedError> {
    fabric.remember()?;
    if fabric.applied().received == 0 { Ok(()) } else { saved.sync_world() }
}

fn owing(saved: Result<(), SavedError>) -> bool {
    saved.inspect_err(|error| tracing::error!(error = report_chain(error), "trying again in 10 s")).is_err()
}

/// Reads the certificates again from time to time, so that a rotation needs no signal. Open streams stay as they are.
pub(super) async fn certificates(identity: Identity, mut stop: Stop) -> TaskResult {
    let mut told = String::new();
    loop {
        tokio::select! {
            () = sleep(CERTIFICATES_PERIOD) => {}
            () = stop.said() => return Ok(()),
        }
        let error = identity.reload().err().map(|error| report_chain(&error)).unwrap_or_default();
        if !error.is_empty() && error != told {
            tracing::error!(error, "keeping the certificate that was read before");
        }
        told = error;
    }
}

/// Tells systemd that the agent lives, if it wants to know.
pub(super) async fn watchdog(passes: watch::Receiver<Passes>, mut stop: Stop) -> TaskResult {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        stop.said().await;
        return Ok(());
    };
    loop {
        if passes.borrow().age().is_none_or(|age| age < PASS_OVERDUE) {
            super::notify(&[NotifyState::Watchdog]);
        }
        tokio::select! {
            () = sleep(limit / 2) => {}
            () = stop.said() => return Ok(()),
        }
    }
}
