//! What comes to the cell through the tunnel: does the sending cell hold the address it sends for, and may the packet
//! reach the container it is for? What is not our tunnel's is `from_outside`'s.

use aya_ebpf::programs::TcContext;
use c2c_common::addr::Addr;
use c2c_common::counter::{Hook, Outcome};
use c2c_common::layout::{Config, Endpoint};
use c2c_common::wire::{self, ETH_LEN, Ecn, OUTER_LEN, Vxlan};

use crate::flows::{self, Ends, Passed};
use crate::headers::{Headers, is_tunnel};
use crate::kernel::action::DROP;
use crate::kernel::packet::Frame;
use crate::kernel::skb::Refused;
use crate::kernel::{maps, skb};
use crate::refuse::REFUSED_MARK;
use crate::{Verdict, deliver, from_outside, self_test};

const HOOK: Hook = Hook::FromUnderlay;
/// Offset of the outer type of service.
const OUTER_TOS: usize = 15;
/// Offset of the outer source address.
const OUTER_SOURCE: usize = 26;
/// Offset of the VXLAN header.
const VXLAN: u32 = 42;

/// Bytes of a frame by which it is known for whom it is: Ethernet, IPv4 and the ports. Some NICs leave no more than the
/// Ethernet header in a packet's first piece (virtio with mergeable buffers), and GRO pulls only what it can join: not
/// fragments, options, ICMP.
const ADDRESSED: u32 = 42;

/// What the outer headers said.
struct Outer {
    source: Addr,
    vxlan: Vxlan,
    /// Its type of service, as far as it was not seen to already.
    tos: u8,
    /// Whether the outer headers are still there.
    in_place: bool,
}

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext, h: &mut Headers) -> Verdict {
    let Some(config) = maps::config() else { return Verdict::NotOurs };
    skb::pull_at_least(ctx, ADDRESSED);
    if skb::ifindex(ctx) == config.vxlan_ifindex && skb::mark(ctx) == REFUSED_MARK {
        return h.read(ctx, ETH_LEN).map_or_else(Verdict::Drop, |()| Verdict::Answer);
    }
    if self_test::is_at_its_end(ctx, config) {
        return Verdict::Deliver(Outcome::SelfTest, DROP);
    }
    let by_device = skb::ifindex(ctx) == config.vxlan_ifindex;
    if by_device || is_tunnel(ctx, config.underlay_addr, config.udp_port).unwrap_or(false) {
        from_tunnel(ctx, config, h)
    } else {
        from_outside::run(ctx, h, config)
    }
}

/// What another cell sent, or pretends to.
#[inline(never)]
fn from_tunnel(ctx: &TcContext, config: &Config, h: &mut Headers) -> Verdict {
    let ctx = &skb::opaque(ctx);
    let outer = match outer(ctx, config) {
        Err(outcome) => return Verdict::Drop(outcome),
        Ok(outer) => outer,
    };
    match admit(ctx, config, h, &outer) {
        Ok(endpoint) => into_container(ctx, h, &outer, endpoint),
        Err(Outcome::SelfTest) => self_test::arrived(ctx, config, outer.source),
        Err(outcome) if outer.in_place => Verdict::refuse_if_audible(outcome),
        Err(outcome) => Verdict::Drop(outcome),
    }
}

/// Reads the tunnel, from the frame or, on the kernel's VXLAN device, from what the kernel took off.
#[inline(always)]
fn outer(ctx: &TcContext, config: &Config) -> Result<Outer, Outcome> {
    if skb::ifindex(ctx) == config.vxlan_ifindex { outer_of_device(ctx) } else { outer_of_frame(ctx) }
}

#[inline(always)]
fn outer_of_frame(ctx: &TcContext) -> Result<Outer, Outcome> {
    let source = ctx.read(OUTER_SOURCE).ok_or(Outcome::Malformed)?;
    let header = match ctx.read::<u64>(VXLAN as usize) {
        Some(word) => word.to_ne_bytes(),
        // Not in the frame's first piece.
        None => skb::load(ctx, VXLAN).map_err(|_| Outcome::Malformed)?,
    };
    let tos = ctx.read(OUTER_TOS).ok_or(Outcome::Malformed)?;
    Ok(Outer { source, vxlan: Vxlan::parse(header), tos, in_place: true })
}

#[inline(always)]
fn outer_of_device(ctx: &TcContext) -> Result<Outer, Outcome> {
    let key = skb::tunnel_key(ctx).map_err(|_| Outcome::Malformed)?;
    Ok(Outer {
        source: key.remote.to_be(),
        vxlan: Vxlan { vni: Some(key.vni), tag: key.tag },
        tos: 0,
        in_place: false,
    })
}

/// The endpoint that the packet may reach.
#[inline(always)]
fn admit(
    ctx: &TcContext,
    config: &Config,
    h: &mut Headers,
    outer: &Outer,
) -> Result<&'static Endpoint, Outcome> {
    match outer.vxlan.vni {
        None => return Err(Outcome::Malformed),
        Some(vni) if vni != config.vni => return Err(other_network(vni, config, outer)),
        Some(_) => {}
    }
    if outer.in_place {
        h.read(ctx, OUTER_LEN)?
    } else {
        h.read(ctx, ETH_LEN)?
    }
    bind(config, h.source, outer.source)?;
    let endpoint = maps::endpoint(h.destination).ok_or(Outcome::UnknownDestination)?;
    decide(ctx, h, outer.vxlan.tag, endpoint.tag)?;
    match wire::ecn_after_tunnel(outer.tos, h.tos) {
        Ecn::Drop => Err(Outcome::Ecn),
        Ecn::Keep | Ecn::Set(_) => Ok(endpoint),
    }
}

/// What a packet of another network than the overlay's is.
#[inline(always)]
fn other_network(vni: u32, config: &Config, outer: &Outer) -> Outcome {
    let is_self_test = outer.in_place && vni == c2c_common::self_test::vni(config.vni);
    if is_self_test { Outcome::SelfTest } else { Outcome::WrongVni }
}

/// The inner source must lie in the lease of the cell that sent it. Silk has no such check: there, any host that can
/// send to the tunnel's port can speak for any container.
#[inline(always)]
pub fn bind(config: &Config, inner_source: Addr, outer_source: Addr) -> Result<(), Outcome> {
    match maps::lease(config, inner_source) {
        Some(lease) if lease.underlay_addr == outer_source => Ok(()),
        _ if maps::is_cell(outer_source) => Err(Outcome::ForeignLease),
        _ => Err(Outcome::UnknownCell),
    }
}

/// `Err` is a drop. An ICMP error is judged by the flow it is about; a Silk cell's refusal is one, and has no tag.
#[inline(always)]
fn decide(ctx: &TcContext, h: &Headers, source_tag: u16, destination_tag: u16) -> Result<(), Outcome> {
    if h.is_icmp_error() {
        let related = h.quoted_flow(ctx).is_some_and(|key| flows::is_related(&key));
        return if related { Ok(()) } else { Err(Outcome::UnrelatedIcmp) };
    }
    let ends = Ends { source_tag, destination_tag, source_is_local: false, destination_is_local: true };
    match flows::track(HOOK, h, ends)? {
        // Not here: who was called is on the cell that enforces.
        Passed::AsTheEnd => Err(Outcome::PolicyRevoked),
        Passed::AsItIs | Passed::AnswerOfMapped => Ok(()),
    }
}

/// What cannot be unwrapped here the kernel's VXLAN device unwraps, and brings before this program again.
#[inline(always)]
fn into_container(ctx: &TcContext, h: &Headers, outer: &Outer, endpoint: &Endpoint) -> Verdict {
    if !outer.in_place {
        skb::set_for_this_host(ctx);
    } else if skb::shrink_from_tunnel(ctx).is_err() {
        return Verdict::NotOurs;
    }
    if let Ecn::Set(tos) = wire::ecn_after_tunnel(outer.tos, h.tos)
        && mark_congestion(ctx, h.tos, tos).is_err()
    {
        return Verdict::Drop(Outcome::Failed);
    }
    deliver::to_endpoint(ctx, endpoint)
}

/// Writes the type of service of the packet, which now begins behind the Ethernet header.
#[inline(never)]
fn mark_congestion(ctx: &TcContext, from: u8, to: u8) -> Result<(), Refused> {
    const TOS: u32 = ETH_LEN + 1;
    const CHECKSUM: u32 = ETH_LEN + 10;
    // The low byte of a word whose other byte stays.
    let word = |tos: u8| u16::from_be_bytes([0, tos]).to_be() as u32;
    skb::fix_ipv4_checksum(ctx, CHECKSUM, (word(from), word(to)), 2)?;
    skb::store(ctx, TOS, &[to])
}
