//! The agent's configuration: one TOML file, above it the environment (`C2C_*`), above that flags. A key that is not
//! known is refused, so that a typing error is not silently a default.

mod error;
mod layer;

pub use error::ConfigError;
pub use layer::Layer;

use crate::datapath::{Attach, Settings, Shield, Trace};
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
        let state_dir = layer.state_dir.unwrap_or_else(|| "/var/lib/c2c".into());
        let hours = layer.partition_tolerance_hours.unwrap_or(168);
        Ok(Self {
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

    /// A default that is commented out, as a setting. The cell's address and the maps' sizes have none.
    fn spelled_out(line: &str) -> Option<&str> {
        let setting = line.strip_prefix("# ").filter(|rest| rest.contains(" = "));
        let own = line.contains("underlay_address") || line.contains("POLICIES");
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
            ("metrics_address", with("metrics_address = \"nowhere\"")),
            ("underlay_address", with("underlay_address = \"::1\"")),
            ("controller", FULL.replace("https://", "http://")),
            ("controller", FULL.replace(":4103", "")),
            ("cell", FULL.replace("diego-cell-7", "a b")),
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
