//! Telling a sender that its packet was refused, within the round trip and under a rate limit. The answer is written
//! over the refused packet; see `c2c_common::refusal` for what it says and why its checksums hold.

use aya_ebpf::programs::TcContext;
use c2c_common::bucket;
use c2c_common::counter::Outcome;
use c2c_common::refusal::{self, RESET_LEN, Segment, TOO_BIG_LEN, UNREACHABLE_LEN};
use c2c_common::wire::{ETH_LEN, TCP, tcp};

use crate::account::Account;
use crate::headers::Headers;
use crate::kernel::action::{DROP, NEXT};
use crate::kernel::maps;
use crate::kernel::skb::{self, Field, Refused, TunnelKey};

/// Answers a container of this cell.
#[inline(never)]
pub fn to_container(ctx: &TcContext, account: &Account, h: &Headers) -> i32 {
    back(ctx, account, h, answer)
}

/// Answers a container of this cell whose packet is larger than the overlay's.
#[inline(never)]
pub fn too_big(ctx: &TcContext, account: &Account, h: &Headers) -> i32 {
    back(ctx, account, h, |ctx, _| {
        let config = maps::config().ok_or(Refused)?;
        let told = refusal::too_big(&skb::load(ctx, ETH_LEN)?, config.mtu as u16);
        skb::set_len(ctx, ETH_LEN + TOO_BIG_LEN as u32)?;
        skb::store(ctx, ETH_LEN, &told)
    })
}

/// Writes an answer over the packet and sends it back to where it came from.
#[inline(always)]
fn back(
    ctx: &TcContext,
    account: &Account,
    h: &Headers,
    answer: impl Fn(&TcContext, &Headers) -> Result<(), Refused>,
) -> i32 {
    if !h.may_be_answered() || !within_limit(account, h) {
        return DROP;
    }
    let ifindex = skb::ifindex(ctx);
    match swap_macs(ctx).and_then(|()| answer(ctx, h)) {
        Ok(()) => {
            account.note(Outcome::RefusalSent);
            skb::redirect_peer(ifindex)
        }
        Err(Refused) => DROP,
    }
}

/// Lets the kernel take a refused packet out of its tunnel; its VXLAN device brings it before the program again, marked
/// so that it is answered. The way round is needed because `bpf_skb_change_tail` refuses a packet that is marked as
/// encapsulated (Linux net/core/filter.c), and only the kernel's own receiver takes that mark away.
#[inline(always)]
pub fn by_kernel(ctx: &TcContext, account: &Account, h: &Headers) -> i32 {
    if !h.may_be_answered() || !within_limit(account, h) {
        return DROP;
    }
    skb::set_mark(ctx, REFUSED_MARK);
    NEXT
}

/// The mark of a packet that was refused and counted, on its way to its answer.
pub const REFUSED_MARK: u32 = 0xc2c0_0000;

/// Answers a container of another cell, by the kernel's VXLAN device, which `ctx` has just come out of.
#[inline(never)]
pub fn to_cell(ctx: &TcContext, account: &Account, h: &Headers) -> i32 {
    let Some(config) = maps::config() else { return DROP };
    let Some(lease) = maps::lease(config, h.source) else { return DROP };
    let tunnel = TunnelKey { remote: u32::from_be(lease.underlay_addr), vni: config.vni, tag: 0 };
    let answered =
        swap_macs(ctx).and_then(|()| answer(ctx, h)).and_then(|()| skb::set_tunnel_key(ctx, &tunnel));
    match answered {
        Ok(()) => {
            account.note(Outcome::RefusalSent);
            skb::redirect(config.vxlan_ifindex)
        }
        Err(Refused) => DROP,
    }
}

/// Makes a TCP segment on its way to its receiver the end of its connection: of its flags ACK stays, and RST comes. Other
/// packets cannot say such a thing.
#[inline(always)]
pub fn make_end(ctx: &TcContext, h: &Headers) -> Result<(), Refused> {
    if h.protocol != TCP || h.is_later_fragment() {
        return Err(Refused);
    }
    const FLAGS: u32 = 12;
    const CHECKSUM: u32 = 16;
    let transport = h.at + h.ip_len;
    let [offset, flags] = skb::load::<2>(ctx, transport + FLAGS)?;
    let reset = [offset & 0xf0, flags & tcp::ACK | tcp::RST];
    let word = |bytes| u16::from_ne_bytes(bytes) as u32;
    let change = (word([offset, flags]), word(reset));
    skb::fix_checksum(ctx, transport + CHECKSUM, change, 2, Field::Own, false)?;
    skb::store(ctx, transport + FLAGS, &reset)
}

#[inline(always)]
fn within_limit(account: &Account, h: &Headers) -> bool {
    match bucket::take(maps::bucket(h.source), refusal::LIMIT, skb::now_ns()) {
        Some(bucket) => {
            maps::store_bucket(h.source, &bucket);
            true
        }
        None => {
            account.note(Outcome::RefusalLimited);
            false
        }
    }
}

/// Replaces the frame's IPv4 packet by its refusal and cuts or stretches the frame to its length.
#[inline(always)]
fn answer(ctx: &TcContext, h: &Headers) -> Result<(), Refused> {
    if h.protocol == TCP {
        let reset = refusal::reset(&segment(ctx, h)?);
        skb::set_len(ctx, ETH_LEN + RESET_LEN as u32)?;
        skb::store(ctx, ETH_LEN, &reset)
    } else {
        let unreachable = refusal::unreachable(&skb::load(ctx, ETH_LEN)?);
        skb::set_len(ctx, ETH_LEN + UNREACHABLE_LEN as u32)?;
        skb::store(ctx, ETH_LEN, &unreachable)
    }
}

#[inline(always)]
fn segment(ctx: &TcContext, h: &Headers) -> Result<Segment, Refused> {
    const SEQ: u32 = 4;
    let n: [u8; 9] = skb::load(ctx, h.at + h.ip_len + SEQ)?;
    let header = (n[8] >> 4) as u32 * 4;
    Ok(Segment {
        source: h.source,
        destination: h.destination,
        source_port: h.source_port,
        destination_port: h.destination_port,
        seq: u32::from_be_bytes([n[0], n[1], n[2], n[3]]),
        ack: u32::from_be_bytes([n[4], n[5], n[6], n[7]]),
        flags: h.tcp_flags,
        payload: h.payload_len().saturating_sub(header),
    })
}

#[inline(always)]
fn swap_macs(ctx: &TcContext) -> Result<(), Refused> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = skb::load(ctx, 0)?;
    skb::store(ctx, 0, &[g, h, i, j, k, l, a, b, c, d, e, f])
}
