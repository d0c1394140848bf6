//! How much arrives: servers that count bytes and keep none, clients that send as much as they are let, and the rate
//! that comes of it.

use super::TIMEOUT;
use crate::netns::Namespace;
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How soon a thread notices that it should end.
const TICK: Duration = Duration::from_millis(50);
/// Payload of a datagram: what a container's device takes in one piece, with room for options.
pub const DATAGRAM_BYTES: usize = 1_400;
/// How far a client's datagrams are apart in batches.
const BATCH: Duration = Duration::from_millis(2);

/// Counts the payload that arrives at a port; ends with this value.
#[derive(Debug)]
pub struct Sink {
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Counts what one TCP connection brings.
    pub fn tcp(namespace: &Namespace, port: u16) -> Result<Self> {
        let listener = namespace.run(|| {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
                .with_context(|| format!("cannot listen on TCP port {port}"))
        })?;
        listener.set_nonblocking(true).context("cannot set a listener's mode")?;
        Ok(Self::start(move |stop, bytes| {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drain(stream, stop, bytes),
                    Err(_) => thread::sleep(TICK),
                }
            }
        }))
    }

    /// Counts what datagrams bring.
    pub fn udp(namespace: &Namespace, port: u16) -> Result<Self> {
        let socket = namespace.run(|| {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
                .with_context(|| format!("cannot listen on UDP port {port}"))
        })?;
        socket.set_read_timeout(Some(TICK)).context("cannot set a read timeout")?;
        Ok(Self::start(move |stop, bytes| {
            let mut buffer = vec![0; 64 * 1024];
            while !stop.load(Ordering::Relaxed) {
                let length = socket.recv(&mut buffer).unwrap_or(0);
                bytes.fetch_add(length as u64, Ordering::Relaxed);
            }
        }))
    }

    fn start(work: impl FnOnce(&AtomicBool, &AtomicU64) + Send + 'static) -> Self {
        let (stop, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, counting) = (Arc::clone(&stop), Arc::clone(&bytes));
        let thread = thread::spawn(move || work(&stopping, &counting));
        Self { stop, bytes, thread: Some(thread) }
    }

    /// Bytes of payload so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits until this many bytes have arrived.
    pub fn gets(&self, bytes: u64) -> Result<()> {
        wait::until_true(&format!("{bytes} bytes to arrive"), || Ok(self.bytes() >= bytes))
    }

    /// Bits of payload so far.
    #[must_use]
    pub fn bits(&self) -> f64 {
        self.bytes() as f64 * 8.0
    }

    /// Waits for a second that brings this many bits of payload, and gives what it brought. A machine that takes the
    /// processors away for a moment, as virtual ones do, takes a limit's tokens of that moment; so one second has to be
    /// found, not every one is asked for.
    pub fn comes_to(&self, bits: f64) -> Result<f64> {
        const WINDOW: Duration = Duration::from_secs(1);
        const WINDOWS: u32 = 20;
        let mut most = 0.0_f64;
        for _ in 0..WINDOWS {
            let (started, before) = (Instant::now(), self.bits());
            thread::sleep(WINDOW);
            most = most.max((self.bits() - before) / started.elapsed().as_secs_f64());
            if most >= bits {
                return Ok(most);
            }
        }
        bail!("at most {most:.0} bits of payload came in one of {WINDOWS} seconds, expected {bits:.0}")
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        end(&self.stop, &mut self.thread);
    }
}

fn drain(mut stream: TcpStream, stop: &AtomicBool, bytes: &AtomicU64) {
    let mut buffer = vec![0; 256 * 1024];
    let ready = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(TICK)));
    while ready.is_ok() && !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => drop(bytes.fetch_add(length as u64, Ordering::Relaxed)),
            Err(_) => {}
        }
    }
}

/// Sends without end; ends with this value.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Over a TCP connection, as fast as it takes.
    pub fn tcp(from: &Namespace, to: Ipv4Addr, port: u16) -> Result<Self> {
        let mut stream = from.run(|| {
            TcpStream::connect((to, port)).with_context(|| format!("cannot connect to {to}:{port}"))
        })?;
        stream.set_write_timeout(Some(TIMEOUT)).context("cannot set a write timeout")?;
        Ok(Self::start(move |stop| {
            let block = vec![0; 128 * 1024];
            while !stop.load(Ordering::Relaxed) && stream.write_all(&block).is_ok() {}
        }))
    }

    /// In datagrams, at a rate in bits per second.
    pub fn udp(from: &Namespace, to: Ipv4Addr, port: u16, rate: u32) -> Result<Self> {
        let socket = from.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot make a UDP socket")?;
            socket.connect((to, port)).with_context(|| format!("no route to {to}"))?;
            Ok(socket)
        })?;
        ensure!(rate > 0, "a flood needs a rate");
        let gap = Duration::from_secs_f64(DATAGRAM_BYTES as f64 * 8.0 / f64::from(rate));
        Ok(Self::start(move |stop| {
            let (started, payload, mut sent) = (Instant::now(), vec![0; DATAGRAM_BYTES], 0_u32);
            while !stop.load(Ordering::Relaxed) {
                while gap * sent < started.elapsed() && !stop.load(Ordering::Relaxed) {
                    // A full queue is what the limit is about.
                    let _lost = socket.send(&payload);
                    sent += 1;
                }
                thread::sleep(BATCH);
            }
        }))
    }

    fn start(work: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        Self { stop, thread: Some(thread::spawn(move || work(&stopping))) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        end(&self.stop, &mut self.thread);
    }
}

fn end(stop: &AtomicBool, thread: &mut Option<JoinHandle<()>>) {
    stop.store(true, Ordering::Relaxed);
    if let Some(thread) = thread.take() {
        let _ended = thread.join();
    }
}
