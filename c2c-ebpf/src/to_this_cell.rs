//! What a container sends to its own cell: an answer, a service that is open to containers, or a mapped port, behind
//! which is another container.

use aya_ebpf::programs::TcContext;
use c2c_common::counter::{Hook, Outcome};
use c2c_common::flow::{End, flag};
use c2c_common::layout::{Config, Endpoint, MappedKey, Mapping, ServiceKey};
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

/// An ICMP error about a packet that the cell sent.
#[inline(never)]
pub fn error(ctx: &TcContext, h: &Headers) -> Verdict {
    let related = h.quoted_flow(ctx).is_some_and(|key| flows::is_by_cell(&key));
    if related || maps::is_host_service(&service(h)) {
        return Verdict::Deliver(Outcome::ToHost, NEXT);
    }
    Verdict::Drop(Outcome::UnrelatedIcmp)
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

/// Remembers which port of the receiver was called, so that the answers come from it. How long the connection lives is for
/// its flow between the containers to say; this is renewed when it would have timed out by itself.
#[inline(always)]
fn remember(h: &Headers, called: End, receiver: &Endpoint) {
    let (key, from_first) = h.flow_key();
    flows::mark_mapped(&key);
    let seen = seen(h, from_first, receiver.ifindex);
    match maps::translation(&key) {
        Some((_, old)) if old.end() == called && old.speaks_for(&seen) => {}
        over => keep(HOOK, &key, over, &Translation::opened(&seen, 0, called, flag::MAPPED)),
    }
}

/// The answer of a container that was called by a mapped port: it comes from that port, or, if the table has lost which
/// one it was, from the port that leads there.
#[inline(never)]
pub fn hairpin_answer(ctx: &TcContext, config: &Config, h: &Headers, receiver: &Endpoint) -> Verdict {
    let (key, _) = h.flow_key();
    let called = match maps::translation(&key) {
        Some((_, flow)) => flow.is_of(skb::ifindex(ctx)).then(|| flow.end()),
        None => mapped_to(config, h.source(), h.protocol),
    };
    match called.map_or(Ok(()), |called| translate::end(ctx, h, Side::Source, h.source(), called)) {
        Ok(()) => deliver::to_endpoint(ctx, receiver),
        Err(_) => Verdict::Drop(Outcome::Failed),
    }
}

/// The port of the cell that leads to a container's.
#[inline(always)]
pub fn mapped_to(config: &Config, container: End, protocol: u8) -> Option<End> {
    let key = MappedKey { addr: container.addr, port: container.port, protocol: protocol as u16 };
    Some(End { addr: config.underlay_addr, port: maps::mapped(&key)?.to_be() })
}
