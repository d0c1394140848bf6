//! The flow table and the policy table, as `c2c_common::track` asks for them.

use c2c_common::counter::{Hook, Outcome};
use c2c_common::flow::{Flow, FlowKey, flag};
use c2c_common::ports::{self, Pair};
use c2c_common::track::{self, Packet, Port, Question};

use crate::headers::Headers;
use crate::kernel::maps::{self, FlowSlot};
use crate::kernel::skb;

/// The two apps' tags and places.
#[derive(Clone, Copy)]
pub struct Ends {
    /// Tag of the sender's app.
    pub source_tag: u16,
    /// Tag of the receiver's app; 0 when it is another cell's.
    pub destination_tag: u16,
    /// Whether the sender is on this cell.
    pub source_is_local: bool,
    /// Whether the receiver is on this cell.
    pub destination_is_local: bool,
}

/// How a packet between containers passes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// With the addresses that it has.
    AsItIs,
    /// Its source becomes the port of the cell through which its flow was opened.
    AnswerOfMapped,
    /// Not, but its receiver shall hear so: the policy is gone, this is the first packet since of who was called, and who
    /// called may be waiting for it and send nothing that could be refused.
    AsTheEnd,
}

/// Decides about a packet between containers and keeps its flow. `Err` is a drop.
#[inline(always)]
pub fn track(hook: Hook, h: &Headers, ends: Ends) -> Result<Passed, Outcome> {
    let (key, from_first) = h.flow_key();
    let p = packet(h, ends, from_first);
    let (slot, flow) = maps::flow(&key);
    // A number even without a flow: a register that was never written is not to be copied, says the verifier.
    let (flags, is_answer) = flow.map_or((0, false), |flow| (flow.flags, !flow.is_forward(from_first)));
    let decision = track::track(flow, &p, |question| judge(question, h));
    if let Some(flow) = decision.store {
        keep(hook, &key, slot, &flow);
    }
    match decision.drop {
        None if is_answer && flags & flag::MAPPED != 0 => Ok(Passed::AnswerOfMapped),
        None => Ok(Passed::AsItIs),
        Some(Outcome::PolicyRevoked) if is_answer && flags & (flag::REVOKED | flag::MAPPED) == 0 => {
            Ok(Passed::AsTheEnd)
        }
        Some(drop) => Err(drop),
    }
}

/// Marks a flow as opened through a mapped port.
#[inline(always)]
pub fn mark_mapped(key: &FlowKey) {
    let (slot, flow) = maps::flow(key);
    if let Some(flow) = flow.filter(|flow| !flow.is(flag::MAPPED)) {
        maps::store_flow(key, slot, &Flow { flags: flow.flags | flag::MAPPED, ..flow });
    }
}

/// Keeps the flow of a packet that the cell itself sends to one of its containers.
#[inline(always)]
pub fn keep_from_cell(hook: Hook, h: &Headers) {
    let (key, from_first) = h.flow_key();
    let (slot, flow) = maps::flow(&key);
    if let Some(flow) = track::by_cell(flow, &packet(h, CELL_TO_CONTAINER, from_first)) {
        keep(hook, &key, slot, &flow);
    }
}

/// Whether a container's packet to the cell answers a flow that the cell opened.
#[inline(always)]
pub fn answers_cell(hook: Hook, h: &Headers) -> bool {
    let (key, from_first) = h.flow_key();
    let (slot, flow) = maps::flow(&key);
    match track::to_cell(flow, &packet(h, CONTAINER_TO_CELL, from_first)) {
        None => false,
        Some(decision) => {
            if let Some(flow) = decision.store {
                keep(hook, &key, slot, &flow);
            }
            true
        }
    }
}

/// Whether the flow that an ICMP error is about is known here.
#[inline(always)]
pub fn is_related(key: &FlowKey) -> bool {
    track::is_related(maps::flow(key).1, key.protocol as u8, skb::now_ns())
}

/// Whether the flow that an ICMP error is about is one that the cell opened.
#[inline(always)]
pub fn is_by_cell(key: &FlowKey) -> bool {
    let flow = maps::flow(key).1;
    flow.is_some_and(|flow| flow.is(flag::BY_CELL))
        && track::is_related(flow, key.protocol as u8, skb::now_ns())
}

const CELL_TO_CONTAINER: Ends =
    Ends { source_tag: 0, destination_tag: 0, source_is_local: false, destination_is_local: true };
const CONTAINER_TO_CELL: Ends =
    Ends { source_tag: 0, destination_tag: 0, source_is_local: true, destination_is_local: false };

#[inline(always)]
fn packet(h: &Headers, ends: Ends, from_first: bool) -> Packet {
    Packet {
        protocol: h.protocol,
        tcp_flags: h.tcp_flags,
        from_first,
        source_tag: ends.source_tag,
        destination_tag: ends.destination_tag,
        source_is_local: ends.source_is_local,
        destination_is_local: ends.destination_is_local,
        now_ns: skb::now_ns(),
        epoch: maps::epoch(),
    }
}

#[inline(always)]
fn judge(question: Question, h: &Headers) -> bool {
    let Question { source_tag, destination_tag, port } = question;
    if source_tag == 0 || destination_tag == 0 {
        return false;
    }
    let port = match port {
        Port::Destination => h.destination_port,
        Port::Source => h.source_port,
    };
    ports::allowed(
        Pair { source_tag, destination_tag, protocol: h.protocol },
        u16::from_be(port),
        maps::policy,
    )
}

/// A table that does not take the flow costs the next packet a policy lookup, no more: it is counted, not dropped.
#[inline(always)]
fn keep(hook: Hook, key: &FlowKey, slot: FlowSlot, flow: &Flow) {
    if !maps::store_flow(key, slot, flow) {
        maps::count(hook, Outcome::FlowNotStored, 1, 0);
    }
}
