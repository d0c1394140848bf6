//! TCP: a stream in one direction, small round trips, and connections that carry one request.

use super::{CONGESTION_CONTROL, PATIENCE, Pins, SMALL_BYTES, Way, per_second, pin};
use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, SockaddrIn, connect as connect_socket, setsockopt, shutdown,
    socket, sockopt,
};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What is written and read at once in a stream.
const BLOCK_BYTES: usize = 128 * 1024;
/// The part of a run that is not counted: slow start is over by then.
const WARM_UP: u32 = 5;

/// Bits of payload per second that arrive.
pub(in crate::bench) fn stream(way: &Way, pins: Pins, time: Duration) -> Result<f64> {
    let arrived = AtomicU64::new(0);
    let drain = |mut stream: TcpStream| -> std::io::Result<()> {
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let length = stream.read(&mut block)?;
            if length == 0 {
                return Ok(());
            }
            arrived.fetch_add(length as u64, Ordering::Relaxed);
        }
    };
    let client = || {
        let mut stream = connect(way)?;
        let block = vec![0; BLOCK_BYTES];
        let mut send_for = |time: Duration| {
            let (began, before) = (Instant::now(), arrived.load(Ordering::Relaxed));
            while began.elapsed() < time {
                stream.write_all(&block).context("cannot send")?;
            }
            Ok::<_, anyhow::Error>(per_second(arrived.load(Ordering::Relaxed) - before, began.elapsed()))
        };
        send_for(time / WARM_UP)?;
        Ok(send_for(time)? * 8.0)
    };
    with_server(way, pins, drain, client)
}

/// How long each round trip took, one after another over one connection.
pub(in crate::bench) fn round_trips(way: &Way, pins: Pins, time: Duration) -> Result<Vec<Duration>> {
    let echo = |mut stream: TcpStream| {
        let mut message = [0; SMALL_BYTES];
        stream.set_nodelay(true)?;
        loop {
            stream.read_exact(&mut message)?;
            stream.write_all(&message)?;
        }
    };
    let client = || {
        let mut stream = connect(way)?;
        let mut turn_for = |time: Duration| {
            let (began, mut message, mut times) = (Instant::now(), [0; SMALL_BYTES], Vec::new());
            while began.elapsed() < time {
                let sent = Instant::now();
                stream.write_all(&message).context("cannot send")?;
                stream.read_exact(&mut message).context("no answer")?;
                times.push(sent.elapsed());
            }
            Ok::<_, anyhow::Error>(times)
        };
        turn_for(time / WARM_UP)?;
        turn_for(time)
    };
    with_server(way, pins, echo, client)
}

/// Connections per second: each is opened, carries one request and one answer, and is closed, by the server first as an
/// HTTP/1.0 server does it.
pub(in crate::bench) fn rate_of_connections(way: &Way, pins: Pins, time: Duration) -> Result<f64> {
    let answer = |mut stream: TcpStream| {
        let mut message = [0; SMALL_BYTES];
        stream.read_exact(&mut message)?;
        stream.write_all(&message)
    };
    let client = || {
        let call_for = |time: Duration| {
            let (began, mut answer, mut calls) = (Instant::now(), Vec::with_capacity(SMALL_BYTES), 0);
            while began.elapsed() < time {
                let mut stream = connect(way)?;
                stream.write_all(&[0; SMALL_BYTES]).context("cannot send a request")?;
                answer.clear();
                stream.read_to_end(&mut answer).context("no answer")?;
                ensure!(answer.len() == SMALL_BYTES, "an answer of {} bytes", answer.len());
                calls += 1;
            }
            Ok::<_, anyhow::Error>(per_second(calls, began.elapsed()))
        };
        call_for(time / WARM_UP)?;
        call_for(time)
    };
    with_server(way, pins, answer, client)
}

/// Whether the client's connection is accepted; refused is no error.
pub(in crate::bench) fn accepts(way: &Way, pins: Pins) -> Result<bool> {
    let client = || match connect_plain(way) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error).with_context(|| format!("neither connected to {} nor refused", way.to)),
    };
    with_server(way, pins, |_| Ok(()), client)
}

fn connect(way: &Way) -> Result<TcpStream> {
    connect_plain(way).with_context(|| format!("cannot connect from {} to {}", way.client.name(), way.to))
}

fn connect_plain(way: &Way) -> std::io::Result<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let stream = TcpStream::from(socket);
    setsockopt(&stream, sockopt::TcpCongestion, &OsString::from(CONGESTION_CONTROL))?;
    patient(&stream)?;
    // The kernel gives a connect up after the socket's write timeout with EINPROGRESS (socket(7)).
    connect_socket(stream.as_raw_fd(), &SockaddrIn::from(way.to))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Neither end waits for ever for the other.
fn patient(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Runs the client's work beside a server that serves one connection after another, each end on its processor.
fn with_server<T: Send>(
    way: &Way,
    pins: Pins,
    serve: impl Fn(TcpStream) -> std::io::Result<()> + Sync,
    client: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let bind = || {
        let listener =
            TcpListener::bind(way.listen()).with_context(|| format!("cannot listen on {}", way.listen()))?;
        // What it accepts has it too.
        setsockopt(&listener, sockopt::TcpCongestion, &OsString::from(CONGESTION_CONTROL))
            .with_context(|| format!("the kernel has no {CONGESTION_CONTROL}"))?;
        Ok(listener)
    };
    let listener = way.server.run(bind)?;
    let accept = || {
        pin(pins.server)?;
        while let Ok((stream, _)) = listener.accept() {
            // How a connection ends is the client's to judge.
            let _ended = patient(&stream).and_then(|()| serve(stream));
        }
        Ok(())
    };
    thread::scope(|scope| {
        let serving = scope.spawn(accept);
        let result = way.client.run(|| pin(pins.client).and_then(|()| client()));
        // Shutting a listening socket down wakes its accept (Linux).
        let _woken = shutdown(listener.as_raw_fd(), Shutdown::Both);
        let served: Result<()> = serving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        served.and(result)
    })
}
