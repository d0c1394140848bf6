//! The maps: name, key, value and capacity of each, and why that capacity. This is the kernel/user ABI.
//!
//! Keys and values are plain integers with explicit padding; the asserts at the end hold their sizes. Change anything
//! here and [`VERSION`] must change: pins of another version are never adopted.

use crate::addr::Addr;

/// Version of everything in this file and of the meaning of its values. Pinned maps live in a directory of this name.
pub const VERSION: u32 = 4;

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

/// `MAPPINGS`: array of [`Mapping`] at [`mapping_index`], the cell's ports that lead into containers. An array, because
/// the whole port space is 1 MB, and a look is then a few instructions for every packet that reaches the cell.
pub const MAPPINGS: &str = "MAPPINGS";
/// `MAPPED`: hash of [`MappedKey`] to `u32` (a cell's port), the same the other way round: a reply whose flow was lost
/// still finds the port that it must come from.
pub const MAPPED: &str = "MAPPED";
/// `EGRESS`: LPM trie of [`EgressAddress`] to [`EgressClass`]: for each set of rules, what may be sent to an address.
pub const EGRESS: &str = "EGRESS";
/// `EGRESS_PORTS`: hash of [`EgressPortsKey`] to [`EgressPorts`], the ports (or ICMP types and codes) of a class.
pub const EGRESS_PORTS: &str = "EGRESS_PORTS";
/// `TRANSLATIONS`: LRU hash of [`crate::flow::FlowKey`] to [`crate::outside::Translation`], flows with the outside.
pub const TRANSLATIONS: &str = "TRANSLATIONS";
/// `CONNECTIONS`: hash of an endpoint's [`Addr`] to [`Connections`]: its TCP connections to the outside. Written by the
/// programs only.
pub const CONNECTIONS: &str = "CONNECTIONS";
/// `ENDED_UNSEEN`: hash of an endpoint's [`Addr`] to `u64`: of [`Connections::opened`], those that ended without a
/// packet to tell (timed out, or lost by the LRU). Written by the agent only, so that neither loses the other's count.
pub const ENDED_UNSEEN: &str = "ENDED_UNSEEN";
/// `RATES`: LRU hash of [`RateKey`] to [`crate::bucket::Bucket`], the rate limit of outbound connections.
pub const RATES: &str = "RATES";
/// `LOCALS`: hash of [`Addr`] to `u32` (1): the cell's own addresses on every device of it.
pub const LOCALS: &str = "LOCALS";
/// `HOST_SERVICES`: hash of [`ServiceKey`] to `u32` (1): what containers may reach on the cell itself.
pub const HOST_SERVICES: &str = "HOST_SERVICES";
/// `FRAGMENTS`: LRU hash of [`FragmentKey`] to [`FragmentPorts`]: the ports that only a packet's first fragment tells.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// `EVENTS`: ring buffer of [`Event`], what a rule asks to be logged.
pub const EVENTS: &str = "EVENTS";

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

/// The port space, for TCP and for UDP.
pub const MAPPINGS_CAPACITY: u32 = 2 * 65_536;
/// 5,000 mapped ports, each for TCP and UDP, with room.
pub const MAPPED_CAPACITY: u32 = 16_384;
/// 250 containers of 250 spaces with 1,000 rules each, with room; memory follows use.
pub const EGRESS_CAPACITY: u32 = 524_288;
/// As many: most rules of a space share their ports, and with them a class.
pub const EGRESS_PORTS_CAPACITY: u32 = 524_288;
/// As many as flows between containers. About 15 MB, preallocated as the kernel's LRU demands.
pub const TRANSLATIONS_CAPACITY: u32 = 131_072;
/// 250 containers that call 64 destinations each in the time it takes a bucket to fill again.
pub const RATES_CAPACITY: u32 = 16_384;
/// Addresses of one machine.
pub const LOCALS_CAPACITY: u32 = 1_024;
/// Services of one machine.
pub const HOST_SERVICES_CAPACITY: u32 = 4_096;
/// Packets in pieces that are under way at one time.
pub const FRAGMENTS_CAPACITY: u32 = 8_192;
/// Bytes of the ring: 8,192 events.
pub const EVENTS_BYTES: u32 = 262_144;

/// The set whose ranges are not masqueraded; no endpoint ever has it.
pub const NO_MASQUERADE: u32 = u32::MAX;
/// Bits of a key of [`EGRESS`] before the address.
pub const EGRESS_SET_BITS: u32 = 32;

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
    /// Base and mask of the network whose hosts are neighbours on that device; [`NO_LINK`] when none is known.
    pub link_base: Addr,
    /// See [`Config::link_base`].
    pub link_mask: Addr,
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
    /// First port (and ICMP identifier) of the pool for masqueraded flows, in host order.
    pub nat_first: u16,
    /// Last of the same. Below the first: nothing is masqueraded, and what would have to be is refused.
    pub nat_last: u16,
    /// Outbound connections may open one in this many nanoseconds per container and destination; 0: without limit.
    pub rate_interval_ns: u32,
    /// That many at once.
    pub rate_burst: u32,
    /// Outbound TCP connections that a container may hold at one time; 0: without limit.
    pub max_connections: u32,
    /// Of [`config_flag`].
    pub flags: u32,
}

/// The base and mask of a link that has no hosts: no address ends in ones behind a mask of zeros.
pub const NO_LINK: (Addr, Addr) = (Addr::MAX, 0);

impl Config {
    /// Whether the host is a neighbour on the underlay device: the next hop to it is itself.
    #[inline(always)]
    #[must_use]
    pub const fn is_neighbour(&self, host: Addr) -> bool {
        host & self.link_mask == self.link_base
    }
}

/// Bits of [`Config::flags`].
pub mod config_flag {
    /// The rate limit counts and logs what it would refuse, and refuses nothing.
    pub const RATE_DRY_RUN: u32 = 1;
}

/// A container of this cell.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Index of the host's end of the veth pair.
    pub ifindex: u32,
    /// The app's tag; 0 when no policy names the app.
    pub tag: u16,
    /// MACs of the container's end and of the host's end, its gateway: what a frame to the container begins with, so that it is
    /// copied from here in one piece.
    pub macs: [[u8; 6]; 2],
    /// Of [`endpoint_flag`].
    pub flags: u8,
    /// Zero.
    pub pad: u8,
    /// Its set of egress rules; 0 when it has none, and may then reach nothing outside.
    pub egress: u32,
}

/// Bits of [`Endpoint::flags`].
pub mod endpoint_flag {
    /// What the container gets goes through its host device's queue, which limits its bandwidth.
    pub const SHAPED: u8 = 1;
}

/// Value of [`MAPPINGS`]; all zero: the port leads nowhere.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// The container's address.
    pub addr: Addr,
    /// Its port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// The place of a cell's port (host order) in [`MAPPINGS`]; `None` for protocols that have no mapped ports.
#[inline(always)]
#[must_use]
pub const fn mapping_index(protocol: u8, port: u16) -> Option<u32> {
    match protocol {
        crate::wire::TCP => Some(port as u32),
        crate::wire::UDP => Some(65_536 + port as u32),
        _ => None,
    }
}

/// Key of [`MAPPED`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MappedKey {
    /// The container's address.
    pub addr: Addr,
    /// Its port, network order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u16,
}

/// What [`EGRESS`] matches by the longest prefix: a set in full, and then as much of the address as the row says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EgressAddress {
    /// A container's set, or [`NO_MASQUERADE`].
    pub set: u32,
    /// The destination.
    pub addr: Addr,
}

/// What may be sent to an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EgressClass {
    /// Key into [`EGRESS_PORTS`]; 0: nothing may, or `flags` says all.
    pub class: u32,
    /// Of [`egress_flag`].
    pub flags: u32,
}

/// Bits of [`EgressClass::flags`].
pub mod egress_flag {
    /// Everything may.
    pub const ALL: u32 = 1;
    /// And is logged.
    pub const ALL_LOGGED: u32 = 2;
}

/// Key of [`EGRESS_PORTS`]: as for policies, 64 ports or 64 blocks of ports. ICMP has type and code for a port:
/// `type << 8 | code`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EgressPortsKey {
    /// See [`EgressClass::class`].
    pub class: u32,
    /// Which 64 ports (level 0) or which 64 blocks of 64 ports (level 1) the bitmaps speak of.
    pub page: u16,
    /// IP protocol number: TCP, UDP or ICMP.
    pub protocol: u8,
    /// 0: a bit is a port. 1: a bit is a block of 64 ports.
    pub level: u8,
}

/// Value of [`EGRESS_PORTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EgressPorts {
    /// Ports that may be reached.
    pub allowed: u64,
    /// Of these, the ones whose new connections are logged.
    pub logged: u64,
}

/// Value of [`CONNECTIONS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Ever opened.
    pub opened: u64,
    /// Ever seen to close.
    pub closed: u64,
}

/// Key of [`RATES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RateKey {
    /// The container.
    pub source: Addr,
    /// Whom it calls.
    pub destination: Addr,
    /// At which port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// Key of [`HOST_SERVICES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// An address of the cell.
    pub addr: Addr,
    /// A port of it, network order; 0 with protocol 0.
    pub port: u16,
    /// IP protocol number; 0: every protocol and port of the address.
    pub protocol: u16,
}

/// Key of [`FRAGMENTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentKey {
    /// Who sends.
    pub source: Addr,
    /// To whom.
    pub destination: Addr,
    /// The packet's identification, network order.
    pub id: u16,
    /// IP protocol number.
    pub protocol: u16,
}

/// Value of [`FRAGMENTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentPorts {
    /// Source port, network order.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
}

/// What a rule asks to be logged: a new connection to the outside, or one that a dry run would have refused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The container.
    pub source: Addr,
    /// The address outside.
    pub destination: Addr,
    /// Source port, network order; 0 without ports.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Number of a [`crate::counter::Outcome`].
    pub outcome: u8,
    /// ICMP type and code; 0 for others.
    pub icmp: [u8; 2],
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
    assert!(size_of::<Config>() == 72 && align_of::<Config>() == 4);
    assert!(size_of::<Endpoint>() == 24 && align_of::<Endpoint>() == 4);
    assert!(size_of::<Mapping>() == 8 && align_of::<Mapping>() == 8);
    assert!(size_of::<MappedKey>() == 8 && align_of::<MappedKey>() == 4);
    assert!(size_of::<EgressAddress>() == 8 && align_of::<EgressAddress>() == 4);
    assert!(size_of::<EgressClass>() == 8 && align_of::<EgressClass>() == 4);
    assert!(size_of::<EgressPortsKey>() == 8 && align_of::<EgressPortsKey>() == 4);
    assert!(size_of::<EgressPorts>() == 16 && align_of::<EgressPorts>() == 8);
    assert!(size_of::<Connections>() == 16 && align_of::<Connections>() == 8);
    assert!(size_of::<RateKey>() == 12 && align_of::<RateKey>() == 4);
    assert!(size_of::<ServiceKey>() == 8 && align_of::<ServiceKey>() == 4);
    assert!(size_of::<FragmentKey>() == 12 && align_of::<FragmentKey>() == 4);
    assert!(size_of::<FragmentPorts>() == 4 && align_of::<FragmentPorts>() == 2);
    assert!(size_of::<Event>() == 16 && align_of::<Event>() == 4);
    assert!(size_of::<LeaseKey>() == 8 && align_of::<LeaseKey>() == 4);
    assert!(size_of::<Lease>() == 12 && align_of::<Lease>() == 4);
    assert!(size_of::<PolicyKey>() == 8 && align_of::<PolicyKey>() == 2);
};
