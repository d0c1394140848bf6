//! What is known of one container. One JSON file each; the shape is stable, because an upgraded agent reads what the
//! one before it wrote.

use crate::host::{Mac, NetnsId};
use c2c_proto::agent_api::{Attachment, Bandwidth, NetOutRule, PortMapping};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// How far a container has come. The way is Wiring, Wired, Unwiring; a crash in the first or last is undone or finished
/// when the agent starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// An ADD began: anything of it may exist.
    Wiring,
    /// ADD succeeded.
    Wired,
    /// A DEL began: anything of it may be gone.
    Unwiring,
}

/// A container of this cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which container and interface.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// Its app's name; empty when its metadata names none, and then no policy speaks of it.
    pub app: String,
    /// What the runtime said about it.
    pub metadata: BTreeMap<String, Value>,
    /// Its overlay address.
    pub address: Ipv4Addr,
    /// Name of the host's end of its veth pair.
    pub host_name: String,
    /// Hardware address of the host's end.
    #[serde(with = "mac")]
    pub host_mac: Mac,
    /// Hardware address of the container's end.
    #[serde(with = "mac")]
    pub container_mac: Mac,
    /// Index of the host's end; 0 before it exists.
    pub ifindex: u32,
    /// Path of its network namespace as the runtime said it; empty when unknown.
    pub netns: String,
    /// Which namespace that was.
    pub netns_id: NetnsId,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// How far it has come.
    pub state: State,
    /// When it was asked for, in Unix seconds.
    pub created: u64,
    /// Ports of the cell that lead into it, in the order they were asked for. No port is in two records.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// What the runtime says it may reach outside, each rule once.
    #[serde(default)]
    pub egress: Vec<NetOutRule>,
    /// Its limits, the agent's defaults included; 0: none.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

/// Hardware addresses as text.
mod mac {
    use crate::host::{Mac, mac_text, parse_mac};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(mac: &Mac, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&mac_text(mac))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_mac(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no hardware address")))
    }
}
