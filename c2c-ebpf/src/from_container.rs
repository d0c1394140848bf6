//! What a container sends: is it the container's own, where does it go, and may it?

use aya_ebpf::programs::TcContext;
use c2c_common::counter::{Hook, Outcome};
use c2c_common::layout::{Config, Endpoint};
use c2c_common::wire::{ETH_LEN, UDP};

use crate::flows::{self, Ends, Passed};
use crate::headers::Headers;
use crate::kernel::{maps, skb};
use crate::masquerade::Missed;
use crate::to_outside::{self, Admission};
use crate::{Verdict, deliver, refuse, to_this_cell};

const HOOK: Hook = Hook::FromContainer;
/// The gateway that every container knows, and the source of what the cell itself sends to a container: 169.254.0.1.
const GATEWAY: u32 = u32::from_ne_bytes([169, 254, 0, 1]);

/// The program. What it calls are functions of their own, one after the other and none deep: a program and everything
/// below it may use 512 bytes of stack.
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
        return to_overlay(ctx, config, h, sender).unwrap_or_else(|Revoked| end(ctx, config, h));
    }
    // It would leave from the cell's own address, and another cell would take it for this cell's tunnel.
    if h.protocol == UDP && h.destination_port == config.udp_port {
        return Verdict::Drop(Outcome::OwnTunnel);
    }
    if h.destination == GATEWAY || h.destination == config.underlay_addr || is_local_service(h) {
        return if h.is_icmp_error() {
            to_this_cell::error(ctx, h)
        } else {
            to_this_cell::run(ctx, h, config, sender)
        };
    }
    if h.is_icmp_error() {
        return to_outside::error(ctx, h, config);
    }
    match to_outside::known(ctx, h, config, sender) {
        Ok(verdict) => return verdict,
        Err(Missed::All) => {}
        Err(Missed::First) => {
            if let Some(verdict) = to_outside::known_further(ctx, h, config, sender) {
                return verdict;
            }
        }
    }
    match to_outside::admit(h, config, sender) {
        Admission::Refused(outcome) => Verdict::Refuse(outcome),
        Admission::Local => to_this_cell::run(ctx, h, config, sender),
        Admission::Admitted => to_outside::open(ctx, h, config, sender),
    }
}

/// Name servers and the like that the cell offers at a link-local address (169.254.0.0/16).
#[inline(always)]
fn is_local_service(h: &Headers) -> bool {
    let [a, b, ..] = h.destination.to_ne_bytes();
    (a, b) == (169, 254) && maps::is_local(h.destination)
}

/// A packet that shall go on as the end of its flow.
struct Revoked;

/// To a container of this cell or of another one.
#[inline(never)]
fn to_overlay(ctx: &TcContext, config: &Config, h: &Headers, sender: &Endpoint) -> Result<Verdict, Revoked> {
    if h.destination & config.block_mask == config.block_base {
        let Some(receiver) = maps::endpoint(h.destination) else {
            return Ok(Verdict::Refuse(Outcome::UnknownDestination));
        };
        return match decide(ctx, h, ends(sender, receiver.tag, true)) {
            Ok(Passed::AsItIs) => Ok(deliver::to_endpoint(ctx, receiver)),
            Ok(Passed::AnswerOfMapped) => Ok(to_this_cell::hairpin_answer(ctx, config, h, receiver)),
            Ok(Passed::AsTheEnd) => Err(Revoked),
            Err(drop) => Ok(Verdict::refuse_if_audible(drop)),
        };
    }
    let Some(lease) = maps::lease(config, h.destination) else {
        return Ok(Verdict::Refuse(Outcome::UnknownDestination));
    };
    match decide(ctx, h, ends(sender, 0, false)) {
        Ok(Passed::AsTheEnd) => Err(Revoked),
        Ok(_) => Ok(deliver::to_cell(ctx, config, lease, h, sender.tag)),
        Err(drop) => Ok(Verdict::refuse_if_audible(drop)),
    }
}

#[inline(always)]
pub fn ends(sender: &Endpoint, destination_tag: u16, destination_is_local: bool) -> Ends {
    Ends { source_tag: sender.tag, destination_tag, source_is_local: true, destination_is_local }
}

/// `Err` is a drop. An ICMP error is judged by the flow it is about.
#[inline(always)]
fn decide(ctx: &TcContext, h: &Headers, ends: Ends) -> Result<Passed, Outcome> {
    if h.is_icmp_error() {
        let related = h.quoted_flow(ctx).is_some_and(|key| flows::is_related(&key));
        return if related { Ok(Passed::AsItIs) } else { Err(Outcome::UnrelatedIcmp) };
    }
    flows::track(HOOK, h, ends)
}

/// Tells who called that the flow has ended, by the packet that it may be waiting for. Addresses are looked up anew: this
/// is a function of its own, beside [`to_overlay`] and not below it.
#[inline(never)]
fn end(ctx: &TcContext, config: &Config, h: &Headers) -> Verdict {
    if refuse::make_end(ctx, h).is_err() {
        return Verdict::Refuse(Outcome::PolicyRevoked);
    }
    let delivered = if let Some(receiver) = maps::endpoint(h.destination) {
        deliver::to_endpoint(ctx, receiver)
    } else if let Some(lease) = maps::lease(config, h.destination) {
        deliver::to_cell(ctx, config, lease, h, 0)
    } else {
        Verdict::Drop(Outcome::UnknownDestination)
    };
    delivered.into_end(Outcome::PolicyRevoked)
}
