//! The two ways to compile for BPF, and which of them this machine has.
//!
//! Debian: its `rustc-web` with a ready-made `core` for BPF, and bpf-linker built against Debian's LLVM of the same
//! version. Nightly: rustup's nightly with `rust-src`, which builds `core` itself, and any bpf-linker.

use crate::run::{find_program, repository, target_dir};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The bpf-linker that both ways were tried with.
pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";
/// Where Debian's compiler is; rustup's keeps first place on PATH.
pub(crate) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// The LLVM of Debian's `rustc-web`; bpf-linker has to speak the same.
pub(crate) const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none";
/// Clippy of the same compiler; rustup's speaks of another one's libraries.
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";

/// A way to compile for BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// Debian 12's packages.
    Debian,
    /// rustup's nightly.
    Nightly,
}

impl Toolchain {
    /// The one that is complete here; else the one to install: Debian's packages on Debian 12, nightly elsewhere.
    pub(crate) fn choose() -> Result<Self> {
        let complete = [Self::Debian, Self::Nightly].into_iter().find(|toolchain| toolchain.is_complete());
        complete.map_or_else(|| Ok(if is_debian_12()? { Self::Debian } else { Self::Nightly }), Ok)
    }

    /// Whether everything it takes is installed.
    pub(crate) fn is_complete(self) -> bool {
        self.has_compiler() && self.linker().is_some()
    }

    /// Whether its compiler can make BPF code.
    pub(crate) fn has_compiler(self) -> bool {
        match self {
            Self::Debian => [DEBIAN_RUSTC, DEBIAN_CORE, DEBIAN_LLVM, DEBIAN_CLIPPY]
                .iter()
                .all(|path| Path::new(path).exists()),
            Self::Nightly => nightly_sysroot().is_some_and(|sysroot| {
                sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
            }),
        }
    }

    /// Its bpf-linker, if it is installed.
    pub(crate) fn linker(self) -> Option<PathBuf> {
        let ours = self.linker_root().ok()?.join("bin/bpf-linker");
        match self {
            Self::Debian => ours.is_file().then_some(ours),
            Self::Nightly => find_program("bpf-linker").or_else(|| ours.is_file().then_some(ours)),
        }
    }

    /// Where its bpf-linker is installed to: the user's cache, because it outlives a checkout's target directory.
    pub(crate) fn linker_root(self) -> Result<PathBuf> {
        let kind = match self {
            Self::Debian => "llvm-22",
            Self::Nightly => "release",
        };
        Ok(cache_root()?.join("c2c").join(format!("bpf-linker-{BPF_LINKER_VERSION}-{kind}")))
    }

    /// `cargo build` as it must be called in the eBPF crate.
    pub(crate) fn build(self) -> Result<Command> {
        self.in_ebpf_crate(match self {
            Self::Debian => debian("cargo", "build"),
            Self::Nightly => nightly("build"),
        })
    }

    /// `cargo clippy` as it must be called in the eBPF crate, warnings denied.
    pub(crate) fn clippy(self) -> Result<Command> {
        let mut command = self.in_ebpf_crate(match self {
            Self::Debian => debian(DEBIAN_CLIPPY, "clippy"),
            Self::Nightly => nightly("clippy"),
        })?;
        command.args(["--", "--deny", "warnings"]);
        Ok(command)
    }

    fn in_ebpf_crate(self, mut command: Command) -> Result<Command> {
        let linker = self.linker().context("bpf-linker is missing: run `cargo xtask setup`")?;
        command
            .current_dir(repository().join("c2c-ebpf"))
            .args(["--release", "--locked", "--target", "bpfel-unknown-none"])
            .env("CARGO_TARGET_DIR", target_dir().join("ebpf"))
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
            .env("CARGO_ENCODED_RUSTFLAGS", rust_flags());
        Ok(command)
    }
}

/// Whether this is the Debian whose packages are known to work.
pub(crate) fn is_debian_12() -> Result<bool> {
    let release = std::fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let has = |line: &str| release.lines().any(|candidate| candidate == line);
    Ok(has("ID=debian") && has("VERSION_ID=\"12\""))
}

fn debian(cargo: &str, subcommand: &str) -> Command {
    let mut command = Command::new(cargo);
    // aya-ebpf uses unstable features; they are allowed to this one call only.
    command.arg(subcommand).env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
    command
}

fn nightly(subcommand: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", subcommand, "-Zbuild-std=core"]);
    // Set by the cargo that runs this program; they would bring the stable toolchain back.
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").env_remove("CARGO");
    command
}

fn rust_flags() -> String {
    let architecture = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    // Full debug information, because bpf-linker turns it into the BTF that the kernel's verifier reads.
    [architecture.as_str(), "-Cdebuginfo=2", "-Clink-arg=--btf"].join("\u{1f}")
}

fn nightly_sysroot() -> Option<PathBuf> {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    command.env_remove("RUSTUP_TOOLCHAIN").env("RUSTUP_AUTO_INSTALL", "0").stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

fn cache_root() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = |name: OsString| PathBuf::from(name).join(".cache");
    match absolute("XDG_CACHE_HOME").or_else(|| std::env::var_os("HOME").map(home)) {
        Some(root) => Ok(root),
        None => bail!("neither XDG_CACHE_HOME nor HOME is set: there is no place to install bpf-linker to"),
    }
}
