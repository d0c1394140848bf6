//! What no packet does for flows with the outside: those that timed out or whose container is gone are removed, and the
//! connections that ended without a packet to tell are given back to their container's ceiling.

use std::collections::{HashMap, HashSet};

use c2c_common::addr::Addr;
use c2c_common::flow::FlowKey;
use c2c_common::layout::{CONNECTIONS, ENDED_UNSEEN, TRANSLATIONS};
use c2c_common::outside::Translation;

use super::people::{Reader, monotonic_ns, rows};
use super::pod::Raw;
use super::{Datapath, Error};

/// What a sweep found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    /// Flows that had timed out, or whose container is gone, and are removed.
    pub removed: usize,
    /// Flows that live.
    pub live: usize,
    /// Connections that no packet told the end of, now given back.
    pub ended_unseen: u64,
    /// Connections of the container that holds the most.
    pub fullest: u64,
}

/// What a look at all flows with the outside found.
#[derive(Debug)]
pub struct Found {
    /// The containers' devices when it began.
    devices: HashMap<Addr, u32>,
    /// Connections of each container, opened and not closed, whatever was given back before.
    open: HashMap<Addr, u64>,
    flows: Vec<(FlowKey, Translation)>,
}

impl Reader {
    /// Reads the flows with the outside, given the containers' devices as of now ([`Datapath::devices`]).
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn look(&self, devices: HashMap<Addr, u32>) -> Result<Found, Error> {
        // Read before the flows are: a connection that opens meanwhile is then counted among the living only, which
        // errs on the side of the ceiling until the next sweep.
        let connections = rows(CONNECTIONS, &self.connections)?.into_iter();
        let open = connections.map(|(addr, Raw(c))| (addr, c.opened.saturating_sub(c.closed))).collect();
        let flows = rows(TRANSLATIONS, &self.translations)?.into_iter();
        Ok(Found { devices, open, flows: flows.map(|(Raw(key), Raw(flow))| (key, flow)).collect() })
    }
}

impl Datapath {
    /// The containers' devices, by address.
    #[must_use]
    pub fn devices(&self) -> HashMap<Addr, u32> {
        self.endpoints.rows().map(|(addr, Raw(endpoint))| (*addr, endpoint.ifindex)).collect()
    }

    /// Removes the flows with the outside that are over, and counts each container's connections anew. To be called every
    /// few seconds; without it nothing is forwarded wrongly, but a container at its ceiling may stay there.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn sweep(&mut self, found: Found) -> Result<Swept, Error> {
        // Asked after the flows were read: whose container came meanwhile is not taken for one that is gone.
        let devices = self.devices();
        let now = devices.values().copied().collect();
        let Sorted { over, live, open: living } = sort(found.flows.into_iter(), &now, monotonic_ns());
        let fullest = living.values().copied().max().unwrap_or(0);
        let mut swept = Swept { removed: self.remove_flows(&over)?, live, ended_unseen: 0, fullest };
        for (addr, open) in found.open {
            // The counts of a container that left meanwhile are not its successor's.
            if devices.get(&addr).is_none_or(|device| found.devices.get(&addr) != Some(device)) {
                continue;
            }
            let unseen = open.saturating_sub(living.get(&addr).copied().unwrap_or(0));
            swept.ended_unseen += self.give_back(addr, unseen)?;
        }
        Ok(swept)
    }

    /// Removes flows, unless their place is another's meanwhile; answers how many they were.
    fn remove_flows(&mut self, flows: &[(FlowKey, Translation)]) -> Result<usize, Error> {
        let (map, _) = &mut self.translations;
        let mut removed = 0;
        for (key, flow) in flows {
            let same = map.get(&Raw(*key), 0).is_ok_and(|Raw(now)| now == *flow);
            if !same {
                continue;
            }
            match map.remove(&Raw(*key)) {
                Ok(()) => removed += 1,
                Err(error) if super::table::is_absent(&error) => {}
                Err(source) => return Err(Error::map(TRANSLATIONS, source)),
            }
        }
        Ok(removed)
    }

    /// Makes the number of connections that ended unseen this; answers by how many it grew.
    fn give_back(&mut self, addr: Addr, unseen: u64) -> Result<u64, Error> {
        let map = &mut self.ended_unseen.0;
        let before = map.get(&addr, 0).unwrap_or(0);
        if before != unseen {
            map.insert(addr, unseen, 0).map_err(|source| Error::map(ENDED_UNSEEN, source))?;
        }
        Ok(unseen.saturating_sub(before))
    }

    /// Forgets the connections of a container that is gone: the next one at its address starts from nothing.
    pub(super) fn forget_connections(&mut self, addr: Addr) -> Result<(), Error> {
        let absent = |error: &aya::maps::MapError| super::table::is_absent(error);
        match self.connections.0.remove(&addr) {
            Err(error) if !absent(&error) => return Err(Error::map(CONNECTIONS, error)),
            _ => {}
        }
        match self.ended_unseen.0.remove(&addr) {
            Err(error) if !absent(&error) => Err(Error::map(ENDED_UNSEEN, error)),
            _ => Ok(()),
        }
    }
}

/// The flows with the outside, as a sweep finds them.
#[derive(Debug, Default)]
struct Sorted {
    /// Timed out, or of a container that is gone.
    over: Vec<(FlowKey, Translation)>,
    /// How many are neither.
    live: usize,
    /// Of these the connections that a ceiling counts, by container.
    open: HashMap<Addr, u64>,
}

/// Sorts them, given the devices of the containers that there are. A container's address may be another's already; its
/// device is its own.
fn sort(flows: impl Iterator<Item = (FlowKey, Translation)>, devices: &HashSet<u32>, now_ns: u64) -> Sorted {
    let mut sorted = Sorted::default();
    for (key, translation) in flows {
        let expired = translation.flow.expired(u8::try_from(key.protocol).unwrap_or(0), now_ns);
        if expired || !devices.contains(&translation.ifindex) {
            sorted.over.push((key, translation));
        } else {
            sorted.live += 1;
            *sorted.open.entry(translation.addr).or_default() += u64::from(translation.is_counted());
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use c2c_common::flow::{End, flag};
    use c2c_common::outside::Seen;
    use c2c_common::wire::{TCP, tcp};

    const S: u64 = 1_000_000_000;
    const CONTAINER: End = End { addr: 1, port: 1 };

    /// A connection that a container behind this device opened at this second, from this port of the cell.
    fn connection(port: u16, ifindex: u32, second: u64) -> (FlowKey, Translation) {
        let (server, cell) = (End { addr: 9, port: 443 }, End { addr: 2, port });
        let (key, from_first) = FlowKey::new(cell, server, TCP);
        let seen = Seen { protocol: TCP, tcp_flags: tcp::SYN, from_first, ifindex, now_ns: second * S };
        (key, Translation::opened(&seen, 0, CONTAINER, flag::COUNTED))
    }

    #[test]
    fn what_timed_out_or_lost_its_container_is_over() {
        let (live, idle, orphan) = (connection(1, 7, 990), connection(2, 7, 10), connection(3, 6, 990));
        let sorted = sort([live, idle, orphan].into_iter(), &[7, 8].into(), 1_000 * S);
        assert_eq!(sorted.over, [idle, orphan]);
        // The orphan's container had the same address; its connection is not its successor's.
        assert_eq!((sorted.live, &sorted.open), (1, &[(CONTAINER.addr, 1)].into()));
    }
}
