//! Packets of the offload self-test, which agents send each other: out, encapsulated as a container's are, and in, as
//! far as the kernel's VXLAN device, where the agent hears them. What they say is the agent's.

use aya_ebpf::programs::TcContext;
use c2c_common::addr::Addr;
use c2c_common::layout::Config;
use c2c_common::self_test::{self, MARK};
use c2c_common::wire::{ETH_LEN, OUTER_LEN, Tunnel};

use crate::headers::Headers;
use crate::kernel::{maps, skb};
use crate::{Verdict, deliver, from_underlay};

/// Offset of the inner source address in a tunnelled frame.
const INNER_SOURCE: u32 = OUTER_LEN + 12;

/// The program: from this cell's own block to another cell's, under the self-test's VNI. `None` is a drop: nobody but
/// the agent should send here.
#[inline(always)]
pub fn run(ctx: &TcContext, h: &mut Headers) -> Option<i32> {
    let config = maps::config()?;
    h.read(ctx, ETH_LEN).ok()?;
    if h.source != config.block_base {
        return None;
    }
    let lease = maps::lease(config, h.destination)?;
    let overlay = deliver::tunnel(ctx, config, lease, h, 0);
    let outer = Tunnel { vni: self_test::vni(config.vni), ..overlay }.outer();
    skb::grow_for_tunnel(ctx).ok()?;
    skb::store_outer(ctx, &outer).ok()?;
    Some(deliver::to_host(config, lease.underlay_addr))
}

/// A packet under the self-test's VNI, at the underlay device. Only a leased cell's goes on, for that cell's own block.
#[inline(never)]
pub fn arrived(ctx: &TcContext, config: &Config, outer_source: Addr) -> Verdict {
    let Ok(inner_source) = skb::load(ctx, INNER_SOURCE) else {
        return Verdict::Drop(c2c_common::counter::Outcome::Malformed);
    };
    match from_underlay::bind(config, Addr::from_ne_bytes(inner_source), outer_source) {
        Err(outcome) => Verdict::Drop(outcome),
        Ok(()) => {
            skb::set_mark(ctx, MARK);
            Verdict::NotOurs
        }
    }
}

/// Whether the packet has come as far as the kernel's VXLAN device, where the agent has heard it.
#[inline(always)]
pub fn is_at_its_end(ctx: &TcContext, config: &Config) -> bool {
    skb::ifindex(ctx) == config.vxlan_ifindex && skb::mark(ctx) == MARK
}
