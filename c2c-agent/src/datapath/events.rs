//! What rules ask to be logged: the programs' ring of events, read by a thread of its own.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use aya::maps::{MapData, RingBuf};
use c2c_common::layout::Event;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Error;

/// How long the reader waits before it looks whether it should stop, in milliseconds.
const PATIENCE_MS: u16 = 200;

/// The reading thread; dropping it ends it.
#[derive(Debug)]
pub(super) struct Reader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts to give events to `take`.
    pub(super) fn start(
        ring: RingBuf<MapData>,
        take: impl FnMut(Event) + Send + 'static,
    ) -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::Builder::new().name("events".to_owned()).spawn(move || read(ring, take, &seen));
        Ok(Self { stop, thread: Some(thread.map_err(Error::Trace)?) })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A reader that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}

fn read(mut ring: RingBuf<MapData>, mut take: impl FnMut(Event), stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let ready = poll(&mut [PollFd::new(ring.as_fd(), PollFlags::POLLIN)], PollTimeout::from(PATIENCE_MS));
        if !matches!(ready, Ok(n) if n > 0) {
            continue;
        }
        while let Some(item) = ring.next() {
            if let Some(event) = event(&item) {
                take(event);
            }
        }
    }
}

/// An event from its bytes; `None` for another layout's.
fn event(bytes: &[u8]) -> Option<Event> {
    let bytes: &[u8; size_of::<Event>()] = bytes.try_into().ok()?;
    let [s0, s1, s2, s3, d0, d1, d2, d3, p0, p1, q0, q1, protocol, outcome, icmp_type, icmp_code] = *bytes;
    Some(Event {
        source: u32::from_ne_bytes([s0, s1, s2, s3]),
        destination: u32::from_ne_bytes([d0, d1, d2, d3]),
        source_port: u16::from_ne_bytes([p0, p1]),
        destination_port: u16::from_ne_bytes([q0, q1]),
        protocol,
        outcome,
        icmp: [icmp_type, icmp_code],
    })
}
