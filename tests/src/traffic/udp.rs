//! UDP: a server that answers with the address and port it sees and with what it got, and remembers what arrived;
//! clients for it, and a numbered stream.

use super::{Attempt, Reach, TIMEOUT};
use crate::netns::Namespace;
use crate::wait;
use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};
use std::collections::HashSet;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Big enough for every datagram of a stream's whole life, should the reader not be scheduled.
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;
/// How soon a server notices that it should end.
const TICK: Duration = Duration::from_millis(50);
/// Distance of a stream's datagrams.
const INTERVAL: Duration = Duration::from_millis(1);

/// A server in a namespace; it ends with this value.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on a port of every address in the namespace.
    pub fn start(namespace: &Namespace, port: u16) -> Result<Self> {
        let socket = namespace.run(|| bind(port))?;
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopping, log) = (Arc::clone(&stop), Arc::clone(&received));
        let thread = thread::spawn(move || answer(&socket, &stopping, &log));
        Ok(Self { stop, received, thread: Some(thread) })
    }

    /// Every payload that arrived, in the order of arrival.
    #[must_use]
    pub fn received(&self) -> Vec<Vec<u8>> {
        lock(&self.received).clone()
    }

    /// Whether a payload arrived.
    #[must_use]
    pub fn has_received(&self, payload: &[u8]) -> bool {
        lock(&self.received).iter().any(|received| received == payload)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn bind(port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
    let socket = socket.with_context(|| format!("cannot listen on UDP port {port}"))?;
    socket.set_read_timeout(Some(TICK)).context("cannot set a read timeout")?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)
        .context("cannot enlarge a receive buffer")?;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).context("cannot ask for addresses")?;
    Ok(socket)
}

fn answer(socket: &UdpSocket, stop: &AtomicBool, received: &Mutex<Vec<Vec<u8>>>) {
    let mut buffer = vec![0; 64 * 1024];
    while !stop.load(Ordering::Relaxed) {
        let Ok(Some(question)) = receive(socket, &mut buffer) else { continue };
        let payload = buffer.get(..question.length).unwrap_or_default().to_vec();
        let _lost = reply(socket, &question, &payload);
        lock(received).push(payload);
    }
}

/// A datagram that arrived.
struct Question {
    length: usize,
    peer: SocketAddrV4,
    /// The address that was asked: a socket that is bound to all of them has to say which one answers.
    asked: libc::in_pktinfo,
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> nix::Result<Option<Question>> {
    let mut space = nix::cmsg_space!(libc::in_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let about = |control| {
        if let ControlMessageOwned::Ipv4PacketInfo(asked) = control { Some(asked) } else { None }
    };
    let asked = message.cmsgs()?.find_map(about);
    let ends = message.address.zip(asked);
    Ok(ends.map(|(peer, asked)| Question { length: message.bytes, peer: peer.into(), asked }))
}

fn reply(socket: &UdpSocket, question: &Question, payload: &[u8]) -> nix::Result<usize> {
    let text = [format!("{}\n", question.peer).as_bytes(), payload].concat();
    let mut from = question.asked;
    // By the route, not by the device that the question came in at.
    from.ipi_ifindex = 0;
    let control = [ControlMessage::Ipv4PacketInfo(&from)];
    let peer = SockaddrIn::from(question.peer);
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(&text)], &control, MsgFlags::empty(), Some(&peer))
}

/// Sends one datagram from a namespace and waits for the answer.
pub fn ask(from: &Namespace, to: Ipv4Addr, port: u16) -> Result<Attempt> {
    send(from, to, port, b"ask")
}

/// As [`ask`], with a payload of the caller's.
pub fn send(from: &Namespace, to: Ipv4Addr, port: u16, payload: &[u8]) -> Result<Attempt> {
    from.run(|| {
        let started = Instant::now();
        let reach = exchange(to, port, payload).unwrap_or_else(Reach::from);
        Ok(Attempt { reach, took: started.elapsed() })
    })
}

fn exchange(to: Ipv4Addr, port: u16, payload: &[u8]) -> std::io::Result<Reach> {
    Client::open(0, to, port)?.exchange(payload).map(|seen| Reach::Reached(*seen.ip()))
}

/// A client that keeps its port.
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
}

impl Client {
    /// Binds in a namespace to a port of the caller's choice, 0 for any.
    pub fn start(from: &Namespace, source_port: u16, to: Ipv4Addr, port: u16) -> Result<Self> {
        from.run(|| {
            Self::open(source_port, to, port).with_context(|| format!("cannot make a socket for {to}:{port}"))
        })
    }

    fn open(source_port: u16, to: Ipv4Addr, port: u16) -> std::io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, source_port))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        // A connected socket hears of ICMP errors.
        socket.connect((to, port))?;
        Ok(Self { socket })
    }

    /// Sends a datagram and waits for the server's answer, which must hold all that was sent; gives the address and
    /// port that the server sees.
    pub fn exchange(&self, payload: &[u8]) -> std::io::Result<SocketAddrV4> {
        self.socket.send(payload)?;
        let mut answer = vec![0; 64 * 1024];
        let length = self.socket.recv(&mut answer)?;
        let strange = |why: String| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
        let mut parts = answer.get(..length).unwrap_or_default().splitn(2, |byte| *byte == b'\n');
        let seen = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        if parts.next() != Some(payload) {
            return Err(strange(format!("{length} bytes came back that do not hold what was sent")));
        }
        seen.parse().map_err(|_| strange(format!("answered {seen:?}")))
    }

    /// Sends a datagram and waits for nothing.
    pub fn send(&self, payload: &[u8]) -> std::io::Result<()> {
        self.socket.send(payload).map(drop)
    }
}

/// A stream of numbered datagrams in the background, one every millisecond.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Stream {
    /// Begins to send from a namespace.
    pub fn start(from: &Namespace, to: Ipv4Addr, port: u16) -> Result<Self> {
        let connect = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot make a UDP socket")?;
            socket.connect((to, port)).with_context(|| format!("no route to {to}"))?;
            Ok(socket)
        };
        let socket = from.run(connect)?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopping, counting) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                socket.send(&counting.load(Ordering::Relaxed).to_be_bytes())?;
                counting.fetch_add(1, Ordering::Relaxed);
                thread::sleep(INTERVAL);
            }
            Ok(())
        });
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    /// Waits until this many more datagrams have been sent.
    pub fn sends(&self, more: u32) -> Result<()> {
        let before = self.sent.load(Ordering::Relaxed);
        wait::until_true("datagrams to be sent", || Ok(self.sent.load(Ordering::Relaxed) >= before + more))
    }

    /// Ends the stream and says how many of its datagrams were sent; an error when not every one of them arrived.
    pub fn finish(mut self, server: &Server) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result.context("the datagram stream broke")?,
            Some(Err(_)) | None => bail!("the datagram stream's thread panicked"),
        }
        let sent = self.sent.load(Ordering::Relaxed);
        if let Some(last) = sent.checked_sub(1) {
            wait::until_true("the last datagram", || Ok(server.has_received(&last.to_be_bytes())))?;
        }
        let received: HashSet<Vec<u8>> = server.received().into_iter().collect();
        let missing: Vec<u32> =
            (0..sent).filter(|number| !received.contains(number.to_be_bytes().as_slice())).collect();
        if !missing.is_empty() {
            bail!(
                "{} of {sent} datagrams are missing, the first is number {:?}",
                missing.len(),
                missing.first()
            );
        }
        Ok(sent)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn lock(received: &Mutex<Vec<Vec<u8>>>) -> MutexGuard<'_, Vec<Vec<u8>>> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}
