//! What probes are sent by: a pair of devices of the agent's own with the program on its inner end, while a test lasts.

use super::frame::{self, Ends, Kind};
use crate::datapath;
use crate::fabric::Fabric;
use crate::host::{self, OwnPair, PacketSocket, Pair};
use std::io;

/// Of both ends, in bytes.
const MACS: ([u8; 6], [u8; 6]) = ([0xaa, 0xaa, 0xc, 0x2c, 0, 1], [0xee, 0xee, 0xc, 0x2c, 0, 1]);
/// Enough for any probe.
const MTU: u32 = frame::MAX_MTU as u32;

/// Why probes cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum RigError {
    #[error("cannot make the devices that the self-test sends by")]
    Host(#[from] host::Error),
    #[error("cannot attach the self-test's program")]
    Attach(#[from] datapath::Error),
}

/// Sends probes while it lives.
#[derive(Debug)]
pub(super) struct Rig {
    sender: PacketSocket,
    _pair: OwnPair,
}

impl Rig {
    pub(super) fn build(fabric: &Fabric) -> Result<Self, RigError> {
        let pair = OwnPair::create(pair())?;
        fabric.attach_self_test(pair.inner)?;
        Ok(Self { sender: PacketSocket::sender(pair.outer)?, _pair: pair })
    }

    pub(super) fn send(&self, kind: Kind, nonce: u32, ends: Ends, mtu: u16) -> io::Result<()> {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = MACS;
        self.sender.send(&frame::probe(kind, nonce, ends, mtu, [a, b, c, d, e, f, g, h, i, j, k, l]))
    }
}

/// The first address is the inner end's, where frames are addressed to.
fn pair() -> Pair {
    let (inner, outer) = MACS;
    Pair {
        host_name: "c2c-test".to_owned(),
        host_mac: outer,
        container_name: "c2c-test-in".to_owned(),
        container_mac: inner,
        mtu: MTU,
        alias: "c2c self-test".to_owned(),
    }
}

/// Removes what an agent left that was killed in a test.
///
/// # Errors
/// When the kernel refuses.
pub fn remove_left_over() -> Result<bool, host::Error> {
    OwnPair::remove(&pair())
}
