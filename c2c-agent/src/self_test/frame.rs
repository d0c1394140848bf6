//! The packets of the self-test as bytes: probes, and the answers to what arrived of them. Pure; sending and hearing are
//! `host`'s.
//!
//! A probe is a TCP segment of no connection, from the base of one cell's block to the base of another's (Silk's VTEP
//! addresses, which no container ever has). The acknowledgement number names the probe, the sequence number is the
//! offset of its first byte: both survive segmentation by a NIC and merging by the receiver, so that every piece can
//! be judged for itself. An answer is a UDP datagram.

use c2c_common::checksum;
use c2c_common::wire::{ETH_LEN, ETHERTYPE_IPV4, IP_DF, IPV4_LEN, TCP, TCP_LEN, Tunnel, UDP, UDP_LEN, tcp};
use std::net::Ipv4Addr;

/// Inner port of both; nobody listens there. Spells c2c.
const PORT: u16 = 0xc2c;
const ETH: usize = ETH_LEN as usize;
const IPV4: usize = IPV4_LEN as usize;
const TCP_HEADER: usize = TCP_LEN as usize;
const UDP_HEADER: usize = UDP_LEN as usize;
/// Headers of a probe that stand before its bytes.
const PROBE_HEADERS: usize = ETH + IPV4 + TCP_HEADER;
/// Packets that a segmented probe is on the wire: a first, one in the middle, a last.
const SEGMENTS: u16 = 3;
/// Bytes of `struct virtio_net_hdr` (linux/virtio_net.h), which a packet socket with PACKET_VNET_HDR puts before frames.
pub(super) const VNET_LEN: usize = 10;
const VNET_NEEDS_CHECKSUM: u8 = 1;
const VNET_GSO_TCPV4: u8 = 1;
/// Offset of a TCP header's checksum.
const TCP_CHECKSUM: u16 = 16;
/// Bytes of an answer's payload.
const ANSWER_LEN: usize = 13;

/// What is asked of the device for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing: the packet is whole when it reaches the device.
    Plain,
    /// The inner checksum.
    Checksum,
    /// To cut the packet into several, each with its checksum.
    Segmentation,
}

impl Kind {
    /// All kinds, in the order in which they ask for more.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Checksum, Self::Segmentation];

    /// The name, as in metrics and pages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Checksum => "checksum",
            Self::Segmentation => "segmentation",
        }
    }

    /// Bytes of a probe, given the overlay's MTU. Plain ones are as large on the wire as each piece of a segmented one, or
    /// a path that loses large packets would pass for a device that cannot cut.
    #[must_use]
    pub fn len(self, mtu: u16) -> u32 {
        let one = u32::from(segment(mtu));
        if self == Self::Segmentation { one * u32::from(SEGMENTS) } else { one }
    }
}

/// Probes are never of a larger MTU: jumbo frames', of which [`SEGMENTS`] fit into an IPv4 packet.
pub const MAX_MTU: u16 = 9_000;

/// The MTU of probes, given the overlay's.
#[must_use]
pub fn usable_mtu(mtu: u32) -> u16 {
    u16::try_from(mtu).map_or(MAX_MTU, |mtu| mtu.min(MAX_MTU))
}

/// Bytes in one packet.
fn segment(mtu: u16) -> u16 {
    mtu.saturating_sub(to_u16(IPV4 + TCP_HEADER))
}

/// Nothing here is longer than an IPv4 packet may be.
fn to_u16(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// The two ends of a probe or an answer, inside the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// First address of the sender's block.
    pub source: Ipv4Addr,
    /// First address of the receiver's.
    pub destination: Ipv4Addr,
}

/// What arrived of a probe, as its receiver saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which probe.
    pub nonce: u32,
    /// Offset of its first byte.
    pub offset: u32,
    /// Its bytes.
    pub len: u32,
    /// Whether it is as it was sent, checksums and all.
    pub whole: bool,
}

/// A packet of the self-test that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Another cell's probe, or a part of it.
    Probe(Ends, Piece),
    /// Another cell's answer to a probe of ours.
    Answer(Ends, Piece),
}

/// A probe with the header that tells the kernel what its device shall do, for a socket on a device of the agent's own.
#[must_use]
pub fn probe(kind: Kind, nonce: u32, ends: Ends, mtu: u16, macs: [u8; 12]) -> Vec<u8> {
    let payload: Vec<u8> = (0..kind.len(mtu)).map(|at| pattern(nonce, at)).collect();
    let mut segment = tcp_header(nonce).to_vec();
    segment.extend(payload);
    let sum = match kind {
        Kind::Plain => !checksum::fold(pseudo(ends, TCP, segment.len()) + sum(&segment)),
        // The device, or the kernel in its place, adds up the rest.
        Kind::Checksum | Kind::Segmentation => checksum::fold(pseudo(ends, TCP, segment.len())),
    };
    put(&mut segment, TCP_CHECKSUM.into(), sum.to_ne_bytes());
    let packet = ipv4(ends, TCP, &segment);
    [&vnet(kind, mtu)[..], &macs, &ETHERTYPE_IPV4.to_be_bytes(), &packet].concat()
}

/// `struct virtio_net_hdr`, in the machine's byte order.
fn vnet(kind: Kind, mtu: u16) -> [u8; VNET_LEN] {
    let (flags, gso, gso_size) = match kind {
        Kind::Plain => return [0; VNET_LEN],
        Kind::Checksum => (VNET_NEEDS_CHECKSUM, 0, 0),
        Kind::Segmentation => (VNET_NEEDS_CHECKSUM, VNET_GSO_TCPV4, segment(mtu)),
    };
    let [a, b] = to_u16(PROBE_HEADERS).to_ne_bytes();
    let [c, d] = gso_size.to_ne_bytes();
    let [e, f] = to_u16(ETH + IPV4).to_ne_bytes();
    let [g, h] = TCP_CHECKSUM.to_ne_bytes();
    [flags, gso, a, b, c, d, e, f, g, h]
}

/// Sequence 0, acknowledges the probe's name.
fn tcp_header(nonce: u32) -> [u8; TCP_HEADER] {
    let ([p, q], [a, b, c, d]) = (PORT.to_be_bytes(), nonce.to_be_bytes());
    [p, q, p, q, 0, 0, 0, 0, a, b, c, d, 0x50, tcp::ACK, 0xff, 0xff, 0, 0, 0, 0]
}

/// An answer as an IPv4 packet for the underlay, for a socket that takes whole packets: nothing of it is left to a
/// device. `tunnel` says from where to where; its lengths are filled in here.
#[must_use]
pub fn answer(piece: Piece, ends: Ends, tunnel: Tunnel) -> Vec<u8> {
    let length = to_u16(UDP_HEADER + ANSWER_LEN);
    let mut datagram = [PORT.to_be_bytes(), PORT.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    for number in [piece.nonce, piece.offset, piece.len] {
        datagram.extend(number.to_be_bytes());
    }
    datagram.push(u8::from(piece.whole));
    let sum = !checksum::fold(pseudo(ends, UDP, datagram.len()) + sum(&datagram));
    put(&mut datagram, 6, if sum == 0 { [0xff; 2] } else { sum.to_ne_bytes() });
    let inner = ipv4(ends, UDP, &datagram);
    let outer = Tunnel { inner_len: to_u16(inner.len()), inner_tos: 0, ..tunnel }.outer().to_bytes();
    [outer.get(ETH..).unwrap_or_default(), &inner].concat()
}

/// What a frame is that came out of the tunnel with such a header before it; `None` when it is not the self-test's.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Heard> {
    let (vnet, frame) = bytes.split_at_checked(VNET_LEN)?;
    let packet = frame.get(ETH..)?;
    let (header, rest) = packet.split_first_chunk::<IPV4>()?;
    let total = usize::from(be16(header, 2)?);
    let ends = Ends { source: addr(header, 12)?, destination: addr(header, 16)? };
    let transport = rest.get(..total.checked_sub(IPV4)?).unwrap_or(rest);
    if header[0] != 0x45 || be16(frame, 12)? != ETHERTYPE_IPV4 || !is_ours(transport) {
        return None;
    }
    let sound = checksum::of(header) == 0 && transport.len() + IPV4 == total;
    match header[9] {
        TCP => {
            // Not computed yet, or computed and taken back by the kernel after it was found right (GRO).
            let is_open = vnet.first()? & VNET_NEEDS_CHECKSUM != 0;
            read_probe(ends, transport, sound && (is_open || verifies(ends, TCP, transport)))
        }
        UDP if sound && verifies(ends, UDP, transport) => read_answer(ends, transport),
        _ => None,
    }
}

fn is_ours(transport: &[u8]) -> bool {
    be16(transport, 0) == Some(PORT) && be16(transport, 2) == Some(PORT)
}

fn read_probe(ends: Ends, segment: &[u8], sound: bool) -> Option<Heard> {
    let (offset, nonce) = (be32(segment, 4)?, be32(segment, 8)?);
    let payload = segment.get(TCP_HEADER..)?;
    // Wrapping: the offset is what another cell says it is.
    let intact = (0..).zip(payload).all(|(at, byte)| *byte == pattern(nonce, offset.wrapping_add(at)));
    let len = u32::try_from(payload.len()).ok()?;
    Some(Heard::Probe(ends, Piece { nonce, offset, len, whole: sound && intact }))
}

fn read_answer(ends: Ends, datagram: &[u8]) -> Option<Heard> {
    let said = datagram.get(UDP_HEADER..)?;
    let [nonce, offset, len] = [be32(said, 0)?, be32(said, 4)?, be32(said, 8)?];
    Some(Heard::Answer(ends, Piece { nonce, offset, len, whole: *said.get(12)? == 1 }))
}

/// What the byte of a probe at an offset is: different for each probe, and no two words alike that a device could swap.
fn pattern(nonce: u32, at: u32) -> u8 {
    let [high, ..] = nonce.wrapping_add(at).wrapping_mul(0x9e37_79b1).to_be_bytes();
    high
}

fn ipv4(ends: Ends, protocol: u8, transport: &[u8]) -> Vec<u8> {
    let [l, m] = to_u16(IPV4 + transport.len()).to_be_bytes();
    let [f, g] = IP_DF.to_be_bytes();
    let mut packet = vec![0x45, 0, l, m, 0, 0, f, g, 64, protocol, 0, 0];
    packet.extend(ends.source.octets());
    packet.extend(ends.destination.octets());
    let sum = checksum::of(&packet);
    put(&mut packet, 10, sum.to_ne_bytes());
    packet.extend(transport);
    packet
}

/// Whether a segment's or datagram's checksum is right.
fn verifies(ends: Ends, protocol: u8, transport: &[u8]) -> bool {
    checksum::fold(pseudo(ends, protocol, transport.len()) + sum(transport)) == u16::MAX
}

/// The sum of the pseudo header (RFC 9293 section 3.1), not folded.
fn pseudo(ends: Ends, protocol: u8, len: usize) -> u32 {
    let [a, b] = to_u16(len).to_be_bytes();
    sum(&[&ends.source.octets()[..], &ends.destination.octets(), &[0, protocol, a, b]].concat())
}

/// The sum of bytes, folded once.
fn sum(bytes: &[u8]) -> u32 {
    u32::from(!checksum::of(bytes))
}

fn put(bytes: &mut [u8], at: usize, [a, b]: [u8; 2]) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&[a, b]);
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

fn addr(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    be32(bytes, at).map(Ipv4Addr::from_bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use c2c_common::addr::from_ipv4;
    use proptest::prelude::*;

    const MTU: u16 = 1450;
    const ENDS: Ends =
        Ends { source: Ipv4Addr::new(10, 255, 1, 0), destination: Ipv4Addr::new(10, 255, 2, 0) };

    /// What a device makes of a frame: the checksum where it is asked for one.
    fn completed(mut frame: Vec<u8>) -> Vec<u8> {
        if frame[0] & VNET_NEEDS_CHECKSUM != 0 {
            let start = VNET_LEN + ETH + IPV4;
            let sum = checksum::of(&frame[start..]);
            put(&mut frame, start + usize::from(TCP_CHECKSUM), sum.to_ne_bytes());
            frame[..VNET_LEN].fill(0);
        }
        frame
    }

    fn sent(kind: Kind, nonce: u32) -> Vec<u8> {
        probe(kind, nonce, ENDS, MTU, [2; 12])
    }

    fn all_of(kind: Kind, nonce: u32) -> Piece {
        Piece { nonce, offset: 0, len: kind.len(MTU), whole: true }
    }

    #[test]
    fn a_probe_is_read_as_it_was_sent() {
        for kind in Kind::ALL {
            assert_eq!(
                read(&sent(kind, 77)),
                Some(Heard::Probe(ENDS, all_of(kind, 77))),
                "{kind:?}, as it is"
            );
            let completed = completed(sent(kind, 77));
            assert_eq!(read(&completed), Some(Heard::Probe(ENDS, all_of(kind, 77))), "{kind:?}, completed");
        }
    }

    #[test]
    fn plain_probes_and_the_pieces_of_segmented_ones_fill_the_mtu() {
        assert_eq!(sent(Kind::Plain, 1).len(), VNET_LEN + ETH + usize::from(MTU));
        assert_eq!(sent(Kind::Checksum, 1).len(), VNET_LEN + ETH + usize::from(MTU));
        assert_eq!(sent(Kind::Segmentation, 1)[4..6], (MTU - 40).to_ne_bytes());
        assert_eq!(Kind::Segmentation.len(MTU), 3 * u32::from(MTU - 40));
    }

    #[test]
    fn a_checksum_that_nobody_computed_is_seen() {
        let mut frame = sent(Kind::Checksum, 9);
        frame[..VNET_LEN].fill(0);
        let Some(Heard::Probe(_, piece)) = read(&frame) else { panic!("it is a probe") };
        assert!(!piece.whole);
    }

    #[test]
    fn an_answer_is_read_as_it_was_sent() {
        let tunnel = Tunnel {
            source: from_ipv4(Ipv4Addr::new(192, 0, 2, 1)),
            destination: from_ipv4(Ipv4Addr::new(192, 0, 2, 2)),
            udp_port: 4789u16.to_be(),
            source_port: 40_000,
            vni: 0x80_0001,
            tag: 0,
            inner_destination: [0xee; 6],
            inner_source: [0xee; 6],
            id: 0,
            inner_len: 0,
            inner_tos: 0,
        };
        let piece = Piece { nonce: 5, offset: 1410, len: 1410, whole: true };
        for piece in [piece, Piece { whole: false, ..piece }] {
            let packet = answer(piece, ENDS, tunnel);
            assert_eq!(usize::from(be16(&packet, 2).unwrap()), packet.len(), "the outer length");
            assert!(packet.len() < 128, "an answer is far smaller than what it answers");
            let inner = [&[0; VNET_LEN][..], &packet[36..]].concat();
            assert_eq!(read(&inner), Some(Heard::Answer(ENDS, piece)));
        }
    }

    proptest! {
        #[test]
        fn a_byte_that_changed_is_seen(nonce: u32, at in 0..1410usize, flip in 1u8..) {
            let mut frame = sent(Kind::Segmentation, nonce);
            frame[VNET_LEN + PROBE_HEADERS + at] ^= flip;
            let Some(Heard::Probe(_, piece)) = read(&frame) else { panic!("it is a probe") };
            prop_assert!(!piece.whole);
        }

        #[test]
        fn nothing_that_comes_is_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn nothing_that_a_probe_says_is_too_much(
            kind in proptest::sample::select(&Kind::ALL[..]),
            changes in proptest::collection::vec((0..VNET_LEN + PROBE_HEADERS, any::<u8>()), 0..8),
            len in 0..5_000usize,
        ) {
            let mut frame = sent(kind, 3);
            changes.into_iter().for_each(|(at, byte)| frame[at] = byte);
            frame.truncate(len);
            let _ = read(&frame);
        }

        #[test]
        fn an_offset_may_be_any_number(offset in u32::MAX - 2_000..) {
            let mut frame = sent(Kind::Plain, 3);
            let at = VNET_LEN + ETH + IPV4 + 4;
            frame[at..at + 4].copy_from_slice(&offset.to_be_bytes());
            let Some(Heard::Probe(_, piece)) = read(&frame) else { panic!("it is a probe") };
            prop_assert_eq!((piece.offset, piece.whole), (offset, false));
        }

        #[test]
        fn a_frame_that_is_cut_short_is_not_whole(cut in 0..1470usize) {
            let frame = sent(Kind::Plain, 3);
            let heard = read(&frame[..cut.min(frame.len() - 1)]);
            let is_whole = matches!(heard, Some(Heard::Probe(_, Piece { whole: true, .. })));
            prop_assert!(!is_whole);
        }
    }
}
