//! What is done one after another, and what of it is measured.

use super::cell::{Cell, News, Orders};
use super::controller::{ADDRESS, Controller, identity_of_cell, prepare};
use super::plan::{Access, INSTANCES, Plan};
use super::report::{Convergence, Memory, Report, Spread};
use anyhow::{Context, Result, bail, ensure};
use c2c_proto::tls::{self, Identity};
use c2c_proto::v1;
use c2c_proto::v1::operator_client::OperatorClient;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Channel;

/// All cells must be there within this; far above the target of 30 s, so that a bad figure is seen as one.
const CONVERGENCE_BOUND: Duration = Duration::from_secs(180);
/// A change must be applied within this: the longest that the controller waits.
const CHANGE_BOUND_MILLISECONDS: u32 = 60_000;
/// Policies that are written at the same time.
const WRITERS: usize = 16;

struct Simulation<'a> {
    plan: &'a Plan,
    // Before the directory: dropped first.
    controller: Option<Controller>,
    operator: OperatorClient<Channel>,
    orders: watch::Sender<Orders>,
    news: mpsc::UnboundedReceiver<News>,
    cells: JoinSet<(u32, BTreeSet<Access>)>,
    directory: TempDir,
}

/// Does all of it.
pub(super) async fn measure(plan: &Plan, progress: &(impl Fn(&str) + Sync)) -> Result<Report> {
    progress("making certificates");
    let directory =
        tempfile::Builder::new().prefix("c2c-sim-").tempdir().context("cannot make a temporary directory")?;
    let operator = prepare(directory.path())?;
    let identities = identities(plan, directory.path())?;
    let controller = Some(Controller::start(directory.path())?);
    let operator = OperatorClient::new(tls::channel(ADDRESS, operator)?);
    let (to_simulation, news) = mpsc::unbounded_channel();
    let (orders, cells) = (watch::Sender::default(), JoinSet::new());
    let mut simulation = Simulation { plan, controller, operator, orders, news, cells, directory };

    progress("writing the policies");
    let writes_per_second = simulation.write_standing_policies().await?;
    let (loaded_mib, first_peak) = simulation.controller()?.memory()?;
    progress("connecting the cells");
    let first_connection = simulation.connect(identities, &to_simulation).await?;
    progress("changing policies");
    simulation.change(&plan.settling()).await?;
    let policy = simulation.changes(|number| plan.sample(number)).await?;
    let policy_everywhere = simulation.changes(|number| plan.sample_everywhere(number)).await?;
    let (connected_mib, second_peak) = simulation.controller()?.memory()?;
    progress("killing the controller, the cells resume");
    let restart_resumed = simulation.restart(false).await?;
    let (_, third_peak) = simulation.controller()?.memory()?;
    progress("killing the controller, the cells have lost their worlds");
    let restart_forgotten = simulation.restart(true).await?;
    let (_, last_peak) = simulation.controller()?.memory()?;
    progress("comparing the worlds");
    let policies_verified = simulation.verify().await?;
    let peak_mib = first_peak.max(second_peak).max(third_peak).max(last_peak);
    Ok(Report {
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        cells: plan.options.cells,
        apps: plan.options.apps,
        instances_per_app: INSTANCES,
        policies: plan.options.policies,
        writes_per_second,
        first_connection,
        policy,
        policy_everywhere,
        restart_resumed,
        restart_forgotten,
        controller_memory: Memory { loaded_mib, connected_mib, peak_mib },
        policies_verified,
    })
}

fn identities(plan: &Plan, directory: &Path) -> Result<Vec<Identity>> {
    (0..plan.options.cells).map(|cell| identity_of_cell(directory, cell)).collect()
}

impl Simulation<'_> {
    fn controller(&self) -> Result<&Controller> {
        self.controller.as_ref().context("no controller runs")
    }

    /// Writes what is there before the first cell comes; gives writes per second.
    async fn write_standing_policies(&self) -> Result<f64> {
        let mut writers: JoinSet<Result<()>> = JoinSet::new();
        let began = Instant::now();
        for writer in 0..WRITERS {
            let mine = self.plan.standing().skip(writer).step_by(WRITERS);
            let mut operator = self.operator.clone();
            writers.spawn(async move {
                for access in mine {
                    let reply = operator.allow_access(access.request(0)).await?.into_inner();
                    ensure!(reply.changed, "{access:?} was there already");
                }
                Ok(())
            });
        }
        while let Some(written) = writers.join_next().await {
            written.context("a writer panicked")??;
        }
        Ok(f64::from(self.plan.options.policies) / began.elapsed().as_secs_f64())
    }

    /// All cells come, at the same moment.
    async fn connect(
        &mut self,
        identities: Vec<Identity>,
        news: &mpsc::UnboundedSender<News>,
    ) -> Result<Convergence> {
        let (began, cpu) = (Instant::now(), self.controller()?.cpu()?);
        for ((number, identity), apps) in (0..).zip(identities).zip(self.plan.hosted()) {
            let (news, orders) = (news.clone(), self.orders.subscribe());
            let cell = Cell { number, identity, apps, news, orders };
            self.cells.spawn(async move { (number, cell.live().await) });
        }
        self.converge(began, cpu).await
    }

    /// Makes one change after the other, each when the one before is applied by every cell that it concerns.
    async fn changes(&mut self, sample: impl Fn(u32) -> Access) -> Result<Spread> {
        let (mut times, mut most_concerned) = (Vec::new(), 0);
        let cpu = self.controller()?.cpu()?;
        for access in (0..self.plan.options.samples).map(sample) {
            let (time, concerned) = self.change(&access).await?;
            times.push(time);
            most_concerned = most_concerned.max(concerned);
        }
        Ok(Spread::of(times, most_concerned, self.controller()?.cpu()?.saturating_sub(cpu)))
    }

    /// Makes a change and waits until it is applied; gives how long that took and how many cells it concerned.
    async fn change(&mut self, access: &Access) -> Result<(Duration, usize)> {
        let began = Instant::now();
        let request = access.request(CHANGE_BOUND_MILLISECONDS);
        let reply = self.operator.allow_access(request).await?.into_inner();
        let time = began.elapsed();
        let expected = self.plan.concerned(access).len();
        let v1::AccessReply { changed, cells_concerned, cells_enforcing, .. } = reply;
        ensure!(
            changed && u32::try_from(expected) == Ok(cells_concerned) && cells_concerned == cells_enforcing,
            "{access:?}: expected {expected} cells to apply it, got {reply:?}"
        );
        Ok((time, expected))
    }

    /// Kills the controller and starts it on what it had acknowledged.
    async fn restart(&mut self, forget: bool) -> Result<Convergence> {
        self.orders.send_modify(|orders| orders.forget = forget);
        drop(self.controller.take());
        self.controller = Some(Controller::start(self.directory.path())?);
        let converged = self.converge(Instant::now(), Duration::ZERO).await;
        self.orders.send_modify(|orders| orders.forget = false);
        converged
    }

    /// Waits for every cell, from the moment that the controller could be reached and had used so much time.
    async fn converge(&mut self, began: Instant, cpu: Duration) -> Result<Convergence> {
        let (mut times, mut snapshots) = (Vec::new(), 0);
        while times.len() < self.cells.len() {
            let left = CONVERGENCE_BOUND.saturating_sub(began.elapsed());
            let there = times.len();
            let news = timeout(left, self.news.recv()).await;
            match news.with_context(|| format!("only {there} cells are there in time"))? {
                Some(News::Ready { at, snapshot }) => {
                    times.push(at.saturating_duration_since(began));
                    snapshots += usize::from(snapshot);
                }
                Some(News::Wrong(what)) => bail!("{what}"),
                None => bail!("all cells are gone"),
            }
        }
        Ok(Convergence::of(times, snapshots, self.controller()?.cpu()?.saturating_sub(cpu)))
    }

    /// Brings every cell to the last revision by a change that concerns all, stops them and compares their worlds.
    async fn verify(&mut self) -> Result<usize> {
        let samples = self.plan.options.samples;
        let last = self.plan.last();
        self.change(&last).await?;
        while let Ok(news) = self.news.try_recv() {
            if let News::Wrong(what) = news {
                bail!("{what}");
            }
        }
        self.orders.send_modify(|orders| orders.stop = true);
        let sampled =
            (0..samples).flat_map(|number| [self.plan.sample(number), self.plan.sample_everywhere(number)]);
        let worlds =
            self.plan.worlds(self.plan.standing().chain(sampled).chain([self.plan.settling(), last]));
        let mut verified = 0;
        while let Some(cell) = self.cells.join_next().await {
            let (number, world) = cell.context("a cell panicked")?;
            let expected = usize::try_from(number).ok().and_then(|number| worlds.get(number));
            let expected = expected.context("a cell that is none")?;
            ensure!(
                world == *expected,
                "cell-{number}: knows {} policies; expected {}, of which {} are missing",
                world.len(),
                expected.len(),
                expected.difference(&world).count()
            );
            verified += world.len();
        }
        Ok(verified)
    }
}
