//! A socket for whole frames on one interface (packet(7)), each with a `virtio_net_hdr` before it: by that header a frame
//! is sent with its checksum or its segmentation left to others, and one that is heard says what was left open.
#![expect(unsafe_code, reason = "the one door to socket options and addresses that no crate offers safely")]

use super::Error;
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socket};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// linux/if_packet.h.
const SOL_PACKET: libc::c_int = 263;
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// linux/if_ether.h: every protocol; to hear them before TC does.
const ETH_P_ALL: u16 = 0x0003;
const ETH_P_IP: u16 = 0x0800;
/// linux/filter.h: where a classic BPF program finds what belongs to a packet and is not in it, and its mark there.
const SKF_AD_MARK: u32 = 0xffff_f000 + 20;

/// The socket. It never blocks.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Sends out of an interface, and hears nothing of note.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn sender(ifindex: u32) -> Result<Self, Error> {
        let open = || Self::unbound()?.bound(ifindex, ETH_P_IP);
        open().map_err(|source| refused("open a packet socket to send with", source))
    }

    /// Hears what comes in by an interface and bears this mark.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn ear(ifindex: u32, mark: u32) -> Result<Self, Error> {
        let open = || {
            let socket = Self::unbound()?;
            socket.filter(mark)?;
            // Or every packet that is sent by the interface would be cloned for this socket.
            socket.set(SOL_PACKET, PACKET_IGNORE_OUTGOING, &1i32)?;
            socket.bound(ifindex, ETH_P_ALL)
        };
        open().map_err(|source| refused("open a packet socket to hear by", source))
    }

    /// Sends a frame with its header.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty()).map(drop).map_err(io::Error::from)
    }

    /// The next frame with its header.
    ///
    /// # Errors
    /// When there is none now (`WouldBlock`), or the interface is gone.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let length = recv(self.0.as_raw_fd(), buffer, MsgFlags::empty())?;
        Ok(buffer.get(..length).unwrap_or_default())
    }

    /// The same, to be waited for.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn waited_for(self) -> Result<AsyncFd<Self>, Error> {
        // SAFETY: the socket owns its descriptor and never closes or replaces it before it is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        registered.map_err(|error| refused("wait for packets", error.into()))
    }

    /// Without a protocol nothing is heard until the socket is bound.
    fn unbound() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = Self(socket(AddressFamily::Packet, SockType::Raw, flags, None)?);
        socket.set(SOL_PACKET, PACKET_VNET_HDR, &1i32)?;
        Ok(socket)
    }

    fn filter(&self, mark: u32) -> io::Result<()> {
        let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
        let mut program = [
            instruction(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0, 0, SKF_AD_MARK),
            instruction(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), 0, 1, mark),
            instruction(code(libc::BPF_RET | libc::BPF_K), 0, 0, u32::MAX),
            instruction(code(libc::BPF_RET | libc::BPF_K), 0, 0, 0),
        ];
        let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
    }

    fn bound(self, ifindex: u32, protocol: u16) -> io::Result<Self> {
        // SAFETY: all-zero is a value of this plain C struct.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
        // SAFETY: the address is of the size that is told, and outlives the call.
        let result = unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), size(&address)) };
        done(result).map(|()| self)
    }

    /// `value` must be what the option takes: an integer, or a program whose instructions outlive the call.
    fn set<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: the value is of the size that is told, and the kernel copies it and what it points at in the call.
        done(unsafe {
            libc::setsockopt(self.0.as_raw_fd(), level, name, (&raw const *value).cast(), size(value))
        })
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn code(code: u32) -> u16 {
    u16::try_from(code).unwrap_or_default()
}

fn size<T>(_: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default()
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn refused(what: &str, source: io::Error) -> Error {
    Error::Refused { what: what.to_owned(), source }
}
