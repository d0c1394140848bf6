//! Packets to put in, and an independent reading of those that come out.

use std::net::Ipv4Addr;

use c2c_common::addr::from_ipv4;
use c2c_common::wire::Tunnel;
use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Header, IpNumber, Ipv4Header, PacketBuilder, SlicedPacket, TcpHeader,
    TransportSlice, UdpHeader,
};

pub(crate) const FRONTEND: Ipv4Addr = Ipv4Addr::new(10, 255, 1, 2);
pub(crate) const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 255, 1, 3);
pub(crate) const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 255, 2, 2);
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const THERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
/// An address beyond the underlay.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);

pub(crate) const FRONTEND_MAC: [u8; 6] = [0xee, 0xee, 10, 255, 1, 2];
pub(crate) const BACKEND_MAC: [u8; 6] = [0xee, 0xee, 10, 255, 1, 3];
pub(crate) const GATEWAY_MAC: [u8; 6] = [0xaa, 0xaa, 10, 255, 1, 2];
pub(crate) const UNDERLAY_MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);

/// One end of a packet.
pub(crate) type End = (Ipv4Addr, u16);

/// A frame of a container.
fn frame(from: Ipv4Addr, to: Ipv4Addr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(FRONTEND_MAC, GATEWAY_MAC).ipv4(from.octets(), to.octets(), 64)
}

pub(crate) fn tcp(from: End, to: End, flags: &str) -> Vec<u8> {
    tcp_with(from, to, flags, b"")
}

/// Flags as letters of S, A, F, R; sequence number 1000, acknowledgement 2000.
pub(crate) fn tcp_with(from: End, to: End, flags: &str, payload: &[u8]) -> Vec<u8> {
    let mut step = frame(from.0, to.0).tcp(from.1, to.1, 1000, 64_000);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'A' => step.ack(2000),
            'F' => step.fin(),
            'R' => step.rst(),
            other => panic!("no TCP flag {other}"),
        };
    }
    let mut packet = Vec::new();
    step.write(&mut packet, payload).unwrap();
    packet
}

pub(crate) fn udp(from: End, to: End) -> Vec<u8> {
    let mut packet = Vec::new();
    frame(from.0, to.0).udp(from.1, to.1).write(&mut packet, b"hello").unwrap();
    packet
}

pub(crate) fn ping(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    echo(from, to, 1)
}

/// A ping with this identifier.
pub(crate) fn echo(from: Ipv4Addr, to: Ipv4Addr, id: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    frame(from, to).icmpv4_echo_request(id, 2).write(&mut packet, b"hello").unwrap();
    packet
}

/// The port-unreachable that `from` sends to `to` about the packet `about` (a frame).
pub(crate) fn unreachable(from: Ipv4Addr, to: Ipv4Addr, about: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let kind =
        etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
    frame(from, to).icmpv4(kind).write(&mut packet, &about[14..42]).unwrap();
    packet
}

/// A packet of a container with IPv4 options between the headers.
pub(crate) fn udp_with_options(from: End, to: End) -> Vec<u8> {
    udp_with(from, to, [1, 1, 1, 0])
}

/// A packet with these IPv4 options.
pub(crate) fn udp_with(from: End, to: End, options: [u8; 4]) -> Vec<u8> {
    let payload = {
        let mut bytes = Vec::new();
        let header = UdpHeader { source_port: from.1, destination_port: to.1, length: 13, checksum: 0 };
        bytes.extend_from_slice(&header.to_bytes());
        bytes.extend_from_slice(b"hello");
        bytes
    };
    let mut ip = Ipv4Header::new(
        u16::try_from(payload.len()).unwrap(),
        64,
        IpNumber::UDP,
        from.0.octets(),
        to.0.octets(),
    )
    .unwrap();
    ip.options = options.into();
    ip.total_len = u16::try_from(ip.header_len() + payload.len()).unwrap();
    ip.header_checksum = ip.calc_header_checksum();
    let ethernet =
        Ethernet2Header { source: FRONTEND_MAC, destination: GATEWAY_MAC, ether_type: EtherType::IPV4 };
    [ethernet.to_bytes().to_vec(), ip.to_bytes().to_vec(), payload].concat()
}

/// A fragment of a UDP packet, `offset` in units of 8 bytes.
pub(crate) fn fragment(from: End, to: End, offset: u16, more: bool) -> Vec<u8> {
    let mut packet = udp(from, to);
    let [high, low] = (offset | if more { 0x2000 } else { 0 }).to_be_bytes();
    (packet[18], packet[19]) = (0x77, 0x77);
    (packet[20], packet[21]) = (high, low);
    with_checksum(packet)
}

/// The same packet with another type of service.
pub(crate) fn with_tos(mut packet: Vec<u8>, tos: u8) -> Vec<u8> {
    packet[15] = tos;
    with_checksum(packet)
}

/// The same packet, which routers may cut.
pub(crate) fn divisible(mut packet: Vec<u8>) -> Vec<u8> {
    packet[20] &= !0x40;
    with_checksum(packet)
}

fn with_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    let mut ip = Ipv4Header::from_slice(&packet[14..]).unwrap().0;
    ip.header_checksum = ip.calc_header_checksum();
    packet[14..34].copy_from_slice(&ip.to_bytes());
    packet
}

/// The answer to a ping with this identifier.
pub(crate) fn pong(from: Ipv4Addr, to: Ipv4Addr, id: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    frame(from, to).icmpv4_echo_reply(id, 2).write(&mut packet, b"hello").unwrap();
    packet
}

/// The tunnel's frame of a packet from the other cell.
pub(crate) fn tunnelled(outer_source: Ipv4Addr, vni: u32, tag: u16, inner: &[u8]) -> Vec<u8> {
    let inner_ip = &inner[14..];
    let outer = Tunnel {
        source: from_ipv4(outer_source),
        destination: from_ipv4(HERE),
        udp_port: 4789u16.to_be(),
        source_port: 40_000,
        vni,
        tag,
        inner_destination: [0xee, 0xee, 10, 255, 1, 0],
        inner_source: [0xee, 0xee, 10, 255, 2, 0],
        id: 0,
        inner_len: u16::try_from(inner_ip.len()).unwrap(),
        inner_tos: 0,
    };
    let mut packet = outer.outer().to_bytes().to_vec();
    packet[0..6].copy_from_slice(&UNDERLAY_MACS.1);
    packet[6..12].copy_from_slice(&UNDERLAY_MACS.0);
    packet.extend_from_slice(inner_ip);
    packet
}

/// What a parser of another hand reads in a frame. Panics when a header or a checksum is wrong.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) macs: ([u8; 6], [u8; 6]),
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) transport: Transport,
}

#[derive(Debug)]
pub(crate) enum Transport {
    Tcp(TcpHeader),
    Udp(UdpHeader, Vec<u8>),
    Icmp(Icmpv4Header, Vec<u8>),
}

pub(crate) fn read(frame: &[u8]) -> Read {
    let packet = SlicedPacket::from_ethernet(frame).expect("a frame");
    let Some(etherparse::LinkSlice::Ethernet2(ethernet)) = &packet.link else { panic!("no Ethernet header") };
    let ip = packet.net.as_ref().and_then(|net| net.ipv4_ref()).expect("IPv4").header();
    assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum(), "the IPv4 header's checksum");
    Read {
        macs: (ethernet.destination(), ethernet.source()),
        source: ip.source_addr(),
        destination: ip.destination_addr(),
        transport: transport(&packet, &ip.to_header()),
    }
}

fn transport(packet: &SlicedPacket<'_>, ip: &Ipv4Header) -> Transport {
    match packet.transport.as_ref().expect("a transport header") {
        TransportSlice::Tcp(tcp) => {
            let header = tcp.to_header();
            let want = header.calc_checksum_ipv4(ip, tcp.payload()).unwrap();
            assert_eq!(header.checksum, want, "the TCP checksum");
            Transport::Tcp(header)
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            if header.checksum != 0 {
                let want = header.calc_checksum_ipv4(ip, udp.payload()).unwrap();
                assert_eq!(header.checksum, want, "the UDP checksum");
            }
            Transport::Udp(header, udp.payload().to_vec())
        }
        TransportSlice::Icmpv4(icmp) => {
            let header = icmp.header();
            let want = header.icmp_type.calc_checksum(icmp.payload());
            assert_eq!(header.checksum, want, "the ICMP checksum");
            Transport::Icmp(header, icmp.payload().to_vec())
        }
        TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => panic!("not between containers"),
    }
}

/// Source and destination of a frame whose checksums are right; an echo's identifier is the port of who asks.
pub(crate) fn ends(frame: &[u8]) -> (End, End) {
    let packet = read(frame);
    let (source, destination) = match &packet.transport {
        Transport::Tcp(tcp) => (tcp.source_port, tcp.destination_port),
        Transport::Udp(udp, _) => (udp.source_port, udp.destination_port),
        Transport::Icmp(icmp, _) => {
            if let etherparse::Icmpv4Type::EchoRequest(echo) = icmp.icmp_type {
                (echo.id, 0)
            } else if let etherparse::Icmpv4Type::EchoReply(echo) = icmp.icmp_type {
                (0, echo.id)
            } else {
                (0, 0)
            }
        }
    };
    ((packet.source, source), (packet.destination, destination))
}

/// Takes a tunnelled frame apart: the outer reading, the VXLAN header, and the inner frame.
pub(crate) fn unwrap_tunnel(frame: &[u8]) -> (Read, [u8; 8], Vec<u8>) {
    let outer = read(frame);
    let Transport::Udp(header, payload) = &outer.transport else { panic!("not UDP: {outer:?}") };
    assert_eq!((header.destination_port, header.checksum), (4789, 0));
    let (vxlan, inner) = (payload[..8].try_into().unwrap(), payload[8..].to_vec());
    (outer, vxlan, inner)
}
