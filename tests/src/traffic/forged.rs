//! Packets that nobody honest sends, and honest ones that few send: foreign source addresses out of a container, tunnel
//! packets from anywhere, IP options, congestion marks, fragments.

use crate::netns::Namespace;
use anyhow::{Context, Result};
use etherparse::{
    IpEcn, IpFragOffset, IpHeaders, Ipv4Header, Ipv4HeaderSlice, Ipv4Options, PacketBuilder, ip_number,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt, socket,
    sockopt,
};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

/// Offset of the inner IPv4 header in a tunnel packet's payload: behind the tunnel's header and the frame's.
pub const INNER_IPV4: usize = 8 + 14;
/// What VXLAN listens on.
pub const VXLAN_PORT: u16 = 4789;
/// The network identifier that the fabric uses unless it is told otherwise.
pub const VNI: u32 = 1;
pub(super) const TIME_TO_LIVE: u8 = 64;
/// The port that datagrams made here come from.
pub const SOURCE_PORT: u16 = 40_000;

/// A UDP datagram as some container's stack would have sent it.
#[derive(Clone, Debug)]
pub struct Datagram<'a> {
    /// The address it claims to come from.
    pub source: Ipv4Addr,
    /// Where it should go.
    pub destination: Ipv4Addr,
    /// The port it should go to.
    pub port: u16,
    /// What it carries.
    pub payload: &'a [u8],
}

/// What a tunnel packet says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    /// VXLAN network identifier.
    pub vni: u32,
    /// The source app's tag, in the Group Policy extension.
    pub tag: u16,
}

/// What an IPv4 header may say beside the ordinary.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// Options, in a multiple of four bytes.
    pub options: &'a [u8],
    /// The two bits of congestion notification: [`NOT_ECT`], [`ECT`] or [`CE`].
    pub ecn: u8,
    /// How many routers it may pass.
    pub time_to_live: u8,
    /// Whether nobody may cut it.
    pub dont_fragment: bool,
}

/// Congestion notification (RFC 3168): the sender does not take part.
pub const NOT_ECT: u8 = 0b00;
/// It does.
pub const ECT: u8 = 0b10;
/// There was congestion on the way.
pub const CE: u8 = 0b11;

impl Default for Header<'_> {
    fn default() -> Self {
        Self { options: &[], ecn: NOT_ECT, time_to_live: TIME_TO_LIVE, dont_fragment: false }
    }
}

/// The whole IPv4 packet of a datagram.
pub fn packet(datagram: &Datagram<'_>, header: Header<'_>) -> Result<Vec<u8>> {
    let (source, destination) = (datagram.source.octets(), datagram.destination.octets());
    let mut ip = Ipv4Header::new(0, header.time_to_live, ip_number::UDP, source, destination)
        .context("cannot build an IPv4 header")?;
    ip.dont_fragment = header.dont_fragment;
    ip.ecn = IpEcn::try_new(header.ecn).context("congestion notification has two bits")?;
    ip.options = Ipv4Options::try_from(header.options).context("not options of an IPv4 header")?;
    let builder = PacketBuilder::ip(IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()));
    let mut packet = Vec::new();
    let builder = builder.udp(SOURCE_PORT, datagram.port);
    builder.write(&mut packet, datagram.payload).context("cannot build a datagram")?;
    Ok(packet)
}

/// Cuts a packet in two, the first with this many bytes behind its header, a multiple of eight.
pub fn cut(packet: &[u8], first: u16, id: u16) -> Result<[Vec<u8>; 2]> {
    let header = Ipv4HeaderSlice::from_slice(packet).context("not an IPv4 packet")?.to_header();
    let payload = packet.get(header.header_len()..).unwrap_or_default();
    let (head, tail) = payload.split_at_checked(usize::from(first)).context("a packet that is too short")?;
    let piece = |offset: u16, more_fragments: bool, payload: &[u8]| -> Result<Vec<u8>> {
        let mut header =
            Ipv4Header { identification: id, dont_fragment: false, more_fragments, ..header.clone() };
        header.fragment_offset = IpFragOffset::try_new(offset / 8).context("not an offset")?;
        header.set_payload_len(payload.len()).context("a piece that is too long")?;
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(payload);
        Ok(bytes)
    };
    Ok([piece(0, true, head)?, piece(first, false, tail)?])
}

/// Sends a datagram with the source address it claims, from a namespace that may not hold that address.
pub fn send_plain(from: &Namespace, datagram: &Datagram<'_>) -> Result<()> {
    send_with(from, datagram, Header::default())
}

/// As [`send_plain`], with a header of the caller's.
pub fn send_with(from: &Namespace, datagram: &Datagram<'_>, header: Header<'_>) -> Result<()> {
    send_ip(from, datagram.destination, &packet(datagram, header)?)
}

/// Sends a whole IPv4 packet as it is.
pub fn send_ip(from: &Namespace, destination: Ipv4Addr, packet: &[u8]) -> Result<()> {
    from.run(|| {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        let raw = raw.context("cannot open a raw socket")?;
        let to = SockaddrIn::from(SocketAddrV4::new(destination, 0));
        sendto(raw.as_raw_fd(), packet, &to, MsgFlags::empty()).context("cannot send a raw packet")?;
        Ok(())
    })
}

/// Wraps a datagram for the tunnel and sends it from a host on the underlay to a cell.
pub fn send_tunnelled(
    from: &Namespace,
    cell: Ipv4Addr,
    tunnel: Tunnel,
    datagram: &Datagram<'_>,
) -> Result<()> {
    send_udp(from, cell, VXLAN_PORT, &tunnelled(tunnel, datagram)?)
}

/// The payload of a tunnel packet: the tunnel's header, then a whole frame.
pub fn tunnelled(tunnel: Tunnel, datagram: &Datagram<'_>) -> Result<Vec<u8>> {
    tunnelled_with(tunnel, datagram, Header::default())
}

/// As [`tunnelled`], with an inner header of the caller's.
pub fn tunnelled_with(tunnel: Tunnel, datagram: &Datagram<'_>, header: Header<'_>) -> Result<Vec<u8>> {
    const IPV4: [u8; 2] = [0x08, 0];
    let inner = packet(datagram, header)?;
    let addresses = [hardware_address(datagram.destination), hardware_address(datagram.source)].concat();
    Ok([vxlan_header(tunnel).as_slice(), &addresses, &IPV4, &inner].concat())
}

/// Sends any bytes as a UDP datagram.
pub fn send_udp(from: &Namespace, to: Ipv4Addr, port: u16, payload: &[u8]) -> Result<()> {
    send_udp_marked(from, to, port, payload, NOT_ECT)
}

/// As [`send_udp`], with bits of congestion notification.
pub fn send_udp_marked(from: &Namespace, to: Ipv4Addr, port: u16, payload: &[u8], ecn: u8) -> Result<()> {
    from.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot make a UDP socket")?;
        setsockopt(&socket, sockopt::Ipv4Tos, &i32::from(ecn)).context("cannot set the type of service")?;
        socket.send_to(payload, (to, port)).with_context(|| format!("cannot send to {to}:{port}"))?;
        Ok(())
    })
}

/// VXLAN with the Group Policy extension (draft-smith-vxlan-group-policy): flags G and I, group, VNI.
fn vxlan_header(tunnel: Tunnel) -> [u8; 8] {
    let [group_high, group_low] = tunnel.tag.to_be_bytes();
    let [_, vni_high, vni_middle, vni_low] = tunnel.vni.to_be_bytes();
    [0x88, 0, group_high, group_low, vni_high, vni_middle, vni_low, 0]
}

/// Silk's scheme for addresses behind the tunnel.
fn hardware_address(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0xee, 0xee, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_carries_flags_group_and_vni() {
        let header = vxlan_header(Tunnel { vni: 0x01_0203, tag: 0xaabb });
        assert_eq!(header, [0x88, 0, 0xaa, 0xbb, 1, 2, 3, 0]);
    }
}
