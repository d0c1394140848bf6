//! UDP: small datagrams as fast as they are received. The client runs ahead of the server by two batches and no more, so
//! that what is counted is the whole way of a packet and not how soon a full queue drops it.
//!
//! On one processor, one thread sends a batch and then receives it: with two, the scheduler would switch between them for each
//! datagram, and the figure would be its cost more than the way's.

use super::{PATIENCE, Pins, SMALL_BYTES, Way, per_second, pin};
use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Datagrams in a batch; what the sender is ahead at most is two of them.
const BATCH: u64 = 64;
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
    let began = Instant::now();
    let mut datagram = [0; 2 * SMALL_BYTES];
    while began.elapsed() < time {
        sender.send_batch()?;
        let sent = Instant::now();
        // What the kernel still holds is waited for; what does not come is lost.
        while arrived.load(Ordering::Relaxed) < sender.due && sent.elapsed() < LOST_AFTER {
            if receiver.recv(&mut datagram).is_ok() {
                arrived.fetch_add(1, Ordering::Relaxed);
            }
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
    let mut datagram = [0; 2 * SMALL_BYTES];
    while !stop.load(Ordering::Relaxed) {
        // An empty queue, or a refusal of something that was sent before: neither is a datagram.
        if socket.recv(&mut datagram).is_err() {
            continue;
        }
        if (arrived.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(BATCH) {
            sender.unpark();
        }
    }
    Ok(())
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
            self.wait(BATCH)?;
        }
        rate(self.arrived, began.elapsed())
    }

    fn send_batch(&mut self) -> Result<()> {
        for _ in 0..BATCH {
            self.socket.send(&[0; SMALL_BYTES]).context("cannot send a datagram")?;
        }
        self.due += BATCH;
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
