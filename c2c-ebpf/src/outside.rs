//! The table of flows with the outside, as `c2c_common::outside` speaks of it: what a packet shows to it, and how a flow
//! comes into it.

use c2c_common::counter::{Hook, Outcome};
use c2c_common::flow::FlowKey;
use c2c_common::outside::{Seen, Translation};

use crate::headers::Headers;
use crate::kernel::maps::{self, TranslationSlot};
use crate::kernel::skb;

/// What a packet shows of itself to a flow of the container behind the device `ifindex`.
#[inline(always)]
pub fn seen(h: &Headers, from_first: bool, ifindex: u32) -> Seen {
    Seen { protocol: h.protocol, tcp_flags: h.tcp_flags, from_first, ifindex, now_ns: skb::now_ns() }
}

/// Keeps a flow that opens, in the place of one that is over if there is one. A table that does not take it costs the flow
/// what only its entry could tell: it is counted, and the packet goes on.
#[inline(always)]
pub fn keep(hook: Hook, key: &FlowKey, over: Option<(TranslationSlot, Translation)>, opened: &Translation) {
    match over {
        Some((slot, old)) => replace(&slot, &old, opened),
        None if maps::add_translation(key, opened) => {}
        None => maps::count(hook, Outcome::FlowNotStored, 1, 0),
    }
}

/// Gives the place of a flow that is over to another. A connection that ends so is given back to its container, unless
/// that is gone: its successor at the address did not open it.
#[inline(always)]
pub fn replace(slot: &TranslationSlot, old: &Translation, opened: &Translation) {
    slot.write(opened);
    if old.is_counted() && maps::endpoint(old.addr).is_some_and(|endpoint| old.is_of(endpoint.ifindex)) {
        maps::close_connection(old.addr);
    }
}
