//! Which ports of the cell lead into containers. Pure: what is in use comes from the records.
//!
//! Ports are handed out round robin, so one that was just freed is the last to be used again: a router whose table is
//! stale by a minute does not reach another app. A port that is asked for by number may lie outside the range, but not
//! among those that the cell keeps for itself.

use c2c_proto::agent_api::{PortMapping, PortRequest, Transport};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Transport and its place in [`Use`].
const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

/// Which transports of a port lead somewhere, in the order of [`TRANSPORTS`].
type Use = [bool; 2];

/// The ports in use, and where the search goes on.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    kept: Vec<RangeInclusive<u16>>,
    used: BTreeMap<u16, Use>,
    last: Option<u16>,
}

/// Why a port cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PortError {
    /// It leads into a container already.
    #[error("the cell's port {0} leads into a container already")]
    Taken(u16),
    /// It is none that a container can have.
    #[error("the cell's port {0} cannot lead into a container: the cell keeps it for NAT or its tunnel")]
    Kept(u16),
    /// The range is used up.
    #[error(
        "every port of the cell from {0} to {1} leads into a container already; the agent's mapped_ports says which may"
    )]
    Exhausted(u16, u16),
}

impl Ports {
    /// Ports of which none is in use. `last` is the one of the range that was handed out last.
    pub(super) fn new(range: RangeInclusive<u16>, kept: Vec<RangeInclusive<u16>>, last: Option<u16>) -> Self {
        Self { range, kept, used: BTreeMap::new(), last }
    }

    /// Takes all ports that are asked for, in that order, or none of them.
    pub(super) fn take(&mut self, wanted: &[PortRequest]) -> Result<Vec<PortMapping>, PortError> {
        let before = (self.used.clone(), self.last);
        let taken = self.take_all(wanted);
        if taken.is_err() {
            (self.used, self.last) = before;
        }
        taken
    }

    /// Takes one port.
    pub(super) fn take_one(&mut self, wanted: PortRequest) -> Result<PortMapping, PortError> {
        if wanted.host_port != 0 {
            self.reserve(wanted.host_port, wanted.protocol)?;
        }
        self.mapping(wanted)
    }

    /// Notes ports that are in use. False, and nothing is changed, when one of them was already.
    pub(super) fn claim(&mut self, mappings: &[PortMapping]) -> bool {
        let before = self.used.clone();
        let free = mappings.iter().all(|mapping| self.enter(mapping.host_port, mapping.protocol));
        if !free {
            self.used = before;
        }
        free
    }

    /// Gives ports back.
    pub(super) fn release(&mut self, mappings: &[PortMapping]) {
        for mapping in mappings {
            let Some(found) = self.used.get_mut(&mapping.host_port) else { continue };
            for (used, leaving) in found.iter_mut().zip(transports(mapping.protocol)) {
                *used &= !leaving;
            }
            if *found == Use::default() {
                self.used.remove(&mapping.host_port);
            }
        }
    }

    /// The port of the range that was handed out last.
    pub(super) fn last(&self) -> Option<u16> {
        self.last
    }

    /// Those asked for by number come first, so that none of them is chosen for another.
    fn take_all(&mut self, wanted: &[PortRequest]) -> Result<Vec<PortMapping>, PortError> {
        for request in wanted.iter().filter(|request| request.host_port != 0) {
            self.reserve(request.host_port, request.protocol)?;
        }
        wanted.iter().map(|request| self.mapping(*request)).collect()
    }

    fn mapping(&mut self, request: PortRequest) -> Result<PortMapping, PortError> {
        let PortRequest { host_port, container_port, protocol } = request;
        let host_port = if host_port == 0 { self.choose(protocol)? } else { host_port };
        let container_port = if container_port == 0 { host_port } else { container_port };
        Ok(PortMapping { host_port, container_port, protocol })
    }

    fn reserve(&mut self, port: u16, protocol: Option<Transport>) -> Result<(), PortError> {
        if self.kept.iter().any(|range| range.contains(&port)) {
            return Err(PortError::Kept(port));
        }
        if self.enter(port, protocol) { Ok(()) } else { Err(PortError::Taken(port)) }
    }

    /// The next port of the range that leads nowhere at all, also not by the other transport.
    fn choose(&mut self, protocol: Option<Transport>) -> Result<u16, PortError> {
        let (first, end) = (*self.range.start(), *self.range.end());
        let start = self.last.filter(|last| (first..end).contains(last)).map_or(first, |last| last + 1);
        let mut candidates = (start..=end).chain(first..start);
        let free =
            |port: &u16| !self.used.contains_key(port) && !self.kept.iter().any(|range| range.contains(port));
        let found = candidates.find(free).ok_or(PortError::Exhausted(first, end))?;
        self.enter(found, protocol);
        self.last = Some(found);
        Ok(found)
    }

    /// False, and nothing is changed, when the port is in use for one of these transports.
    fn enter(&mut self, port: u16, protocol: Option<Transport>) -> bool {
        let found = self.used.entry(port).or_default();
        let wanted = transports(protocol);
        let free = found.iter().zip(wanted).all(|(used, wanted)| !(*used && wanted));
        if free {
            found.iter_mut().zip(wanted).for_each(|(used, wanted)| *used |= wanted);
        }
        free
    }
}

fn transports(protocol: Option<Transport>) -> Use {
    TRANSPORTS.map(|transport| protocol.is_none_or(|only| only == transport))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ANY: PortRequest = PortRequest { host_port: 0, container_port: 8080, protocol: None };

    fn ports() -> Ports {
        Ports::new(61000..=61003, vec![16384..=32767, 4789..=4789], None)
    }

    fn asked(host_port: u16, protocol: Option<Transport>) -> PortRequest {
        PortRequest { host_port, protocol, ..ANY }
    }

    fn given(mappings: &[PortMapping]) -> Vec<u16> {
        mappings.iter().map(|mapping| mapping.host_port).collect()
    }

    #[test]
    fn the_range_is_used_round_robin() {
        let mut ports = ports();
        for expected in [61000, 61001, 61002, 61003, 61000] {
            let taken = ports.take(&[ANY]).unwrap();
            assert_eq!(given(&taken), [expected]);
            assert_eq!(ports.last(), Some(expected));
            ports.release(&taken);
        }
    }

    #[test]
    fn the_search_goes_on_after_a_restart() {
        let mut ports = Ports::new(61000..=61003, vec![], Some(61002));
        assert_eq!(given(&ports.take(&[ANY, ANY]).unwrap()), [61003, 61000]);
        let mut moved = Ports::new(62000..=62003, vec![], Some(61002));
        assert_eq!(given(&moved.take(&[ANY]).unwrap()), [62000]);
    }

    #[test]
    fn a_port_of_the_range_that_is_asked_for_is_not_chosen_for_another() {
        let mut ports = ports();
        let taken = ports.take(&[ANY, asked(61000, None), ANY]).unwrap();
        assert_eq!(given(&taken), [61001, 61000, 61002]);
    }

    #[test]
    fn what_cannot_be_had_changes_nothing() {
        use Transport::{Tcp, Udp};
        let mut ports = ports();
        ports.take(&[asked(80, Some(Tcp)), ANY, ANY, ANY]).unwrap();
        let rows: [(&[PortRequest], PortError); 8] = [
            (&[asked(80, None)], PortError::Taken(80)),
            (&[asked(80, Some(Tcp))], PortError::Taken(80)),
            (&[asked(443, None), asked(443, Some(Udp))], PortError::Taken(443)),
            (&[asked(61000, None)], PortError::Taken(61000)),
            (&[asked(16384, None)], PortError::Kept(16384)),
            (&[asked(4789, Some(Tcp))], PortError::Kept(4789)),
            (&[ANY, ANY], PortError::Exhausted(61000, 61003)),
            (&[ANY, asked(61003, None)], PortError::Exhausted(61000, 61003)),
        ];
        for (wanted, expected) in rows {
            let (used, last) = (ports.used.clone(), ports.last);
            assert_eq!(ports.take(wanted), Err(expected), "{wanted:?}");
            assert_eq!((&ports.used, ports.last), (&used, last), "{wanted:?}");
        }
        assert_eq!(given(&ports.take(&[asked(80, Some(Udp))]).unwrap()), [80], "the other transport");
    }

    #[test]
    fn a_range_that_ends_with_the_port_space_ends_there() {
        let mut ports = Ports::new(65534..=65535, vec![], None);
        assert_eq!(given(&ports.take(&[ANY, ANY]).unwrap()), [65534, 65535]);
        assert_eq!(ports.take(&[ANY]), Err(PortError::Exhausted(65534, 65535)));
    }

    #[test]
    fn without_a_port_of_its_own_a_container_gets_the_cells() {
        let taken = ports().take(&[PortRequest { container_port: 0, ..ANY }]).unwrap();
        assert_eq!(taken, [PortMapping { host_port: 61000, container_port: 61000, protocol: None }]);
    }

    fn request() -> impl Strategy<Value = PortRequest> {
        let protocol = prop_oneof![Just(None), Just(Some(Transport::Tcp)), Just(Some(Transport::Udp))];
        (prop_oneof![3 => Just(0_u16), 1 => 60_998_u16..61_012], protocol)
            .prop_map(|(host_port, protocol)| asked(host_port, protocol))
    }

    proptest! {
        /// Whatever comes and goes, restarts included: no port leads to two places by one transport, what is chosen
        /// lies in the range, nothing kept is given, and no port is chosen twice in a row while another one is free.
        #[test]
        fn ports_in_use_are_unique(
            steps in proptest::collection::vec(
                (prop_oneof![Just(true), Just(false)], proptest::collection::vec(request(), 1..4), any::<prop::sample::Index>(), any::<bool>()),
                1..200,
            ),
        ) {
            let (range, kept) = (61_000..=61_007_u16, vec![61_010..=61_011_u16]);
            let mut ports = Ports::new(range.clone(), kept.clone(), None);
            let mut live = Vec::<Vec<PortMapping>>::new();
            for (come, wanted, which, restart) in steps {
                if restart {
                    ports = Ports::new(range.clone(), kept.clone(), ports.last());
                    for mappings in &live {
                        prop_assert!(ports.claim(mappings));
                    }
                }
                if come {
                    let before = (ports.used.clone(), ports.last);
                    if let Ok(taken) = ports.take(&wanted) {
                        for (request, mapping) in wanted.iter().zip(&taken) {
                            prop_assert!(request.host_port != 0 || range.contains(&mapping.host_port));
                            prop_assert!(request.host_port == 0 || request.host_port == mapping.host_port);
                            prop_assert!(!kept[0].contains(&mapping.host_port));
                        }
                        let chosen = wanted.len() == 1 && wanted[0].host_port == 0;
                        let others = range.clone().filter(|port| !before.0.contains_key(port)).count() > 1;
                        prop_assert!(!chosen || !others || before.1 != Some(taken[0].host_port));
                        live.push(taken);
                    } else {
                        prop_assert_eq!((&ports.used, ports.last), (&before.0, before.1));
                    }
                } else if !live.is_empty() {
                    ports.release(&live.swap_remove(which.index(live.len())));
                }
                let mut seen = std::collections::BTreeSet::new();
                for mapping in live.iter().flatten() {
                    for (used, transport) in transports(mapping.protocol).into_iter().zip(TRANSPORTS) {
                        prop_assert!(!used || seen.insert((mapping.host_port, transport)), "{:?} twice", mapping);
                    }
                }
                prop_assert_eq!(ports.used.values().flatten().filter(|used| **used).count(), seen.len());
            }
        }
    }
}
