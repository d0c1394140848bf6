//! What can be told about the fabric, for `status` and `metrics`.

use crate::lease::Grant;
use crate::policy::select::{Choice, Selected};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// How far the cell has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Revision of the world that was received.
    pub received: u64,
    /// Revision of the world that the maps hold.
    pub enforced: u64,
}

/// What can be told about the fabric.
#[derive(Clone, Debug)]
pub struct View {
    /// How far the cell has got.
    pub applied: Applied,
    /// What the datapath refused, if it did; tried again with every reconcile pass.
    pub failure: Option<String>,
    /// Whether the programs and maps were found and taken over at start.
    pub adopted: bool,
    /// Whether a stream keeps the world up to date.
    pub live: bool,
    /// Whether the maps hold what this agent knows. Not so when maps were adopted and what was saved is lost: then they
    /// stay as they are until the controller has spoken.
    pub settled: bool,
    /// The lease that is enforced.
    pub lease: Option<Grant>,
    /// All other cells that are known.
    pub peers: usize,
    /// Containers of the cell.
    pub endpoints: usize,
    /// Tag by app hosted here, 0 when no policy names it.
    pub apps: BTreeMap<String, u16>,
    /// How many policies touch a hosted app.
    pub policies: usize,
    /// The security groups that apply to something here.
    pub groups: usize,
    /// Egress rules that are skipped, one line each.
    pub skipped: Vec<String>,
    /// Ports of the cell that lead into containers, each transport of one counted.
    pub mapped_ports: usize,
    /// Outbound TCP connections that a container may hold; 0: any number.
    pub max_connections: u32,
}

/// How this cell and the others reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnels {
    /// First address of this cell's block.
    pub own: Ipv4Addr,
    /// This cell's address on the underlay.
    pub underlay: Ipv4Addr,
    /// Index of the kernel's VXLAN device.
    pub vxlan_ifindex: u32,
    /// Largest packet in the overlay, in bytes.
    pub mtu: u32,
    /// VXLAN network identifier.
    pub vni: u32,
    /// VXLAN UDP port.
    pub udp_port: u16,
    /// Addresses on the underlay of the cells that hold a whole block, by its first address.
    pub others: BTreeMap<Ipv4Addr, Ipv4Addr>,
}

/// What a container may reach outside, and why.
#[derive(Clone, Debug)]
pub struct EgressView {
    /// The container.
    pub address: Ipv4Addr,
    /// Its space; empty when no security group can apply to it.
    pub space: String,
    /// Whose rules apply.
    pub choice: Choice,
    /// Its set of egress rules; 0: none.
    pub set: u32,
    /// What the rules say.
    pub selected: Arc<Selected>,
}
