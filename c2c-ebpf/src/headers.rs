//! Reading a packet's IPv4 and transport headers into what the programs ask about. Holds no decision.

use aya_ebpf::programs::TcContext;
use c2c_common::addr::Addr;
use c2c_common::counter::Outcome;
use c2c_common::flow::{End, FlowKey};
use c2c_common::layout::{FragmentKey, FragmentPorts};
use c2c_common::options::{self, MAX_OPTIONS};
use c2c_common::wire::{
    self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ICMP, IP_DF, IP_FRAGMENT, IP_MORE_FRAGMENTS, IP_OFFSET, IPV4_LEN,
    TCP, UDP, icmp, is_icmp_error, tcp,
};

use crate::kernel::packet::{Frame, zeroed};
use crate::kernel::{maps, skb};

/// Bytes from the IPv4 header's start that parsing reads directly: an IPv4 header without options and the shortest of
/// TCP. Not one more: a TCP sender keeps its payload in pages, and to ask for a byte of it has it copied (measured at
/// a third of the program's time).
const LOOK_AHEAD: u32 = IPV4_LEN + 20;

/// The headers of a packet, all zeros ([`crate::kernel::packet::zeroed`]) until they were read.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
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
    /// Ports, network order; 0 for protocols without. The identifier of an ICMP echo stands for the port of the end
    /// that asks.
    pub source_port: u16,
    /// See `source_port`.
    pub destination_port: u16,
    /// Flags and offset of the IPv4 header, host order: what of a packet this is.
    pub fragment: u16,
    /// TCP flags.
    pub tcp_flags: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// Zero, so that the whole is eight-byte words.
    pub pad: [u8; 3],
}

const _: () = assert!(size_of::<Headers>() == 32);

/// What the transport header says.
struct Transport {
    source_port: u16,
    destination_port: u16,
    tcp_flags: u8,
    icmp: [u8; 2],
}

impl Transport {
    const NONE: Self = Self { source_port: 0, destination_port: 0, tcp_flags: 0, icmp: [0; 2] };
}

impl Headers {
    /// Reads the headers of the frame's IPv4 packet at `at`. The offset is passed on as a constant, and not read back
    /// from memory: the verifier knows what lies within the packet only for constants.
    #[inline(always)]
    pub fn read(&mut self, ctx: &TcContext, at: u32) -> Result<(), Outcome> {
        let wanted = ctx.len().min(at + LOOK_AHEAD);
        if ctx.data_end() - ctx.data() < wanted as usize {
            skb::pull(ctx, wanted).map_err(|_| Outcome::Malformed)?;
        }
        self.at = at;
        self.ipv4(ctx, at).ok_or(Outcome::Malformed)??;
        if self.ip_len > IPV4_LEN && is_source_routed(ctx, at + IPV4_LEN, self.ip_len - IPV4_LEN) {
            return Err(Outcome::SourceRoute);
        }
        if self.is_later_fragment() {
            return self.take_ports(ctx, at);
        }
        self.transport(ctx, at).ok_or(Outcome::Malformed)?;
        if self.fragment & IP_MORE_FRAGMENTS != 0 {
            self.leave_ports(ctx, at)?;
        }
        Ok(())
    }

    /// Takes the ports of a later fragment from what the first one left. Fragments that come before their first one are
    /// dropped: to keep them would take memory that a sender chooses.
    #[inline(always)]
    fn take_ports(&mut self, ctx: &TcContext, at: u32) -> Result<(), Outcome> {
        if wire::has_header_once(self.protocol) {
            let ports = maps::fragment(&self.fragment_key(ctx, at)?).ok_or(Outcome::Fragment)?;
            (self.source_port, self.destination_port) = (ports.source, ports.destination);
        }
        Ok(())
    }

    /// Leaves the ports of a first fragment for those that follow.
    #[inline(always)]
    fn leave_ports(&self, ctx: &TcContext, at: u32) -> Result<(), Outcome> {
        let ports = FragmentPorts { source: self.source_port, destination: self.destination_port };
        maps::store_fragment(&self.fragment_key(ctx, at)?, &ports);
        Ok(())
    }

    #[inline(always)]
    fn fragment_key(&self, ctx: &TcContext, at: u32) -> Result<FragmentKey, Outcome> {
        let id = ctx.read(at as usize + 4).ok_or(Outcome::Malformed)?;
        Ok(FragmentKey {
            source: self.source,
            destination: self.destination,
            id,
            protocol: self.protocol as u16,
        })
    }

    #[inline(always)]
    fn ipv4(&mut self, ctx: &TcContext, at: u32) -> Option<Result<(), Outcome>> {
        let at = at as usize;
        let ethertype = u16::from_be(ctx.read::<u16>(at - 2)?);
        if ethertype != ETHERTYPE_IPV4 {
            return Some(Err(if ethertype == ETHERTYPE_ARP { Outcome::Arp } else { Outcome::NotIpv4 }));
        }
        let version_and_length = ctx.read::<u8>(at)?;
        self.ip_len = ((version_and_length & 0x0f) as u32) * 4;
        self.tos = ctx.read::<u8>(at + 1)?;
        self.total_len = u16::from_be(ctx.read::<u16>(at + 2)?);
        self.fragment = u16::from_be(ctx.read::<u16>(at + 6)?);
        self.source = ctx.read::<u32>(at + 12)?;
        self.destination = ctx.read::<u32>(at + 16)?;
        let fits = self.total_len as u32 >= self.ip_len && at as u32 + self.total_len as u32 <= ctx.len();
        if version_and_length >> 4 != 4 || self.ip_len < IPV4_LEN || !fits {
            return None;
        }
        self.protocol = ctx.read::<u8>(at + 9)?;
        Some(Ok(()))
    }

    #[inline(always)]
    fn transport(&mut self, ctx: &TcContext, at: u32) -> Option<()> {
        let transport = if self.ip_len == IPV4_LEN {
            self.ports(
                |offset| ctx.read((at + IPV4_LEN + offset) as usize),
                |offset| ctx.read((at + IPV4_LEN + offset) as usize),
            )
        } else {
            self.ports_behind_options(ctx, at)
        }?;
        self.source_port = transport.source_port;
        self.destination_port = transport.destination_port;
        self.tcp_flags = transport.tcp_flags;
        [self.icmp_type, self.icmp_code] = transport.icmp;
        Some(())
    }

    #[inline(always)]
    fn ports_behind_options(&self, ctx: &TcContext, at: u32) -> Option<Transport> {
        let at = at + self.ip_len;
        let bytes = match self.protocol {
            TCP => skb::load::<14>(ctx, at).ok()?,
            _ => widen(skb::load::<8>(ctx, at).ok()?),
        };
        let word = |offset: u32| {
            let i = (offset & 0xe) as usize;
            Some(u16::from_ne_bytes([bytes[i], *bytes.get(i + 1)?]))
        };
        self.ports(word, |offset| bytes.get(offset as usize).copied())
    }

    /// The transport header, given readers of a word and of a byte of it.
    #[inline(always)]
    fn ports(
        &self,
        word: impl Fn(u32) -> Option<u16>,
        byte: impl Fn(u32) -> Option<u8>,
    ) -> Option<Transport> {
        const TCP_FLAGS: u32 = 13;
        match self.protocol {
            TCP if self.payload_len() >= 20 => Some(Transport {
                source_port: word(0)?,
                destination_port: word(2)?,
                tcp_flags: byte(TCP_FLAGS)?,
                ..Transport::NONE
            }),
            UDP if self.payload_len() >= 8 => {
                Some(Transport { source_port: word(0)?, destination_port: word(2)?, ..Transport::NONE })
            }
            ICMP if self.payload_len() >= 8 => {
                const IDENTIFIER: u32 = 4;
                let icmp = [byte(0)?, byte(1)?];
                Some(match icmp[0] {
                    icmp::ECHO_REQUEST => {
                        Transport { source_port: word(IDENTIFIER)?, icmp, ..Transport::NONE }
                    }
                    icmp::ECHO_REPLY => {
                        Transport { destination_port: word(IDENTIFIER)?, icmp, ..Transport::NONE }
                    }
                    _ => Transport { icmp, ..Transport::NONE },
                })
            }
            TCP | UDP | ICMP => None,
            _ => Some(Transport::NONE),
        }
    }

    /// Whether this is a piece of a packet that another piece of holds the transport header.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment & IP_OFFSET != 0
    }

    /// Whether this is a piece of a packet.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.fragment & IP_FRAGMENT != 0
    }

    /// Whether routers must not cut the packet.
    #[inline(always)]
    pub fn must_stay_whole(&self) -> bool {
        self.fragment & IP_DF != 0
    }

    /// The packet's source: address and port.
    #[inline(always)]
    pub fn source(&self) -> End {
        End { addr: self.source, port: self.source_port }
    }

    /// Its destination.
    #[inline(always)]
    pub fn destination(&self) -> End {
        End { addr: self.destination, port: self.destination_port }
    }

    /// Bytes behind the IPv4 header.
    #[inline(always)]
    pub fn payload_len(&self) -> u32 {
        (self.total_len as u32).wrapping_sub(self.ip_len)
    }

    /// The key of the packet's flow, and whether the packet comes from the key's first end.
    #[inline(always)]
    pub fn flow_key(&self) -> (FlowKey, bool) {
        FlowKey::new(self.source(), self.destination(), self.protocol)
    }

    /// Whether this is an ICMP error, which is about another packet.
    #[inline(always)]
    pub fn is_icmp_error(&self) -> bool {
        self.protocol == ICMP && is_icmp_error(self.icmp_type)
    }

    /// Whether the packet may be answered with a refusal: errors, resets, later fragments and what is for many never are
    /// (RFC 1122 sections 3.2.2 and 4.2.3.10). A packet with options is answered by a reset only, which need not quote them.
    #[inline(always)]
    pub fn may_be_answered(&self) -> bool {
        let reset = self.protocol == TCP && self.tcp_flags & tcp::RST != 0;
        let quotable = self.ip_len == IPV4_LEN || self.protocol == TCP;
        let to_one = is_routable(self.destination);
        quotable && to_one && !reset && !self.is_icmp_error() && !self.is_later_fragment()
    }

    /// The packet that an ICMP error quotes.
    #[inline(always)]
    pub fn quote(&self, ctx: &TcContext) -> Option<Quote> {
        const ICMP_LEN: u32 = 8;
        let at = self.at + self.ip_len + ICMP_LEN;
        let ip: [u8; 20] = skb::load(ctx, at).ok()?;
        let transport = at + ((ip[0] & 0x0f) as u32) * 4;
        let first: [u8; 8] = skb::load(ctx, transport).ok()?;
        let word = |i: usize| u16::from_ne_bytes([first[i], first[i + 1]]);
        let protocol = ip[9];
        let (source_port, destination_port) = match protocol {
            TCP | UDP => (word(0), word(2)),
            ICMP if first[0] == icmp::ECHO_REQUEST => (word(4), 0),
            ICMP if first[0] == icmp::ECHO_REPLY => (0, word(4)),
            ICMP => return None,
            _ => (0, 0),
        };
        Some(Quote {
            at,
            transport,
            protocol,
            source: End { addr: Addr::from_ne_bytes([ip[12], ip[13], ip[14], ip[15]]), port: source_port },
            destination: End {
                addr: Addr::from_ne_bytes([ip[16], ip[17], ip[18], ip[19]]),
                port: destination_port,
            },
        })
    }

    /// The flow of the packet that an ICMP error quotes, if the quote came from the container that is told: the quoted
    /// sender must be the error's receiver.
    #[inline(always)]
    pub fn quoted_flow(&self, ctx: &TcContext) -> Option<FlowKey> {
        let quote = self.quote(ctx)?;
        if quote.source.addr != self.destination || !matches!(quote.protocol, TCP | UDP | ICMP) {
            return None;
        }
        Some(FlowKey::new(quote.source, quote.destination, quote.protocol).0)
    }
}

/// Whether routers take packets to an address: not to this network, loopback, multicast and reserved.
#[inline(always)]
pub fn is_routable(addr: Addr) -> bool {
    let [first, ..] = addr.to_ne_bytes();
    !matches!(first, 0 | 127 | 224..)
}

/// The packet that an ICMP error quotes.
pub struct Quote {
    /// Offset of its IPv4 header in the frame.
    pub at: u32,
    /// Offset of its transport header.
    pub transport: u32,
    /// Its protocol number.
    pub protocol: u8,
    /// Its source.
    pub source: End,
    /// Its destination.
    pub destination: End,
}

/// The options of an IPv4 header, with zeros after their end.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct OptionBytes([u8; MAX_OPTIONS]);

/// Apart, because few packets have options and the buffer would be on the stack of all.
#[inline(never)]
fn is_source_routed(ctx: &TcContext, at: u32, len: u32) -> bool {
    let mut options: OptionBytes = zeroed();
    // What cannot be read cannot be cleared of it.
    skb::load_into(ctx, at, len, &mut options.0).is_err() || options::are_source_routed(&options.0)
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
