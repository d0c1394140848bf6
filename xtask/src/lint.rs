//! Format and clippy, warnings denied. The eBPF programs are linted by their own compiler's clippy.

use crate::build;
use crate::run::{cargo, checked, repository, step};
use crate::setup;
use anyhow::Result;

/// Everything that can be said about the sources without running them.
pub(crate) fn everything() -> Result<()> {
    step("checking the format");
    checked(cargo().args(["fmt", "--all", "--check"]))?;
    checked(cargo().args(["fmt", "--check"]).current_dir(repository().join("c2c-ebpf")))?;
    let toolchain = setup::install_missing()?;
    // The agent embeds the object, so clippy cannot look at the agent before the object is there.
    build::object(toolchain)?;
    step("clippy over the workspace");
    checked(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ]))?;
    step("clippy over the eBPF programs");
    checked(&mut toolchain.clippy()?)
}
