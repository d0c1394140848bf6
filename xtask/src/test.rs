//! What needs root: the tests, the demo and the lab. All of them make network namespaces and load programs.

use crate::build;
use crate::run::{as_root, cargo, checked, finish, is_root, step, target_dir};
use anyhow::Result;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

const REASON: &str = "network namespaces are made and eBPF programs are loaded into the kernel";

/// Builds and runs every test, or those whose name contains the filter.
pub(crate) fn everything(filter: Option<&str>) -> Result<ExitCode> {
    build::everything()?;
    step("running the tests");
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(filter);
    if !is_root()? {
        // Cargo itself stays the user's; only the test programs are started through sudo.
        checked(as_root("true", REASON)?.env_remove("LD_PRELOAD"))?;
        let target = format!("{}_UNKNOWN_LINUX_GNU", std::env::consts::ARCH.to_uppercase());
        tests.env(format!("CARGO_TARGET_{target}_RUNNER"), "sudo --preserve-env --");
    }
    finish(&mut tests)
}

/// Builds, then tells the story.
pub(crate) fn demo(json: Option<OsString>) -> Result<ExitCode> {
    build::everything()?;
    let json = json.into_iter().flat_map(|file| ["--json".into(), file]);
    let arguments: Vec<OsString> = std::iter::once("demo".into()).chain(json).collect();
    c2c_lab(&arguments)
}

/// Builds when a lab is to be started or nothing was built yet, then hands over.
pub(crate) fn lab(arguments: &[OsString]) -> Result<ExitCode> {
    let starts = arguments.first().is_some_and(|word| word == OsStr::new("up"));
    if starts || !target_dir().join("debug/c2c-lab").is_file() {
        build::everything()?;
    }
    c2c_lab(arguments)
}

fn c2c_lab(arguments: &[OsString]) -> Result<ExitCode> {
    finish(as_root(target_dir().join("debug/c2c-lab"), REASON)?.args(arguments))
}
