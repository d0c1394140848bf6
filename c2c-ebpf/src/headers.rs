//! Reading a packet's IPv4 and transport headers into what the programs ask about. Holds no decision.

use aya_ebpf::programs::TcContext;
use c2c_common::addr::Addr;
use c2c_common::counter::Outcome;
use c2c_common::flow::{End, FlowKey};
use c2c_common::wire::{self, ETHERTYPE_IPV4, ICMP, IP_FRAGMENT, IPV4_LEN, TCP, UDP, is_icmp_error, tcp};

use crate::kernel::packet::Frame;
use crate::kernel::skb;

/// Bytes from the IPv4 header's start that parsing reads directly: an IPv4 header without options and the shortest of
/// TCP. Not one more: a TCP sender keeps its payload in pages, and to ask for a byte of it has it copied (measured at
/// a third of the program's time).
const LOOK_AHEAD: u32 = IPV4_LEN + 20;

/// The headers of a packet between containers. Aligned so that zeroing it is a few stores: aya's `memset` is a loop over
/// bytes, and this runs for every packet.
#[derive(Clone, Copy, Default)]
#[repr(align(8))]
pub struct Headers {
    /// Offset of the IPv4 header in the frame.
    pub at: u32,
    /// Length of the IPv4 header.
    pub ip_len: u32,
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Length of the IPv4 packet.
    pub total_len: u16,
    /// Type of service.
    pub tos: u8,
    /// Protocol number; 0 until the header was read.
    pub protocol: u8,
    /// Ports, network order; 0 for protocols without.
    pub source_port: u16,
    /// See `source_port`.
    pub destination_port: u16,
    /// TCP flags.
    pub tcp_flags: u8,
    /// ICMP type.
    pub icmp_type: u8,
}

impl Headers {
    /// Reads the headers of the frame's IPv4 packet at `at`.
    #[inline(always)]
    pub fn read(&mut self, ctx: &TcContext, at: u32) -> Result<(), Outcome> {
        let wanted = ctx.len().min(at + LOOK_AHEAD);
        if ctx.data_end() - ctx.data() < wanted as usize {
            skb::pull(ctx, wanted).map_err(|_| Outcome::Malformed)?;
        }
        self.at = at;
        self.ipv4(ctx).ok_or(Outcome::Malformed)??;
        self.transport(ctx).ok_or(Outcome::Malformed)
    }

    #[inline(always)]
    fn ipv4(&mut self, ctx: &TcContext) -> Option<Result<(), Outcome>> {
        let at = self.at as usize;
        if ctx.read::<u16>(at - 2)? != ETHERTYPE_IPV4.to_be() {
            return Some(Err(Outcome::NotIpv4));
        }
        let version_and_length = ctx.read::<u8>(at)?;
        self.ip_len = ((version_and_length & 0x0f) as u32) * 4;
        self.tos = ctx.read::<u8>(at + 1)?;
        self.total_len = u16::from_be(ctx.read::<u16>(at + 2)?);
        let fragment = u16::from_be(ctx.read::<u16>(at + 6)?);
        self.source = ctx.read::<u32>(at + 12)?;
        self.destination = ctx.read::<u32>(at + 16)?;
        let fits = self.total_len as u32 >= self.ip_len && self.at + self.total_len as u32 <= ctx.len();
        if version_and_length >> 4 != 4 || self.ip_len < IPV4_LEN || !fits {
            return None;
        }
        self.protocol = ctx.read::<u8>(at + 9)?;
        if fragment & IP_FRAGMENT != 0 {
            return Some(Err(Outcome::Fragment));
        }
        Some(Ok(()))
    }

    #[inline(always)]
    fn transport(&mut self, ctx: &TcContext) -> Option<()> {
        if self.ip_len == IPV4_LEN {
            self.ports(
                |offset| ctx.read((self.at + IPV4_LEN + offset) as usize),
                |offset| ctx.read((self.at + IPV4_LEN + offset) as usize),
            )
            .map(|ports| self.set(ports))
        } else {
            // A header with options has its end at a place that only the packet knows: let the helper check it.
            let at = self.at + self.ip_len;
            let bytes: [u8; 14] = match self.protocol {
                TCP => skb::load(ctx, at).ok()?,
                _ => widen(skb::load::<8>(ctx, at).ok()?),
            };
            let word = |offset: u32| {
                let i = (offset & 0xe) as usize;
                Some(u16::from_ne_bytes([bytes[i], *bytes.get(i + 1)?]))
            };
            self.ports(word, |offset| bytes.get(offset as usize).copied()).map(|ports| self.set(ports))
        }
    }

    /// Ports, TCP flags and ICMP type, given readers of a word and of a byte of the transport header.
    #[inline(always)]
    fn ports(
        &self,
        word: impl Fn(u32) -> Option<u16>,
        byte: impl Fn(u32) -> Option<u8>,
    ) -> Option<(u16, u16, u8, u8)> {
        const TCP_FLAGS: u32 = 13;
        match self.protocol {
            TCP if self.payload_len() >= 20 => Some((word(0)?, word(2)?, byte(TCP_FLAGS)?, 0)),
            UDP if self.payload_len() >= 8 => Some((word(0)?, word(2)?, 0, 0)),
            ICMP if self.payload_len() >= 8 => Some((0, 0, 0, byte(0)?)),
            TCP | UDP | ICMP => None,
            _ => Some((0, 0, 0, 0)),
        }
    }

    #[inline(always)]
    fn set(&mut self, (source_port, destination_port, tcp_flags, icmp_type): (u16, u16, u8, u8)) {
        self.source_port = source_port;
        self.destination_port = destination_port;
        self.tcp_flags = tcp_flags;
        self.icmp_type = icmp_type;
    }

    /// Bytes behind the IPv4 header.
    #[inline(always)]
    pub fn payload_len(&self) -> u32 {
        (self.total_len as u32).wrapping_sub(self.ip_len)
    }

    /// The key of the packet's flow, and whether the packet comes from the key's first end.
    #[inline(always)]
    pub fn flow_key(&self) -> (FlowKey, bool) {
        let source = End { addr: self.source, port: self.source_port };
        FlowKey::new(source, End { addr: self.destination, port: self.destination_port }, self.protocol)
    }

    /// Whether this is an ICMP error, which is about another packet.
    #[inline(always)]
    pub fn is_icmp_error(&self) -> bool {
        self.protocol == ICMP && is_icmp_error(self.icmp_type)
    }

    /// Whether the packet may be answered with a refusal: errors and resets never are (RFC 1122 section 3.2.2).
    #[inline(always)]
    pub fn may_be_answered(&self) -> bool {
        let reset = self.protocol == TCP && self.tcp_flags & tcp::RST != 0;
        self.ip_len == IPV4_LEN && !reset && !self.is_icmp_error()
    }

    /// The flow of the packet that an ICMP error quotes, if the quote came from the container that is told: the quoted
    /// sender must be the error's receiver.
    #[inline(always)]
    pub fn quoted_flow(&self, ctx: &TcContext) -> Option<FlowKey> {
        const ICMP_LEN: u32 = 8;
        let at = self.at + self.ip_len + ICMP_LEN;
        let quote: [u8; 20] = skb::load(ctx, at).ok()?;
        let source = Addr::from_ne_bytes([quote[12], quote[13], quote[14], quote[15]]);
        let destination = Addr::from_ne_bytes([quote[16], quote[17], quote[18], quote[19]]);
        let protocol = quote[9];
        if source != self.destination || !matches!(protocol, TCP | UDP) {
            return None;
        }
        let header = ((quote[0] & 0x0f) as u32) * 4;
        let ports: [u8; 4] = skb::load(ctx, at + header).ok()?;
        let source = End { addr: source, port: u16::from_ne_bytes([ports[0], ports[1]]) };
        let destination = End { addr: destination, port: u16::from_ne_bytes([ports[2], ports[3]]) };
        Some(FlowKey::new(source, destination, protocol).0)
    }
}

#[inline(always)]
fn widen(bytes: [u8; 8]) -> [u8; 14] {
    let mut wide = [0; 14];
    let mut i = 0;
    while i < 8 {
        wide[i] = bytes[i];
        i += 1;
    }
    wide
}

/// Whether a frame is an IPv4 UDP packet to `port` at `addr`, without options and not a later fragment. Anything else
/// is not the overlay's; what the kernel must reassemble first comes in by the VXLAN device.
#[inline(always)]
pub fn is_tunnel(frame: &impl Frame, addr: Addr, port: u16) -> Option<bool> {
    const OPTIONLESS_IPV4: u8 = 0x45;
    let is_udp = frame.read::<u16>(12)? == ETHERTYPE_IPV4.to_be()
        && frame.read::<u8>(14)? == OPTIONLESS_IPV4
        && frame.read::<u8>(23)? == wire::UDP;
    if !is_udp || u16::from_be(frame.read::<u16>(20)?) & IP_FRAGMENT != 0 {
        return Some(false);
    }
    Some(frame.read::<u32>(30)? == addr && frame.read::<u16>(36)? == port)
}
