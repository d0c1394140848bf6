//! TCP: a server that greets each client with the address and port it sees and then echoes, and clients for it.

use super::{Attempt, Reach, TIMEOUT};
use crate::netns::Namespace;
use crate::wait;
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect as connect_socket, setsockopt, shutdown,
    socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// An echo server in a namespace; it ends with this value.
#[derive(Debug)]
pub struct Server {
    listener: Arc<TcpListener>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on a port of every address in the namespace.
    pub fn start(namespace: &Namespace, port: u16) -> Result<Self> {
        let bind = || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
                .with_context(|| format!("cannot listen on TCP port {port}"))
        };
        let listener = Arc::new(namespace.run(bind)?);
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (accepting, accepted) = (Arc::clone(&listener), Arc::clone(&connections));
        let thread = thread::spawn(move || accept(&accepting, &accepted));
        Ok(Self { listener, connections, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Shutting a listening socket down wakes its accept (Linux).
        let _woken = shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
        for connection in self.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _gone = connection.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, connections: &Mutex<Vec<TcpStream>>) {
    while let Ok((stream, peer)) = listener.accept() {
        if let Ok(copy) = stream.try_clone() {
            connections.lock().unwrap_or_else(PoisonError::into_inner).push(copy);
        }
        thread::spawn(move || {
            let _closed = greet_and_echo(&stream, peer);
            // The other copy would keep the connection half open.
            let _gone = stream.shutdown(Shutdown::Both);
        });
    }
}

fn greet_and_echo(mut stream: &TcpStream, peer: SocketAddr) -> std::io::Result<()> {
    writeln!(stream, "{peer}")?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = stream.read(&mut buffer)?;
        let Some(read) = buffer.get(..length).filter(|read| !read.is_empty()) else { return Ok(()) };
        stream.write_all(read)?;
    }
}

/// Tries to connect from a namespace and reads the greeting.
pub fn connect(from: &Namespace, to: Ipv4Addr, port: u16) -> Result<Attempt> {
    from.run(|| {
        let started = Instant::now();
        let reach =
            Conversation::open(0, to, port).map_or_else(Reach::from, |talk| Reach::Reached(*talk.seen.ip()));
        Ok(Attempt { reach, took: started.elapsed() })
    })
}

/// A connection that stays open.
#[derive(Debug)]
pub struct Conversation {
    reader: BufReader<TcpStream>,
    /// The address and port that the server sees.
    pub seen: SocketAddrV4,
}

impl Conversation {
    /// Connects from a namespace.
    pub fn start(from: &Namespace, to: Ipv4Addr, port: u16) -> Result<Self> {
        Self::start_from(from, 0, to, port)
    }

    /// As [`Conversation::start`], from a port of the caller's choice.
    pub fn start_from(from: &Namespace, source_port: u16, to: Ipv4Addr, port: u16) -> Result<Self> {
        from.run(|| {
            Self::open(source_port, to, port).with_context(|| format!("cannot connect to {to}:{port}"))
        })
    }

    fn open(source_port: u16, to: Ipv4Addr, port: u16) -> std::io::Result<Self> {
        let stream = connected(source_port, SocketAddrV4::new(to, port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        let mut greeting = String::new();
        reader.read_line(&mut greeting)?;
        let seen =
            greeting.trim().parse().map_err(|error| std::io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(Self { reader, seen })
    }

    /// Sends a line and waits for its echo.
    pub fn ping(&mut self) -> std::io::Result<()> {
        self.reader.get_mut().write_all(b"ping\n")?;
        let mut echo = String::new();
        match self.reader.read_line(&mut echo)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Pings until that fails, and says how and when; an error when it goes on for longer than the bound.
    pub fn until_cut(mut self, bound: Duration) -> Result<Attempt> {
        let started = Instant::now();
        while started.elapsed() < bound {
            if let Err(error) = self.ping() {
                return Ok(Attempt { reach: Reach::from(error), took: started.elapsed() });
            }
        }
        bail!("the connection still works after {} ms", bound.as_millis())
    }
}

/// A connection from a local port, 0 for any, that is given up after the common time.
fn connected(source_port: u16, to: SocketAddrV4) -> std::io::Result<TcpStream> {
    if source_port == 0 {
        return TcpStream::connect_timeout(&SocketAddr::V4(to), TIMEOUT);
    }
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let bound = TimeVal::new(TIMEOUT.as_secs().cast_signed(), 0);
    setsockopt(&socket, sockopt::SendTimeout, &bound)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, source_port)))?;
    // The kernel gives a connect up after the socket's send timeout with EINPROGRESS (socket(7)).
    connect_socket(socket.as_raw_fd(), &SockaddrIn::from(to)).map_err(|error| {
        if error == Errno::EINPROGRESS { ErrorKind::TimedOut.into() } else { std::io::Error::from(error) }
    })?;
    Ok(TcpStream::from(socket))
}

/// A transfer in the background: the client sends as fast as the echo comes back and compares every byte.
#[derive(Debug)]
pub struct Transfer {
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Transfer {
    /// Connects from a namespace and begins.
    pub fn start(from: &Namespace, to: Ipv4Addr, port: u16) -> Result<Self> {
        let talk = Conversation::start(from, to, port)?;
        let (stop, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, moving) = (Arc::clone(&stop), Arc::clone(&progress));
        let thread = thread::spawn(move || transfer(talk, &stopping, &moving));
        Ok(Self { stop, progress, thread: Some(thread) })
    }

    /// Bytes that came back so far.
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Waits until a megabyte more has come back than had when this was called.
    pub fn goes_on(&mut self) -> Result<()> {
        let before = self.progress();
        let moved = wait::until("the transfer to go on", || {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            Ok((ended || self.progress() > before + (1 << 20)).then_some(!ended))
        })?;
        if !moved {
            self.join().with_context(|| format!("the transfer ended after {} bytes", self.progress()))?;
            bail!("the transfer ended after {} bytes", self.progress());
        }
        Ok(())
    }

    /// Ends it, and gives the bytes that came back; an error when it broke.
    pub fn finish(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()?;
        Ok(self.progress())
    }

    fn join(&mut self) -> Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result.context("the transfer broke"),
            Some(Err(_)) => bail!("the transfer's thread panicked"),
            None => bail!("the transfer ended before"),
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn transfer(talk: Conversation, stop: &AtomicBool, progress: &AtomicU64) -> std::io::Result<()> {
    // Not a power of two, so that a lost or doubled piece shifts the pattern.
    let pattern: Vec<u8> = (0..=250).cycle().take(251 * 64).collect();
    let mut stream = talk.reader.into_inner();
    let mut echo = vec![0; pattern.len()];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&pattern)?;
        stream.read_exact(&mut echo)?;
        if echo != pattern {
            return Err(std::io::Error::new(ErrorKind::InvalidData, "other bytes came back than were sent"));
        }
        progress.fetch_add(pattern.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}
