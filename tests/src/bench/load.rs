//! The load generator: one client and one server, each a thread that is pinned to a processor, and what the client saw.
//!
//! Knows nothing of fabrics: it is told from which namespace to which address. The same code with the same sockets loads
//! every fabric, so that what differs is the way in between.

mod tcp;
mod udp;

pub(super) use tcp::{accepts, rate_of_connections, round_trips, stream};
pub(super) use udp::datagrams;

use crate::netns::Namespace;
use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// A connection or datagram that gets no answer for so long is lost, however slow a fabric is.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a round trip carries in each direction, and a datagram: the size at which the cost of a packet is what counts.
const SMALL_BYTES: usize = 64;

/// The congestion control of every socket: the machine's own may be BBR, which paces and so flattens what is compared. It is
/// set by socket, because a namespace can only be given one that the whole machine allows.
pub(super) const CONGESTION_CONTROL: &str = "cubic";

/// From whom to whom, and at which address and port the one reaches the other.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) client: Namespace,
    pub(super) server: Namespace,
    /// What the client connects to.
    pub(super) to: SocketAddrV4,
    /// What the server listens on; another port than the client's where a port is mapped.
    pub(super) port: u16,
}

impl Way {
    /// A way without a mapped port.
    pub(super) fn straight(client: Namespace, server: Namespace, address: Ipv4Addr, port: u16) -> Self {
        Self { client, server, to: SocketAddrV4::new(address, port), port }
    }

    fn listen(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, self.port)
    }
}

/// The processors that client and server run on; what the kernel does for a packet is done by who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pins {
    pub(super) client: usize,
    pub(super) server: usize,
}

/// Keeps the calling thread on one processor, until the thread ends.
pub(super) fn pin(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor).with_context(|| format!("processor {processor} is none"))?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .with_context(|| format!("cannot pin a thread to processor {processor}"))
}

/// How many per second.
#[expect(clippy::cast_precision_loss, reason = "counts of seconds of work are far below 2^52")]
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
