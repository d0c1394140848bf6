//! The benchmark: built for release, because its figures are what it is for, and handed over to.

use crate::build;
use crate::run::{as_root, cargo, checked, finish, step, target_dir};
use crate::setup;
use anyhow::Result;
use std::ffi::OsString;
use std::process::ExitCode;

const REASON: &str = "network namespaces are made, and programs and rules are loaded into the kernel";

/// Builds everything that is measured, then measures.
pub(crate) fn measure(arguments: &[OsString]) -> Result<ExitCode> {
    build::object(setup::install_missing()?)?;
    step("building controller, agent, shim and benchmark for release");
    let packages = ["c2c-agent", "c2c-cni", "c2c-controller", "c2c-tests"];
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    checked(cargo().args(["build", "--release", "--locked", "--bins"]).args(packages))?;
    finish(as_root(target_dir().join("release/c2c-bench"), REASON)?.args(arguments))
}
