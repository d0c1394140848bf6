//! The simulator: built for release, because its figures are what it is for, and handed over to.

use crate::build;
use crate::run::{as_root, cargo, checked, finish, step, target_dir};
use crate::setup;
use anyhow::Result;
use std::ffi::OsString;
use std::process::ExitCode;

const REASON: &str = "the simulation runs in a network namespace of its own";

/// Builds the controller and the simulator, then simulates.
pub(crate) fn simulate(arguments: &[OsString]) -> Result<ExitCode> {
    // The simulated cells pause as agents do, by the agent's own code, which embeds the object.
    build::object(setup::install_missing()?)?;
    step("building the controller and the simulator for release");
    let binaries = ["--bin", "c2c-controller", "--bin", "c2c-sim"];
    let packages = ["--package", "c2c-controller", "--package", "c2c-tests"];
    checked(cargo().args(["build", "--release", "--locked"]).args(packages).args(binaries))?;
    finish(as_root(target_dir().join("release/c2c-sim"), REASON)?.args(arguments))
}
