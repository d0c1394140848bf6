//! ICMP: echo, and the errors that a host gets to hear.

use super::raw::{Ear, Packet};
use super::{Attempt, Reach, forged};
use crate::netns::Namespace;
use anyhow::{Context, Result};
use etherparse::{Ipv4HeaderSlice, PacketBuilder};
use nix::sys::socket::SockProtocol;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

const ECHO_REPLY: u8 = 0;
/// Destination unreachable; its code says why.
pub const UNREACHABLE: u8 = 3;
/// Code of [`UNREACHABLE`]: nobody listens, or somebody refuses.
pub const PORT: u8 = 3;
/// Code of [`UNREACHABLE`]: too big, and not to be fragmented.
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Time exceeded: too many routers.
pub const TIME_EXCEEDED: u8 = 11;

/// An ICMP error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Who sent it.
    pub from: Ipv4Addr,
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The next hop's MTU, which only [`FRAGMENTATION_NEEDED`] has.
    pub mtu: u16,
    /// Source of the packet that it is about; the port is an echo's identifier.
    pub about_source: SocketAddrV4,
    /// Destination of the packet that it is about.
    pub about_destination: SocketAddrV4,
}

/// Hears ICMP in a namespace.
pub fn ear(namespace: &Namespace) -> Result<Ear> {
    Ear::open(namespace, SockProtocol::Icmp)
}

/// The error in a packet, when it is one.
#[must_use]
pub fn error(packet: &Packet) -> Option<Error> {
    let [kind, code, _, _, _, _, mtu_high, mtu_low, about @ ..] = packet.payload.as_slice() else {
        return None;
    };
    if ![UNREACHABLE, TIME_EXCEEDED].contains(kind) {
        return None;
    }
    // Only the header and eight bytes behind it need be there (RFC 792).
    let header = Ipv4HeaderSlice::from_slice(about).ok()?;
    let ports = about.get(header.slice().len()..)?;
    let [a, b, c, d, e, f, ..] = *ports else { return None };
    let echo = header.protocol() == etherparse::IpNumber::ICMP;
    let (source, destination) = if echo {
        (u16::from_be_bytes([e, f]), 0)
    } else {
        (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
    };
    Some(Error {
        from: packet.source,
        kind: *kind,
        code: *code,
        mtu: u16::from_be_bytes([*mtu_high, *mtu_low]),
        about_source: SocketAddrV4::new(header.source_addr(), source),
        about_destination: SocketAddrV4::new(header.destination_addr(), destination),
    })
}

/// Sends an echo request and waits for what comes back: an answer, or an error about it.
pub fn ping(from: &Namespace, to: Ipv4Addr) -> Result<Attempt> {
    /// Each try has an identifier of its own.
    static NEXT: AtomicU16 = AtomicU16::new(1);
    ping_as(from, to, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// As [`ping`], with an identifier of the caller's.
pub fn ping_as(from: &Namespace, to: Ipv4Addr, id: u16) -> Result<Attempt> {
    let ear = ear(from)?;
    let started = Instant::now();
    send(from, to, id)?;
    let about = |error: &Error| *error.about_destination.ip() == to && error.about_source.port() == id;
    let reach = ear.hear(|packet| match packet.payload.as_slice() {
        [ECHO_REPLY, 0, _, _, high, low, ..] if u16::from_be_bytes([*high, *low]) == id => {
            Some(Reach::Reached(packet.source))
        }
        _ => error(packet).filter(about).map(|error| match (error.kind, error.code) {
            (UNREACHABLE, PORT) => Reach::Refused,
            (kind, code) => Reach::Failed(format!("ICMP type {kind}, code {code}")),
        }),
    })?;
    Ok(Attempt { reach: reach.unwrap_or(Reach::TimedOut), took: started.elapsed() })
}

/// Sends an echo request.
fn send(from: &Namespace, to: Ipv4Addr, id: u16) -> Result<()> {
    // The stack puts in the source address when there is none (raw(7)).
    let builder = PacketBuilder::ipv4([0; 4], to.octets(), forged::TIME_TO_LIVE);
    let mut packet = Vec::new();
    let builder = builder.icmpv4_echo_request(id, 1);
    builder.write(&mut packet, b"how far is it").context("cannot build an echo request")?;
    forged::send_ip(from, to, &packet)
}
