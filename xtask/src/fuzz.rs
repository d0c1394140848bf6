//! Fuzzing: builds the targets of `fuzz/` with coverage counters and runs them one after the other. What they found useful
//! stays in the target directory, and so does an input that made one fail.

use crate::run::{cargo, checked, find_program, repository, step, target_dir};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, ExitCode};

/// libFuzzer's counters, as `cargo fuzz` asks for them; without a sanitizer, because nothing here is unsafe. And the lines
/// of what a finding prints.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg",
    "fuzzing",
    "-Cdebuginfo=1",
];
/// An input that takes longer is a finding, in seconds.
const INPUT_SECONDS: u32 = 10;
/// So is one that takes more memory, in MiB.
const MEMORY_MIB: u32 = 2048;

/// Runs one target, or all.
pub(crate) fn run(target: Option<&str>, seconds: u32) -> Result<ExitCode> {
    let all = targets()?;
    let chosen: Vec<&String> =
        all.iter().filter(|name| target.is_none_or(|target| target == *name)).collect();
    if chosen.is_empty() {
        bail!("there is no such fuzz target; expected one of {}", all.join(", "));
    }
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    build(&triple, target)?;
    for name in chosen {
        step(&format!("fuzzing {name} for {seconds} s"));
        let program = target_dir().join("fuzz").join(&triple).join("release").join(name);
        checked(&mut fuzz(&program, name, seconds)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn build(triple: &str, target: Option<&str>) -> Result<()> {
    if find_program("c++").is_none() {
        bail!("a C++ compiler is missing, which libFuzzer is compiled with: install g++ or clang");
    }
    step("building the fuzz targets");
    let mut build = cargo();
    // With a target named, build scripts and macros are not instrumented.
    build.args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", triple]);
    if let Some(name) = target {
        build.args(["--bin", name]);
    }
    checked(
        build
            .env("CARGO_TARGET_DIR", target_dir().join("fuzz"))
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}")),
    )
}

fn fuzz(program: &Path, name: &str, seconds: u32) -> Result<Command> {
    let (corpus, found) =
        (target_dir().join("fuzz/corpus").join(name), target_dir().join("fuzz/found").join(name));
    for directory in [&corpus, &found] {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let mut fuzz = Command::new(program);
    fuzz.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1").arg("-verbosity=0");
    fuzz.arg(format!("-timeout={INPUT_SECONDS}")).arg(format!("-rss_limit_mb={MEMORY_MIB}"));
    fuzz.arg(format!("-artifact_prefix={}/", found.display()));
    fuzz.arg(corpus).arg(repository().join("fuzz/seeds").join(name));
    Ok(fuzz)
}

/// The names of all targets, in order.
fn targets() -> Result<Vec<String>> {
    let directory = repository().join("fuzz/fuzz_targets");
    let files =
        std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let name = |file: std::fs::DirEntry| Some(file.path().file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = files.filter_map(|file| name(file.ok()?)).collect();
    names.sort();
    Ok(names)
}
