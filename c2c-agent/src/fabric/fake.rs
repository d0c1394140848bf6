//! A kernel for tests: it remembers what it was told, in order, and has little room.

use super::Kernel;
use crate::config::{DenyNetworks, Dns, HostAccess, Network, Outbound, StaticEgress};
use crate::datapath::{Change, EgressRows, Error, MappedPort};
use crate::lease::{Grant, Lease};
use crate::policy::compile::Cell;
use c2c_common::layout::{self, LeaseKey, PolicyKey, ServiceKey};
use c2c_proto::agent_api::Bandwidth;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// A cell.
pub(crate) const CELL: Cell = Cell {
    underlay: Ipv4Addr::new(192, 0, 2, 1),
    underlay_ifindex: 3,
    link: None,
    vxlan_ifindex: 9,
    mtu: 1450,
    locals: BTreeSet::new(),
};

/// What its operator says: nothing but the defaults.
pub(crate) fn network() -> Network {
    Network {
        mapped_ports: 61_000..=65_535,
        nat_ports: 16_384..=32_767,
        no_masquerade: Vec::new(),
        dns: Dns::default(),
        host: HostAccess::default(),
        deny: DenyNetworks::default(),
        outbound: Outbound::default(),
        bandwidth: Bandwidth::default(),
        static_egress: StaticEgress::Fallback,
    }
}

/// Its lease.
pub(crate) fn grant() -> Grant {
    let lease = Lease {
        cell: "a".into(),
        underlay: CELL.underlay,
        block: "10.255.1.0/24".parse().unwrap(),
        mac: [0xee, 0xee, 10, 255, 1, 0],
    };
    Grant {
        lease,
        overlay: "10.255.0.0/16".parse().unwrap(),
        block_prefix: 24,
        vni: 1,
        udp_port: 4789,
        lease_seconds: 60,
        heartbeat_seconds: 30,
        store_id: "s".into(),
    }
}

/// A kernel that remembers, with room for `room` policies, and for as many ranges of egress rules and mapped ports.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub(crate) adopted: bool,
    pub(crate) room: usize,
    pub(crate) log: Vec<String>,
    pub(crate) attached: BTreeSet<String>,
    /// The device that nothing can be attached to for now.
    pub(crate) busy: Option<String>,
    pub(crate) endpoints: BTreeMap<Ipv4Addr, layout::Endpoint>,
    pub(crate) leases: BTreeMap<LeaseKey, layout::Lease>,
    pub(crate) policies: BTreeMap<PolicyKey, u64>,
    pub(crate) config: layout::Config,
    pub(crate) egress: EgressRows,
    pub(crate) mappings: BTreeMap<MappedPort, (Ipv4Addr, u16)>,
    pub(crate) locals: BTreeSet<Ipv4Addr>,
    pub(crate) services: BTreeSet<ServiceKey>,
}

fn full(name: &str) -> Error {
    Error::Full { name: name.to_owned(), capacity: 2 }
}

impl Kernel for Fake {
    fn adopted(&self) -> bool {
        self.adopted
    }

    fn forget_other_layouts(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn configure(&mut self, config: &layout::Config) -> Result<(), Error> {
        self.config = *config;
        self.log.push("configure".into());
        Ok(())
    }

    fn attach_underlay(&mut self, _: u32) -> Result<(), Error> {
        Ok(())
    }

    fn attach_vxlan(&mut self, _: u32) -> Result<(), Error> {
        Ok(())
    }

    fn attach_endpoint(&mut self, name: &str, ifindex: u32) -> Result<(), Error> {
        if ifindex == 0 || self.busy.as_deref() == Some(name) {
            return Err(Error::NoDevice { ifindex });
        }
        self.attached.insert(name.to_owned());
        self.log.push(format!("attach {name}"));
        Ok(())
    }

    fn detach_endpoint(&mut self, name: &str) -> Result<(), Error> {
        self.attached.remove(name);
        self.log.push(format!("detach {name}"));
        Ok(())
    }

    fn attached_endpoints(&self) -> Vec<String> {
        self.attached.iter().cloned().collect()
    }

    fn put_endpoint(&mut self, address: Ipv4Addr, row: &layout::Endpoint) -> Result<(), Error> {
        if self.endpoints.len() == 3 && !self.endpoints.contains_key(&address) {
            return Err(full("ENDPOINTS"));
        }
        self.endpoints.insert(address, *row);
        let egress = if row.egress == 0 { "" } else { " with egress rules" };
        self.log.push(format!("endpoint {address} tag {}{egress}", row.tag));
        Ok(())
    }

    fn remove_endpoint(&mut self, address: Ipv4Addr) -> Result<(), Error> {
        self.endpoints.remove(&address);
        self.log.push(format!("no endpoint {address}"));
        Ok(())
    }

    fn endpoints(&self) -> Result<BTreeMap<Ipv4Addr, layout::Endpoint>, Error> {
        Ok(self.endpoints.clone())
    }

    fn set_leases(&mut self, want: &BTreeMap<LeaseKey, layout::Lease>) -> Result<Change, Error> {
        let change = Change { added: usize::from(self.leases != *want), ..Change::default() };
        self.leases.clone_from(want);
        self.log.push(format!("{} leases", want.len()));
        Ok(change)
    }

    fn set_policies(&mut self, want: &BTreeMap<PolicyKey, u64>) -> Result<Change, Error> {
        let change = Change { added: usize::from(self.policies != *want), ..Change::default() };
        self.policies = want.iter().take(self.room).map(|(key, ports)| (*key, *ports)).collect();
        self.log.push(format!("{} policies", self.policies.len()));
        if want.len() > self.room { Err(full("POLICIES")) } else { Ok(change) }
    }

    fn change_policies(&mut self, rows: &BTreeMap<PolicyKey, u64>) -> Result<Change, Error> {
        let mut all = self.policies.clone();
        all.extend(rows);
        all.retain(|_, ports| *ports != 0);
        self.log.push(format!("{} of {} policies", rows.len(), all.len()));
        if all.len() > self.room {
            return Err(full("POLICIES"));
        }
        self.policies = all;
        Ok(Change::default())
    }

    fn put_egress(&mut self, rows: &EgressRows) -> Result<Change, Error> {
        let mut all = self.egress.clone();
        all.ranges.extend(rows.ranges.iter().map(|(range, class)| (*range, *class)));
        all.ports.extend(rows.ports.iter().map(|(key, ports)| (*key, *ports)));
        if all.ranges.len() > self.room {
            return Err(full("EGRESS"));
        }
        let change = Change { added: usize::from(all != self.egress), ..Change::default() };
        self.egress = all;
        self.log.push(format!("+ {} egress ranges", rows.ranges.len()));
        Ok(change)
    }

    fn prune_egress(&mut self, rows: &EgressRows) -> Result<Change, Error> {
        let before = self.egress.ranges.len();
        self.egress.ranges.retain(|range, _| rows.ranges.contains_key(range));
        self.egress.ports.retain(|key, _| rows.ports.contains_key(key));
        let removed = before - self.egress.ranges.len();
        self.log.push(format!("- {removed} egress ranges"));
        Ok(Change { removed, ..Change::default() })
    }

    fn set_mappings(&mut self, want: &BTreeMap<MappedPort, (Ipv4Addr, u16)>) -> Result<Change, Error> {
        if want.len() > self.room {
            return Err(full("MAPPED"));
        }
        let change = Change { added: usize::from(self.mappings != *want), ..Change::default() };
        self.mappings.clone_from(want);
        self.log.push(format!("{} mappings", want.len()));
        Ok(change)
    }

    fn set_locals(&mut self, want: &BTreeSet<Ipv4Addr>) -> Result<Change, Error> {
        let change = Change { added: usize::from(self.locals != *want), ..Change::default() };
        self.locals.clone_from(want);
        Ok(change)
    }

    fn set_host_services(&mut self, want: &BTreeSet<ServiceKey>) -> Result<Change, Error> {
        let change = Change { added: usize::from(self.services != *want), ..Change::default() };
        self.services.clone_from(want);
        Ok(change)
    }

    fn refresh(&mut self) -> Result<bool, Error> {
        Ok(false)
    }
}
