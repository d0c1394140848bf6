//! The cell's lease: what the controller granted, and the machine that keeps it.
//!
//! The machine ([`machine`]) is sans-IO. What speaks with the controller is `control_stream`, what enforces a grant is
//! `fabric`, and what remembers it over a restart is `policy::saved`.

pub mod machine;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

pub use machine::{Alarm, Command, Input, Keeper, Loss, Refusal, State, Tenure};

/// A cell's place in the overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The cell's name.
    pub cell: String,
    /// Its address on the underlay.
    pub underlay: Ipv4Addr,
    /// The overlay addresses that are its own.
    pub block: Ipv4Net,
    /// Silk's `overlay_hardware_addr`.
    pub mac: [u8; 6],
}

/// A lease and the terms that come with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The cell's own lease.
    pub lease: Lease,
    /// The network that all leases are cut from.
    pub overlay: Ipv4Net,
    /// Prefix length of every cell's block, in bits.
    pub block_prefix: u8,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// VXLAN UDP port.
    pub udp_port: u16,
    /// The lease expires this many seconds after its last renewal.
    pub lease_seconds: u64,
    /// Seconds between heartbeats.
    pub heartbeat_seconds: u64,
    /// Identity of the controller's store.
    pub store_id: String,
}
