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
/// A request longer than this is refused unread, in bytes. A GC of 1,000 attachments is about 100 kB.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;

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
    /// One page about the agent: lease, stream, revision, datapath.
    Status,
    /// The containers of this cell.
    Endpoints,
    /// The policies that touch this cell's apps.
    Policies,
    /// The flow table.
    Flows,
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
}
