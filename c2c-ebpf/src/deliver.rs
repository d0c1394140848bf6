//! The ways out: into a container of this cell, to another cell through the tunnel, or by the kernel's VXLAN device.

use aya_ebpf::programs::TcContext;
use c2c_common::addr::{Addr, hardware};
use c2c_common::counter::Outcome;
use c2c_common::layout::{Config, Endpoint, Lease, endpoint_flag};
use c2c_common::wire::{TCP, TCP_LEN, Tunnel, UDP_LEN, source_port};

use crate::Verdict;
use crate::headers::Headers;
use crate::kernel::skb::{self, TunnelKey};

/// Into the container, as if its gateway had sent it.
#[inline(always)]
pub fn to_endpoint(ctx: &TcContext, endpoint: &Endpoint) -> Verdict {
    match skb::store_macs(ctx, &endpoint.macs) {
        Ok(()) => Verdict::Deliver(Outcome::ToEndpoint, into(ctx, endpoint)),
        Err(_) => Verdict::Drop(Outcome::Failed),
    }
}

/// A container whose bandwidth is limited gets its packets by its host device's queue, marked, so that `to_container`
/// knows them; all others get them directly.
#[inline(always)]
fn into(ctx: &TcContext, endpoint: &Endpoint) -> i32 {
    if endpoint.flags & endpoint_flag::SHAPED == 0 {
        return skb::redirect_peer(endpoint.ifindex);
    }
    skb::set_mark(ctx, DELIVERED_MARK);
    skb::redirect(endpoint.ifindex)
}

/// The mark of a packet that was decided and counted, on its way through a queue.
pub const DELIVERED_MARK: u32 = 0xc2c1_0000;

/// To another cell, with the sender's tag.
#[inline(always)]
pub fn to_cell(ctx: &TcContext, config: &Config, lease: &Lease, h: &Headers, tag: u16) -> Verdict {
    if packet_len(ctx, h) > config.mtu {
        return too_big(ctx, config, lease, h, tag);
    }
    let outer = tunnel(ctx, config, lease, h, tag).outer();
    if skb::grow_for_tunnel(ctx).is_err() {
        return by_slow_path(ctx, config, lease, tag);
    }
    match skb::store_outer(ctx, &outer) {
        Ok(()) => Verdict::Deliver(Outcome::ToCell, to_host(config, lease.underlay_addr)),
        Err(_) => Verdict::Drop(Outcome::Failed),
    }
}

/// Out of the underlay device. A neighbour is its own next hop, which saves the kernel's look-up of the route (a tenth of
/// what the tunnel costs, measured); for all others that look-up is right whatever becomes of the routes.
#[inline(always)]
pub fn to_host(config: &Config, host: Addr) -> i32 {
    if config.is_neighbour(host) {
        skb::redirect_to_neighbour(config.underlay_ifindex, host)
    } else {
        skb::redirect_neigh(config.underlay_ifindex)
    }
}

/// Bytes of the largest packet that this one is on the wire: an aggregate is cut before.
#[inline(always)]
fn packet_len(ctx: &TcContext, h: &Headers) -> u32 {
    match skb::gso_size(ctx) {
        0 => h.total_len as u32,
        size => size + h.ip_len + if h.protocol == TCP { TCP_LEN } else { UDP_LEN },
    }
}

/// A router must cut what it may and say what it may not (RFC 1812 section 4.2.2.7, RFC 1191). The kernel's device cuts.
#[inline(always)]
fn too_big(ctx: &TcContext, config: &Config, lease: &Lease, h: &Headers, tag: u16) -> Verdict {
    if h.must_stay_whole() { Verdict::Refuse(Outcome::TooBig) } else { by_slow_path(ctx, config, lease, tag) }
}

/// The tunnel from this cell to the lease's.
#[inline(always)]
pub fn tunnel(ctx: &TcContext, config: &Config, lease: &Lease, h: &Headers, tag: u16) -> Tunnel {
    Tunnel {
        source: config.underlay_addr,
        destination: lease.underlay_addr,
        udp_port: config.udp_port,
        source_port: source_port(hash(ctx, h)),
        vni: config.vni,
        tag,
        inner_destination: lease.mac,
        inner_source: hardware(config.block_base),
        id: skb::random() as u16,
        inner_len: h.total_len,
        inner_tos: h.tos,
    }
}

/// The kernel's hash of the flow. All pieces of a packet take one path: only the first of them has ports, so theirs is
/// of the addresses.
#[inline(always)]
fn hash(ctx: &TcContext, h: &Headers) -> u32 {
    if h.is_fragment() {
        return (h.source ^ h.destination.rotate_left(13)).wrapping_mul(0x9e37_79b9);
    }
    skb::flow_hash(ctx)
}

/// What cannot be encapsulated here (it is a tunnel's packet already, for one) the kernel's device still can.
#[inline(never)]
fn by_slow_path(ctx: &TcContext, config: &Config, lease: &Lease, tag: u16) -> Verdict {
    let key = TunnelKey { remote: u32::from_be(lease.underlay_addr), vni: config.vni, tag };
    match skb::set_tunnel_key(ctx, &key) {
        Ok(()) => Verdict::Deliver(Outcome::ToSlowPath, skb::redirect(config.vxlan_ifindex)),
        Err(_) => Verdict::Drop(Outcome::Failed),
    }
}
