//! The maps: name, key, value and capacity of each, and why that capacity. This is the kernel/user ABI.
//!
//! Keys and values are plain integers with explicit padding; the asserts at the end hold their sizes. Change anything
//! here and [`VERSION`] must change: pins of another version are never adopted.

use crate::addr::Addr;

/// Version of everything in this file and of the meaning of its values. Pinned maps live in a directory of this name.
pub const VERSION: u32 = 1;

/// `CONFIG`: array of one [`Config`]. All zero until the agent has a lease; the programs then treat nothing as ours.
pub const CONFIG: &str = "CONFIG";
/// `EPOCH`: array of one `u32`, the policy epoch. Raised after policy rows were removed, never lowered.
pub const EPOCH: &str = "EPOCH";
/// `ENDPOINTS`: hash of [`Addr`] to [`Endpoint`], the containers of this cell.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// `LEASES`: hash of [`LeaseKey`] to [`Lease`], the blocks of all *other* cells. A cell's own block is never in it, or
/// a forged outer source of the cell's own address would pass the binding check.
pub const LEASES: &str = "LEASES";
/// `CELLS`: hash of underlay [`Addr`] to `u32` (1), every other leased cell.
pub const CELLS: &str = "CELLS";
/// `POLICIES`: hash of [`PolicyKey`] to `u64`, a bitmap of allowed ports or port blocks (see [`crate::ports`]).
pub const POLICIES: &str = "POLICIES";
/// `FLOWS`: LRU hash of [`crate::flow::FlowKey`] to [`crate::flow::Flow`].
pub const FLOWS: &str = "FLOWS";
/// `REFUSALS`: LRU hash of source [`Addr`] to [`crate::refusal::Bucket`], the rate limit of audible refusals.
pub const REFUSALS: &str = "REFUSALS";
/// `COUNTERS`: per-CPU array of [`crate::counter::Counter`], indexed by [`crate::counter::index`].
pub const COUNTERS: &str = "COUNTERS";

/// Four times what Diego puts on a cell at most (250), and room for a lease of /22.
pub const ENDPOINTS_CAPACITY: u32 = 1_024;
/// Above the 10,000 cells that a foundation may have.
pub const LEASES_CAPACITY: u32 = 16_384;
/// As many as leases.
pub const CELLS_CAPACITY: u32 = 16_384;
/// 100,000 policies on one cell at two rows each, with room; not preallocated, so memory follows use.
pub const POLICIES_CAPACITY: u32 = 262_144;
/// 250 containers with 500 flows each. About 12 MB, preallocated as the kernel's LRU demands.
pub const FLOWS_CAPACITY: u32 = 131_072;
/// Sources that are being refused at one time; a source that falls out merely starts with a full bucket.
pub const REFUSALS_CAPACITY: u32 = 1_024;

/// What the programs know about their cell.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The overlay network's base and mask.
    pub overlay_base: Addr,
    /// See [`Config::overlay_base`].
    pub overlay_mask: Addr,
    /// First address of this cell's own block.
    pub block_base: Addr,
    /// Mask of one cell's block; `dst & block_mask` is the key of [`LEASES`].
    pub block_mask: Addr,
    /// Length of the block's prefix in bits.
    pub block_prefix: u32,
    /// This cell's address on the underlay.
    pub underlay_addr: Addr,
    /// Interface index of the underlay device.
    pub underlay_ifindex: u32,
    /// Interface index of the kernel VXLAN device that merges tunnelled packets (GRO) and takes the odd ones.
    pub vxlan_ifindex: u32,
    /// VXLAN network identifier, 24 bits, in host order.
    pub vni: u32,
    /// VXLAN UDP port, in network order.
    pub udp_port: u16,
    /// 1 when the rest of this record is meant.
    pub ready: u16,
    /// Largest IPv4 packet a container may send or get, in bytes (underlay MTU - 50).
    pub mtu: u32,
}

/// A container of this cell.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Index of the host's end of the veth pair.
    pub ifindex: u32,
    /// The app's tag; 0 when no policy names the app.
    pub tag: u16,
    /// MAC of the container's end.
    pub mac: [u8; 6],
    /// MAC of the host's end, the container's gateway.
    pub gateway_mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
}

/// Key of [`LEASES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseKey {
    /// First address of the block.
    pub base: Addr,
    /// Length of its prefix in bits: the cells' common one, or 32 for a single address out of the reserved block.
    pub prefix: u32,
}

/// Another cell's lease.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// That cell's underlay address.
    pub underlay_addr: Addr,
    /// Its `overlay_hardware_addr`, the inner destination MAC that a Silk cell's VXLAN device asks for.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
}

/// Key of [`POLICIES`]. 8 bytes, because a lookup of 8-byte keys is the cheapest there is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// Tag of the app that opens the flow.
    pub source_tag: u16,
    /// Tag of the app that is reached.
    pub destination_tag: u16,
    /// Which 64 ports (level 0) or which 64 blocks of 64 ports (level 1) the bitmap speaks of.
    pub page: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 0: a bit is a port. 1: a bit is a block of 64 ports.
    pub level: u8,
}

const _: () = {
    assert!(size_of::<Config>() == 44 && align_of::<Config>() == 4);
    assert!(size_of::<Endpoint>() == 20 && align_of::<Endpoint>() == 4);
    assert!(size_of::<LeaseKey>() == 8 && align_of::<LeaseKey>() == 4);
    assert!(size_of::<Lease>() == 12 && align_of::<Lease>() == 4);
    assert!(size_of::<PolicyKey>() == 8 && align_of::<PolicyKey>() == 2);
};
