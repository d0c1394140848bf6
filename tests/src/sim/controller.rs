//! The controller of a simulation: its certificates, its process and what that used. It dies with the thread that
//! started it, also when that is killed.

use super::plan::Plan;
use crate::lab::program;
use crate::netns::output;
use crate::wait;
use anyhow::{Context, Result, bail};
use c2c_proto::tls::{Files, Identity};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Nobody else is in the namespace.
pub(super) const ADDRESS: &str = "https://127.0.0.1:4103";
const LISTEN: &str = "127.0.0.1:4103";
/// Room for 65,535 blocks; the default network has 255.
const OVERLAY_NETWORK: &str = "10.0.0.0/8";
/// What it logs once it can be reached.
const LISTENING: &str = "listening address=";
/// `/proc/PID/stat` counts in hundredths of a second on every machine that Linux lets programs run on (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// A controller's process; killed when dropped.
#[derive(Debug)]
pub(super) struct Controller {
    process: Child,
    log: PathBuf,
}

impl Controller {
    /// Starts it on what is in the directory, and waits until it listens.
    pub(super) fn start(directory: &Path) -> Result<Self> {
        let log = directory.join("controller.log");
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let pki = directory.join("pki");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program("c2c-controller")?).arg("serve");
        command.args(["--listen", LISTEN, "--overlay-network", OVERLAY_NETWORK]);
        command.arg("--data-dir").arg(directory.join("data")).arg("--ca").arg(pki.join("ca.crt"));
        command.arg("--certificate").arg(pki.join("controller.crt"));
        command.arg("--key").arg(pki.join("controller.key"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let process = command.spawn().context("cannot start setpriv (package util-linux)")?;
        let mut controller = Self { process, log };
        wait::until_true("the controller to listen", || controller.listens())?;
        Ok(controller)
    }

    fn listens(&mut self) -> Result<bool> {
        let said = std::fs::read_to_string(&self.log).context("cannot read the controller's log")?;
        if let Some(status) = self.process.try_wait().context("cannot look at the controller")? {
            bail!("the controller ended ({status}): {}", said.trim());
        }
        Ok(said.contains(LISTENING))
    }

    /// Processor time since it started.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let line = self.proc("stat")?;
        // utime and stime are fields 14 and 15 (proc(5)); the name in parentheses, field 2, may hold anything.
        let fields = line.rsplit_once(") ").map(|(_, rest)| rest.split(' ').skip(11).take(2));
        let ticks = fields.into_iter().flatten().map(str::parse::<u32>).sum::<Result<u32, _>>();
        Ok(TICK * ticks.context("/proc/PID/stat is not as it was")?)
    }

    /// Resident memory in MiB: now, and the most there ever was.
    pub(super) fn memory(&self) -> Result<(f64, f64)> {
        let status = self.proc("status")?;
        let mebibytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let kibibytes: Option<f64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            kibibytes
                .map(|kibibytes| kibibytes / 1024.0)
                .with_context(|| format!("no {key} in /proc/PID/status"))
        };
        Ok((mebibytes("VmRSS:")?, mebibytes("VmHWM:")?))
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.process.id());
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _gone = self.process.kill();
        let _status = self.process.wait();
    }
}

/// Makes a certificate authority and the controller's certificate, and gives the operator's.
pub(super) fn prepare(directory: &Path) -> Result<Identity> {
    pki(directory, &["init"])?;
    issue(directory, "controller", "controller", Ipv4Addr::LOCALHOST)?;
    issue(directory, "operator", "operator", Ipv4Addr::LOCALHOST)
}

/// Makes the certificate of a cell.
pub(super) fn identity_of_cell(directory: &Path, cell: u32) -> Result<Identity> {
    issue(directory, "cell", &format!("cell-{cell}"), Plan::underlay(cell))
}

fn issue(directory: &Path, role: &str, name: &str, address: impl Into<IpAddr>) -> Result<Identity> {
    let address = address.into().to_string();
    pki(directory, &["issue", "--role", role, "--name", name, "--address", &address])?;
    let file = |name: String| directory.join("pki").join(name);
    let files = Files {
        ca: file("ca.crt".into()),
        cert: file(format!("{name}.crt")),
        key: file(format!("{name}.key")),
    };
    Identity::load(&files).with_context(|| format!("cannot load the certificate of {name}"))
}

fn pki(directory: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(program("c2c-controller")?);
    command.arg("pki").args(arguments).arg("--dir").arg(directory.join("pki"));
    output(&mut command).map(drop)
}
