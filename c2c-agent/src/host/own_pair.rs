//! A pair of interfaces for the agent itself, both ends on the cell: what is sent by one end comes in by the other, as from
//! a container. Neither has an address.

use super::link::remove_link;
use super::netlink::{Netlink, Step};
use super::veth::{Pair, create_pair, index};
use super::{Error, Netns, sysctl};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::LinkUnspec;

/// The pair, which is removed with this value.
#[derive(Debug)]
pub struct OwnPair {
    pair: Pair,
    /// Index of the end that is sent by.
    pub outer: u32,
    /// Index of the end that it comes in by.
    pub inner: u32,
}

impl OwnPair {
    /// Makes the pair in the calling thread's namespace, up, in place of one that was left there.
    ///
    /// # Errors
    /// When the kernel refuses, or a name is somebody else's.
    pub fn create(pair: Pair) -> Result<Self, Error> {
        Self::remove(&pair)?;
        let outer = create_pair(&pair, &Netns::current()?)?;
        // From here on it is removed again when something fails.
        let mut own = Self { pair, outer, inner: 0 };
        own.inner = index(&own.pair.container_name)?;
        let up = |name: &str, ifindex: u32| {
            sysctl::prepare(name)?;
            let message = LinkUnspec::new_with_index(ifindex).up().build();
            Ok::<_, Error>(Step::change(format!("bring up {name}"), RouteNetlinkMessage::SetLink(message)))
        };
        // The outer end last: the one that comes up first has no carrier yet, and sends nothing until the kernel has
        // noticed the other's, some time later (`linkwatch_event`).
        let steps = vec![up(&own.pair.container_name, own.inner)?, up(&own.pair.host_name, own.outer)?];
        Netlink::open()?.apply(steps)?;
        Ok(own)
    }

    /// Removes a pair that an agent left which was killed; false when there is none.
    ///
    /// # Errors
    /// When the kernel refuses, or the name is somebody else's.
    pub fn remove(pair: &Pair) -> Result<bool, Error> {
        remove_link(&pair.host_name, &pair.alias, &pair.host_mac)
    }
}

impl Drop for OwnPair {
    fn drop(&mut self) {
        if let Err(error) = Self::remove(&self.pair) {
            tracing::warn!(%error, "the next agent removes {}", self.pair.host_name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{PacketSocket, find_link, testing};
    use nix::poll::{PollFd, PollFlags, poll};
    use std::os::fd::AsFd;

    /// A frame takes microseconds; only a failing test waits this long.
    const PATIENCE_MS: u16 = 10_000;

    fn pair() -> Pair {
        Pair {
            host_name: "c2c-test".to_owned(),
            host_mac: [2, 0, 0, 0, 0, 1],
            container_name: "c2c-test-in".to_owned(),
            container_mac: [2, 0, 0, 0, 0, 2],
            mtu: 1450,
            alias: "c2c self-test".to_owned(),
        }
    }

    #[test]
    fn what_is_sent_by_one_end_comes_in_by_the_other_and_nothing_is_left() {
        let cell = testing::namespace();
        let heard = cell.run(|| {
            let left = OwnPair::create(pair())?;
            std::mem::forget(left);
            let own = OwnPair::create(pair())?;
            let (sender, ear) = (PacketSocket::sender(own.outer)?, PacketSocket::ear(own.inner, 0)?);
            let deaf = PacketSocket::ear(own.inner, 7)?;
            let mut frame = vec![0; 10 + 60];
            frame[22..25].copy_from_slice(&[8, 0, 0x45]);
            sender.send(&frame).unwrap();
            poll(&mut [PollFd::new(ear.as_fd(), PollFlags::POLLIN)], PATIENCE_MS).unwrap();
            assert!(deaf.receive(&mut [0; 100]).is_err(), "it bears another mark");
            Ok(ear.receive(&mut [0; 100]).unwrap() == frame)
        });
        assert!(heard.unwrap());
        assert_eq!(cell.run(|| find_link("c2c-test")).unwrap(), None);
        assert_eq!(cell.run(|| find_link("c2c-test-in")).unwrap(), None);
    }
}
