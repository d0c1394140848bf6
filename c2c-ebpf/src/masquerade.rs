//! The port that a container's flow comes from in the outside's eyes. `c2c_common::outside` says in which order ports are
//! tried; here they are.

use c2c_common::flow::{End, FlowKey};
use c2c_common::layout::Config;
use c2c_common::outside::{Pool, TRIES, Translation, hash};
use c2c_common::wire;

use crate::kernel::maps::{self, TranslationSlot};
use crate::kernel::skb::unknown;
use crate::outside;

/// A masqueraded flow that is in the table.
pub struct Found {
    /// Where.
    pub slot: TranslationSlot,
    /// What is known of it.
    pub flow: Translation,
    /// Whether the cell is its key's first end.
    pub from_first: bool,
    /// What the outside sees in the container's place.
    pub end: End,
}

/// Who talks with whom.
#[derive(Clone, Copy)]
pub struct Ends {
    /// The container.
    pub container: End,
    /// Index of its host device.
    pub ifindex: u32,
    /// The address outside.
    pub outside: End,
    /// IP protocol number.
    pub protocol: u8,
}

/// The ports of the cell that masqueraded flows come from.
#[inline(always)]
pub fn pool(config: &Config) -> Pool {
    Pool { first: config.nat_first, last: config.nat_last }
}

/// Where a flow was looked for in vain.
pub enum Missed {
    /// Another flow has its first place, or nobody has and it may be in a further one.
    First,
    /// It has none.
    All,
}

/// A flow in its first place, which is where nearly all are. A packet that opens one (`opening`) looks no further than the
/// first free place: were it behind, the connection that it repeats would merely get another port before it has begun.
#[inline(always)]
pub fn find(config: &Config, ends: Ends, opening: bool, now_ns: u64) -> Result<Found, Missed> {
    let hash = hash(ends.container, ends.outside);
    let first = end(config, ends.protocol, hash, 0).ok_or(Missed::All)?;
    match at(first, ends, now_ns) {
        Some(Ok(found)) => Ok(found),
        None if opening => Err(Missed::All),
        Some(Err(Others)) | None => Err(Missed::First),
    }
}

/// A flow in one of its further places. It is found by its port and looked up again, so that the verifier does not
/// follow what comes after it once for each attempt.
#[inline(always)]
pub fn find_further(config: &Config, ends: Ends, opening: bool, now_ns: u64) -> Option<Found> {
    let hash = hash(ends.container, ends.outside);
    let (mut port, mut attempt) = (0, 1);
    while port == 0 && attempt < TRIES {
        let end = end(config, ends.protocol, hash, attempt)?;
        let (key, _) = FlowKey::new(end, ends.outside, ends.protocol);
        match maps::translation(&key) {
            Some((_, flow)) if is_own(&flow, ends) => port = end.port,
            None if opening => return None,
            _ => {}
        }
        attempt += 1;
    }
    at(End { addr: config.underlay_addr, port: unknown(port as u64) as u16 }, ends, now_ns)?.ok()
}

/// A place that another flow has.
struct Others;

/// The flow that the outside sees as `end`, if there is one.
#[inline(always)]
fn at(end: End, ends: Ends, now_ns: u64) -> Option<Result<Found, Others>> {
    let (key, from_first) = FlowKey::new(end, ends.outside, ends.protocol);
    let (slot, flow) = maps::translation(&key)?;
    let own = is_own(&flow, ends) && !flow.flow.expired(ends.protocol, now_ns);
    Some(if own { Ok(Found { slot, flow, from_first, end }) } else { Err(Others) })
}

/// Whether the container itself has a place, and not one that had its address before.
#[inline(always)]
fn is_own(flow: &Translation, ends: Ends) -> bool {
    flow.end() == ends.container && flow.is_of(ends.ifindex)
}

/// Takes the first place that is free, timed out, or the container's own already (or was that of one before it at its
/// address), for the flow `opened`, and answers what the outside sees. Without such a place, one that is spent.
#[inline(always)]
pub fn claim(config: &Config, ends: Ends, opened: &Translation) -> Option<End> {
    let hash = hash(ends.container, ends.outside);
    // No port yet, which to the verifier is a port like any other, or it would follow both.
    let (mut taken, mut spent, mut attempt) = (None, unknown(0), 0);
    while taken.is_none() && attempt < TRIES {
        let Some(end) = end(config, ends.protocol, hash, attempt) else { break };
        match take(end, ends, opened, false) {
            Take::Taken => taken = Some(unknown(end.port as u64) as u16),
            Take::Spent => spent = unknown(end.port as u64),
            Take::Others => {}
        }
        attempt += 1;
    }
    let end = |port| End { addr: config.underlay_addr, port };
    if let Some(port) = taken {
        return Some(end(port));
    }
    let spent = end(spent as u16);
    (spent.port != 0 && matches!(take(spent, ends, opened, true), Take::Taken)).then_some(spent)
}

/// What an attempt found.
enum Take {
    /// A place, which is taken now.
    Taken,
    /// Another's flow that both ends have closed, though the server may linger on it. In its place a new one may need a
    /// retransmission, and so has it only where there is no better.
    Spent,
    /// Another's flow.
    Others,
}

#[inline(always)]
fn take(end: End, ends: Ends, opened: &Translation, spent_will_do: bool) -> Take {
    let (key, from_first) = FlowKey::new(end, ends.outside, ends.protocol);
    let opened = opened.opened_by_first(from_first);
    let Some((slot, old)) = maps::translation(&key) else {
        return if maps::add_translation(&key, &opened) { Take::Taken } else { Take::Others };
    };
    let now_ns = opened.flow.seen_ns;
    let spent = old.flow.is_spent(ends.protocol, now_ns);
    let free = old.end() == ends.container || old.flow.expired(ends.protocol, now_ns);
    if free || (spent && spent_will_do) {
        outside::replace(&slot, &old, &opened);
        Take::Taken
    } else if spent {
        Take::Spent
    } else {
        Take::Others
    }
}

/// What the outside sees of a flow at its n-th attempt. Protocols without ports have but one.
#[inline(always)]
fn end(config: &Config, protocol: u8, hash: u32, attempt: u32) -> Option<End> {
    let port = if wire::has_header_once(protocol) {
        pool(config).port(hash, attempt)?
    } else if attempt == 0 {
        0
    } else {
        return None;
    };
    Some(End { addr: config.underlay_addr, port: port.to_be() })
}
