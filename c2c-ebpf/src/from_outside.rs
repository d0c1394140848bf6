//! What comes to the cell outside the tunnel and is a container's: to a mapped port, or in answer to a flow that a
//! container opened. Everything else is the cell's own and passes untouched, whatever is wrong with it.

use aya_ebpf::programs::TcContext;
use c2c_common::counter::{Hook, Outcome};
use c2c_common::egress::{Answer, icmp_port};
use c2c_common::flow::{End, FlowKey, flag};
use c2c_common::layout::{Config, Endpoint, Mapping};
use c2c_common::outside::Translation;
use c2c_common::wire::{ETH_LEN, ETHERTYPE_IPV4, ICMP, has_header_once, icmp};

use crate::Verdict;
use crate::deliver;
use crate::headers::Headers;
use crate::kernel::packet::Frame;
use crate::kernel::{maps, skb};
use crate::masquerade;
use crate::outside::{keep, seen};
use crate::refuse;
use crate::to_outside::judge;
use crate::translate::{self, Side};

const HOOK: Hook = Hook::FromUnderlay;

/// The packet's way in. `Deliver`, `Drop` or `NotOurs`.
#[inline(always)]
pub fn run(ctx: &TcContext, h: &mut Headers, config: &Config) -> Verdict {
    if !is_for_cell(ctx, config).unwrap_or(false) || h.read(ctx, ETH_LEN).is_err() {
        return Verdict::NotOurs;
    }
    if h.is_icmp_error() {
        return error(ctx, h, config);
    }
    let port = u16::from_be(h.destination_port);
    if h.destination != config.underlay_addr {
        return reply(ctx, h);
    }
    if let Some(mapping) = maps::mapping(h.protocol, port) {
        return mapped(ctx, h, &mapping);
    }
    if masquerade::pool(config).contains(port) || !has_header_once(h.protocol) {
        return reply(ctx, h);
    }
    Verdict::NotOurs
}

/// Whether a frame is an IPv4 packet to the cell, or to a container of it.
#[inline(always)]
fn is_for_cell(ctx: &TcContext, config: &Config) -> Option<bool> {
    const ETHERTYPE: usize = 12;
    const DESTINATION: usize = 30;
    if ctx.read::<u16>(ETHERTYPE)? != ETHERTYPE_IPV4.to_be() {
        return Some(false);
    }
    let destination = ctx.read::<u32>(DESTINATION)?;
    let to_container = destination & config.block_mask == config.block_base;
    Some(destination == config.underlay_addr || to_container)
}

/// To a mapped port: nobody is asked, the mapping is the permission.
#[inline(never)]
fn mapped(ctx: &TcContext, h: &Headers, mapping: &Mapping) -> Verdict {
    let Some(endpoint) = maps::endpoint(mapping.addr) else { return Verdict::NotOurs };
    let (called, container) = (h.destination(), End { addr: mapping.addr, port: mapping.port });
    let (key, from_first) = FlowKey::new(h.source(), container, h.protocol);
    let seen = seen(h, from_first, endpoint.ifindex);
    match maps::translation(&key) {
        Some((slot, flow)) if flow.is_mapped() && flow.end() == called && flow.speaks_for(&seen) => {
            let (next, _) = flow.after(&seen);
            if next != flow {
                slot.write(&next);
            }
        }
        over => {
            keep(HOOK, &key, over, &Translation::opened(&seen, 0, called, flag::MAPPED).or_its_end(&seen))
        }
    }
    into_container(ctx, h, endpoint, container)
}

/// In answer to a container's flow. What no entry speaks for is the cell's own.
#[inline(never)]
fn reply(ctx: &TcContext, h: &Headers) -> Verdict {
    let (key, from_first) = h.flow_key();
    let Some((slot, flow)) = maps::translation(&key) else { return Verdict::NotOurs };
    if flow.is_mapped() {
        return Verdict::NotOurs;
    }
    let Some(endpoint) = maps::endpoint(flow.addr) else { return Verdict::Drop(Outcome::UnknownDestination) };
    let seen = seen(h, from_first, endpoint.ifindex);
    if !flow.speaks_for(&seen) {
        return Verdict::NotOurs;
    }
    let mut next = flow;
    if !flow.is_allowed_by(endpoint.egress) {
        let allowed = judge(endpoint.egress, h.source, h.protocol, asked_port(h)) != Answer::Denied;
        next = flow.judged(endpoint.egress, allowed);
        if !allowed {
            slot.write(&next);
            return cut(ctx, h, endpoint, flow.end());
        }
    }
    let (next, ended) = next.after(&seen);
    if next != flow {
        slot.write(&next);
    }
    if ended {
        maps::close_connection(flow.addr);
    }
    into_container(ctx, h, endpoint, flow.end())
}

/// What the rules were asked for when the flow was opened: an echo's answer answers an echo.
#[inline(always)]
fn asked_port(h: &Headers) -> u16 {
    if h.protocol == ICMP { icmp_port(icmp::ECHO_REQUEST, 0) } else { u16::from_be(h.source_port) }
}

/// The end of a flow that the rules allow no longer. Of TCP the container hears it: it may be waiting for this very packet,
/// and would send nothing that could be refused. The packet is a reset instead, at the sequence number it awaits.
#[inline(always)]
fn cut(ctx: &TcContext, h: &Headers, endpoint: &Endpoint, container: End) -> Verdict {
    if refuse::make_end(ctx, h).is_err() {
        return Verdict::Drop(Outcome::EgressRevoked);
    }
    into_container(ctx, h, endpoint, container).into_end(Outcome::EgressRevoked)
}

#[inline(always)]
fn into_container(ctx: &TcContext, h: &Headers, endpoint: &Endpoint, container: End) -> Verdict {
    let called = h.destination();
    if called != container && translate::end(ctx, h, Side::Destination, called, container).is_err() {
        return Verdict::Drop(Outcome::Failed);
    }
    deliver::to_endpoint(ctx, endpoint)
}

/// An ICMP error about a packet that a container sent.
#[inline(never)]
fn error(ctx: &TcContext, h: &Headers, config: &Config) -> Verdict {
    let Some(quote) = h.quote(ctx) else { return Verdict::NotOurs };
    if quote.source.addr != h.destination {
        return Verdict::NotOurs;
    }
    let container = match maps::mapping(quote.protocol, u16::from_be(quote.source.port)) {
        Some(mapping) if quote.source.addr == config.underlay_addr => {
            End { addr: mapping.addr, port: mapping.port }
        }
        _ => quote.source,
    };
    let (key, _) = FlowKey::new(container, quote.destination, quote.protocol);
    let now_ns = skb::now_ns();
    let Some((_, flow)) = maps::translation(&key) else { return Verdict::NotOurs };
    if !flow.is_alive(quote.protocol, now_ns) {
        return Verdict::NotOurs;
    }
    let container = if flow.is_mapped() { container } else { flow.end() };
    let Some(endpoint) = maps::endpoint(container.addr).filter(|e| flow.is_of(e.ifindex)) else {
        return Verdict::NotOurs;
    };
    if translate::error(ctx, h, &quote, Side::Destination, quote.source, container).is_err() {
        return Verdict::Drop(Outcome::Failed);
    }
    deliver::to_endpoint(ctx, endpoint)
}
