//! UDP: small datagrams as fast as they are received. The client runs ahead of the server by two batches and no more, so
//! that what is counted is the whole way of a packet and not how soon a full queue drops it.
//!
//! On one processor, one thread sends a batch and then receives it: with two, the scheduler would switch between them for each
//! datagram, and the figure would be its cost more than the way's. One system call moves as many datagrams of a batch as it
//! can, because entering the kernel costs as much as a part of the way does, and the same whatever the way.

use super::{PATIENCE, Pins, SMALL_BYTES, Way, per_second, pin};
use anyhow::{Context, Result, ensure};
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg, setsockopt, sockopt};
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Datagrams in a batch; what the sender is ahead at most is two of them.
const BATCH: usize = 64;
/// Each datagram takes less than 1 KiB of the receiver's queue.
const QUEUE_BYTES: usize = 4 << 20;
/// After so long without one, the datagrams under way are lost. Far above what the slowest fabric takes for two batches.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// How soon the receiver notices that it should end.
const TICK: Duration = Duration::from_millis(20);

/// Datagrams that arrive per second.
pub(in crate::bench) fn datagrams(way: &Way, pins: Pins, time: Duration) -> Result<f64> {
    let receiver = way.server.run(|| {
        let socket =
            UdpSocket::bind(way.listen()).with_context(|| format!("cannot bind {}", way.listen()))?;
        setsockopt(&socket, sockopt::RcvBufForce, &QUEUE_BYTES).context("cannot set a queue's length")?;
        socket.set_read_timeout(Some(TICK)).context("cannot set a read timeout")?;
        Ok(socket)
    })?;
    way.client.run(|| {
        pin(pins.client)?;
        if pins.client == pins.server {
            by_turns(way, &receiver, time)
        } else {
            side_by_side(way, &receiver, pins, time)
        }
    })
}

/// One thread for both: a batch out, then in.
fn by_turns(way: &Way, receiver: &UdpSocket, time: Duration) -> Result<f64> {
    let arrived = AtomicU64::new(0);
    let mut sender = Sender::new(way, &arrived)?;
    let (mut receiver, began) = (Batch::of(receiver), Instant::now());
    while began.elapsed() < time {
        sender.send_batch()?;
        let sent = Instant::now();
        // What the kernel still holds is waited for; what does not come is lost.
        while arrived.load(Ordering::Relaxed) < sender.due && sent.elapsed() < LOST_AFTER {
            arrived.fetch_add(receiver.receive(), Ordering::Relaxed);
        }
        sender.due = arrived.load(Ordering::Relaxed);
    }
    rate(&arrived, began.elapsed())
}

/// Two threads, each on its processor.
fn side_by_side(way: &Way, receiver: &UdpSocket, pins: Pins, time: Duration) -> Result<f64> {
    let (arrived, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let sender = thread::current();
    thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(receiver, pins, &arrived, &stop, &sender));
        let rate = Sender::new(way, &arrived).and_then(|mut sender| sender.send_for(time));
        stop.store(true, Ordering::Relaxed);
        let received = receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        received.and(rate)
    })
}

fn rate(arrived: &AtomicU64, time: Duration) -> Result<f64> {
    let arrived = arrived.load(Ordering::Relaxed);
    ensure!(arrived > 0, "no datagram arrived");
    Ok(per_second(arrived, time))
}

fn receive(
    socket: &UdpSocket,
    pins: Pins,
    arrived: &AtomicU64,
    stop: &AtomicBool,
    sender: &Thread,
) -> Result<()> {
    pin(pins.server)?;
    let mut receiver = Batch::of(socket);
    while !stop.load(Ordering::Relaxed) {
        let received = receiver.receive();
        let before = arrived.fetch_add(received, Ordering::Relaxed);
        if before / BATCH as u64 != (before + received) / BATCH as u64 {
            sender.unpark();
        }
    }
    Ok(())
}

/// Room for the datagrams that go through a socket by one system call.
struct Batch<'a> {
    socket: &'a UdpSocket,
    headers: MultiHeaders<()>,
}

impl<'a> Batch<'a> {
    fn of(socket: &'a UdpSocket) -> Self {
        Self { socket, headers: MultiHeaders::preallocate(BATCH, None) }
    }

    /// Sends so many at most; how many the kernel has taken.
    fn send(&mut self, most: usize) -> nix::Result<usize> {
        let datagram = [IoSlice::new(&[0; SMALL_BYTES])];
        let datagrams = vec![datagram; most];
        let no_address = [None; BATCH];
        let (socket, flags) = (self.socket.as_raw_fd(), MsgFlags::empty());
        sendmmsg(socket, &mut self.headers, &datagrams, no_address, [], flags).map(Iterator::count)
    }

    /// How many were there, after the first of them. None when the queue stays empty for a tick, or tells of the refusal of
    /// something that was sent before: neither is a datagram.
    fn receive(&mut self) -> u64 {
        let mut room = [[0; 2 * SMALL_BYTES]; BATCH];
        let mut slices: Vec<_> = room.iter_mut().map(|room| [IoSliceMut::new(room)]).collect();
        let (socket, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_WAITFORONE);
        recvmmsg(socket, &mut self.headers, &mut slices, flags, None)
            .map_or(0, |received| received.count() as u64)
    }
}

struct Sender<'a> {
    socket: UdpSocket,
    arrived: &'a AtomicU64,
    /// Sent and neither arrived nor lost: what `arrived` will be.
    due: u64,
}

impl<'a> Sender<'a> {
    fn new(way: &Way, arrived: &'a AtomicU64) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot make a UDP socket")?;
        socket.connect(way.to).with_context(|| format!("no route to {}", way.to))?;
        socket.set_write_timeout(Some(PATIENCE)).context("cannot set a write timeout")?;
        Ok(Self { socket, arrived, due: 0 })
    }

    fn send_for(&mut self, time: Duration) -> Result<f64> {
        let began = Instant::now();
        while began.elapsed() < time {
            self.send_batch()?;
            self.wait(BATCH as u64)?;
        }
        rate(self.arrived, began.elapsed())
    }

    fn send_batch(&mut self) -> Result<()> {
        let (mut batch, mut left) = (Batch::of(&self.socket), BATCH);
        while left > 0 {
            left -= batch.send(left).context("cannot send a datagram")?;
        }
        self.due += BATCH as u64;
        Ok(())
    }

    /// Waits until no more than this many are under way.
    fn wait(&mut self, under_way: u64) -> Result<()> {
        let began = Instant::now();
        while self.arrived.load(Ordering::Relaxed) + under_way < self.due {
            ensure!(began.elapsed() < PATIENCE, "datagrams do not arrive");
            thread::park_timeout(LOST_AFTER);
            if began.elapsed() > LOST_AFTER {
                self.due = self.arrived.load(Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
