//! The tasks of this repository: what a newcomer types.
//!
//! No task knows how the fabric works. Building the eBPF object and installing what that takes is here; the lab and the
//! demo are the `c2c-lab` binary's, the simulator is `c2c-sim`, the benchmark `c2c-bench` (all in `tests/`); this one builds and
//! starts them as root.

mod bench;
mod build;
mod fuzz;
mod lint;
mod object_check;
mod run;
mod setup;
mod sim;
mod test;
mod toolchain;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// The tasks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building and testing needs and this machine lacks.
    Setup {
        /// Only say what is there and what is missing; exit code 1 when something is.
        #[arg(long)]
        check: bool,
    },
    /// Build the eBPF object into target/bpf/c2c.o, check it, then build the workspace.
    Build,
    /// Run two cells and tell their story, each line a real connection; then clean up. Needs root.
    Demo {
        /// Also write every line as JSON to this file.
        #[arg(long, value_name = "FILE")]
        json: Option<OsString>,
    },
    /// Run every test, or those whose name contains FILTER. Needs root.
    Test {
        /// Part of a test's name.
        filter: Option<String>,
    },
    /// Check the format and run clippy, warnings denied, over the workspace and the eBPF programs.
    Lint,
    /// Fuzz what reads what others wrote: all targets of `fuzz/`, or one.
    Fuzz {
        /// A target's name.
        target: Option<String>,
        /// For how long each is run.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Run a lab of cells in network namespaces: up, status, add, exec, remove, down. Needs root.
    #[command(disable_help_flag = true)]
    Lab {
        /// What `c2c-lab` is told; `cargo xtask lab --help` lists it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Measure a real controller with simulated cells: --cells, --apps, --policies, --samples, --json. Needs root.
    #[command(disable_help_flag = true)]
    Sim {
        /// What `c2c-sim` is told; `cargo xtask sim --help` lists it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Measure bare, kernel VXLAN, the incumbent's rules and c2c side by side: --quick, --only, --json, --chart. Needs root.
    #[command(disable_help_flag = true)]
    Bench {
        /// What `c2c-bench` is told; `cargo xtask bench --help` lists it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup { check: true } => setup::check(),
        Task::Setup { check: false } => setup::install_missing().map(|_| ExitCode::SUCCESS),
        Task::Build => build::everything().map(|()| ExitCode::SUCCESS),
        Task::Demo { json } => test::demo(json),
        Task::Test { filter } => test::everything(filter.as_deref()),
        Task::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Task::Lint => lint::everything().map(|()| ExitCode::SUCCESS),
        Task::Lab { arguments } => test::lab(&arguments),
        Task::Sim { arguments } => sim::simulate(&arguments),
        Task::Bench { arguments } => bench::measure(&arguments),
    }
}
