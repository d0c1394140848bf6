//! The agent's Unix socket: one request, one reply, both one line of JSON, then the connection is closed.
//!
//! The socket is root's alone (mode 0600, and both sides check the other's credentials). An ADD passes the container's
//! network namespace as a file descriptor (`SCM_RIGHTS`) with the first byte of its request, because a path means
//! nothing across mount namespaces.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Where the agent listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/c2c/agent.sock";
/// Where the shim leaves a DEL that the agent could not be asked for; the agent does it when it starts.
pub const DEFAULT_PENDING_DIR: &str = "/var/lib/c2c/pending-del";
/// A request longer than this is refused unread, in bytes: what the shim takes from guardian, too. A container with 10,000
/// egress rules is about 1 MB.
pub const MAX_REQUEST_BYTES: usize = 16 << 20;

/// What can be asked of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Wire a container. The namespace's descriptor travels with it.
    Add(Add),
    /// Unwire a container. Succeeds when nothing is left to undo.
    Del(Attachment),
    /// Is the container still wired as ADD left it? The namespace's descriptor travels with it.
    Check(Check),
    /// Unwire every container that is not listed.
    Gc {
        /// What may stay.
        valid: Vec<Attachment>,
    },
    /// Could an ADD be served now? CNI's STATUS.
    Ready,
    /// Lead a port of the cell into a wired container. Garden's net-in; answered with a [`PortMapping`].
    NetIn(NetIn),
    /// Let a wired container reach more. Garden's net-out and bulk-net-out.
    NetOut(NetOut),
    /// One page about the agent: lease, stream, revision, datapath.
    Status,
    /// The containers of this cell.
    Endpoints,
    /// The policies that touch this cell's apps.
    Policies,
    /// The flow tables: between containers, and with the outside.
    Flows,
    /// What the cell's containers may reach outside: the groups bound to each, and the rules that were skipped.
    Egress,
    /// The cell's ports that lead into containers.
    Ports,
    /// Counters by hook and outcome, and the use of every map.
    Counters,
}

/// What CNI calls an attachment: a container and an interface in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`, Garden's handle.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

impl Attachment {
    /// The file that speaks of this attachment, in the agent's records and among the DELs left for it. `@` is in no
    /// container id, so two attachments never share a name.
    pub fn file_name(&self) -> String {
        format!("{}@{}.json", self.container_id, self.ifname)
    }
}

/// A DEL that the shim could not hand over, as it lies in [`DEFAULT_PENDING_DIR`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingDel {
    /// Which container and interface.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// Unix seconds. The DEL does not speak of a container of the same name that was wired later.
    pub requested_at: u64,
}

/// A container to wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    /// Which container and interface.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// `CNI_NETNS`, for records and messages only.
    pub netns: String,
    /// `metadata` as CF passes it; `policy_group_id` names the app.
    pub metadata: BTreeMap<String, Value>,
    /// Ports of the cell that shall lead into the container.
    #[serde(default)]
    pub ports: Vec<PortRequest>,
    /// What the container may reach outside when no security group of the controller is bound to it.
    #[serde(default)]
    pub egress: Vec<NetOutRule>,
    /// Its bandwidth; what is absent is as the agent's configuration says.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

/// A port of the cell that shall lead into a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    /// The cell's port; 0: the agent chooses one.
    pub host_port: u16,
    /// The container's port; 0: the same as the cell's, as Garden has it.
    pub container_port: u16,
    /// Which transport; absent: both.
    #[serde(default)]
    pub protocol: Option<Transport>,
}

/// A transport with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// IP protocol 6.
    Tcp = 6,
    /// IP protocol 17.
    Udp = 17,
}

/// A port of the cell that leads into a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The cell's port.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// Which transport; absent: both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Transport>,
}

/// Rates in bits per second and bursts in bits, as CNI's bandwidth capability has them; 0 or absent: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// To the container.
    pub ingress_rate: u64,
    /// See `ingress_rate`.
    pub ingress_burst: u64,
    /// From the container.
    pub egress_rate: u64,
    /// See `egress_rate`.
    pub egress_burst: u64,
}

/// One more port for a wired container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetIn {
    /// Garden's handle.
    pub container_id: String,
    /// Which port.
    #[serde(flatten)]
    pub port: PortRequest,
}

/// More that a wired container may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetOut {
    /// Garden's handle.
    pub container_id: String,
    /// What it may.
    pub rules: Vec<NetOutRule>,
}

/// Garden's `NetOutRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct NetOutRule {
    /// 0 all, 1 tcp, 2 udp, 3 icmp.
    pub protocol: u8,
    /// Destinations; none: every address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpRange>,
    /// Ports; none: every port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// Type and code of ICMP; absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmps: Option<IcmpControl>,
    /// Whether new connections are logged.
    pub log: bool,
}

/// Addresses from `start` to `end`, both of them included. Text, because a bad one must not spoil the rules beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct IpRange {
    /// First address; absent: the same as the last.
    pub start: String,
    /// Last address; absent: the same as the first.
    pub end: String,
}

/// Ports from `start` to `end`, both of them included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct PortRange {
    /// First port.
    pub start: u16,
    /// Last port.
    pub end: u16,
}

/// ICMP type and code; 255: any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct IcmpControl {
    /// Type.
    #[serde(rename = "type")]
    pub icmp_type: u8,
    /// Code; absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

/// What CHECK compares with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Which container and interface.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// The container's address according to the previous result.
    pub address: Ipv4Addr,
}

/// What ADD made; the shim turns it into a CNI result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// The host's end.
    pub host: Interface,
    /// The container's end.
    pub container: Interface,
    /// The container's address; its prefix is /32.
    pub address: Ipv4Addr,
    /// Its gateway, 169.254.0.1.
    pub gateway: Ipv4Addr,
    /// In bytes.
    pub mtu: u32,
    /// The cell's address, which the mapped ports are at.
    pub cell_address: Ipv4Addr,
    /// Ports of the cell that lead into the container, in the order they were asked for.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// Name servers that the container shall use; absent when the agent was told of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_servers: Option<Vec<String>>,
    /// Domains to search; absent when the agent was told of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search_domains: Option<Vec<String>>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name in its own namespace.
    pub name: String,
    /// `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
}

/// The agent's answer: a value of the request's own shape, or an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It was done; `null` where there is nothing to say.
    Ok(Value),
    /// It was not done, and nothing was changed.
    Error(ApiError),
}

/// Why the agent did not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}")]
pub struct ApiError {
    /// A CNI error code: one of [`code`].
    pub code: u32,
    /// One line: what was tried, on what, what was expected.
    pub msg: String,
    /// What to do about it, or the chain of causes. May be empty.
    #[serde(default)]
    pub details: String,
}

/// CNI error codes that the agent answers with: the specification's below 100, our own from 100 on.
pub mod code {
    /// The container is unknown.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// The request cannot be decoded.
    pub const UNDECODABLE: u32 = 6;
    /// A field of the request cannot be right.
    pub const INVALID: u32 = 7;
    /// Try again later: the agent is starting, or works on this very container.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: ADD cannot be served (no lease yet, or its addresses are used up).
    pub const UNAVAILABLE: u32 = 50;
    /// The container is wired already.
    pub const EXISTS: u32 = 100;
    /// The lease's addresses are used up.
    pub const NO_ADDRESS: u32 = 101;
    /// The kernel refused an interface, address or route.
    pub const HOST: u32 = 102;
    /// The kernel refused a map entry or program; the message names the map and its size.
    pub const DATAPATH: u32 = 103;
    /// The agent could not write its state.
    pub const STATE: u32 = 104;
    /// CHECK found something missing or changed.
    pub const DRIFTED: u32 = 105;
    /// The agent cannot be reached (the shim's own).
    pub const NO_AGENT: u32 = 106;
    /// A port of the cell is taken, or none is left.
    pub const NO_PORT: u32 = 107;
}
