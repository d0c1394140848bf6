//! Whole IPv4 packets as a namespace's stack gets them, after it has put fragments together, with their headers.

use super::TIMEOUT;
use crate::netns::Namespace;
use anyhow::{Context, Result};
use etherparse::Ipv4Slice;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How soon a wait for a packet looks at the clock.
const TICK_MICROSECONDS: i64 = 50_000;

/// A packet that came.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Who sent it.
    pub source: Ipv4Addr,
    /// To whom.
    pub destination: Ipv4Addr,
    /// The two bits of congestion notification (RFC 3168).
    pub ecn: u8,
    /// The header's options, as they came.
    pub options: Vec<u8>,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// Hears every packet of one protocol that a namespace's stack gets, from when it is made.
#[derive(Debug)]
pub struct Ear {
    socket: OwnedFd,
}

impl Ear {
    /// Opens one for ICMP or UDP.
    pub fn open(namespace: &Namespace, protocol: SockProtocol) -> Result<Self> {
        let socket = namespace.run(|| {
            socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
                .context("cannot open a raw socket")
        })?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, TICK_MICROSECONDS))
            .context("cannot set a receive timeout")?;
        Ok(Self { socket })
    }

    /// The first packet from now on, or among those that wait, of which the caller can make something; none when there
    /// is none within the common time.
    pub fn hear<T>(&self, accept: impl FnMut(&Packet) -> Option<T>) -> Result<Option<T>> {
        self.hear_within(TIMEOUT, accept)
    }

    /// As [`Ear::hear`], within a time of the caller's.
    pub fn hear_within<T>(
        &self,
        bound: Duration,
        mut accept: impl FnMut(&Packet) -> Option<T>,
    ) -> Result<Option<T>> {
        let started = Instant::now();
        let mut buffer = vec![0; 64 * 1024];
        while started.elapsed() < bound {
            // Nothing within a tick, or an ICMP error that this socket was told of.
            let Ok(length) = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) else { continue };
            let heard = packet(buffer.get(..length).unwrap_or_default()).and_then(|packet| accept(&packet));
            if heard.is_some() {
                return Ok(heard);
            }
        }
        Ok(None)
    }
}

/// Reads a packet; none when it is not whole.
pub(super) fn packet(bytes: &[u8]) -> Option<Packet> {
    let slice = Ipv4Slice::from_slice(bytes).ok()?;
    let header = slice.header();
    Some(Packet {
        source: header.source_addr(),
        destination: header.destination_addr(),
        ecn: header.ecn().value(),
        options: header.options().to_vec(),
        payload: slice.payload().payload.to_vec(),
    })
}
