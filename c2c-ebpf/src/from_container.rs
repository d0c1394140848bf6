//! What a container sends: is it the container's own, where does it go, and may it?

use aya_ebpf::programs::TcContext;
use c2c_common::counter::{Hook, Outcome};
use c2c_common::layout::{Config, Endpoint};
use c2c_common::wire::ETH_LEN;

use crate::Verdict;
use crate::deliver;
use crate::flows::{self, Ends};
use crate::headers::Headers;
use crate::kernel::{action::NEXT, maps, skb};

const HOOK: Hook = Hook::FromContainer;
/// The gateway that every container knows, and the source of what the cell itself sends to a container: 169.254.0.1.
const GATEWAY: u32 = u32::from_ne_bytes([169, 254, 0, 1]);

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext, h: &mut Headers) -> Verdict {
    // The tag would stay with the packet through the tunnel and reach a VLAN of the underlay.
    if skb::has_vlan_tag(ctx) {
        return Verdict::Drop(Outcome::NotIpv4);
    }
    if let Err(outcome) = h.read(ctx, ETH_LEN) {
        return Verdict::Drop(outcome);
    }
    let Some(config) = maps::config() else { return Verdict::Drop(Outcome::Failed) };
    let Some(sender) = maps::endpoint(h.source).filter(|e| e.ifindex == skb::ifindex(ctx)) else {
        return Verdict::Drop(Outcome::SpoofedSource);
    };
    if h.destination & config.overlay_mask == config.overlay_base {
        to_overlay(ctx, config, h, sender)
    } else if h.destination == GATEWAY || h.destination == config.underlay_addr {
        to_this_cell(h)
    } else {
        Verdict::Refuse(Outcome::EgressDenied)
    }
}

#[inline(always)]
fn to_overlay(ctx: &TcContext, config: &Config, h: &Headers, sender: &Endpoint) -> Verdict {
    if h.destination & config.block_mask == config.block_base {
        let Some(receiver) = maps::endpoint(h.destination) else {
            return Verdict::Refuse(Outcome::UnknownDestination);
        };
        return match decide(ctx, h, ends(sender, receiver.tag, true)) {
            None => deliver::to_endpoint(ctx, receiver),
            Some(drop) => Verdict::refuse_if_audible(drop),
        };
    }
    let Some(lease) = maps::lease(config, h.destination) else {
        return Verdict::Refuse(Outcome::UnknownDestination);
    };
    match decide(ctx, h, ends(sender, 0, false)) {
        None => deliver::to_cell(ctx, config, lease, h, sender.tag),
        Some(drop) => Verdict::refuse_if_audible(drop),
    }
}

#[inline(always)]
fn ends(sender: &Endpoint, destination_tag: u16, destination_is_local: bool) -> Ends {
    Ends { source_tag: sender.tag, destination_tag, source_is_local: true, destination_is_local }
}

/// `Some` is a drop. An ICMP error is judged by the flow it is about.
#[inline(always)]
fn decide(ctx: &TcContext, h: &Headers, ends: Ends) -> Option<Outcome> {
    if h.is_icmp_error() {
        let related = h.quoted_flow(ctx).is_some_and(|key| flows::is_related(&key));
        return if related { None } else { Some(Outcome::UnrelatedIcmp) };
    }
    flows::track(HOOK, h, ends)
}

/// The cell may always reach its containers, so its containers may answer it, and nothing else.
#[inline(always)]
fn to_this_cell(h: &Headers) -> Verdict {
    if flows::answers_cell(HOOK, h) {
        Verdict::Deliver(Outcome::ToHost, NEXT)
    } else {
        Verdict::Refuse(Outcome::CellDenied)
    }
}
