//! `c2c-bench`: the benchmark by hand. `cargo xtask bench` builds it for release and starts it.

use anyhow::{Context, Result};
use c2c_tests::bench::{self, Options, baseline};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Measure the bare underlay, kernel VXLAN, the incumbent's rules and c2c side by side. Needs root.
#[derive(Debug, Parser)]
#[command(name = "c2c-bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// Brief measurements, and without --only a few scenarios: to see that it works. About two minutes.
    #[arg(long)]
    quick: bool,
    /// Only scenarios whose name contains this; NAME/CONTAINERS/POLICIES is the whole name.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Also write the figures as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the figures as SVG into this file.
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Make what the programs cost now (scenario programs) the committed baseline of this kernel.
    #[arg(long)]
    accept_programs: bool,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("c2c-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    let began = Instant::now();
    for line in bench::environment() {
        println!("{line}");
    }
    let options = Options { quick: arguments.quick, only: arguments.only.clone() };
    let rows = bench::run(&options, |step| eprintln!("==> {:4.0} s  {step}", began.elapsed().as_secs_f64()))?;
    println!("\nmedian ×ratio to bare (min–max)\n{}", bench::table(&rows));
    if let Some((different, _)) = baseline::compare(&rows)?.filter(|_| !arguments.accept_programs) {
        different.iter().for_each(|line| println!("not as committed: {line}"));
    }
    if arguments.accept_programs {
        println!("accepted in {}", baseline::accept(&rows)?.display());
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_vec_pretty(&rows).context("cannot write the figures as JSON")?;
        write(path, &text)?;
    }
    arguments.chart.as_ref().map_or(Ok(()), |path| write(path, bench::chart(&rows)?.as_bytes()))
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
