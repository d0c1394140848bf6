//! `c2c-sim`: the simulator by hand. `cargo xtask sim` builds it for release and starts it.

use anyhow::{Context, Result};
use c2c_tests::sim::{self, Options};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measure a real controller with simulated cells on real streams. Needs root.
#[derive(Debug, Parser)]
#[command(name = "c2c-sim", bin_name = "cargo xtask sim")]
struct Arguments {
    /// Simulated cells, each with a certificate and a stream of its own.
    #[arg(long, default_value_t = 1_000)]
    cells: u32,
    /// Apps, each with two instances on different cells.
    #[arg(long, default_value_t = 20_000)]
    apps: u32,
    /// Policies that are there before the first cell comes.
    #[arg(long, default_value_t = 60_000)]
    policies: u32,
    /// How often each kind of change is measured.
    #[arg(long, default_value_t = 100)]
    samples: u32,
    /// Also write the figures as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match simulate(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("c2c-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn simulate(arguments: &Arguments) -> Result<()> {
    let &Arguments { cells, apps, policies, samples, .. } = arguments;
    let report = sim::run(&Options { cells, apps, policies, samples }, |step| eprintln!("==> {step}"))?;
    println!("{report}");
    if let Some(path) = &arguments.json {
        let text = serde_json::to_vec_pretty(&report).context("cannot write the figures as JSON")?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
