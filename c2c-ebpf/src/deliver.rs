//! The ways out: into a container of this cell, to another cell through the tunnel, or by the kernel's VXLAN device.

use aya_ebpf::programs::TcContext;
use c2c_common::addr::Addr;
use c2c_common::counter::Outcome;
use c2c_common::layout::{Config, Endpoint, Lease};
use c2c_common::wire::{ETH_LEN, Tunnel, source_port};

use crate::Verdict;
use crate::headers::Headers;
use crate::kernel::skb::{self, TunnelKey};

/// Into the container, as if its gateway had sent it.
#[inline(always)]
pub fn to_endpoint(ctx: &TcContext, endpoint: &Endpoint) -> Verdict {
    match skb::store(ctx, 0, &macs(endpoint)) {
        Ok(()) => Verdict::Deliver(Outcome::ToEndpoint, skb::redirect_peer(endpoint.ifindex)),
        Err(_) => Verdict::Drop(Outcome::Failed),
    }
}

#[inline(always)]
fn macs(e: &Endpoint) -> [u8; 12] {
    let ([a, b, c, d, f, g], [h, i, j, k, l, m]) = (e.mac, e.gateway_mac);
    [a, b, c, d, f, g, h, i, j, k, l, m]
}

/// To another cell, with the sender's tag.
#[inline(always)]
pub fn to_cell(ctx: &TcContext, config: &Config, lease: &Lease, h: &Headers, tag: u16) -> Verdict {
    if ctx.len() > config.mtu + ETH_LEN && !skb::is_gso(ctx) {
        return Verdict::Drop(Outcome::TooBig);
    }
    let outer = tunnel(ctx, config, lease, h, tag).outer();
    if skb::grow_for_tunnel(ctx).is_err() {
        return by_slow_path(ctx, config, lease, tag);
    }
    match skb::store_outer(ctx, &outer) {
        Ok(()) => Verdict::Deliver(Outcome::ToCell, skb::redirect_neigh(config.underlay_ifindex)),
        Err(_) => Verdict::Drop(Outcome::Failed),
    }
}

/// The tunnel from this cell to the lease's.
#[inline(always)]
pub fn tunnel(ctx: &TcContext, config: &Config, lease: &Lease, h: &Headers, tag: u16) -> Tunnel {
    Tunnel {
        source: config.underlay_addr,
        destination: lease.underlay_addr,
        udp_port: config.udp_port,
        source_port: source_port(skb::flow_hash(ctx)),
        vni: config.vni,
        tag,
        inner_destination: lease.mac,
        inner_source: hardware_addr(config.block_base),
        inner_len: h.total_len,
        inner_tos: h.tos,
    }
}

/// Silk's `overlay_hardware_addr` of a block: ee:ee and the four bytes of its base.
#[inline(always)]
fn hardware_addr(base: Addr) -> [u8; 6] {
    let [a, b, c, d] = base.to_ne_bytes();
    [0xee, 0xee, a, b, c, d]
}

/// What cannot be encapsulated here (it is a tunnel's packet already, for one) the kernel's device still can.
#[inline(always)]
fn by_slow_path(ctx: &TcContext, config: &Config, lease: &Lease, tag: u16) -> Verdict {
    let key = TunnelKey { remote: u32::from_be(lease.underlay_addr), vni: config.vni, tag };
    match skb::set_tunnel_key(ctx, &key) {
        Ok(()) => Verdict::Deliver(Outcome::ToSlowPath, skb::redirect(config.vxlan_ifindex)),
        Err(_) => Verdict::Drop(Outcome::Failed),
    }
}
