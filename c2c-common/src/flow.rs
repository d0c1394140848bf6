//! The flow table's key and value, and how a flow ages.
//!
//! One entry serves both directions: the key is the 5-tuple with its two ends sorted, so a packet and its reply find
//! the same entry with one lookup.

use crate::addr::Addr;
use crate::wire::{TCP, tcp};

/// Key of the `FLOWS` map: the two ends in ascending order of (address, port), and the protocol.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// Addresses of the first and the second end.
    pub addr: [Addr; 2],
    /// Their ports, network order.
    pub port: [u16; 2],
    /// IP protocol number; a whole word, because padding would have to be zeroed byte by byte for every packet.
    pub protocol: u32,
}

/// A transport end: address and port, both as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// IPv4 address.
    pub addr: Addr,
    /// Port, network order; 0 for protocols without ports.
    pub port: u16,
}

impl End {
    #[inline(always)]
    const fn rank(self) -> u64 {
        (self.addr as u64) << 16 | self.port as u64
    }
}

impl FlowKey {
    /// The key of a packet from `source` to `destination`, and whether `source` is the key's first end.
    #[inline(always)]
    #[must_use]
    pub const fn new(source: End, destination: End, protocol: u8) -> (Self, bool) {
        let from_first = source.rank() <= destination.rank();
        let (a, b) = if from_first { (source, destination) } else { (destination, source) };
        (Self { addr: [a.addr, b.addr], port: [a.port, b.port], protocol: protocol as u32 }, from_first)
    }
}

/// Value of the `FLOWS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// When a packet was last seen, in nanoseconds of the kernel's coarse monotonic clock; written at most once a
    /// second, so that the usual packet leaves the entry's cache line clean.
    pub seen_ns: u64,
    /// When the flow was opened, same clock.
    pub opened_ns: u64,
    /// The policy epoch of the verdict.
    pub epoch: u32,
    /// Tag of the app that opened the flow, as the verdict saw it.
    pub source_tag: u16,
    /// One of [`State`].
    pub state: u8,
    /// Of [`flag`].
    pub flags: u8,
}

/// Bits of [`Flow::flags`].
pub mod flag {
    /// The key's first end opened the flow.
    pub const OPENED_BY_FIRST: u8 = 1;
    /// The end that was reached is an endpoint of this cell: this cell's policies decide about the flow.
    pub const ENFORCED: u8 = 2;
    /// A policy allowed the flow once and is gone: kept so that the server's packets are refused as well.
    pub const REVOKED: u8 = 4;
    /// The cell itself opened the flow.
    pub const BY_CELL: u8 = 8;
    /// The opener sent FIN.
    pub const FIN_FORWARD: u8 = 16;
    /// The other end sent FIN.
    pub const FIN_REVERSE: u8 = 32;
    /// Between containers: replies are translated back to a mapped port of the cell, through which the flow was opened.
    /// With the outside: the flow was opened from there, to a mapped port.
    pub const MAPPED: u8 = 64;
    /// The flow is one of the connections that its container's ceiling counts.
    pub const COUNTED: u8 = 128;
}

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Only the opener was heard.
    Opening = 1,
    /// Both ends were heard.
    Established = 2,
    /// One end has closed (TCP).
    Closing = 3,
    /// Reset, or closed by both ends, the opener first (TCP).
    Closed = 4,
    /// Closed by both ends, the opener last (TCP): the other end waits before it believes a new connection from that port.
    Lingering = 5,
}

impl State {
    /// The state behind a map's byte; an unknown byte is [`State::Closed`], which trusts nothing.
    #[inline(always)]
    #[must_use]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            1 => Self::Opening,
            2 => Self::Established,
            3 => Self::Closing,
            5 => Self::Lingering,
            _ => Self::Closed,
        }
    }

    /// The name, as in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed | Self::Lingering => "closed",
        }
    }

    /// How long a flow in this state outlives its last packet, if it is more than an exchange: the defaults of netfilter's conntrack, which is what
    /// apps on Silk live with (`nf_conntrack_proto_{tcp,udp}.c`). But for who lingers: Linux waits 60 s (`TCP_TIMEWAIT_LEN`).
    #[inline(always)]
    #[must_use]
    pub const fn timeout_ns(self, protocol: u8) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        const DAY: u64 = 86_400 * SECOND;
        match (protocol, self) {
            (TCP, Self::Established) => 5 * DAY,
            (TCP, Self::Closed) => 10 * SECOND,
            (TCP, Self::Lingering) => 60 * SECOND,
            (_, Self::Opening) if protocol != TCP => 30 * SECOND,
            (TCP, Self::Opening | Self::Closing) | (_, _) => 120 * SECOND,
        }
    }
}

/// How long packets of other protocols than TCP come before they are a stream.
const STREAM_AFTER_NS: u64 = 2_000_000_000;
/// How stale `seen_ns` may be before a packet writes it anew.
const SEEN_GRAIN_NS: u64 = 1_000_000_000;

impl Flow {
    /// Whether any of `bits` (see [`flag`]) is set.
    #[inline(always)]
    #[must_use]
    pub const fn is(&self, bits: u8) -> bool {
        self.flags & bits != 0
    }

    /// Whether the flow has been idle for longer than its state allows. Kept in the table until the LRU wants its
    /// place, but no longer believed.
    #[inline(always)]
    #[must_use]
    pub const fn expired(&self, protocol: u8, now_ns: u64) -> bool {
        self.is_outlived_by(State::from_raw(self.state), protocol, now_ns)
    }

    /// A question and its answer are not a stream: netfilter keeps them as it keeps what was never answered, unless packets
    /// still come after two seconds (`nf_conntrack_udp_packet`). A name server is asked from a new port each time.
    #[inline(always)]
    const fn is_outlived_by(&self, state: State, protocol: u8, now_ns: u64) -> bool {
        let exchange = protocol != TCP && self.seen_ns.saturating_sub(self.opened_ns) <= STREAM_AFTER_NS;
        let state = if exchange { State::Opening } else { state };
        now_ns.saturating_sub(self.seen_ns) > state.timeout_ns(protocol)
    }

    /// Whether a packet from the key's first end (or not) goes the way of the flow's opener.
    #[inline(always)]
    #[must_use]
    pub const fn is_forward(&self, from_first: bool) -> bool {
        self.is(flag::OPENED_BY_FIRST) == from_first
    }

    /// The flow after a packet of `tcp_flags` (0 for UDP) in the given direction.
    #[inline(always)]
    #[must_use]
    pub fn after(mut self, forward: bool, protocol: u8, tcp_flags: u8, now_ns: u64) -> Self {
        if now_ns.saturating_sub(self.seen_ns) > SEEN_GRAIN_NS {
            self.seen_ns = now_ns;
        }
        if !forward && self.state == State::Opening as u8 {
            self.state = State::Established as u8;
        }
        if protocol == TCP && tcp_flags & (tcp::FIN | tcp::RST) != 0 {
            self.close(forward, tcp_flags);
            self.seen_ns = now_ns;
        }
        self
    }

    /// Whether the flow may give way to another where there is no better place: it has timed out, or would have if nobody
    /// lingered.
    #[inline(always)]
    #[must_use]
    pub const fn is_spent(&self, protocol: u8, now_ns: u64) -> bool {
        let state = State::from_raw(self.state);
        let state = if matches!(state, State::Lingering) { State::Closed } else { state };
        self.is_outlived_by(state, protocol, now_ns)
    }

    #[inline(always)]
    fn close(&mut self, forward: bool, tcp_flags: u8) {
        let both = flag::FIN_FORWARD | flag::FIN_REVERSE;
        let was_closed = self.flags & both == both;
        if tcp_flags & tcp::FIN != 0 {
            self.flags |= if forward { flag::FIN_FORWARD } else { flag::FIN_REVERSE };
        }
        if tcp_flags & tcp::RST != 0 {
            self.state = State::Closed as u8;
        } else if self.flags & both != both {
            self.state = State::Closing as u8;
        } else if !was_closed {
            self.state = if forward { State::Lingering } else { State::Closed } as u8;
        }
    }
}

const _: () = {
    assert!(size_of::<FlowKey>() == 16 && align_of::<FlowKey>() == 4);
    assert!(size_of::<Flow>() == 24 && align_of::<Flow>() == 8);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::UDP;
    use proptest::prelude::*;

    const S: u64 = 1_000_000_000;

    fn open() -> Flow {
        Flow { seen_ns: 10 * S, opened_ns: 10 * S, state: State::Opening as u8, ..Flow::default() }
    }

    proptest! {
        #[test]
        fn a_reply_has_the_key_of_its_packet(a: u32, b: u32, p: u16, q: u16, protocol: u8) {
            let (x, y) = (End { addr: a, port: p }, End { addr: b, port: q });
            let (there, first) = FlowKey::new(x, y, protocol);
            let (back, also_first) = FlowKey::new(y, x, protocol);
            prop_assert_eq!(there, back);
            prop_assert!(x == y || first != also_first);
        }
    }

    #[test]
    fn a_tcp_flow_lives_and_ends() {
        let f = open().after(false, TCP, tcp::SYN | tcp::ACK, 10 * S);
        assert_eq!(State::from_raw(f.state), State::Established);
        let f = f.after(true, TCP, tcp::FIN | tcp::ACK, 11 * S);
        assert_eq!(State::from_raw(f.state), State::Closing);
        let f = f.after(false, TCP, tcp::FIN | tcp::ACK, 12 * S);
        assert_eq!(State::from_raw(f.state), State::Closed);
        assert!(!f.expired(TCP, 22 * S) && f.expired(TCP, 22 * S + 1));
    }

    #[test]
    fn who_closed_first_lingers_whatever_is_sent_again() {
        let fin = tcp::FIN | tcp::ACK;
        let f = open().after(false, TCP, fin, 11 * S).after(true, TCP, fin, 12 * S);
        assert_eq!(State::from_raw(f.state), State::Lingering);
        let again = f.after(false, TCP, fin, 12 * S).after(true, TCP, tcp::ACK, 12 * S);
        assert_eq!(again, f);
        assert!(!f.is_spent(TCP, 22 * S) && f.is_spent(TCP, 22 * S + 1));
        assert!(!f.expired(TCP, 72 * S) && f.expired(TCP, 72 * S + 1));
        assert_eq!(State::from_raw(f.after(false, TCP, tcp::RST, 13 * S).state), State::Closed);
    }

    #[test]
    fn a_reset_closes_at_once() {
        let f = open().after(false, TCP, tcp::RST, 10 * S);
        assert_eq!(State::from_raw(f.state), State::Closed);
    }

    #[test]
    fn a_datagram_and_its_answer_are_short_lived_and_a_stream_is_not() {
        assert!(open().expired(UDP, 40 * S + 1));
        let answered = open().after(false, UDP, 0, 11 * S).after(true, UDP, 0, 12 * S);
        assert!(!answered.expired(UDP, 40 * S) && answered.expired(UDP, 42 * S + 1));
        let stream = answered.after(false, UDP, 0, 13 * S + 1);
        assert!(!stream.expired(UDP, 132 * S) && stream.expired(UDP, 133 * S + 2));
        assert!(!open().after(false, TCP, tcp::ACK, 11 * S).expired(TCP, 86_400 * S));
    }

    #[test]
    fn the_clock_is_written_once_a_second_at_most() {
        assert_eq!(open().after(true, UDP, 0, 11 * S).seen_ns, 10 * S);
        assert_eq!(open().after(true, UDP, 0, 11 * S + 1).seen_ns, 11 * S + 1);
    }

    #[test]
    fn a_clock_that_went_back_expires_nothing() {
        assert!(!open().expired(TCP, 0));
    }
}
