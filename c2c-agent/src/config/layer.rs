//! One layer of configuration, from the file or from the environment and flags. Nothing is checked here but types.

use super::ConfigError;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// What one source says; what it leaves open the source below may say.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The cell's name, unique in the foundation
    #[arg(long, env = "C2C_CELL", value_name = "NAME")]
    pub cell: Option<String>,
    /// The device that cells reach each other through
    #[arg(long, env = "C2C_UNDERLAY_INTERFACE", value_name = "DEVICE")]
    pub underlay_interface: Option<String>,
    /// The cell's address on it [default: its first IPv4 address]
    #[arg(long, env = "C2C_UNDERLAY_ADDRESS", value_name = "IPV4")]
    pub underlay_address: Option<Ipv4Addr>,
    /// The controller, https://HOST:PORT
    #[arg(long, env = "C2C_CONTROLLER", value_name = "URL")]
    pub controller: Option<String>,
    /// The CA that the controller's certificate is of
    #[arg(long, env = "C2C_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The cell's certificate
    #[arg(long, env = "C2C_CERTIFICATE", value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// The certificate's private key
    #[arg(long, env = "C2C_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// What is remembered over a restart [default: /var/lib/c2c]
    #[arg(long, env = "C2C_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where programs and maps are pinned, in a bpffs [default: /sys/fs/bpf/c2c]
    #[arg(long, env = "C2C_PIN_DIR", value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
    /// The socket of the shim and the CLI [default: /run/c2c/agent.sock]
    #[arg(long, env = "C2C_SOCKET", value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// Where the shim leaves DELs for an agent that is away [default: STATE_DIR/pending-del]
    #[arg(long, env = "C2C_PENDING_DIR", value_name = "DIR")]
    pub pending_dir: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served [default: 127.0.0.1:9464]
    #[arg(long, env = "C2C_METRICS_ADDRESS", value_name = "IP:PORT")]
    pub metrics_address: Option<SocketAddr>,
    /// How programs are attached: auto, tcx or clsact [default: auto]
    #[arg(long, env = "C2C_ATTACH", value_name = "HOW")]
    pub attach: Option<String>,
    /// The XDP shield of the underlay device: off, native or generic [default: off]
    #[arg(long, env = "C2C_SHIELD", value_name = "MODE")]
    pub shield: Option<String>,
    /// What the programs tell of each packet: off, drops or packets [default: off]
    #[arg(long, env = "C2C_TRACE", value_name = "LEVEL")]
    pub trace: Option<String>,
    /// Hours without the controller after which new containers are refused [default: 168]
    #[arg(long, env = "C2C_PARTITION_TOLERANCE_HOURS", value_name = "HOURS")]
    pub partition_tolerance_hours: Option<u64>,
    /// What the agent logs, for example "info,c2c_agent::policy=debug" [default: info]
    #[arg(long, env = "C2C_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Map name to entries, where another size than the built-in one is wanted; only in the file.
    #[arg(skip)]
    #[serde(default)]
    pub map_capacity: BTreeMap<String, u32>,
}

impl Layer {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })
    }

    /// What this layer says, and where it is silent what `below` says.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            cell: self.cell.or(below.cell),
            underlay_interface: self.underlay_interface.or(below.underlay_interface),
            underlay_address: self.underlay_address.or(below.underlay_address),
            controller: self.controller.or(below.controller),
            ca: self.ca.or(below.ca),
            certificate: self.certificate.or(below.certificate),
            key: self.key.or(below.key),
            state_dir: self.state_dir.or(below.state_dir),
            pin_dir: self.pin_dir.or(below.pin_dir),
            socket: self.socket.or(below.socket),
            pending_dir: self.pending_dir.or(below.pending_dir),
            metrics_address: self.metrics_address.or(below.metrics_address),
            attach: self.attach.or(below.attach),
            shield: self.shield.or(below.shield),
            trace: self.trace.or(below.trace),
            partition_tolerance_hours: self.partition_tolerance_hours.or(below.partition_tolerance_hours),
            log: self.log.or(below.log),
            map_capacity: if self.map_capacity.is_empty() { below.map_capacity } else { self.map_capacity },
        }
    }
}
