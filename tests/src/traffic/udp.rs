//! UDP: a server that answers with the address it sees and remembers what arrived, a client, and a numbered stream.

use super::{Attempt, Reach, TIMEOUT};
use crate::netns::Namespace;
use crate::wait;
use anyhow::{Context, Result, bail};
use std::collections::HashSet;
use std::net::{Ipv4Addr, UdpSocket};
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
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)
        .context("cannot enlarge a receive buffer")?;
    Ok(socket)
}

fn answer(socket: &UdpSocket, stop: &AtomicBool, received: &Mutex<Vec<Vec<u8>>>) {
    let mut buffer = vec![0; 64 * 1024];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        lock(received).push(buffer.get(..length).unwrap_or_default().to_vec());
        let _lost = socket.send_to(peer.ip().to_string().as_bytes(), peer);
    }
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
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    // A connected socket hears of ICMP errors.
    socket.connect((to, port))?;
    socket.send(payload)?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    let seen = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
    Ok(seen.parse().map_or_else(|_| Reach::Failed(format!("answered {seen:?}")), Reach::Reached))
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
