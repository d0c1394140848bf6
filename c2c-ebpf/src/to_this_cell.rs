//! What a container sends to its own cell: an answer, a service that is open to containers, or a mapped port, behind
//! which is another container.

use aya_ebpf::programs::TcContext;
use c2c_common::counter::{Hook, Outcome};
use c2c_common::flow::{End, flag};
use c2c_common::layout::{Config, Endpoint, Mapping, ServiceKey};
use c2c_common::outside::Translation;

use crate::Verdict;
use crate::deliver;
use crate::flows::{self, Passed};
use crate::from_container::ends;
use crate::headers::Headers;
use crate::kernel::{action::NEXT, maps, skb};
use crate::outside::{keep, seen};
use crate::translate::{self, Side};

const HOOK: Hook = Hook::FromContainer;

/// The cell may always reach its containers, so its containers may answer it; beyond that only what is open to them.
#[inline(never)]
pub fn run(ctx: &TcContext, h: &mut Headers, config: &Config, sender: &Endpoint) -> Verdict {
    if flows::answers_cell(HOOK, h) || maps::is_host_service(&service(h)) {
        return Verdict::Deliver(Outcome::ToHost, NEXT);
    }
    if h.destination != config.underlay_addr {
        return Verdict::Refuse(Outcome::CellDenied);
    }
    match maps::mapping(h.protocol, u16::from_be(h.destination_port)) {
        // A container cannot take packets from its own address.
        Some(mapping) if mapping.addr != h.source => hairpin(ctx, h, sender, mapping),
        _ => Verdict::Refuse(Outcome::CellDenied),
    }
}

#[inline(always)]
fn service(h: &Headers) -> ServiceKey {
    ServiceKey { addr: h.destination, port: h.destination_port, protocol: h.protocol as u16 }
}

/// A mapped port of the cell, called by one of its own containers: a policy decides, as if the container behind it had
/// been called.
#[inline(always)]
fn hairpin(ctx: &TcContext, h: &mut Headers, sender: &Endpoint, mapping: Mapping) -> Verdict {
    let Some(receiver) = maps::endpoint(mapping.addr) else { return Verdict::Refuse(Outcome::CellDenied) };
    let (called, container) = (h.destination(), End { addr: mapping.addr, port: mapping.port });
    // Tracked as what it becomes; a refusal answers what it was.
    (h.destination, h.destination_port) = (container.addr, container.port);
    let tracked = flows::track(HOOK, h, ends(sender, receiver.tag, true));
    if tracked.is_ok() {
        remember(h, called, receiver);
    }
    (h.destination, h.destination_port) = (called.addr, called.port);
    match tracked {
        Err(drop) => Verdict::refuse_if_audible(drop),
        Ok(Passed::AsTheEnd) => Verdict::Refuse(Outcome::PolicyRevoked),
        Ok(_) if translate::end(ctx, h, Side::Destination, called, container).is_err() => {
            Verdict::Drop(Outcome::Failed)
        }
        Ok(_) => deliver::to_endpoint(ctx, receiver),
    }
}

/// Remembers which port of the receiver was called, so that the answers come from it.
#[inline(always)]
fn remember(h: &Headers, called: End, receiver: &Endpoint) {
    let (key, from_first) = h.flow_key();
    flows::mark_mapped(&key);
    let opened = Translation::opened(&seen(h, from_first, receiver.ifindex), 0, called, flag::MAPPED);
    match maps::translation(&key) {
        Some((_, old)) if old.end() == called && old.is_of(receiver.ifindex) => {}
        over => keep(HOOK, &key, over, &opened),
    }
}

/// The answer of a container that was called by a mapped port: it comes from that port.
#[inline(never)]
pub fn hairpin_answer(ctx: &TcContext, h: &Headers, receiver: &Endpoint) -> Verdict {
    let (key, _) = h.flow_key();
    let translated = match maps::translation(&key) {
        Some((_, flow)) if flow.is_of(skb::ifindex(ctx)) => {
            translate::end(ctx, h, Side::Source, h.source(), flow.end())
        }
        _ => Ok(()),
    };
    match translated {
        Ok(()) => deliver::to_endpoint(ctx, receiver),
        Err(_) => Verdict::Drop(Outcome::Failed),
    }
}
