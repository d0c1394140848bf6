//! What no packet does for flows with the outside: those that timed out are removed, and the connections that ended
//! without a packet to tell are given back to their container's ceiling.

use std::collections::HashMap;

use c2c_common::addr::Addr;
use c2c_common::layout::{CONNECTIONS, ENDED_UNSEEN, TRANSLATIONS};

use super::people::monotonic_ns;
use super::pod::Raw;
use super::{Datapath, Error};

/// What a sweep found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    /// Flows that had timed out and are removed.
    pub removed: usize,
    /// Flows that live.
    pub live: usize,
    /// Connections that no packet told the end of, now given back.
    pub ended_unseen: u64,
    /// Connections of the container that holds the most.
    pub fullest: u64,
}

impl Datapath {
    /// Removes the flows with the outside that timed out, and counts each container's connections anew. To be called
    /// every few seconds; without it nothing is forwarded wrongly, but a container at its ceiling may stay there.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn sweep(&mut self) -> Result<Swept, Error> {
        // Read before the flows are: a connection that opens meanwhile is then counted among the living only, which
        // errs on the side of the ceiling until the next sweep.
        let counts: HashMap<Addr, u64> = self.open_connections()?;
        let (mut swept, living) = self.sweep_flows()?;
        swept.fullest = living.values().copied().max().unwrap_or(0);
        for (addr, open) in counts {
            let unseen = open.saturating_sub(living.get(&addr).copied().unwrap_or(0));
            swept.ended_unseen += self.give_back(addr, unseen)?;
        }
        Ok(swept)
    }

    /// Opened and not closed, for each container, whatever was given back before.
    fn open_connections(&self) -> Result<HashMap<Addr, u64>, Error> {
        let rows = self.connections.0.iter().take(self.connections.1 as usize);
        let open = rows.map(|row| row.map(|(addr, Raw(c))| (addr, c.opened.saturating_sub(c.closed))));
        open.collect::<Result<_, _>>().map_err(|source| Error::map(CONNECTIONS, source))
    }

    fn sweep_flows(&mut self) -> Result<(Swept, HashMap<Addr, u64>), Error> {
        let now_ns = monotonic_ns();
        let (mut swept, mut living) = (Swept::default(), HashMap::new());
        let mut old = Vec::new();
        let (flows, capacity) = &mut self.translations;
        for (key, Raw(translation)) in flows.iter().take(*capacity as usize).filter_map(Result::ok) {
            if translation.flow.expired(u8::try_from(key.0.protocol).unwrap_or(0), now_ns) {
                old.push(key);
            } else {
                swept.live += 1;
                *living.entry(translation.addr).or_default() += u64::from(translation.is_counted());
            }
        }
        for key in &old {
            match flows.remove(key) {
                Ok(()) => swept.removed += 1,
                Err(error) if super::table::is_absent(&error) => {}
                Err(source) => return Err(Error::map(TRANSLATIONS, source)),
            }
        }
        Ok((swept, living))
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
