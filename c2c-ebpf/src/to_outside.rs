//! What a container sends beyond the overlay: the answer of a mapped port, a flow that its rules allow, or a refusal.

use aya_ebpf::programs::TcContext;
use c2c_common::addr::Addr;
use c2c_common::bucket::{self, Limit};
use c2c_common::counter::{Hook, Outcome};
use c2c_common::egress::{self, Answer, icmp_port};
use c2c_common::flow::{End, FlowKey, flag};
use c2c_common::layout::{Config, Endpoint, Event, RateKey, config_flag};
use c2c_common::outside::{Seen, Translation};
use c2c_common::wire::{ICMP, TCP, icmp, tcp};

use crate::Verdict;
use crate::headers::{Headers, is_routable};
use crate::kernel::{maps, skb};
use crate::masquerade::{self, Ends, Found, Missed};
use crate::outside::{keep, seen};
use crate::to_this_cell::mapped_to;
use crate::translate::{self, Side};

const HOOK: Hook = Hook::FromContainer;

/// The packet's way out in a flow that is in the table, where it nearly always is.
#[inline(never)]
pub fn known(ctx: &TcContext, h: &Headers, config: &Config, sender: &Endpoint) -> Result<Verdict, Missed> {
    let (key, from_first) = h.flow_key();
    let mut seen = seen(h, from_first, sender.ifindex);
    if let Some((slot, flow)) = maps::translation(&key)
        && flow.speaks_for(&seen)
    {
        let found = Found { slot, flow, from_first, end: flow.end() };
        return Ok(follow(ctx, h, config, sender, (&seen, &found)));
    }
    let found = masquerade::find(config, ends(h, sender), seen.is_opening(), seen.now_ns)?;
    seen.from_first = found.from_first;
    if !found.flow.speaks_for(&seen) {
        return Err(Missed::All);
    }
    Ok(follow(ctx, h, config, sender, (&seen, &found)))
}

/// The same in a further place.
#[inline(never)]
pub fn known_further(ctx: &TcContext, h: &Headers, config: &Config, sender: &Endpoint) -> Option<Verdict> {
    let mut seen = seen(h, false, sender.ifindex);
    let found = masquerade::find_further(config, ends(h, sender), seen.is_opening(), seen.now_ns)?;
    seen.from_first = found.from_first;
    if !found.flow.speaks_for(&seen) {
        return None;
    }
    Some(follow(ctx, h, config, sender, (&seen, &found)))
}

#[inline(always)]
fn ends(h: &Headers, sender: &Endpoint) -> Ends {
    Ends { container: h.source(), ifindex: sender.ifindex, outside: h.destination(), protocol: h.protocol }
}

/// The verdict of the rules holds as long as the container has the same; else they are asked again.
#[inline(always)]
fn follow(
    ctx: &TcContext,
    h: &Headers,
    config: &Config,
    sender: &Endpoint,
    (seen, found): (&Seen, &Found),
) -> Verdict {
    let mut flow = found.flow;
    if !flow.is_mapped() && !flow.is_allowed_by(sender.egress) {
        let allowed = judge(sender.egress, h.destination, h.protocol, port(h)) != Answer::Denied;
        flow = flow.judged(sender.egress, allowed);
        if !allowed {
            found.slot.write(&flow);
            return Verdict::Refuse(Outcome::EgressRevoked);
        }
    }
    let (next, ended) = flow.after(seen);
    if next != found.flow {
        found.slot.write(&next);
    }
    if ended {
        maps::close_connection(h.source);
    }
    send(ctx, h, config, found.end)
}

/// What the rules of a set say. Port in host order.
#[inline(always)]
pub fn judge(set: u32, addr: Addr, protocol: u8, port: u16) -> Answer {
    if set == 0 {
        return Answer::Denied;
    }
    egress::decide(maps::egress(set, addr), protocol, port, maps::egress_ports)
}

/// What the rules have for a port: ICMP's type and code stand for one.
#[inline(always)]
fn port(h: &Headers) -> u16 {
    if h.protocol == ICMP { icmp_port(h.icmp_type, h.icmp_code) } else { u16::from_be(h.destination_port) }
}

/// Whether a packet that belongs to no flow in the table may open one.
pub enum Admission {
    /// No.
    Refused(Outcome),
    /// It goes to the cell itself.
    Local,
    /// Yes.
    Admitted,
}

/// Asks the rules and the limits.
#[inline(never)]
pub fn admit(h: &Headers, config: &Config, sender: &Endpoint) -> Admission {
    let seen = seen(h, true, sender.ifindex);
    if maps::is_local(h.destination) {
        return Admission::Local;
    }
    if is_routable(h.destination) && lost_mapping(h, config, &seen).is_some() {
        return Admission::Admitted;
    }
    if !is_routable(h.destination) || (h.protocol == ICMP && h.icmp_type != icmp::ECHO_REQUEST) {
        return Admission::Refused(Outcome::EgressDenied);
    }
    let answer = judge(sender.egress, h.destination, h.protocol, port(h));
    if answer == Answer::Denied {
        return Admission::Refused(Outcome::EgressDenied);
    }
    if seen.is_opening() && !within_rate(h, config, seen.now_ns) {
        return Admission::Refused(Outcome::RateLimited);
    }
    let counted = is_counted(h);
    // One in the middle of which the entry was lost counts as well, but only one that begins can be too many.
    let ceiling = if seen.is_opening() { config.max_connections } else { 0 };
    if counted && !maps::open_connection(h.source, ceiling) {
        return Admission::Refused(Outcome::ConnectionsLimited);
    }
    if answer == Answer::Logged {
        maps::tell(&event(h, Outcome::ToOutside));
    }
    Admission::Admitted
}

/// Whether the container's ceiling counts what this packet begins. A reset begins nothing.
#[inline(always)]
fn is_counted(h: &Headers) -> bool {
    h.protocol == TCP && h.tcp_flags & tcp::RST == 0
}

/// Of an answer from a mapped port whose flow the table has lost: what the outside called. Only in the middle of a TCP
/// connection: such a packet can open nothing.
#[inline(always)]
fn lost_mapping(h: &Headers, config: &Config, seen: &Seen) -> Option<End> {
    if !seen.is_mid_stream() {
        return None;
    }
    mapped_to(config, h.source(), TCP)
}

#[inline(always)]
fn within_rate(h: &Headers, config: &Config, now_ns: u64) -> bool {
    if config.rate_interval_ns == 0 {
        return true;
    }
    let key = RateKey { source: h.source, destination: h.destination, port: h.destination_port, pad: 0 };
    let limit = Limit { burst: config.rate_burst, interval_ns: config.rate_interval_ns as u64 };
    if let Some(bucket) = bucket::take(maps::rate(&key), limit, now_ns) {
        maps::store_rate(&key, &bucket);
        return true;
    }
    let dry_run = config.flags & config_flag::RATE_DRY_RUN != 0;
    if dry_run {
        maps::count(HOOK, Outcome::RateWouldLimit, 1, 0);
        maps::tell(&event(h, Outcome::RateWouldLimit));
    }
    dry_run
}

/// Opens the flow of a packet that was admitted.
#[inline(never)]
pub fn open(ctx: &TcContext, h: &Headers, config: &Config, sender: &Endpoint) -> Verdict {
    let (key, from_first) = h.flow_key();
    let seen = seen(h, from_first, sender.ifindex);
    if let Some(end) = lost_mapping(h, config, &seen) {
        let by_outside = Seen { from_first: !from_first, ..seen };
        let opened = Translation::opened(&by_outside, 0, end, flag::MAPPED);
        keep(HOOK, &key, maps::translation(&key), &opened);
        return send(ctx, h, config, end);
    }
    let flags = if is_counted(h) { flag::COUNTED } else { 0 };
    let opened = Translation::opened(&seen, sender.egress, h.source(), flags).or_its_end(&seen);
    if maps::is_not_masqueraded(h.destination) {
        keep(HOOK, &key, maps::translation(&key), &opened);
        return send(ctx, h, config, h.source());
    }
    match masquerade::claim(config, ends(h, sender), &opened) {
        Some(end) => send(ctx, h, config, end),
        None => {
            if opened.is_counted() {
                maps::close_connection(h.source);
            }
            Verdict::Refuse(Outcome::NatExhausted)
        }
    }
}

#[inline(always)]
fn event(h: &Headers, outcome: Outcome) -> Event {
    Event {
        source: h.source,
        destination: h.destination,
        source_port: h.source_port,
        destination_port: h.destination_port,
        protocol: h.protocol,
        outcome: outcome as u8,
        icmp: [h.icmp_type, h.icmp_code],
    }
}

/// Out of the cell, coming from `end`.
#[inline(always)]
fn send(ctx: &TcContext, h: &Headers, config: &Config, end: End) -> Verdict {
    if end != h.source() && translate::end(ctx, h, Side::Source, h.source(), end).is_err() {
        return Verdict::Drop(Outcome::Failed);
    }
    Verdict::Deliver(Outcome::ToOutside, skb::redirect_neigh(config.underlay_ifindex))
}

/// An ICMP error that a container sends about a packet from outside.
#[inline(never)]
pub fn error(ctx: &TcContext, h: &Headers, config: &Config) -> Verdict {
    let unrelated = Verdict::Drop(Outcome::UnrelatedIcmp);
    let Some(quote) = h.quote(ctx) else { return unrelated };
    if quote.destination.addr != h.source || quote.source.addr != h.destination {
        return unrelated;
    }
    let now_ns = skb::now_ns();
    let (key, _) = FlowKey::new(quote.source, quote.destination, quote.protocol);
    let (container, ifindex) = (quote.destination, skb::ifindex(ctx));
    let ends = Ends { container, ifindex, outside: quote.source, protocol: quote.protocol };
    let found = match maps::translation(&key) {
        Some((_, flow)) => Some((flow, flow.end())),
        None => match masquerade::find(config, ends, false, now_ns) {
            Ok(found) => Some((found.flow, found.end)),
            Err(_) => {
                masquerade::find_further(config, ends, false, now_ns).map(|found| (found.flow, found.end))
            }
        },
    };
    let alive = |flow: &Translation| flow.is_of(ifindex) && flow.is_alive(quote.protocol, now_ns);
    let Some((_, end)) = found.filter(|(flow, _)| alive(flow)) else {
        return unrelated;
    };
    if translate::error(ctx, h, &quote, Side::Source, container, end).is_err() {
        return Verdict::Drop(Outcome::Failed);
    }
    Verdict::Deliver(Outcome::ToOutside, skb::redirect_neigh(config.underlay_ifindex))
}
