//! The headers as bytes: offsets, constants, and the outer headers that carry a packet to another cell.
//!
//! VXLAN is RFC 7348, its Group Policy extension draft-smith-vxlan-group-policy-05; the inner MACs are Silk's
//! (`overlay_hardware_addr`), so that a Silk cell accepts our packets and we accept its.

use crate::addr::Addr;
use crate::checksum;

/// Bytes of an Ethernet header.
pub const ETH_LEN: u32 = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: u32 = 20;
/// Bytes of a TCP header without options.
pub const TCP_LEN: u32 = 20;
/// Bytes of a UDP header.
pub const UDP_LEN: u32 = 8;
/// Bytes of a VXLAN header.
pub const VXLAN_LEN: u32 = 8;
/// Bytes that encapsulation adds to a frame: outer IPv4, UDP, VXLAN and the inner Ethernet header.
pub const OVERHEAD: u32 = IPV4_LEN + UDP_LEN + VXLAN_LEN + ETH_LEN;
/// Bytes from the start of a tunnelled frame to its inner IPv4 header.
pub const OUTER_LEN: u32 = ETH_LEN + OVERHEAD;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// TCP flags, RFC 9293 section 3.1.
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field is meant.
    pub const ACK: u8 = 0x10;

    /// Whether a packet opens a connection. Of other protocols the flags are 0, and open none.
    #[inline(always)]
    #[must_use]
    pub const fn is_opening(flags: u8) -> bool {
        flags & (SYN | ACK) == SYN
    }

    /// Whether a packet is in the middle of a connection: it cannot open one.
    #[inline(always)]
    #[must_use]
    pub const fn is_mid_stream(flags: u8) -> bool {
        flags & (SYN | ACK) == ACK
    }
}

/// "Don't fragment" in the IPv4 flags and fragment offset field, host order.
pub const IP_DF: u16 = 0x4000;
/// "More fragments": this is not a packet's last piece.
pub const IP_MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset: not zero means that this is not a packet's first piece.
pub const IP_OFFSET: u16 = 0x1fff;
/// Both: not zero means a fragment.
pub const IP_FRAGMENT: u16 = IP_MORE_FRAGMENTS | IP_OFFSET;

/// ICMP types (RFC 792) whose identifier is translated like a port.
pub mod icmp {
    /// Asks.
    pub const ECHO_REQUEST: u8 = 8;
    /// Answers.
    pub const ECHO_REPLY: u8 = 0;
}

/// Whether a packet's flow is told by a header that only its first fragment has.
#[inline(always)]
#[must_use]
pub const fn has_header_once(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | ICMP)
}

/// What becomes of a packet's ECN bits when it leaves a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ecn {
    /// They stay.
    Keep,
    /// The packet's type of service is this now.
    Set(u8),
    /// The packet must be dropped: congestion was signalled to somebody who would not hear of it.
    Drop,
}

/// The ECN bits of a type of service.
pub const ECN_MASK: u8 = 0x03;

/// RFC 6040 section 4.2, given the type of service of the outer and the inner header.
#[inline(always)]
#[must_use]
pub const fn ecn_after_tunnel(outer: u8, inner: u8) -> Ecn {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    match (outer & ECN_MASK, inner & ECN_MASK) {
        (CE, NOT_ECT) => Ecn::Drop,
        (CE, ECT_0 | ECT_1) => Ecn::Set(inner | CE),
        (ECT_1, ECT_0) => Ecn::Set(inner & !ECN_MASK | ECT_1),
        _ => Ecn::Keep,
    }
}

/// VXLAN: the VNI is meant (RFC 7348 section 5).
pub const VXLAN_FLAG_VNI: u8 = 0x08;
/// VXLAN-GBP: the group policy id is meant.
pub const VXLAN_FLAG_GROUP: u8 = 0x80;

/// Whether an ICMP type is an error that carries the packet it is about (RFC 1122 section 3.2.2): destination
/// unreachable, source quench, redirect, time exceeded, parameter problem. An error is never answered with an error.
#[inline(always)]
#[must_use]
pub const fn is_icmp_error(icmp_type: u8) -> bool {
    matches!(icmp_type, 3 | 4 | 5 | 11 | 12)
}

/// What a VXLAN-GBP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Network identifier, 24 bits; `None` when the flag that makes it meaningful is missing.
    pub vni: Option<u32>,
    /// The source app's tag; 0 when the header carries none.
    pub tag: u16,
}

impl Vxlan {
    /// Reads the eight bytes of the header.
    #[inline(always)]
    #[must_use]
    pub const fn parse(b: [u8; 8]) -> Self {
        let vni = (b[4] as u32) << 16 | (b[5] as u32) << 8 | b[6] as u32;
        Self {
            vni: if b[0] & VXLAN_FLAG_VNI != 0 { Some(vni) } else { None },
            tag: if b[0] & VXLAN_FLAG_GROUP != 0 { u16::from_be_bytes([b[2], b[3]]) } else { 0 },
        }
    }
}

/// What stands before a tunnelled IPv4 packet, as it lies in memory. Eight words of 64 bits, because the packet path makes each of
/// them in a register and stores it once; what is stored in smaller pieces the kernel's copy would have to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OuterHeaders(pub [u64; OUTER_LEN as usize / 8]);

impl OuterHeaders {
    /// The bytes as they go on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; OUTER_LEN as usize] {
        let mut bytes = [0; OUTER_LEN as usize];
        for (to, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// A packet's way through the tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    /// This cell's underlay address.
    pub source: Addr,
    /// The other cell's.
    pub destination: Addr,
    /// UDP port of the tunnel, network order.
    pub udp_port: u16,
    /// UDP source port, host order: carries the flow's entropy.
    pub source_port: u16,
    /// VXLAN network identifier.
    pub vni: u32,
    /// The source app's tag; 0 sends no group.
    pub tag: u16,
    /// Inner destination MAC: the other cell's `overlay_hardware_addr`.
    pub inner_destination: [u8; 6],
    /// Inner source MAC.
    pub inner_source: [u8; 6],
    /// Identifies the outer packet where a router cuts it: to be another one for each (RFC 6864 section 4.3).
    pub id: u16,
    /// Length of the inner IPv4 packet in bytes.
    pub inner_len: u16,
    /// The inner packet's type of service byte; its ECN bits are copied out (RFC 6040 section 4.1, normal mode).
    pub inner_tos: u8,
}

impl Tunnel {
    /// The 64 bytes that stand before the inner IPv4 packet, ready to be stored. The outer MACs are left zero: the
    /// kernel's neighbour table fills them in. The outer UDP checksum is zero (RFC 7348 section 5) and "don't
    /// fragment" is not set: what Linux's own VXLAN device sends by default.
    #[inline(always)]
    #[must_use]
    pub fn outer(&self) -> OuterHeaders {
        let mut h = [0; OUTER_LEN as usize / 2];
        h[6] = ETHERTYPE_IPV4.to_be();
        self.outer_ipv4(&mut h);
        h[17] = self.source_port.to_be();
        h[18] = self.udp_port;
        h[19] = self.inner_len.wrapping_add(UDP_EXTRA).to_be();
        self.vxlan(&mut h);
        self.inner_ethernet(&mut h);
        let word = |i: usize| in_memory([h[i], h[i + 1], h[i + 2], h[i + 3]]);
        OuterHeaders([word(0), word(4), word(8), word(12), word(16), word(20), word(24), word(28)])
    }

    #[inline(always)]
    fn outer_ipv4(&self, h: &mut [u16; 32]) {
        h[7] = u16::from_be_bytes([0x45, self.inner_tos & 0x03]).to_be();
        h[8] = self.inner_len.wrapping_add(IP_EXTRA).to_be();
        h[9] = self.id;
        h[11] = u16::from_be_bytes([64, UDP]).to_be();
        [h[13], h[14]] = halves(self.source);
        [h[15], h[16]] = halves(self.destination);
        let sum = [h[7], h[8], h[9], h[11], h[13], h[14], h[15], h[16]]
            .iter()
            .fold(0u32, |sum, &w| sum + u32::from(w));
        h[12] = !checksum::fold(sum);
    }

    #[inline(always)]
    fn vxlan(&self, h: &mut [u16; 32]) {
        let group = if self.tag == 0 { 0 } else { VXLAN_FLAG_GROUP };
        h[21] = u16::from_be_bytes([VXLAN_FLAG_VNI | group, 0]).to_be();
        h[22] = self.tag.to_be();
        let [_, a, b, c] = self.vni.to_be_bytes();
        h[23] = u16::from_ne_bytes([a, b]);
        h[24] = u16::from_ne_bytes([c, 0]);
    }

    #[inline(always)]
    fn inner_ethernet(&self, h: &mut [u16; 32]) {
        [h[25], h[26], h[27]] = mac_words(self.inner_destination);
        [h[28], h[29], h[30]] = mac_words(self.inner_source);
        h[31] = ETHERTYPE_IPV4.to_be();
    }
}

/// The UDP source port for a flow hash, in 32768 to 60999: the kernel's own formula over its default ephemeral range
/// (`udp_flow_src_port`, include/net/udp.h), so that receivers spread the flows over their queues.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the product's upper half is below the range's length")]
pub const fn source_port(hash: u32) -> u16 {
    const LOW: u64 = 32_768;
    const HIGH: u64 = 60_999;
    let hash = hash ^ (hash << 16);
    ((hash as u64 * (HIGH - LOW)) >> 32) as u16 + LOW as u16
}

/// Four words of 16 bits that follow each other in memory, as one of 64.
#[inline(always)]
const fn in_memory(words: [u16; 4]) -> u64 {
    let [a, b, c, d] = words;
    let [first, second, third, last] =
        if cfg!(target_endian = "little") { [a, b, c, d] } else { [d, c, b, a] };
    first as u64 | (second as u64) << 16 | (third as u64) << 32 | (last as u64) << 48
}

/// An address as the two 16-bit words it is on the wire.
#[inline(always)]
pub(crate) const fn halves(addr: Addr) -> [u16; 2] {
    let [a, b, c, d] = addr.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

#[inline(always)]
const fn mac_words(m: [u8; 6]) -> [u16; 3] {
    [u16::from_ne_bytes([m[0], m[1]]), u16::from_ne_bytes([m[2], m[3]]), u16::from_ne_bytes([m[4], m[5]])]
}

/// Words in wire order to bytes.
#[inline(always)]
pub(crate) fn to_bytes<const WORDS: usize, const BYTES: usize>(words: &[u16; WORDS]) -> [u8; BYTES] {
    const { assert!(WORDS * 2 == BYTES) };
    let mut bytes = [0; BYTES];
    let mut i = 0;
    while i < WORDS {
        let [a, b] = words[i].to_ne_bytes();
        bytes[2 * i] = a;
        bytes[2 * i + 1] = b;
        i += 1;
    }
    bytes
}

/// What the outer IPv4 length says more than the inner one.
const IP_EXTRA: u16 = 50;
/// What the outer UDP length says more than the inner IPv4 one.
const UDP_EXTRA: u16 = 30;

const _: () =
    assert!(OUTER_LEN == 64 && IP_EXTRA as u32 == OVERHEAD && UDP_EXTRA as u32 == OVERHEAD - IPV4_LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::from_ipv4;
    use std::net::Ipv4Addr;

    fn tunnel(tag: u16) -> Tunnel {
        Tunnel {
            source: from_ipv4(Ipv4Addr::new(192, 0, 2, 1)),
            destination: from_ipv4(Ipv4Addr::new(192, 0, 2, 2)),
            udp_port: 4789u16.to_be(),
            source_port: 0x9c40,
            vni: 0x0a_0b_0c,
            tag,
            inner_destination: [0xee, 0xee, 10, 255, 2, 0],
            inner_source: [0xee, 0xee, 10, 255, 1, 0],
            id: 0xabcd_u16.to_be(),
            inner_len: 60,
            inner_tos: 0xb9,
        }
    }

    #[test]
    fn outer_headers_are_what_rfc_7348_says() {
        let h = tunnel(0x1234).outer().to_bytes();
        assert_eq!(h[12..14], [0x08, 0x00]);
        assert_eq!(h[14..16], [0x45, 0x01], "version, length, and only the ECN bits of the inner packet");
        assert_eq!(h[16..18], 110u16.to_be_bytes(), "outer length is the inner 60 and 50");
        assert_eq!(h[18..22], [0xab, 0xcd, 0, 0], "an id, and a router may cut it");
        assert_eq!(h[22..24], [64, 17]);
        assert_eq!(h[26..34], [192, 0, 2, 1, 192, 0, 2, 2]);
        assert_eq!(checksum::of(&h[14..34]), 0, "the header checksum verifies");
        assert_eq!(h[34..42], [0x9c, 0x40, 0x12, 0xb5, 0, 90, 0, 0]);
        assert_eq!(h[42..50], [0x88, 0, 0x12, 0x34, 0x0a, 0x0b, 0x0c, 0]);
        assert_eq!(h[50..64], [0xee, 0xee, 10, 255, 2, 0, 0xee, 0xee, 10, 255, 1, 0, 0x08, 0x00]);
    }

    #[test]
    fn congestion_leaves_the_tunnel_as_rfc_6040_says() {
        let table = [
            [Ecn::Keep, Ecn::Keep, Ecn::Keep, Ecn::Drop],
            [Ecn::Keep, Ecn::Keep, Ecn::Keep, Ecn::Set(0xb7)],
            [Ecn::Keep, Ecn::Set(0xb5), Ecn::Keep, Ecn::Set(0xb7)],
            [Ecn::Keep, Ecn::Keep, Ecn::Keep, Ecn::Keep],
        ];
        for (inner, row) in (0u8..).zip(table) {
            for (outer, want) in (0u8..).zip(row) {
                assert_eq!(ecn_after_tunnel(0x40 | outer, 0xb4 | inner), want, "{outer} around {inner}");
            }
        }
    }

    #[test]
    fn no_tag_means_no_group_flag() {
        assert_eq!(tunnel(0).outer().to_bytes()[42..46], [0x08, 0, 0, 0]);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let h = tunnel(77).outer().to_bytes();
        let vxlan = Vxlan::parse(h[42..50].try_into().unwrap());
        assert_eq!(vxlan, Vxlan { vni: Some(0x0a_0b_0c), tag: 77 });
        assert_eq!(Vxlan::parse([0; 8]), Vxlan { vni: None, tag: 0 });
    }

    #[test]
    fn source_ports_stay_in_the_ephemeral_range() {
        for hash in [0, 1, 0xffff, 0x1_0000, 0x7fff_ffff, u32::MAX] {
            assert!((32_768..=60_999).contains(&source_port(hash)), "{hash:#x}");
        }
    }
}
