//! The eBPF object first, because the agent embeds it, then everything else.

use crate::object_check::no_panic_symbol;
use crate::run::{cargo, checked, repository, step, target_dir};
use crate::setup;
use crate::toolchain::Toolchain;
use anyhow::{Context, Result};
use std::path::Path;

/// Sets up what is missing, then builds the object and the workspace.
pub(crate) fn everything() -> Result<()> {
    object(setup::install_missing()?)?;
    step("building the workspace");
    checked(cargo().args(["build", "--workspace", "--locked"]))
}

/// Builds the eBPF object, checks it and puts it where the agent's build script looks.
pub(crate) fn object(toolchain: Toolchain) -> Result<()> {
    step("building the eBPF object");
    checked(&mut toolchain.build()?)?;
    let built = target_dir().join("ebpf/bpfel-unknown-none/release/c2c");
    no_panic_symbol(&built)?;
    // Beside the sources whatever CARGO_TARGET_DIR says: the agent's build script has no other way to find it.
    copy_if_different(&built, &repository().join("target/bpf/c2c.o"))
}

/// An object that did not change keeps its time, so that cargo does not build the agent again.
fn copy_if_different(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(directory) = to.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    std::fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}
