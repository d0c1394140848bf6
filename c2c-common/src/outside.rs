//! Flows with the outside: what is remembered of each, how a port is found for a masqueraded one, and what a packet makes
//! of a flow. Pure; the programs look up and store.
//!
//! One entry serves both directions, as between containers, but the two directions have different addresses. The entry
//! stands under the tuple that can be computed from either side:
//! - *mapped*, opened from outside to a port of the cell, and *plain*, opened by a container to where nothing is
//!   masqueraded: under the container's own tuple, to which `MAPPINGS` leads;
//! - *masqueraded*, opened by a container: under the tuple that the outside sees. The container's own packets find it by
//!   trying the ports of the pool in an order that follows from their tuple ([`Pool::port`]). So there is no second
//!   entry that could be lost alone, and a flow whose entry was lost finds its port again.

use crate::addr::Addr;
use crate::flow::{End, Flow, State, flag};
use crate::wire::{TCP, tcp};

/// Value of the `TRANSLATIONS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// State and age; its tag is 0, its epoch unused.
    pub flow: Flow,
    /// The container's set of egress rules when the flow was judged; of a mapped flow 0.
    pub set: u32,
    /// The other address of the translated end: of a masqueraded flow the container's, of a mapped one the cell's.
    pub addr: Addr,
    /// Its port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
    /// Index of the host's end of the container's veth pair. It tells the container from one that had its address before.
    pub ifindex: u32,
}

/// What a packet shows of itself.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags; 0 for others.
    pub tcp_flags: u8,
    /// Whether the packet comes from the flow key's first end.
    pub from_first: bool,
    /// Index of the host's end of the veth pair of the container that sends the packet or shall get it.
    pub ifindex: u32,
    /// The kernel's coarse monotonic clock.
    pub now_ns: u64,
}

impl Seen {
    /// A TCP packet that opens a connection.
    #[inline(always)]
    #[must_use]
    pub const fn is_opening(&self) -> bool {
        tcp::is_opening(self.tcp_flags)
    }

    /// A TCP packet in the middle of a connection: it cannot open one.
    #[inline(always)]
    #[must_use]
    pub const fn is_mid_stream(&self) -> bool {
        tcp::is_mid_stream(self.tcp_flags)
    }
}

impl Translation {
    /// The entry of a flow that this packet opens, with the end that it is translated to.
    #[inline(always)]
    #[must_use]
    pub const fn opened(seen: &Seen, set: u32, end: End, flags: u8) -> Self {
        let opener = if seen.from_first { flag::OPENED_BY_FIRST } else { 0 };
        let mid_stream = seen.protocol == TCP && !seen.is_opening();
        let state = if mid_stream { State::Established } else { State::Opening };
        let flow = Flow {
            seen_ns: seen.now_ns,
            opened_ns: seen.now_ns,
            epoch: 0,
            source_tag: 0,
            state: state as u8,
            flags: flags | opener,
        };
        Self { flow, set, addr: end.addr, port: end.port, pad: 0, ifindex: seen.ifindex }
    }

    /// The same flow when the packet is the end of a connection whose entry was lost: closing or closed, and not
    /// established for days.
    #[inline(always)]
    #[must_use]
    pub const fn or_its_end(mut self, seen: &Seen) -> Self {
        if seen.tcp_flags & tcp::RST != 0 {
            self.flow.state = State::Closed as u8;
        } else if seen.tcp_flags & tcp::FIN != 0 {
            self.flow.state = State::Closing as u8;
        }
        self
    }

    /// The same flow under a key of which the opener is the first end, or is not.
    #[inline(always)]
    #[must_use]
    pub const fn opened_by_first(mut self, first: bool) -> Self {
        let others = self.flow.flags & !flag::OPENED_BY_FIRST;
        self.flow.flags = if first { others | flag::OPENED_BY_FIRST } else { others };
        self
    }

    /// The end that the flow is translated to.
    #[inline(always)]
    #[must_use]
    pub const fn end(&self) -> End {
        End { addr: self.addr, port: self.port }
    }

    /// Whether the flow is of the container behind this device, and not of one that had its address before.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(&self, ifindex: u32) -> bool {
        self.ifindex == ifindex
    }

    /// Whether the entry speaks for this packet. Not when it is of another container, when it has timed out, when the end
    /// that was reached opens a connection of its own, or when the ports are used again after a close.
    #[inline(always)]
    #[must_use]
    pub const fn speaks_for(&self, seen: &Seen) -> bool {
        let flow = &self.flow;
        let reopened =
            seen.is_opening() && (!flow.is_forward(seen.from_first) || flow.state >= State::Closing as u8);
        self.is_of(seen.ifindex) && !reopened && !flow.expired(seen.protocol, seen.now_ns)
    }

    /// Whether the flow goes on, so that an error about one of its packets means something.
    #[inline(always)]
    #[must_use]
    pub const fn is_alive(&self, protocol: u8, now_ns: u64) -> bool {
        !self.flow.is(flag::REVOKED) && !self.flow.expired(protocol, now_ns)
    }

    /// Whether the outside opened it, to a mapped port.
    #[inline(always)]
    #[must_use]
    pub const fn is_mapped(&self) -> bool {
        self.flow.is(flag::MAPPED)
    }

    /// Whether rules of this set have judged the flow and let it.
    #[inline(always)]
    #[must_use]
    pub const fn is_allowed_by(&self, set: u32) -> bool {
        self.set == set && !self.flow.is(flag::REVOKED)
    }

    /// The entry judged anew: by which set, and how.
    #[inline(always)]
    #[must_use]
    pub const fn judged(mut self, set: u32, allowed: bool) -> Self {
        self.set = set;
        self.flow.flags =
            if allowed { self.flow.flags & !flag::REVOKED } else { self.flow.flags | flag::REVOKED };
        self
    }

    /// The entry after a packet, and whether the container's ceiling has room for one more because of it.
    #[inline(always)]
    #[must_use]
    pub fn after(mut self, seen: &Seen) -> (Self, bool) {
        let forward = self.flow.is_forward(seen.from_first);
        self.flow = self.flow.after(forward, seen.protocol, seen.tcp_flags, seen.now_ns);
        let ended = self.flow.is(flag::COUNTED) && self.flow.state >= State::Closed as u8;
        if ended {
            self.flow.flags &= !flag::COUNTED;
        }
        (self, ended)
    }

    /// Whether the ceiling still counts the flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_counted(&self) -> bool {
        self.flow.is(flag::COUNTED)
    }
}

/// The ports, or ICMP identifiers, that masqueraded flows come from; both of them included, host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// First of them.
    pub first: u16,
    /// Last of them; below the first, there are none.
    pub last: u16,
}

/// Ports that are tried for a flow. With nine tenths of the pool taken by flows to the same destination port, 3 flows in
/// 100 find none among so many; with half of it taken, 2 in 10^10. More would make the start of every UDP flow slower.
pub const TRIES: u32 = 32;

impl Pool {
    /// Whether a port (host order) is of the pool.
    #[inline(always)]
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// The port (host order) that a flow of this hash tries at its `try`-th; `None` when the pool has no more.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "below the pool's size, which fits")]
    pub const fn port(self, hash: u32, attempt: u32) -> Option<u16> {
        if self.last < self.first {
            return None;
        }
        let size = self.last as u32 - self.first as u32 + 1;
        if attempt >= size {
            return None;
        }
        // Divided anew each time: to the verifier the remainder of an unknown number is like any other, so that it
        // follows what comes after an attempt once and not for each.
        Some(self.first + ((hash as u64 + attempt as u64) % size as u64) as u16)
    }
}

/// Where a flow begins to look for its port. Of both ends, so that flows to the same place do not queue up at one port;
/// the container's own port in the low bits as it is, so that its successive connections take successive ports.
#[inline(always)]
#[must_use]
pub const fn hash(container: End, outside: End) -> u32 {
    // The golden ratio's bits (Fibonacci hashing): one multiplication spreads them well enough for a starting point.
    const SPREAD: u32 = 0x9e37_79b9;
    let ends = container.addr ^ outside.addr.rotate_left(16) ^ (outside.port as u32);
    (ends.wrapping_mul(SPREAD) >> 15) ^ u16::from_be(container.port) as u32
}

const _: () = assert!(size_of::<Translation>() == 40 && align_of::<Translation>() == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const S: u64 = 1_000_000_000;
    const END: End = End { addr: 7, port: 9 };

    const fn seen(tcp_flags: u8, from_first: bool) -> Seen {
        Seen { protocol: TCP, tcp_flags, from_first, ifindex: 3, now_ns: 100 * S }
    }

    fn established() -> Translation {
        let opened = Translation::opened(&seen(tcp::SYN, true), 5, END, flag::COUNTED);
        opened.after(&seen(tcp::SYN | tcp::ACK, false)).0
    }

    #[test]
    fn a_connection_lives_and_its_end_is_told_once() {
        let open = established();
        assert_eq!(State::from_raw(open.flow.state), State::Established);
        let (fin, ended) = open.after(&seen(tcp::FIN | tcp::ACK, true));
        assert!(!ended);
        let (closed, ended) = fin.after(&seen(tcp::FIN | tcp::ACK, false));
        assert!(ended && !closed.is_counted());
        assert!(!closed.after(&seen(tcp::ACK, true)).1, "only once");
        let (fin, _) = open.after(&seen(tcp::FIN | tcp::ACK, false));
        assert!(fin.after(&seen(tcp::FIN | tcp::ACK, true)).1, "whoever closes last");
        assert!(open.after(&seen(tcp::RST, false)).1);
    }

    #[test]
    fn what_ends_a_connection_that_is_not_known_opens_none() {
        let opened = |flags| {
            let seen = seen(flags, true);
            Translation::opened(&seen, 5, END, 0).or_its_end(&seen).flow.state
        };
        assert_eq!(State::from_raw(opened(tcp::RST | tcp::ACK)), State::Closed);
        assert_eq!(State::from_raw(opened(tcp::FIN | tcp::ACK)), State::Closing);
        assert_eq!(State::from_raw(opened(tcp::ACK)), State::Established);
    }

    #[test]
    fn the_outside_opens_nothing_on_a_containers_flow() {
        let open = established();
        assert!(open.speaks_for(&seen(tcp::ACK, false)));
        assert!(!open.speaks_for(&seen(tcp::SYN, false)));
        assert!(open.speaks_for(&seen(tcp::SYN, true)), "a SYN that is sent again");
    }

    #[test]
    fn a_container_has_no_part_in_the_flows_of_one_before_it() {
        let (open, next) = (established(), Seen { ifindex: 4, ..seen(tcp::ACK, true) });
        assert!(open.speaks_for(&seen(tcp::ACK, true)) && !open.speaks_for(&next));
        assert!(!open.speaks_for(&Seen { from_first: false, ..next }), "nor does the outside speak to it");
        assert!(Translation::opened(&next, 5, END, 0).speaks_for(&next));
    }

    #[test]
    fn ports_used_again_are_another_flow() {
        let closed = established().after(&seen(tcp::RST, true)).0;
        assert!(!closed.speaks_for(&seen(tcp::SYN, true)));
        let late = Seen { now_ns: 100 * S + 6 * 86_400 * S, ..seen(tcp::ACK, true) };
        assert!(!established().speaks_for(&late));
    }

    #[test]
    fn a_verdict_is_of_its_set() {
        let open = established();
        assert!(open.is_allowed_by(5) && !open.is_allowed_by(6));
        let revoked = open.judged(6, false);
        assert!(!revoked.is_allowed_by(6));
        assert!(revoked.judged(7, true).is_allowed_by(7));
    }

    #[test]
    fn an_empty_pool_has_no_port() {
        assert_eq!(Pool { first: 1, last: 0 }.port(7, 0), None);
    }

    proptest! {
        #[test]
        fn a_flow_tries_every_port_of_a_pool_once(first in 1u16..60_000, size in 1u16..200, hash: u32) {
            let pool = Pool { first, last: first + size - 1 };
            let tried: Vec<_> = (0..=u32::from(size)).map_while(|attempt| pool.port(hash, attempt)).collect();
            prop_assert_eq!(tried.len(), usize::from(size));
            prop_assert!(tried.iter().all(|&port| pool.contains(port)));
            prop_assert_eq!(tried.into_iter().collect::<HashSet<_>>().len(), usize::from(size));
        }
    }
}
