//! A socket for whole IPv4 packets that the cell itself sends (raw(7)): the kernel finds their way, and nothing of them is
//! left to a device.

use super::Error;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

/// The socket. It never blocks.
#[derive(Debug)]
pub struct RawSocket(OwnedFd);

impl RawSocket {
    /// Opens one in the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open() -> Result<Self, Error> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let opened = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw);
        let what = "open a raw socket".to_owned();
        opened.map(Self).map_err(|errno| Error::Refused { what, source: errno.into() })
    }

    /// Sends a packet with its header, to where that says.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn send(&self, packet: &[u8], to: Ipv4Addr) -> io::Result<()> {
        let [a, b, c, d] = to.octets();
        let to = SockaddrIn::new(a, b, c, d, 0);
        sendto(self.0.as_raw_fd(), packet, &to, MsgFlags::empty()).map(drop).map_err(io::Error::from)
    }
}
