//! The decision about a packet between containers, as a pure function of what the flow table says and of the policy.
//!
//! Policy is enforced where the packet ends: `judge` is asked only when the end that was reached is an endpoint of this
//! cell. A packet to another cell is that cell's to judge; here it merely leaves a flow, so that its reply comes in.

use crate::counter::Outcome;
use crate::flow::{Flow, State, flag};
use crate::wire::{ICMP, TCP, UDP, tcp};

/// What tracking needs to know of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags; 0 for others.
    pub tcp_flags: u8,
    /// Whether the packet comes from its flow key's first end.
    pub from_first: bool,
    /// Tag of the app that sent it: our own endpoint's, or what the tunnel header carried.
    pub source_tag: u16,
    /// Tag of the receiving endpoint's app; 0 when it is another cell's.
    pub destination_tag: u16,
    /// Whether the sender is an endpoint of this cell.
    pub source_is_local: bool,
    /// Whether the receiver is an endpoint of this cell.
    pub destination_is_local: bool,
    /// The kernel's coarse monotonic clock.
    pub now_ns: u64,
    /// The policy epoch, read *before* any policy row is: an epoch raised in between makes the verdict stale, not wrong.
    pub epoch: u32,
}

/// A question to the policy table: may an app of `source_tag` open a flow to one of `destination_tag`, at `port`?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Tag of the app that opens the flow.
    pub source_tag: u16,
    /// Tag of the app that is reached.
    pub destination_tag: u16,
    /// Which of the packet's ports is the one that is reached.
    pub port: Port,
}

/// One of a packet's two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The destination port: the packet goes the opener's way.
    Destination,
    /// The source port: the packet is a reply.
    Source,
}

/// What to do with the packet and with the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// `None`: let it pass. A drop otherwise.
    pub drop: Option<Outcome>,
    /// The flow to store, if it is new or differs from what the table holds.
    pub store: Option<Flow>,
}

impl Decision {
    #[inline(always)]
    const fn pass(store: Option<Flow>) -> Self {
        Self { drop: None, store }
    }

    #[inline(always)]
    const fn drop(outcome: Outcome, store: Option<Flow>) -> Self {
        Self { drop: Some(outcome), store }
    }
}

impl Packet {
    /// A TCP packet that opens a connection.
    #[inline(always)]
    #[must_use]
    pub const fn is_opening(&self) -> bool {
        tcp::is_opening(self.tcp_flags)
    }

    /// A TCP packet that ends a connection at once.
    #[inline(always)]
    const fn is_reset(&self) -> bool {
        self.tcp_flags & (tcp::SYN | tcp::RST) == tcp::RST
    }

    #[inline(always)]
    const fn has_flow(&self) -> bool {
        matches!(self.protocol, TCP | UDP)
    }

    /// May this packet's sender open a flow to its receiver?
    #[inline(always)]
    const fn forward(&self) -> Question {
        Question {
            source_tag: self.source_tag,
            destination_tag: self.destination_tag,
            port: Port::Destination,
        }
    }

    /// May an app of tag `opener` have opened the flow that this packet replies in?
    #[inline(always)]
    const fn reverse(&self, opener: u16) -> Question {
        Question { source_tag: opener, destination_tag: self.source_tag, port: Port::Source }
    }
}

/// Decides about a packet between containers. `flow` is what the table holds under the packet's key.
#[inline(always)]
pub fn track(flow: Option<Flow>, p: &Packet, judge: impl Fn(Question) -> bool) -> Decision {
    match flow {
        Some(flow) if believed(&flow, p) => known(flow, p, judge),
        _ if p.destination_is_local => new_here(p, judge),
        _ => new_elsewhere(p),
    }
}

/// Whether an entry speaks for this packet. Not when it has timed out, when the other end opens a connection of its own
/// (which its packets as replies would never have to justify), or when the ports are used again after a close.
#[inline(always)]
fn believed(flow: &Flow, p: &Packet) -> bool {
    let reopened = p.is_opening() && (!flow.is_forward(p.from_first) || flow.state >= State::Closing as u8);
    !flow.is(flag::BY_CELL) && !reopened && !flow.expired(p.protocol, p.now_ns)
}

#[inline(always)]
fn known(flow: Flow, p: &Packet, judge: impl Fn(Question) -> bool) -> Decision {
    let forward = flow.is_forward(p.from_first);
    let mut next = flow;
    if flow.is(flag::ENFORCED) && !is_fresh(&flow, p, forward) {
        if !still_allowed(&flow, p, forward, judge) {
            return refused(flow, p, forward);
        }
        next.epoch = p.epoch;
        next.flags &= !flag::REVOKED;
        next.source_tag = if forward { p.source_tag } else { flow.source_tag };
    }
    next = next.after(forward, p.protocol, p.tcp_flags, p.now_ns);
    Decision::pass(changed(flow, next))
}

/// Asks the policy again. A flow that was revoked in this very epoch stays so for the server's packets without a
/// question; the opener's packets are asked about each time, because a policy may be back.
#[inline(always)]
fn still_allowed(flow: &Flow, p: &Packet, forward: bool, judge: impl Fn(Question) -> bool) -> bool {
    if forward {
        judge(p.forward())
    } else {
        let settled = flow.is(flag::REVOKED) && flow.epoch == p.epoch;
        !settled && judge(p.reverse(flow.source_tag))
    }
}

/// The entry stays, marked, so that the other end's packets are refused too. A packet with another tag than the flow's
/// is not the flow's packet and does not mark it.
#[inline(always)]
fn refused(flow: Flow, p: &Packet, forward: bool) -> Decision {
    if forward && flow.source_tag != p.source_tag {
        return Decision::drop(Outcome::PolicyDenied, None);
    }
    let revoked = Flow { seen_ns: p.now_ns, epoch: p.epoch, flags: flow.flags | flag::REVOKED, ..flow };
    Decision::drop(Outcome::PolicyRevoked, Some(revoked))
}

/// Whether the verdict that the entry remembers still holds, for the tag that this packet carries.
#[inline(always)]
const fn is_fresh(flow: &Flow, p: &Packet, forward: bool) -> bool {
    flow.epoch == p.epoch && !flow.is(flag::REVOKED) && (!forward || flow.source_tag == p.source_tag)
}

#[inline(always)]
fn changed(old: Flow, new: Flow) -> Option<Flow> {
    if old == new { None } else { Some(new) }
}

/// The first packet seen of a flow whose receiver is on this cell.
#[inline(always)]
fn new_here(p: &Packet, judge: impl Fn(Question) -> bool) -> Decision {
    if !p.has_flow() {
        return Decision::drop(Outcome::PolicyDenied, None);
    }
    if judge(p.forward()) {
        return Decision::pass(Some(opened(p, flag::ENFORCED)));
    }
    if is_reply(p) && judge(p.reverse(p.destination_tag)) {
        // A reset is the last that is heard of a connection.
        return Decision::pass(if p.is_reset() { None } else { Some(reply_without_flow(p)) });
    }
    Decision::drop(Outcome::PolicyDenied, None)
}

/// A reply in a connection that this cell's own container opened, whose entry the table has lost (evicted, or not
/// carried over an upgrade). Its policy allows the connection, so a lost entry must not cut it. Only TCP, with ACK or as a
/// reset, which has none where no connection is known (RFC 9293 section 3.10.7.1): such a packet cannot open anything.
#[inline(always)]
const fn is_reply(p: &Packet) -> bool {
    tcp::is_mid_stream(p.tcp_flags) || p.is_reset()
}

#[inline(always)]
fn reply_without_flow(p: &Packet) -> Flow {
    let enforced = if p.source_is_local { flag::ENFORCED } else { 0 };
    let opener = if p.from_first { 0 } else { flag::OPENED_BY_FIRST };
    let state = State::Established as u8;
    Flow { source_tag: p.destination_tag, state, flags: enforced | opener, ..opened(p, 0) }
}

/// The first packet seen of a flow to another cell; a ping's too, so that its refusal is believed. A TCP packet that
/// opens nothing leaves no entry: it may be the reply in a connection that *that* cell's container opened, and an entry
/// here would make us its opener and let the other end's packets in without a policy.
#[inline(always)]
fn new_elsewhere(p: &Packet) -> Decision {
    let opens = p.is_opening() || matches!(p.protocol, UDP | ICMP);
    Decision::pass(if opens { Some(opened(p, 0)) } else { None })
}

#[inline(always)]
fn opened(p: &Packet, flags: u8) -> Flow {
    let opener = if p.from_first { flag::OPENED_BY_FIRST } else { 0 };
    let mid_stream = p.protocol == TCP && !p.is_opening();
    Flow {
        seen_ns: p.now_ns,
        opened_ns: p.now_ns,
        epoch: p.epoch,
        source_tag: p.source_tag,
        state: if mid_stream { State::Established } else { State::Opening } as u8,
        flags: flags | opener,
    }
}

/// The entry after the cell itself sent a packet to one of its containers: the cell may always reach them.
#[inline(always)]
#[must_use]
pub fn by_cell(flow: Option<Flow>, p: &Packet) -> Option<Flow> {
    match flow {
        Some(flow) if flow.is(flag::BY_CELL) && !p.is_opening() && !flow.expired(p.protocol, p.now_ns) => {
            let forward = flow.is_forward(p.from_first);
            changed(flow, flow.after(forward, p.protocol, p.tcp_flags, p.now_ns))
        }
        _ if p.has_flow() || p.protocol == ICMP => Some(opened(p, flag::BY_CELL)),
        _ => None,
    }
}

/// Whether a container's packet to the cell answers a flow that the cell opened, and the entry after it.
#[inline(always)]
#[must_use]
pub fn to_cell(flow: Option<Flow>, p: &Packet) -> Option<Decision> {
    let flow = flow?;
    let replies = flow.is(flag::BY_CELL) && !flow.is_forward(p.from_first) && !p.is_opening();
    if !replies || flow.expired(p.protocol, p.now_ns) {
        return None;
    }
    Some(Decision::pass(changed(flow, flow.after(false, p.protocol, p.tcp_flags, p.now_ns))))
}

/// Whether an ICMP error about a packet of this flow may be delivered.
#[inline(always)]
#[must_use]
pub fn is_related(flow: Option<Flow>, protocol: u8, now_ns: u64) -> bool {
    flow.is_some_and(|flow| !flow.is(flag::REVOKED) && !flow.expired(protocol, now_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const FRONTEND: u16 = 5;
    const BACKEND: u16 = 6;
    const FORWARD: Question =
        Question { source_tag: FRONTEND, destination_tag: BACKEND, port: Port::Destination };
    const REVERSE: Question = Question { port: Port::Source, ..FORWARD };

    fn allow_frontend(q: Question) -> bool {
        q == FORWARD || q == REVERSE
    }

    fn deny(_: Question) -> bool {
        false
    }

    fn never(q: Question) -> bool {
        panic!("the policy was asked {q:?}")
    }

    /// A packet of the frontend, on another cell, to the backend, on this one.
    fn request(tcp_flags: u8) -> Packet {
        Packet {
            protocol: TCP,
            tcp_flags,
            from_first: true,
            source_tag: FRONTEND,
            destination_tag: BACKEND,
            source_is_local: false,
            destination_is_local: true,
            now_ns: 100 * S,
            epoch: 1,
        }
    }

    /// The backend's packet back to it.
    fn reply(tcp_flags: u8) -> Packet {
        Packet {
            tcp_flags,
            from_first: false,
            source_tag: BACKEND,
            destination_tag: 0,
            source_is_local: true,
            destination_is_local: false,
            ..request(0)
        }
    }

    fn established() -> Flow {
        let opened = track(None, &request(tcp::SYN), allow_frontend).store.unwrap();
        track(Some(opened), &reply(tcp::SYN | tcp::ACK), never).store.unwrap()
    }

    #[test]
    fn an_allowed_connection_asks_the_policy_once() {
        let flow = established();
        assert_eq!(State::from_raw(flow.state), State::Established);
        for p in [request(tcp::ACK), reply(tcp::ACK)] {
            assert_eq!(track(Some(flow), &p, never), Decision::pass(None));
        }
    }

    #[test]
    fn what_no_policy_allows_is_denied_and_leaves_nothing() {
        for p in [request(tcp::SYN), request(tcp::ACK), Packet { protocol: UDP, ..request(0) }] {
            assert_eq!(track(None, &p, deny), Decision::drop(Outcome::PolicyDenied, None));
        }
    }

    #[test]
    fn protocols_without_a_policy_are_denied_without_a_question() {
        let icmp = Packet { protocol: 1, ..request(0) };
        assert_eq!(track(None, &icmp, never), Decision::drop(Outcome::PolicyDenied, None));
    }

    #[test]
    fn a_removed_policy_cuts_both_directions() {
        let flow = established();
        let later = |p: Packet| Packet { epoch: 2, ..p };
        let cut = track(Some(flow), &later(request(tcp::ACK)), deny);
        assert_eq!(cut.drop, Some(Outcome::PolicyRevoked));
        let revoked = cut.store.unwrap();
        assert_eq!(track(Some(revoked), &later(reply(tcp::ACK)), never).drop, Some(Outcome::PolicyRevoked));
        let first_from_server = track(Some(flow), &later(reply(tcp::ACK)), deny);
        assert_eq!(first_from_server.drop, Some(Outcome::PolicyRevoked));
    }

    #[test]
    fn a_policy_that_is_back_revives_the_flow_when_its_opener_speaks() {
        let later = |p: Packet| Packet { epoch: 2, ..p };
        let revoked = track(Some(established()), &later(request(tcp::ACK)), deny).store.unwrap();
        let back = track(Some(revoked), &later(request(tcp::ACK)), allow_frontend);
        assert_eq!(back.drop, None);
        assert_eq!(track(back.store, &later(reply(tcp::ACK)), never).drop, None);
    }

    #[test]
    fn an_epoch_that_changed_for_others_keeps_the_flow() {
        let p = Packet { epoch: 2, ..request(tcp::ACK) };
        let kept = track(Some(established()), &p, allow_frontend);
        assert_eq!((kept.drop, kept.store.unwrap().epoch), (None, 2));
    }

    #[test]
    fn another_tag_does_not_ride_on_a_flow() {
        let flow = established();
        let p = Packet { source_tag: 9, ..request(tcp::ACK) };
        assert_eq!(track(Some(flow), &p, deny), Decision::drop(Outcome::PolicyDenied, None));
    }

    #[test]
    fn the_server_cannot_open_a_connection_of_its_own_on_the_flow() {
        let syn = Packet { destination_is_local: true, ..reply(tcp::SYN) };
        assert_eq!(track(Some(established()), &syn, deny).drop, Some(Outcome::PolicyDenied));
    }

    #[test]
    fn a_lost_entry_does_not_cut_a_connection() {
        // On the backend's cell the frontend's next packet finds its policy; the backend's own leaves no entry.
        assert_eq!(track(None, &request(tcp::ACK), allow_frontend).drop, None);
        assert_eq!(track(None, &reply(tcp::ACK), never), Decision::pass(None));
        // On the frontend's cell the reply is allowed by the policy of the connection it belongs to.
        let at_frontend = Packet {
            source_is_local: false,
            destination_is_local: true,
            destination_tag: FRONTEND,
            ..reply(tcp::ACK)
        };
        let back = track(None, &at_frontend, allow_frontend);
        assert_eq!(back.drop, None);
        let flow = back.store.unwrap();
        assert!(flow.is_forward(true) && !flow.is(flag::ENFORCED), "the frontend is the opener");
        let syn = Packet { tcp_flags: tcp::SYN | tcp::ACK, ..at_frontend };
        assert_eq!(track(None, &syn, allow_frontend).drop, Some(Outcome::PolicyDenied));
        // Where the backend knows of no connection, its reset has no ACK, and is the last that is heard.
        let reset = Packet { tcp_flags: tcp::RST, ..at_frontend };
        assert_eq!(track(None, &reset, allow_frontend), Decision::pass(None));
        assert_eq!(track(None, &reset, deny).drop, Some(Outcome::PolicyDenied));
    }

    #[test]
    fn a_packet_to_another_cell_is_that_cells_to_judge() {
        let out = Packet { destination_is_local: false, source_is_local: true, ..request(tcp::SYN) };
        let flow = track(None, &out, never).store.unwrap();
        assert!(!flow.is(flag::ENFORCED));
        let back =
            Packet { destination_is_local: true, source_is_local: false, ..reply(tcp::SYN | tcp::ACK) };
        assert_eq!(track(Some(flow), &back, never).drop, None);
    }

    #[test]
    fn a_timed_out_flow_is_not_believed() {
        let p = Packet { now_ns: 100 * S + 6 * 86_400 * S, ..request(tcp::ACK) };
        assert_eq!(track(Some(established()), &p, deny).drop, Some(Outcome::PolicyDenied));
    }

    #[test]
    fn ports_used_again_after_a_close_are_a_new_flow() {
        let closed = established().after(true, TCP, tcp::RST, 101 * S);
        assert_eq!(track(Some(closed), &request(tcp::SYN), deny).drop, Some(Outcome::PolicyDenied));
        let again = track(Some(closed), &request(tcp::SYN), allow_frontend).store.unwrap();
        assert_eq!(State::from_raw(again.state), State::Opening);
    }

    #[test]
    fn the_cell_reaches_its_containers_and_hears_them() {
        let out = Packet { source_tag: 0, ..request(tcp::SYN) };
        let flow = by_cell(None, &out).unwrap();
        assert!(to_cell(Some(flow), &reply(tcp::SYN | tcp::ACK)).is_some());
        assert!(to_cell(Some(flow), &reply(tcp::SYN)).is_none(), "a container opens nothing to the cell");
        assert!(to_cell(None, &reply(tcp::ACK)).is_none());
        assert_eq!(track(Some(flow), &request(tcp::ACK), deny).drop, Some(Outcome::PolicyDenied));
    }

    #[test]
    fn an_icmp_error_needs_a_live_flow() {
        assert!(is_related(Some(established()), TCP, 100 * S));
        assert!(!is_related(None, TCP, 100 * S));
        let revoked = Flow { flags: flag::REVOKED, ..established() };
        assert!(!is_related(Some(revoked), TCP, 100 * S));
    }
}
