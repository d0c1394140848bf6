//! The answers to what is refused: a TCP reset (RFC 9293 section 3.10.7.1) or an ICMP port-unreachable (RFC 792), built
//! from the refused packet as if its receiver had answered, and the rate limit on them.
//!
//! The answer is written over the refused packet, in the kernel's own buffer, and that buffer may be marked
//! `CHECKSUM_PARTIAL`: then the kernel, or a device, *adds* a checksum at the place where the refused packet had its
//! own. A program can neither see nor clear that mark. So the answers are built to be fixed points: whether or not the
//! checksum is computed over them once more, the same bytes come out (see [`reset`] and [`unreachable`]).

use crate::addr::Addr;
use crate::bucket::Limit;
use crate::checksum::{fold, sum};
use crate::wire::{ICMP, TCP, halves, tcp, to_bytes};

/// Bytes of a reset: IPv4 and TCP header.
pub const RESET_LEN: usize = 40;
/// Bytes of the refused packet that an ICMP error quotes: its IPv4 header and 8 bytes (RFC 792).
pub const QUOTE_LEN: usize = 28;
/// Bytes of a port-unreachable: IPv4 and ICMP header, and the quote.
pub const UNREACHABLE_LEN: usize = 56;

/// What a reset must know of the refused segment; ports and numbers as integers.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Its source address.
    pub source: Addr,
    /// Its destination address.
    pub destination: Addr,
    /// Its source port, network order.
    pub source_port: u16,
    /// Its destination port, network order.
    pub destination_port: u16,
    /// Its sequence number.
    pub seq: u32,
    /// Its acknowledgement number.
    pub ack: u32,
    /// Its flags.
    pub flags: u8,
    /// Bytes of its payload.
    pub payload: u32,
}

/// The reset that answers a segment. Never build one for a segment that is a reset itself.
///
/// Fixed point: let P be the pseudo header's sum and S that of the TCP header without checksum C and urgent pointer U.
/// U, which means nothing without URG, is chosen so that S + U = -2P; then C = -(S + U + P) = P. Computed once more over
/// the segment without the pseudo header, as for `CHECKSUM_PARTIAL`, it is -(S + U + C) = -(-2P + P) = P again.
#[inline(always)]
#[must_use]
pub fn reset(s: &Segment) -> [u8; RESET_LEN] {
    let (seq, ack, flags) = reset_numbers(s);
    let mut w = [0u16; RESET_LEN / 2];
    ipv4(&mut w, RESET_LEN, TCP, s.destination, s.source);
    w[10] = s.destination_port;
    w[11] = s.source_port;
    [w[12], w[13]] = halves(seq.to_be());
    [w[14], w[15]] = halves(ack.to_be());
    w[16] = u16::from_be_bytes([0x50, flags]).to_be();
    let pseudo = fold(sum(&w[6..10]) + u32::from(u16::from(TCP).to_be()) + u32::from(20u16.to_be()));
    let rest = fold(sum(&w[10..17]));
    w[18] = pseudo;
    w[19] = !fold(u32::from(rest) + 2 * u32::from(pseudo));
    to_bytes(&w)
}

/// RFC 9293: a segment with ACK is answered from its acknowledgement, any other by acknowledging what it occupied.
#[inline(always)]
const fn reset_numbers(s: &Segment) -> (u32, u32, u8) {
    if s.flags & tcp::ACK != 0 {
        return (s.ack, 0, tcp::RST);
    }
    let syn_fin = (s.flags & tcp::SYN != 0) as u32 + (s.flags & tcp::FIN != 0) as u32;
    (0, s.seq.wrapping_add(s.payload).wrapping_add(syn_fin), tcp::RST | tcp::ACK)
}

/// The port-unreachable that answers a packet which begins with `quote` (IPv4 header without options and 8 bytes).
///
/// Fixed point: the place of a UDP checksum (offset 6) is, in ICMP, in the unused field; a right ICMP message sums to
/// -0, so what is computed for that place is 0, which is what stands there.
#[inline(always)]
#[must_use]
pub fn unreachable(quote: &[u8; QUOTE_LEN]) -> [u8; UNREACHABLE_LEN] {
    const DESTINATION_UNREACHABLE: u8 = 3;
    const PORT: u8 = 3;
    let mut w = [0u16; UNREACHABLE_LEN / 2];
    let mut i = 0;
    while i < QUOTE_LEN / 2 {
        w[14 + i] = u16::from_ne_bytes([quote[2 * i], quote[2 * i + 1]]);
        i += 1;
    }
    let (source, destination) = ([w[20], w[21]], [w[22], w[23]]);
    ipv4(&mut w, UNREACHABLE_LEN, ICMP, join(destination), join(source));
    w[10] = u16::from_be_bytes([DESTINATION_UNREACHABLE, PORT]).to_be();
    w[11] = !fold(sum(&w[10..]));
    to_bytes(&w)
}

/// Bytes of a "fragmentation needed": IPv4 header with four bytes of options, ICMP header, and the quote.
pub const TOO_BIG_LEN: usize = 60;

/// The "fragmentation needed" (RFC 1191) that answers a packet which begins with `quote` and is longer than `mtu` bytes.
///
/// Fixed point, and here all four of ICMP's last bytes are taken (the MTU is where a UDP checksum would be). So the
/// header has four bytes of options, end-of-options and padding, which nobody reads, and which move the message by four:
/// a checksum that is completed for UDP then falls on the ICMP checksum, one for TCP on the quoted packet's id. The
/// padding P is chosen so that what is computed there, -(P + 0), is what stands there.
#[inline(always)]
#[must_use]
pub fn too_big(quote: &[u8; QUOTE_LEN], mtu: u16) -> [u8; TOO_BIG_LEN] {
    const UNREACHABLE_FRAGMENTATION_NEEDED: u16 = 0x0304;
    let mut w = [0u16; TOO_BIG_LEN / 2];
    let mut i = 0;
    while i < QUOTE_LEN / 2 {
        w[16 + i] = u16::from_ne_bytes([quote[2 * i], quote[2 * i + 1]]);
        i += 1;
    }
    w[12] = UNREACHABLE_FRAGMENTATION_NEEDED.to_be();
    w[15] = mtu.to_be();
    let message = fold(sum(&w[12..]));
    w[13] = !message;
    let is_tcp = quote[9] == TCP;
    w[11] = if is_tcp { !w[18] } else { message };
    let (source, destination) = ([w[22], w[23]], [w[24], w[25]]);
    ipv4(&mut w, TOO_BIG_LEN, ICMP, join(destination), join(source));
    w[0] = 0x4600u16.to_be();
    w[5] = 0;
    w[5] = !fold(sum(&w[0..12]));
    to_bytes(&w)
}

#[inline(always)]
const fn join([high, low]: [u16; 2]) -> Addr {
    let ([a, b], [c, d]) = (high.to_ne_bytes(), low.to_ne_bytes());
    Addr::from_ne_bytes([a, b, c, d])
}

/// An IPv4 header of 20 bytes: TTL 64, "don't fragment" (it is small), id 0 (RFC 6864 allows it with DF).
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "at most 56")]
fn ipv4(w: &mut [u16], len: usize, protocol: u8, source: Addr, destination: Addr) {
    w[0] = 0x4500u16.to_be();
    w[1] = (len as u16).to_be();
    w[2] = 0;
    w[3] = 0x4000u16.to_be();
    w[4] = u16::from_be_bytes([64, protocol]).to_be();
    w[5] = 0;
    [w[6], w[7]] = halves(source);
    [w[8], w[9]] = halves(destination);
    w[5] = !fold(sum(&w[0..10]));
}

/// Refusals that one source address may cause: 256 in a burst, which is far above what an app that retries needs, and
/// 1,000 a second. A flood beyond it is still dropped and counted, but not answered, so that nobody can make the cell a
/// reflector.
pub const LIMIT: Limit = Limit { burst: 256, interval_ns: 1_000_000 };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{from_ipv4, to_ipv4};
    use crate::checksum;
    use crate::wire::UDP;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn words(bytes: &[u8]) -> u32 {
        bytes.chunks(2).map(|p| u32::from(u16::from_ne_bytes([p[0], p[1]]))).sum()
    }

    fn tcp_checksum(packet: &[u8]) -> u16 {
        let pseudo = words(&packet[12..20]) + u32::from(6u16.to_be()) + u32::from(20u16.to_be());
        !fold(pseudo + words(&packet[20..40]))
    }

    /// What `skb_checksum_help` does to a buffer marked `CHECKSUM_PARTIAL`.
    fn complete_partial(packet: &mut [u8], start: usize, offset: usize) {
        let value = checksum::of(&packet[start..]);
        let value = if value == 0 { 0xffff } else { value };
        packet[start + offset..start + offset + 2].copy_from_slice(&value.to_ne_bytes());
    }

    prop_compose! {
        fn segment()(source: u32, destination: u32, source_port: u16, destination_port: u16, seq: u32, ack: u32,
                     flags in 0u8..32, payload in 0u32..65_536) -> Segment {
            Segment { source, destination, source_port, destination_port, seq, ack, flags, payload }
        }
    }

    proptest! {
        #[test]
        fn a_reset_is_right_whether_or_not_its_checksum_is_computed_again(s in segment()) {
            let mut packet = reset(&s);
            prop_assert_eq!(checksum::of(&packet[..20]), 0);
            prop_assert_eq!(tcp_checksum(&packet), 0);
            complete_partial(&mut packet, 20, 16);
            prop_assert_eq!(tcp_checksum(&packet), 0);
        }

        #[test]
        fn an_unreachable_is_right_whether_or_not_a_checksum_is_computed_again(quote in any::<[u8; 28]>()) {
            let mut packet = unreachable(&quote);
            prop_assert_eq!(checksum::of(&packet[..20]), 0);
            prop_assert_eq!(checksum::of(&packet[20..]), 0);
            prop_assert_eq!(&packet[28..], &quote);
            prop_assert_eq!((&packet[12..16], &packet[16..20]), (&quote[16..20], &quote[12..16]));
            complete_partial(&mut packet, 20, 6);
            prop_assert_eq!(checksum::of(&packet[20..]), 0);
        }

        #[test]
        fn a_too_big_is_right_whether_or_not_a_checksum_is_computed_again(
            quote in any::<[u8; 28]>(), protocol in prop::sample::select(vec![6u8, 17, 1]), mtu: u16,
        ) {
            let mut quote = quote;
            quote[9] = protocol;
            let mut packet = too_big(&quote, mtu);
            prop_assert_eq!(checksum::of(&packet[..24]), 0);
            prop_assert_eq!(packet[20], 0, "the options end before they begin");
            prop_assert_eq!(checksum::of(&packet[24..]), 0);
            match protocol {
                TCP => complete_partial(&mut packet, 20, 16),
                UDP => complete_partial(&mut packet, 20, 6),
                _ => {}
            }
            prop_assert_eq!(checksum::of(&packet[24..]), 0);
            prop_assert_eq!(&packet[30..32], &mtu.to_be_bytes());
            prop_assert_eq!((&packet[32..36], &packet[38..]), (&quote[..4], &quote[6..]));
        }
    }

    #[test]
    fn a_syn_is_reset_as_rfc_9293_says() {
        let s = Segment {
            source: from_ipv4(Ipv4Addr::new(10, 255, 1, 2)),
            destination: from_ipv4(Ipv4Addr::new(10, 255, 2, 3)),
            source_port: 40_000u16.to_be(),
            destination_port: 7000u16.to_be(),
            seq: 1000,
            ack: 0,
            flags: tcp::SYN,
            payload: 0,
        };
        let packet = reset(&s);
        assert_eq!(packet[12..20], [10, 255, 2, 3, 10, 255, 1, 2]);
        assert_eq!(packet[20..24], [27, 88, 156, 64]);
        assert_eq!(packet[24..32], [0, 0, 0, 0, 0, 0, 0x03, 0xe9], "seq 0, ack 1001");
        assert_eq!(packet[32..34], [0x50, tcp::RST | tcp::ACK]);
        assert_eq!(to_ipv4(s.source), Ipv4Addr::new(10, 255, 1, 2));
    }
}
