//! Packets that nobody honest sends: foreign source addresses out of a container, tunnel packets from anywhere.

use crate::netns::Namespace;
use anyhow::{Context, Result};
use etherparse::PacketBuilder;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

/// Offset of the inner IPv4 header in a tunnel packet's payload: behind the tunnel's header and the frame's.
pub const INNER_IPV4: usize = 8 + 14;
/// What VXLAN listens on.
pub const VXLAN_PORT: u16 = 4789;
/// The network identifier that the fabric uses unless it is told otherwise.
pub const VNI: u32 = 1;
const TIME_TO_LIVE: u8 = 64;
const SOURCE_PORT: u16 = 40_000;

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

/// Sends a datagram with the source address it claims, from a namespace that may not hold that address.
pub fn send_plain(from: &Namespace, datagram: &Datagram<'_>) -> Result<()> {
    let builder = PacketBuilder::ipv4(datagram.source.octets(), datagram.destination.octets(), TIME_TO_LIVE);
    let mut packet = Vec::new();
    let builder = builder.udp(SOURCE_PORT, datagram.port);
    builder.write(&mut packet, datagram.payload).context("cannot build a datagram")?;
    send_ip(from, datagram.destination, &packet)
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
    let mut inner = Vec::new();
    PacketBuilder::ethernet2(hardware_address(datagram.source), hardware_address(datagram.destination))
        .ipv4(datagram.source.octets(), datagram.destination.octets(), TIME_TO_LIVE)
        .udp(SOURCE_PORT, datagram.port)
        .write(&mut inner, datagram.payload)
        .context("cannot build an inner frame")?;
    Ok([vxlan_header(tunnel).as_slice(), &inner].concat())
}

/// Sends any bytes as a UDP datagram.
pub fn send_udp(from: &Namespace, to: Ipv4Addr, port: u16, payload: &[u8]) -> Result<()> {
    from.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot make a UDP socket")?;
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
