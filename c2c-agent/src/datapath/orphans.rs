//! Flows between containers of which an end was a container that is gone. The programs know them by address alone, so one
//! that it opened would let the other end's packets in to whoever gets the address next.

use std::collections::HashMap;
use std::ops::Range;

use c2c_common::addr::Addr;
use c2c_common::flow::{Flow, FlowKey};
use c2c_common::layout::{CONFIG, Config, FLOWS};

use super::people::{Reader, monotonic_ns, rows};
use super::pod::Raw;
use super::sweep::remove_rows;
use super::{Datapath, Error};

/// Who came and left at the cell's addresses.
#[derive(Debug)]
pub(super) struct Tenancy {
    /// When the containers came that were not there when the agent started, by the clock of flows.
    since: HashMap<Addr, u64>,
    /// Departures that the flow table was not yet cleared of, of all that there were. The first one stands for what left
    /// while nobody looked.
    uncleared: Range<u64>,
}

impl Default for Tenancy {
    fn default() -> Self {
        Self { since: HashMap::new(), uncleared: 0..1 }
    }
}

impl Tenancy {
    pub(super) fn came(&mut self, addr: Addr) {
        self.since.insert(addr, monotonic_ns());
    }

    pub(super) fn left(&mut self, addr: Addr) {
        self.since.remove(&addr);
        self.uncleared.end += 1;
    }

    /// As of [`Datapath::departures`].
    fn departures(&self) -> Option<u64> {
        (!self.uncleared.is_empty()).then_some(self.uncleared.end)
    }

    /// Notes that the table was cleared of so many departures.
    fn cleared(&mut self, departures: u64) {
        self.uncleared.start = departures;
    }

    /// Whether a flow is of a container that is gone, given the addresses that containers may have and those that have one.
    fn is_orphan(&self, key: &FlowKey, flow: &Flow, block: &Block, is_taken: impl Fn(Addr) -> bool) -> bool {
        key.addr
            .into_iter()
            .filter(|addr| block.contains(*addr))
            .any(|addr| !is_taken(addr) || self.since.get(&addr).is_some_and(|since| flow.opened_ns < *since))
    }
}

/// The cell's addresses for containers.
struct Block {
    base: Addr,
    mask: Addr,
}

impl Block {
    fn contains(&self, addr: Addr) -> bool {
        addr & self.mask == self.base
    }
}

/// The flow table, as read after some departures.
#[derive(Debug)]
pub(super) struct Flows {
    departures: u64,
    flows: Vec<(Raw<FlowKey>, Raw<Flow>)>,
}

impl Reader {
    /// Reads the flow table after so many departures.
    pub(super) fn look_for_orphans(&self, departures: u64) -> Result<Flows, Error> {
        Ok(Flows { departures, flows: rows(FLOWS, &self.flows)? })
    }
}

impl Datapath {
    /// How many departures there were, if the flow table was not cleared of all of them.
    #[must_use]
    pub fn departures(&self) -> Option<u64> {
        self.tenancy.departures()
    }

    /// Removes the flows of containers that are gone; answers how many they were.
    pub(super) fn remove_orphans(&mut self, found: &Flows) -> Result<usize, Error> {
        let Raw(Config { ready, block_base: base, block_mask: mask, .. }) =
            self.config.get(&0, 0).map_err(|source| Error::map(CONFIG, source))?;
        if ready == 0 {
            return Ok(0);
        }
        let block = Block { base, mask };
        let is_taken = |addr| self.endpoints.get(&addr).is_some();
        let is_orphan = |key: &FlowKey, flow: &Flow| self.tenancy.is_orphan(key, flow, &block, is_taken);
        let orphans: Vec<_> =
            found.flows.iter().filter(|(Raw(key), Raw(flow))| is_orphan(key, flow)).copied().collect();
        // What was only used meanwhile goes as well.
        let same = |Raw(found): &Raw<Flow>, Raw(now): &Raw<Flow>| found.opened_ns == now.opened_ns;
        let removed = remove_rows(FLOWS, &mut self.flows, &orphans, same)?;
        self.tenancy.cleared(found.departures);
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use c2c_common::flow::End;
    use c2c_common::wire::UDP;

    /// An address of the cell, or of another one (network 2).
    fn addr(network: u8, host: u8) -> Addr {
        Addr::from_ne_bytes([10, 255, network, host])
    }

    #[test]
    fn a_flow_is_an_orphan_when_an_end_was_another_containers() {
        let block = Block { base: addr(1, 0), mask: Addr::from_ne_bytes([255, 255, 255, 0]) };
        let tenancy = Tenancy { since: [(addr(1, 3), 100)].into(), ..Tenancy::default() };
        let is_orphan = |a: Addr, b: Addr, opened_ns: u64| {
            let (key, _) = FlowKey::new(End { addr: a, port: 1 }, End { addr: b, port: 2 }, UDP);
            let flow = Flow { opened_ns, ..Flow::default() };
            tenancy.is_orphan(&key, &flow, &block, |at| [addr(1, 2), addr(1, 3)].contains(&at))
        };
        let far = addr(2, 9);
        assert!(!is_orphan(addr(1, 2), far, 1), "who was there before the agent");
        assert!(is_orphan(addr(1, 4), far, 200) && is_orphan(far, addr(1, 4), 200), "nobody is there");
        assert!(is_orphan(addr(1, 3), far, 99), "it was there before its container");
        assert!(!is_orphan(addr(1, 3), far, 100));
        assert!(is_orphan(addr(1, 2), addr(1, 4), 200), "one end is enough");
        assert!(!is_orphan(addr(2, 8), far, 1), "another cell's own");
    }

    #[test]
    fn the_table_is_looked_at_once_for_what_left_and_at_the_start() {
        let mut tenancy = Tenancy::default();
        let first = tenancy.departures().unwrap();
        tenancy.left(addr(1, 2));
        tenancy.cleared(first);
        let second = tenancy.departures().expect("one left while the table was read");
        tenancy.cleared(second);
        assert_eq!(tenancy.departures(), None);
    }
}
