//! The pages themselves: what travels over the socket as JSON. Field names are an interface; seconds are in the name.

use crate::datapath::{FlowRow, MapUse, TranslationRow};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// One page about the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusPage {
    /// The cell's name.
    pub cell: String,
    /// The agent's version.
    pub version: String,
    /// Since the agent started.
    pub uptime_seconds: u64,
    /// Whether an ADD can be served and everything that is known is enforced.
    pub ready: bool,
    /// Why not.
    pub problems: Vec<String>,
    /// What works, but not as it should.
    pub warnings: Vec<String>,
    /// The cell's lease.
    pub lease: LeasePage,
    /// The stream to the controller.
    pub stream: StreamPage,
    /// The world that is enforced.
    pub policy: PolicyPage,
    /// Programs and maps.
    pub datapath: DatapathPage,
    /// What the underlay device does to tunnelled packets.
    pub offload: OffloadPage,
    /// Containers of this cell.
    pub endpoints: u64,
    /// The passes that put back what drifted.
    pub reconcile: ReconcilePage,
}

/// The cell's lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeasePage {
    /// `unleased`, `requesting`, `held`, `grace` or `lost`.
    pub state: String,
    /// The cell's block of the overlay.
    pub block: Option<Ipv4Net>,
    /// The overlay network.
    pub overlay: Option<Ipv4Net>,
    /// The cell's address on the underlay.
    pub underlay: Ipv4Addr,
    /// Largest packet in the overlay, in bytes.
    pub mtu: Option<u32>,
    /// Since the controller last confirmed the lease.
    pub renewed_seconds_ago: Option<u64>,
    /// Until it expires at the controller; 0 when that is over.
    pub expires_in_seconds: Option<u64>,
}

/// The stream to the controller.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamPage {
    /// `connecting`, `live` or `waiting`.
    pub state: String,
    /// The controller's address.
    pub controller: String,
    /// For how long it has been live.
    pub live_seconds: Option<u64>,
    /// Streams that were opened since the agent started.
    pub opened: u64,
    /// Why the last one ended.
    pub last_error: Option<String>,
}

/// The world that is enforced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyPage {
    /// The newest revision the controller spoke of.
    pub known_revision: u64,
    /// The revision that the maps hold.
    pub enforced_revision: u64,
    /// How long a newer revision has been known than the one enforced.
    pub lag_seconds: u64,
    /// Policies that touch an app of this cell.
    pub policies: u64,
    /// Security groups that apply to this cell's spaces, or to all.
    pub security_groups: u64,
    /// Egress rules that cannot be read, one line each: they are skipped, the others are enforced.
    pub skipped_rules: Vec<String>,
    /// Other cells.
    pub peers: u64,
}

/// Programs and maps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DatapathPage {
    /// Whether they were found and taken over when the agent started.
    pub adopted: bool,
    /// What the kernel refused, if it did.
    pub failure: Option<String>,
    /// How full every map is.
    pub maps: Vec<MapUse>,
}

/// What the underlay device does to tunnelled packets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OffloadPage {
    /// What the self-test may do: `fix`, `report` or `off`.
    pub self_test: String,
    /// The underlay device.
    pub device: String,
    /// `unknown`, `sound`, `broken_checksum` or `broken_segmentation`: with what is switched off, and since the start.
    pub verdict: String,
    /// Features that this or an earlier agent switched off.
    pub switched_off: Vec<String>,
    /// The command that switches them on again.
    pub undo: Option<String>,
    /// Why the self-test cannot go on, if it cannot.
    pub failure: Option<String>,
}

/// The passes that put back what drifted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReconcilePage {
    /// Passes since the agent started.
    pub passes: u64,
    /// Things that were put back since the agent started.
    pub repaired_total: u64,
    /// Since the last pass.
    pub last_seconds_ago: Option<u64>,
    /// What the last pass that put something back did.
    pub last_repaired: Vec<String>,
    /// What the last pass could not put back.
    pub failed: Vec<String>,
}

/// A container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointRow {
    /// Garden's handle.
    pub container_id: String,
    /// The interface in the container.
    pub ifname: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its app.
    pub app: String,
    /// The app's tag; 0 when no policy names it.
    pub tag: u16,
    /// The host's end of its veth pair.
    pub device: String,
    /// `wiring`, `wired` or `unwiring`.
    pub state: String,
}

/// A policy that touches an app of this cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyRow {
    /// The app that opens the flow.
    pub source: String,
    /// Its tag.
    pub source_tag: u16,
    /// The app that is reached.
    pub destination: String,
    /// Its tag.
    pub destination_tag: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `7000` or `7000-7010`.
    pub ports: String,
}

/// The flow tables.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlowsPage {
    /// Between containers.
    pub flows: Vec<FlowRow>,
    /// With the outside.
    pub translations: Vec<TranslationRow>,
}

/// What a container may reach outside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EgressRow {
    /// Garden's handle; empty when the container has just gone.
    pub container_id: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its space; empty when its runtime names none, and then no security group applies.
    pub space: String,
    /// `running`, `staging` or `other`.
    pub workload: String,
    /// Whose rules apply: `groups`, `static` (its own, as its runtime brought them) or `none`.
    pub rules: String,
    /// Security groups that apply.
    pub groups: Vec<String>,
    /// Its set in the map `EGRESS`; 0 when it may reach nothing.
    pub set: u32,
    /// What is allowed, one line each, such as `tcp 10.0.0.0/8 80-90`.
    pub allowed: Vec<String>,
    /// Networks that are denied whatever is allowed.
    pub denied: Vec<Ipv4Net>,
    /// Rules that cannot be read, one line each with the reason.
    pub skipped: Vec<String>,
}

/// A port of the cell that leads into a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRow {
    /// The cell's port.
    pub host_port: u16,
    /// `tcp`, `udp` or `tcp+udp`.
    pub protocol: String,
    /// The container's address.
    pub address: Ipv4Addr,
    /// The container's port.
    pub container_port: u16,
    /// Garden's handle.
    pub container_id: String,
}

/// A counter that is not zero.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CounterLine {
    /// The program.
    pub hook: String,
    /// What was done.
    pub outcome: String,
    /// Whether the packet went no further.
    pub drop: bool,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Counters, and how full every map is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CountersPage {
    /// Counters that are not zero.
    pub counters: Vec<CounterLine>,
    /// Maps.
    pub maps: Vec<MapUse>,
}
