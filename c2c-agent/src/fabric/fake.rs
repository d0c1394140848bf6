//! A kernel for tests: it remembers what it was told, in order, and has little room.

use super::Kernel;
use crate::datapath::{Change, Error};
use crate::lease::{Grant, Lease};
use crate::policy::compile::Cell;
use c2c_common::layout::{self, LeaseKey, PolicyKey};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// A cell.
pub(crate) const CELL: Cell =
    Cell { underlay: Ipv4Addr::new(192, 0, 2, 1), underlay_ifindex: 3, vxlan_ifindex: 9, mtu: 1450 };

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

/// A kernel that remembers, with room for `room` policies.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub(crate) adopted: bool,
    pub(crate) room: usize,
    pub(crate) log: Vec<String>,
    pub(crate) attached: BTreeSet<String>,
    pub(crate) endpoints: BTreeMap<Ipv4Addr, layout::Endpoint>,
    pub(crate) leases: BTreeMap<LeaseKey, layout::Lease>,
    pub(crate) policies: BTreeMap<PolicyKey, u64>,
    pub(crate) config: layout::Config,
}

fn full(name: &str) -> Error {
    Error::Full { name: name.to_owned(), capacity: 2 }
}

impl Kernel for Fake {
    fn adopted(&self) -> bool {
        self.adopted
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
        if ifindex == 0 {
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
        self.log.push(format!("endpoint {address} tag {}", row.tag));
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

    fn refresh(&mut self) -> Result<bool, Error> {
        Ok(false)
    }
}
