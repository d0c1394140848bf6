//! The simulator: one real controller, as many simulated cells as asked for, and what it costs to keep them right.
//!
//! A simulated cell is the far end of a real stream: a certificate, a TCP connection, mutual TLS, gRPC, heartbeats and
//! the agent's own pauses before it connects again. What it does not have is a kernel to program: it says that a change
//! is applied as soon as it has taken it into its world. In the end every world is compared with what it must be.
//! All of it runs on the loopback device of a network namespace that has no name and ends with its last process.

mod cell;
mod controller;
mod phases;
mod plan;
mod report;

pub use plan::Options;
pub use report::{Convergence, Memory, Report, Spread};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use plan::Plan;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::process::Command;
use std::thread;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the simulation and leaves nothing behind, also when it fails or is told to stop by a signal.
///
/// # Errors
/// When the options cannot be right, something does not start, a cell is told something wrong, or a phase takes longer
/// than its bound.
pub fn run(options: &Options, progress: impl Fn(&str) + Sync) -> Result<Report> {
    let plan = Plan::new(options)?;
    // The thread ends in its namespace, and the controller with the thread.
    let simulate = || {
        enter_namespace()?;
        allow_many_connections()?;
        let runtime = Builder::new_multi_thread().enable_all().build().context("cannot start tokio")?;
        runtime.block_on(unless_stopped(phases::measure(&plan, &progress)))
    };
    thread::scope(|scope| match scope.spawn(simulate).join() {
        Ok(report) => report,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// A signal drops the work, and with it whatever the work started.
async fn unless_stopped<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let on = |kind| signal(kind).context("cannot listen for signals");
    let (mut interrupt, mut terminate) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    tokio::select! {
        result = work => result,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("told to stop"),
    }
}

fn enter_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace (this takes root)")?;
    crate::netns::output(Command::new("ip").args(["link", "set", "lo", "up"])).map(drop)
}

/// Each cell is a descriptor here and one in the controller, which inherits the limit.
fn allow_many_connections() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}
