//! What building and testing needs, whether it is there, and how it is installed.
//!
//! Nothing that is there is installed again. System packages come from apt; on a system without apt the missing ones
//! are named and left to its owner.

use crate::run::{as_root, checked, find_program, step};
use crate::toolchain::{BPF_LINKER_VERSION, DEBIAN_LLVM, Toolchain};
use anyhow::{Result, bail};
use std::process::{Command, ExitCode};

const POSTGRESQL: &str = "postgresql";

/// Runs the installation with Debian's own switch against making and starting a cluster on, and takes it back.
const WITHOUT_CLUSTER: &str = r#"set -eu
file=/etc/postgresql-common/createcluster.d/c2c-setup.conf
mkdir -p "${file%/*}"
trap 'rm -f "$file"' EXIT
echo 'create_main_cluster = false' > "$file"
"$@""#;

/// One thing that is needed.
struct Need {
    what: &'static str,
    why: &'static str,
    present: bool,
    /// Debian packages that bring it; empty when it does not come from apt.
    packages: &'static [&'static str],
}

/// Says what is there and what is missing.
pub(crate) fn check() -> Result<ExitCode> {
    let needs = needs(Toolchain::choose()?);
    for need in &needs {
        println!("{}  {}: {}", if need.present { "present" } else { "MISSING" }, need.what, need.why);
    }
    Ok(if needs.iter().all(|need| need.present) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Installs what is missing, and gives back what the eBPF programs can be built with.
pub(crate) fn install_missing() -> Result<Toolchain> {
    let toolchain = Toolchain::choose()?;
    let missing: Vec<Need> = needs(toolchain).into_iter().filter(|need| !need.present).collect();
    for need in &missing {
        step(&format!("missing: {} ({})", need.what, need.why));
    }
    install_packages(&missing)?;
    if toolchain == Toolchain::Nightly && !toolchain.has_compiler() {
        install_nightly()?;
    }
    if toolchain.linker().is_none() {
        install_linker(toolchain)?;
    }
    match needs(toolchain).into_iter().find(|need| !need.present) {
        Some(need) => bail!("{} is still missing after the installation ({})", need.what, need.why),
        None => Ok(toolchain),
    }
}

fn needs(toolchain: Toolchain) -> Vec<Need> {
    let program = |what, why, packages| Need { what, why, present: find_program(what).is_some(), packages };
    let mut needs = vec![
        program("cc", "links programs and compiles ring", &["gcc", "libc6-dev"] as &[_]),
        program("ip", "makes the namespaces of the lab and the tests", &["iproute2"]),
        program("tc", "looks at what is attached to an interface", &["iproute2"]),
        program("iptables-legacy-restore", "lays the incumbent's rules in the benchmark", &["iptables"]),
        program("ethtool", "switches offloads in the benchmark", &["ethtool"]),
        program("openssl", "makes RSA keys in the tests of access tokens", &["openssl"]),
        Need {
            what: "PostgreSQL server",
            why: "tests the controller's store; no system cluster is made or used",
            present: has_postgresql(),
            packages: &[POSTGRESQL],
        },
    ];
    let (what, packages): (_, &[_]) = match toolchain {
        Toolchain::Debian => (
            "rustc-web for BPF, its clippy and LLVM",
            &["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22-dev", "rust-web-clippy"],
        ),
        Toolchain::Nightly => {
            needs.push(program("rustup", "brings the nightly toolchain (https://rustup.rs)", &[]));
            ("nightly rustc with rust-src", &[])
        }
    };
    let why = "compiles the eBPF programs";
    needs.push(Need { what, why, present: toolchain.has_compiler(), packages });
    let present = toolchain.linker().is_some();
    needs.push(Need { what: "bpf-linker", why: "links the eBPF programs", present, packages: &[] });
    needs
}

/// Debian keeps the server's programs out of PATH, in a directory for each version.
fn has_postgresql() -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.into_iter().any(|version| version.path().join("bin/initdb").is_file())
}

fn install_packages(missing: &[Need]) -> Result<()> {
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    if packages.is_empty() {
        return Ok(());
    }
    if find_program("apt-get").is_none() {
        bail!("this system has no apt-get: install what these Debian packages hold: {}", packages.join(" "));
    }
    let reason = "apt-get installs packages for the whole system";
    step("apt-get update");
    checked(as_root("apt-get", reason)?.args(["update", "--quiet"]))?;
    step(&format!("apt-get install {}", packages.join(" ")));
    let mut install = as_root("sh", reason)?;
    install.args([
        "-c",
        if packages.contains(&POSTGRESQL) { WITHOUT_CLUSTER } else { "exec \"$@\"" },
        "sh",
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "--yes",
        "--no-install-recommends",
    ]);
    checked(install.args(packages))
}

fn install_nightly() -> Result<()> {
    step("rustup toolchain install nightly (about 200 MB)");
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
    checked(rustup.args(["--component", "rust-src", "--component", "clippy"]))
}

fn install_linker(toolchain: Toolchain) -> Result<()> {
    let root = toolchain.linker_root()?;
    step(&format!("installing bpf-linker {BPF_LINKER_VERSION} into {}", root.display()));
    match toolchain {
        Toolchain::Debian => {
            let mut cargo = Command::new("cargo");
            cargo.args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked"]);
            cargo.args(["--no-default-features", "--features", "llvm-22", "--root"]).arg(root);
            checked(cargo.env("LLVM_PREFIX", DEBIAN_LLVM))
        }
        // The release's own binary, as its authors advise: it brings an LLVM that reads what nightly writes.
        Toolchain::Nightly => {
            let archive = format!(
                "https://github.com/aya-rs/bpf-linker/releases/download/v{BPF_LINKER_VERSION}/bpf-linker-{}-unknown-linux-musl.tar.zst",
                std::env::consts::ARCH
            );
            let script = "set -eu; mkdir -p \"$2/bin\"; curl --fail --location --retry 3 \"$1\" | tar --zstd -xf - -C \"$2/bin\"";
            checked(Command::new("sh").args(["-c", script, "sh", &archive]).arg(root))
        }
    }
}
