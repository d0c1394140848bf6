//! The agent's configuration: one TOML file, above it the environment (`C2C_*`), above that flags. A key that is not
//! known is refused, so that a typing error is not silently a default.

mod error;
mod layer;
mod list;
mod network;
mod ports;

pub use error::ConfigError;
pub use layer::Layer;
pub use list::List;
pub use network::{DenyNetworks, Dns, HostAccess, Network, Outbound, Rate, StaticEgress};
pub use ports::{HostPorts, PortConflict, host_ports, port_conflict};

use crate::datapath::{Attach, Settings, Shield, Trace};
use crate::self_test::Mode;
use c2c_proto::tls::Files;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// As the controller has it.
const MAX_CELL_NAME: usize = 255;

/// What the agent was told. Everything is checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cell's name, unique in the foundation.
    pub cell: String,
    /// The cell's address on the underlay; the first of the interface when not set.
    pub underlay_address: Option<Ipv4Addr>,
    /// `https://HOST:PORT` of the controller.
    pub controller: String,
    /// Who the agent is to the controller.
    pub identity: Files,
    /// What the agent remembers lives here.
    pub state_dir: PathBuf,
    /// Where the agent listens.
    pub socket: PathBuf,
    /// DELs that the shim could not bring.
    pub pending_dir: PathBuf,
    /// Where the metrics page is.
    pub metrics_address: SocketAddr,
    /// How long an unrenewed lease is trusted.
    pub partition_tolerance: Duration,
    /// What is logged, as `tracing_subscriber`'s filter says it.
    pub log: String,
    /// The world outside the overlay.
    pub network: Network,
    /// Where logged connections are written; the agent's own log when not set.
    pub flow_log: Option<PathBuf>,
    /// Where the containers are listed for others; nowhere when not set.
    pub container_metadata_file: Option<PathBuf>,
    /// What the self-test of the underlay device's offloads may do.
    pub offload_self_test: Mode,
    /// The datapath's part, with the underlay interface.
    pub datapath: Settings,
}

impl Config {
    /// Reads the file, if one is named, and puts `above` on top.
    ///
    /// # Errors
    /// When the file cannot be read, a key is unknown or missing, or a value cannot be right.
    pub fn load(file: Option<&Path>, above: Layer) -> Result<Self, ConfigError> {
        let below = file.map(Layer::read).transpose()?.unwrap_or_default();
        Self::check(above.over(below))
    }

    /// Whether `new` differs in something that a running agent cannot take over.
    #[must_use]
    pub fn needs_restart_for(&self, new: &Self) -> bool {
        let key = |config: &Self| {
            let mut config = config.clone();
            config.log.clear();
            config.datapath.trace = Trace::Off;
            format!("{config:?}")
        };
        key(self) != key(new)
    }

    fn check(layer: Layer) -> Result<Self, ConfigError> {
        let network = Network::check(&layer)?;
        let state_dir = layer.state_dir.unwrap_or_else(|| "/var/lib/c2c".into());
        let hours = layer.partition_tolerance_hours.unwrap_or(168);
        Ok(Self {
            network,
            cell: cell(required("cell", layer.cell)?)?,
            underlay_address: layer.underlay_address,
            controller: controller(required("controller", layer.controller)?)?,
            identity: Files {
                ca: required("ca", layer.ca)?,
                cert: required("certificate", layer.certificate)?,
                key: required("key", layer.key)?,
            },
            socket: layer.socket.unwrap_or_else(|| c2c_proto::agent_api::DEFAULT_SOCKET.into()),
            pending_dir: layer.pending_dir.unwrap_or_else(|| state_dir.join("pending-del")),
            metrics_address: layer
                .metrics_address
                .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9464))),
            partition_tolerance: Duration::from_secs(hours.saturating_mul(3600)),
            log: layer.log.unwrap_or_else(|| "info".to_owned()),
            flow_log: layer.flow_log,
            container_metadata_file: layer.container_metadata_file,
            offload_self_test: self_test(layer.offload_self_test.as_deref())?,
            datapath: Settings {
                pin_dir: layer.pin_dir.unwrap_or_else(|| "/sys/fs/bpf/c2c".into()),
                underlay: required("underlay_interface", layer.underlay_interface)?,
                attach: attach(layer.attach.as_deref())?,
                shield: shield(layer.shield.as_deref())?,
                trace: trace(layer.trace.as_deref())?,
                capacities: layer.map_capacity,
            },
            state_dir,
        })
    }
}

fn required<T>(key: &'static str, value: Option<T>) -> Result<T, ConfigError> {
    value.ok_or(ConfigError::Missing { key })
}

fn cell(name: String) -> Result<String, ConfigError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if name.is_empty() || name.len() > MAX_CELL_NAME || !name.chars().all(fits) {
        return Err(ConfigError::value("cell", &name, "1 to 255 letters, digits, '-', '_', '.' or '/'"));
    }
    Ok(name)
}

fn controller(address: String) -> Result<String, ConfigError> {
    match address.strip_prefix("https://").and_then(|rest| rest.trim_end_matches('/').rsplit_once(':')) {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
            Ok(address)
        }
        Some(_) | None => Err(ConfigError::value("controller", &address, "https://HOST:PORT")),
    }
}

fn attach(text: Option<&str>) -> Result<Attach, ConfigError> {
    match text.unwrap_or("auto") {
        "auto" => Ok(Attach::Auto),
        "tcx" => Ok(Attach::Tcx),
        "clsact" => Ok(Attach::Clsact),
        other => Err(ConfigError::value("attach", other, "auto, tcx or clsact")),
    }
}

fn shield(text: Option<&str>) -> Result<Shield, ConfigError> {
    match text.unwrap_or("off") {
        "off" => Ok(Shield::Off),
        "native" => Ok(Shield::Native),
        "generic" => Ok(Shield::Generic),
        other => Err(ConfigError::value("shield", other, "off, native or generic")),
    }
}

fn self_test(text: Option<&str>) -> Result<Mode, ConfigError> {
    match text.unwrap_or(Mode::Fix.as_str()) {
        "fix" => Ok(Mode::Fix),
        "report" => Ok(Mode::Report),
        "off" => Ok(Mode::Off),
        other => Err(ConfigError::value("offload_self_test", other, "fix, report or off")),
    }
}

fn trace(text: Option<&str>) -> Result<Trace, ConfigError> {
    match text.unwrap_or("off") {
        "off" => Ok(Trace::Off),
        "drops" => Ok(Trace::Drops),
        "packets" => Ok(Trace::Packets),
        other => Err(ConfigError::value("trace", other, "off, drops or packets")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
        cell = "diego-cell-7"
        underlay_interface = "eth0"
        controller = "https://controller.example:4103"
        ca = "/etc/c2c/ca.crt"
        certificate = "/etc/c2c/cell.crt"
        key = "/etc/c2c/cell.key"
        state_dir = "/srv/c2c"
        [map_capacity]
        POLICIES = 64
    "#;

    fn load(text: &str, above: Layer) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()), above)
    }

    #[test]
    fn a_file_is_enough_and_the_rest_has_defaults() {
        let config = load(FULL, Layer::default()).unwrap();
        assert_eq!(config.pending_dir, Path::new("/srv/c2c/pending-del"));
        assert_eq!(config.metrics_address.to_string(), "127.0.0.1:9464");
        assert_eq!(config.partition_tolerance, Duration::from_secs(168 * 3600));
        assert_eq!(config.datapath.capacities.get("POLICIES"), Some(&64));
    }

    /// What a comment of the packaged file shows of these is an example.
    const NO_DEFAULT: [&str; 6] = [
        "underlay_address",
        "POLICIES",
        "dns_servers",
        "search_domains",
        "flow_log",
        "container_metadata_file",
    ];

    /// A default that is commented out, as a setting.
    fn spelled_out(line: &str) -> Option<&str> {
        let is_key = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let is_setting = |rest: &&str| rest.split_once(" = ").is_some_and(|(key, _)| is_key(key));
        let setting = line.strip_prefix("# ").filter(is_setting);
        let own = NO_DEFAULT.iter().any(|key| line.contains(key));
        if own { None } else { Some(setting.unwrap_or(line)) }
    }

    #[test]
    fn the_packaged_file_is_right_and_its_comments_show_the_defaults() {
        let packaged = include_str!("../../../packaging/agent.toml");
        let as_it_is = load(packaged, Layer::default()).unwrap();
        let spelled: Vec<_> = packaged.lines().filter_map(spelled_out).collect();
        let spelled = spelled.join("\n");
        let spelled = load(&spelled, Layer::default()).unwrap();
        assert_eq!(format!("{as_it_is:?}"), format!("{spelled:?}"));
    }

    #[test]
    fn what_is_above_wins() {
        let above = Layer { cell: Some("other".into()), trace: Some("drops".into()), ..Layer::default() };
        let config = load(FULL, above).unwrap();
        assert_eq!(config.cell, "other");
        assert!(matches!(config.datapath.trace, Trace::Drops));
    }

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        layer: Layer,
    }

    #[test]
    fn lists_are_arrays_in_the_file_and_have_commas_elsewhere() {
        let file = format!("deny_networks_always = [\"10.0.0.0/8\"]\nhost_accept = [\"10.0.0.9\"]\n{FULL}");
        let nets =
            |config: &Config| config.network.deny.always.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(nets(&load(&file, Layer::default()).unwrap()), ["10.0.0.0/8"]);
        let flags =
            "agent --deny-networks-always 192.0.2.0/24,192.0.2.1 --host-accept= --outbound-limit true";
        let above = <Flags as clap::Parser>::try_parse_from(flags.split(' ')).unwrap().layer;
        let config = load(&file, above).unwrap();
        assert_eq!(nets(&config), ["192.0.2.0/24", "192.0.2.1/32"]);
        assert!(config.network.host.accept.is_empty() && config.network.outbound.limit.is_some());
        assert!(load(&format!("no_masquerade = \"10.0.0.0/8\"\n{FULL}"), Layer::default()).is_err());
    }

    #[test]
    fn every_fault_names_its_key() {
        let with = |line: &str| format!("{line}\n{FULL}");
        let without = |key: &str| {
            FULL.lines().filter(|line| !line.trim().starts_with(key)).collect::<Vec<_>>().join("\n")
        };
        let faults = [
            ("undrelay", with("undrelay = 1")),
            ("attach", with("attach = \"xdp\"")),
            ("shield", with("shield = \"on\"")),
            ("trace", with("trace = \"all\"")),
            ("offload_self_test", with("offload_self_test = \"on\"")),
            ("metrics_address", with("metrics_address = \"nowhere\"")),
            ("underlay_address", with("underlay_address = \"::1\"")),
            ("controller", FULL.replace("https://", "http://")),
            ("controller", FULL.replace(":4103", "")),
            ("cell", FULL.replace("diego-cell-7", "a b")),
            ("mapped_ports", with("mapped_ports = \"1-2\"")),
            ("outbound_burst", with("outbound_burst = 0")),
            ("outbound_max_connections", with("outbound_max_connections = -1")),
            ("dns_servers", with("dns_servers = [\"x\"]")),
            ("cell", without("cell")),
            ("certificate", without("certificate")),
            ("underlay_interface", without("underlay_interface")),
        ];
        for (key, text) in faults {
            let error = load(&text, Layer::default()).unwrap_err();
            let mut said = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                said += &source.to_string();
            }
            assert!(said.contains(key), "{key}: {said}");
        }
    }
}
