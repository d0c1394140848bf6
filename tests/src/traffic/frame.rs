//! Ethernet frames as they are, in and out of a device: what no stack would send, and what it would not show.

use super::TIMEOUT;
use super::raw::{Packet, packet};
use crate::netns::Namespace;
use anyhow::{Context, Result};
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

/// The frame's header.
const ETHERNET: usize = 14;
const TICK_MICROSECONDS: i64 = 50_000;
const BROADCAST: [u8; 6] = [0xff; 6];

/// Sends a frame out of a device.
pub fn send(from: &Namespace, device: &str, frame: &[u8]) -> Result<()> {
    from.run(|| {
        let index = if_nametoindex(device).with_context(|| format!("no device {device}"))?;
        let raw = open()?;
        sendto(raw.as_raw_fd(), frame, &link_address(index)?, MsgFlags::empty())
            .with_context(|| format!("cannot send a frame out of {device}"))?;
        Ok(())
    })
}

/// An ARP request: who has `target`? Says `sender` of itself, who is at `hardware`.
#[must_use]
pub fn arp_request(hardware: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp(1, hardware, sender, target)
}

/// An ARP answer to everybody: `sender` is at `hardware`.
#[must_use]
pub fn arp_answer(hardware: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp(2, hardware, sender, target)
}

/// RFC 826, for Ethernet and IPv4.
fn arp(operation: u8, hardware: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let ethernet = [BROADCAST.as_slice(), &hardware, &[0x08, 0x06]].concat();
    let fixed = [0, 1, 0x08, 0, 6, 4, 0, operation];
    [&ethernet, fixed.as_slice(), &hardware, &sender.octets(), &[0; 6], &target.octets()].concat()
}

/// Hears every IPv4 packet on a namespace's devices, before any program of theirs sees it.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
}

impl Tap {
    /// Opens one.
    pub fn open(namespace: &Namespace) -> Result<Self> {
        let socket = namespace.run(open)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, TICK_MICROSECONDS))
            .context("cannot set a receive timeout")?;
        Ok(Self { socket })
    }

    /// The first packet of which the caller can make something; none when there is none within the common time.
    pub fn hear<T>(&self, mut accept: impl FnMut(&Packet) -> Option<T>) -> Result<Option<T>> {
        let started = Instant::now();
        let mut buffer = vec![0; 64 * 1024];
        while started.elapsed() < TIMEOUT {
            let Ok(length) = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) else { continue };
            let bytes = buffer.get(ETHERNET..length).unwrap_or_default();
            let heard = packet(bytes).and_then(|packet| accept(&packet));
            if heard.is_some() {
                return Ok(heard);
            }
        }
        Ok(None)
    }
}

fn open() -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll);
    socket.context("cannot open a packet socket")
}

/// The address of a device, for frames that bring their own header (packet(7)).
fn link_address(index: u32) -> Result<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::sa_family_t::try_from(libc::AF_PACKET).context("a family has 16 bits")?,
        sll_protocol: 0,
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).context("an address is short")?;
    // SAFETY: the pointer is to a whole sockaddr_ll of AF_PACKET that lives until the call returns, and nix copies it.
    let copy = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
    copy.context("not a link address")
}
