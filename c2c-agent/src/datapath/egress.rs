//! The rows of egress rules and of what else the outside needs: port mappings, the cell's own addresses and services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use c2c_common::addr::{Addr, from_ipv4};
use c2c_common::layout::{EgressClass, EgressPorts, EgressPortsKey, ServiceKey};

use super::pod::Raw;
use super::{Change, Datapath, Error};

/// A range of addresses in a set of egress rules: key of the `EGRESS` map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EgressRange {
    /// The set.
    pub set: u32,
    /// First address; the bits after the prefix are zero.
    pub addr: Addr,
    /// Length of the prefix in bits, 0 to 32.
    pub prefix: u8,
}

/// All rows of all sets of egress rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressRows {
    /// `EGRESS`.
    pub ranges: BTreeMap<EgressRange, EgressClass>,
    /// `EGRESS_PORTS`.
    pub ports: BTreeMap<EgressPortsKey, EgressPorts>,
}

/// A port of the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MappedPort {
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    /// Host order.
    pub port: u16,
}

impl Datapath {
    /// Adds rows of egress rules. A class is there before a range leads to it, so that no packet finds half of a rule.
    ///
    /// # Errors
    /// When a map is full (everything that found room is in force) or the kernel refuses.
    pub fn put_egress(&mut self, rows: &EgressRows) -> Result<Change, Error> {
        let ports = rows.ports.iter().map(|(key, ports)| (Raw(*key), Raw(*ports))).collect();
        let ranges = rows.ranges.iter().map(|(range, class)| (*range, Raw(*class))).collect();
        let change = self.egress_ports.add(&ports)?;
        Ok(change.and(self.egress.add(&ranges)?))
    }

    /// Removes the rows of egress rules that are not among these: to be called when no endpoint has their set any more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn prune_egress(&mut self, rows: &EgressRows) -> Result<Change, Error> {
        let ports = rows.ports.iter().map(|(key, ports)| (Raw(*key), Raw(*ports))).collect();
        let ranges = rows.ranges.iter().map(|(range, class)| (*range, Raw(*class))).collect();
        let change = self.egress.prune(&ranges)?;
        Ok(change.and(self.egress_ports.prune(&ports)?))
    }

    /// Makes the mapped ports these: where each leads.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_mappings(&mut self, want: &BTreeMap<MappedPort, (Ipv4Addr, u16)>) -> Result<Change, Error> {
        self.mappings.set(want)
    }

    /// Makes the cell's own addresses these.
    ///
    /// # Errors
    /// When the map is full or the kernel refuses.
    pub fn set_locals(&mut self, want: &BTreeSet<Ipv4Addr>) -> Result<Change, Error> {
        self.locals.set(&want.iter().map(|addr| (from_ipv4(*addr), 1)).collect())
    }

    /// Makes the services that containers may reach on the cell these.
    ///
    /// # Errors
    /// When the map is full or the kernel refuses.
    pub fn set_host_services(&mut self, want: &BTreeSet<ServiceKey>) -> Result<Change, Error> {
        self.host_services.set(&want.iter().map(|key| (Raw(*key), 1)).collect())
    }
}
