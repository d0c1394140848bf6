//! What no packet does for flows: those with the outside that timed out, and all whose container is gone, are removed, and
//! the connections that ended without a packet to tell are given back to their container's ceiling.

use std::collections::{HashMap, HashSet};

use aya::Pod;
use c2c_common::addr::Addr;
use c2c_common::flow::{Flow, FlowKey};
use c2c_common::layout::{CONNECTIONS, ENDED_UNSEEN, TRANSLATIONS};
use c2c_common::outside::Translation;

use super::people::{Reader, monotonic_ns, rows};
use super::pod::Raw;
use super::table::is_absent;
use super::{Cache, Datapath, Error, orphans};

/// What a sweep found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    /// Flows that had timed out, or whose container is gone, and are removed.
    pub removed: usize,
    /// Flows that live.
    pub live: usize,
    /// Flows between containers that one which is gone left, and that are removed.
    pub orphans: usize,
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
    /// The flows between containers, if one left since they were cleared.
    between: Option<orphans::Flows>,
}

impl Reader {
    /// Reads the flows, given the containers' devices as of now ([`Datapath::devices`]) and whether one left
    /// ([`Datapath::departures`]).
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn look(&self, devices: HashMap<Addr, u32>, departures: Option<u64>) -> Result<Found, Error> {
        let between = departures.map(|departures| self.look_for_orphans(departures)).transpose()?;
        // Read before the flows are: a connection that opens meanwhile is then counted among the living only, which
        // errs on the side of the ceiling until the next sweep.
        let connections = rows(CONNECTIONS, &self.connections)?.into_iter();
        let open = connections.map(|(addr, Raw(c))| (addr, c.opened.saturating_sub(c.closed))).collect();
        let flows = rows(TRANSLATIONS, &self.translations)?.into_iter();
        let flows = flows.map(|(Raw(key), Raw(flow))| (key, flow)).collect();
        Ok(Found { devices, open, flows, between })
    }
}

impl Datapath {
    /// The containers' devices, by address.
    #[must_use]
    pub fn devices(&self) -> HashMap<Addr, u32> {
        self.endpoints.rows().map(|(addr, Raw(endpoint))| (*addr, endpoint.ifindex)).collect()
    }

    /// Removes the flows with the outside that are over, and all of containers that are gone, and counts each container's
    /// connections anew. To be called every few seconds; without it a container at its ceiling may stay there, and one that
    /// gets the address of another hears who that had called.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn sweep(&mut self, found: Found) -> Result<Swept, Error> {
        // Asked after the flows were read: whose container came meanwhile is not taken for one that is gone.
        let devices = self.devices();
        let now = devices.values().copied().collect();
        let life = |key: &FlowKey, translation: &Translation| self.reader.life(key, translation);
        let Sorted { over, live, open: living } = sort(found.flows.into_iter(), &now, monotonic_ns(), life);
        let fullest = living.values().copied().max().unwrap_or(0);
        let orphans = found.between.map_or(Ok(0), |flows| self.remove_orphans(&flows))?;
        let removed = remove_rows(TRANSLATIONS, &mut self.translations, &over, |found, now| found == now)?;
        let mut swept = Swept { removed, live, ended_unseen: 0, fullest, orphans };
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
        let absent = |error: &aya::maps::MapError| is_absent(error);
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

/// Removes rows, unless their place is another's meanwhile; answers how many they were.
pub(super) fn remove_rows<V: Pod>(
    name: &str,
    (map, _): &mut Cache<Raw<FlowKey>, V>,
    rows: &[(Raw<FlowKey>, V)],
    is_same: impl Fn(&V, &V) -> bool,
) -> Result<usize, Error> {
    let mut removed = 0;
    for (key, found) in rows {
        if !map.get(key, 0).is_ok_and(|now| is_same(found, &now)) {
            continue;
        }
        match map.remove(key) {
            Ok(()) => removed += 1,
            Err(error) if is_absent(&error) => {}
            Err(source) => return Err(Error::map(name, source)),
        }
    }
    Ok(removed)
}

/// The flows with the outside, as a sweep finds them.
#[derive(Debug, Default)]
struct Sorted {
    /// Timed out, or of a container that is gone.
    over: Vec<(Raw<FlowKey>, Raw<Translation>)>,
    /// How many are neither.
    live: usize,
    /// Of these the connections that a ceiling counts, by container.
    open: HashMap<Addr, u64>,
}

/// Sorts them, given the devices of the containers that there are. A container's address may be another's already; its
/// device is its own. `life` is only asked about what seems to have timed out ([`Reader::life`]).
fn sort(
    flows: impl Iterator<Item = (FlowKey, Translation)>,
    devices: &HashSet<u32>,
    now_ns: u64,
    life: impl Fn(&FlowKey, &Translation) -> Flow,
) -> Sorted {
    let mut sorted = Sorted::default();
    for (key, translation) in flows {
        let over = |flow: &Flow| flow.expired(u8::try_from(key.protocol).unwrap_or(0), now_ns);
        let expired = over(&translation.flow) && over(&life(&key, &translation));
        if expired || !devices.contains(&translation.ifindex) {
            sorted.over.push((Raw(key), Raw(translation)));
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

    fn raw((key, translation): (FlowKey, Translation)) -> (Raw<FlowKey>, Raw<Translation>) {
        (Raw(key), Raw(translation))
    }

    #[test]
    fn what_timed_out_or_lost_its_container_is_over() {
        let (live, idle, orphan) = (connection(1, 7, 990), connection(2, 7, 10), connection(3, 6, 990));
        let sorted = sort([live, idle, orphan].into_iter(), &[7, 8].into(), 1_000 * S, |_, t| t.flow);
        assert_eq!(sorted.over, [raw(idle), raw(orphan)]);
        // The orphan's container had the same address; its connection is not its successor's.
        assert_eq!((sorted.live, &sorted.open), (1, &[(CONTAINER.addr, 1)].into()));
    }

    #[test]
    fn what_goes_on_between_containers_is_not_over() {
        let (used, idle) = (connection(1, 7, 10), connection(2, 7, 10));
        let life = |key: &FlowKey, t: &Translation| {
            if *key == used.0 { Flow { seen_ns: 990 * S, ..t.flow } } else { t.flow }
        };
        let sorted = sort([used, idle].into_iter(), &[7].into(), 1_000 * S, life);
        assert_eq!((sorted.over, sorted.live), (vec![raw(idle)], 1));
    }
}
