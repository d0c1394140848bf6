//! What a container sends to its own cell: an answer, a service that is open to containers, or a mapped port, behind
//! which is another container.

use aya_ebpf::programs::TcContext;
use c2c_common::counter::{Hook, Outcome};
use c2c_common::flow::{End, flag};
use c2c_common::layout::{Config, Endpoint, Mapping, ServiceKey};
use c2c_common::outside::{Seen, Translation};

use crate::Verdict;
use crate::deliver;
use crate::flows::{self, Passed};
use crate::from_container::ends;
use crate::headers::Headers;
use crate::kernel::{action::NEXT, maps, skb};
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
        remember(h, called);
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

/// Remembers which port was called, so that the answers come from it.
#[inline(always)]
fn remember(h: &Headers, called: End) {
    let (key, from_first) = h.flow_key();
    flows::mark_mapped(&key);
    let seen = Seen { protocol: h.protocol, tcp_flags: h.tcp_flags, from_first, now_ns: skb::now_ns() };
    let opened = Translation::opened(&seen, 0, called, flag::MAPPED);
    let stored = match maps::translation(&key) {
        Some((_, old)) if old.end() == called => true,
        Some((slot, _)) => {
            slot.write(&opened);
            true
        }
        None => maps::add_translation(&key, &opened),
    };
    if !stored {
        maps::count(HOOK, Outcome::FlowNotStored, 1, 0);
    }
}

/// The answer of a container that was called by a mapped port: it comes from that port.
#[inline(never)]
pub fn hairpin_answer(ctx: &TcContext, h: &Headers, receiver: &Endpoint) -> Verdict {
    let (key, _) = h.flow_key();
    let translated = match maps::translation(&key) {
        Some((_, flow)) => translate::end(ctx, h, Side::Source, h.source(), flow.end()),
        None => Ok(()),
    };
    match translated {
        Ok(()) => deliver::to_endpoint(ctx, receiver),
        Err(_) => Verdict::Drop(Outcome::Failed),
    }
}
