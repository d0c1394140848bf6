//! Writing another address and port into a packet, with the checksums that count them. Incremental (RFC 1624), so that
//! it is right whatever is known of the packet's checksum: the helpers keep `CHECKSUM_PARTIAL` and `COMPLETE` true.

use aya_ebpf::programs::TcContext;
use c2c_common::flow::End;
use c2c_common::wire::{ICMP, TCP, UDP};

use crate::headers::{Headers, Quote};
use crate::kernel::skb::{self, Field, Refused};

/// Offsets in an IPv4 header.
const IP_CHECKSUM: u32 = 10;
const IP_SOURCE: u32 = 12;
const IP_DESTINATION: u32 = 16;
/// Offsets in a transport header.
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;
const ICMP_CHECKSUM: u32 = 2;
const ICMP_IDENTIFIER: u32 = 4;
const UDP_CHECKSUM: u32 = 6;
const TCP_CHECKSUM: u32 = 16;

/// Which end of a packet is translated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one it comes from.
    Source,
    /// The one it goes to.
    Destination,
}

impl Side {
    #[inline(always)]
    const fn addr(self) -> u32 {
        match self {
            Self::Source => IP_SOURCE,
            Self::Destination => IP_DESTINATION,
        }
    }

    #[inline(always)]
    const fn port(self) -> u32 {
        match self {
            Self::Source => SOURCE_PORT,
            Self::Destination => DESTINATION_PORT,
        }
    }
}

/// Translates one end of the packet that `h` was read from. A later fragment has an address only.
#[inline(always)]
pub fn end(ctx: &TcContext, h: &Headers, side: Side, from: End, to: End) -> Result<(), Refused> {
    let transport = h.at + h.ip_len;
    if !h.is_later_fragment() {
        match h.protocol {
            TCP => ports(ctx, transport, TCP_CHECKSUM, side, from, to)?,
            UDP => ports(ctx, transport, UDP_CHECKSUM, side, from, to)?,
            ICMP => identifier(ctx, transport, from.port, to.port)?,
            _ => {}
        }
    }
    address(ctx, h.at, side, from, to)
}

#[inline(always)]
fn ports(
    ctx: &TcContext,
    transport: u32,
    checksum: u32,
    side: Side,
    from: End,
    to: End,
) -> Result<(), Refused> {
    let (at, udp) = (transport + checksum, checksum == UDP_CHECKSUM);
    skb::fix_checksum(ctx, at, (from.addr, to.addr), 4, Field::Pseudo, udp)?;
    if from.port != to.port {
        skb::fix_checksum(ctx, at, (from.port as u32, to.port as u32), 2, Field::Own, udp)?;
        skb::store(ctx, transport + side.port(), &to.port.to_ne_bytes())?;
    }
    Ok(())
}

#[inline(always)]
fn identifier(ctx: &TcContext, transport: u32, from: u16, to: u16) -> Result<(), Refused> {
    if from == to {
        return Ok(());
    }
    skb::fix_checksum(ctx, transport + ICMP_CHECKSUM, (from as u32, to as u32), 2, Field::Own, false)?;
    skb::store(ctx, transport + ICMP_IDENTIFIER, &to.to_ne_bytes())
}

#[inline(always)]
fn address(ctx: &TcContext, ip: u32, side: Side, from: End, to: End) -> Result<(), Refused> {
    skb::fix_ipv4_checksum(ctx, ip + IP_CHECKSUM, (from.addr, to.addr), 4)?;
    skb::store(ctx, ip + side.addr(), &to.addr.to_ne_bytes())
}

/// Translates an ICMP error and the packet that it quotes: the error's own address on `side`, and the same end of the
/// flow in the quote, where it stands on the other side. The quoted IPv4 header keeps its sum, so the error's checksum
/// need only follow the port. The quoted transport checksum is left: nobody can verify it over 8 bytes.
#[inline(always)]
pub fn error(
    ctx: &TcContext,
    h: &Headers,
    quote: &Quote,
    side: Side,
    from: End,
    to: End,
) -> Result<(), Refused> {
    let quoted = if side == Side::Source { Side::Destination } else { Side::Source };
    if from.port != to.port {
        quoted_port(ctx, h, quote, quoted, (from.port, to.port))?;
    }
    address(ctx, quote.at, quoted, from, to)?;
    address(ctx, h.at, side, from, to)
}

#[inline(always)]
fn quoted_port(
    ctx: &TcContext,
    h: &Headers,
    quote: &Quote,
    side: Side,
    (from, to): (u16, u16),
) -> Result<(), Refused> {
    match quote.protocol {
        // An echo's own checksum follows its identifier, so the two cancel out in the error's.
        ICMP => identifier(ctx, quote.transport, from, to),
        TCP | UDP => {
            let checksum = h.at + h.ip_len + ICMP_CHECKSUM;
            skb::fix_checksum(ctx, checksum, (from as u32, to as u32), 2, Field::Own, false)?;
            skb::store(ctx, quote.transport + side.port(), &to.to_ne_bytes())
        }
        _ => Ok(()),
    }
}
