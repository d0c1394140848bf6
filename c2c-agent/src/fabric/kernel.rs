//! What the fabric needs of the datapath. A trait, so that what is written when, and what a refusal leads to, can be
//! tested without a kernel.

use crate::datapath::{Change, Datapath, EgressRows, Error, MappedPort};
use c2c_common::layout::{Config, Endpoint, Lease, LeaseKey, PolicyKey, ServiceKey};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The datapath, as [`Datapath`] offers it; see there.
pub trait Kernel: Send + 'static {
    /// Whether an earlier agent's world is in force.
    fn adopted(&self) -> bool;
    /// Removes what programs of another layout had.
    ///
    /// # Errors
    /// When the kernel refuses; so for all of these.
    fn forget_other_layouts(&mut self) -> Result<(), Error>;
    /// Tells the programs what the cell is.
    fn configure(&mut self, config: &Config) -> Result<(), Error>;
    /// Attaches to the underlay device.
    fn attach_underlay(&mut self, ifindex: u32) -> Result<(), Error>;
    /// Attaches to the VXLAN device.
    fn attach_vxlan(&mut self, ifindex: u32) -> Result<(), Error>;
    /// Attaches to a container's device.
    fn attach_endpoint(&mut self, name: &str, ifindex: u32) -> Result<(), Error>;
    /// Detaches from a container's device; it may be gone.
    fn detach_endpoint(&mut self, name: &str) -> Result<(), Error>;
    /// Containers' devices that are attached to.
    fn attached_endpoints(&self) -> Vec<String>;
    /// Writes a container's row.
    fn put_endpoint(&mut self, address: Ipv4Addr, row: &Endpoint) -> Result<(), Error>;
    /// Removes a container's row; it may be gone.
    fn remove_endpoint(&mut self, address: Ipv4Addr) -> Result<(), Error>;
    /// The containers' rows.
    fn endpoints(&self) -> Result<BTreeMap<Ipv4Addr, Endpoint>, Error>;
    /// Makes the leases these.
    fn set_leases(&mut self, want: &BTreeMap<LeaseKey, Lease>) -> Result<Change, Error>;
    /// Makes the policies these.
    fn set_policies(&mut self, want: &BTreeMap<PolicyKey, u64>) -> Result<Change, Error>;
    /// Makes some of the policies these, 0: none.
    fn change_policies(&mut self, rows: &BTreeMap<PolicyKey, u64>) -> Result<Change, Error>;
    /// Adds rows of egress rules; removes none.
    fn put_egress(&mut self, rows: &EgressRows) -> Result<Change, Error>;
    /// Removes all rows of egress rules but these.
    fn prune_egress(&mut self, rows: &EgressRows) -> Result<Change, Error>;
    /// Makes the mapped ports these.
    fn set_mappings(&mut self, want: &BTreeMap<MappedPort, (Ipv4Addr, u16)>) -> Result<Change, Error>;
    /// Makes the cell's own addresses these.
    fn set_locals(&mut self, want: &BTreeSet<Ipv4Addr>) -> Result<Change, Error>;
    /// Makes what containers may reach on the cell this.
    fn set_host_services(&mut self, want: &BTreeSet<ServiceKey>) -> Result<Change, Error>;
    /// Reads the kernel's rows anew; true when they were not what was last written.
    fn refresh(&mut self) -> Result<bool, Error>;
}

impl Kernel for Datapath {
    fn adopted(&self) -> bool {
        Self::adopted(self)
    }

    fn forget_other_layouts(&mut self) -> Result<(), Error> {
        Self::forget_other_layouts(self)
    }

    fn configure(&mut self, config: &Config) -> Result<(), Error> {
        Self::configure(self, config)
    }

    fn attach_underlay(&mut self, ifindex: u32) -> Result<(), Error> {
        Self::attach_underlay(self, ifindex)
    }

    fn attach_vxlan(&mut self, ifindex: u32) -> Result<(), Error> {
        Self::attach_vxlan(self, ifindex)
    }

    fn attach_endpoint(&mut self, name: &str, ifindex: u32) -> Result<(), Error> {
        Self::attach_endpoint(self, name, ifindex)
    }

    fn detach_endpoint(&mut self, name: &str) -> Result<(), Error> {
        Self::detach_endpoint(self, name)
    }

    fn attached_endpoints(&self) -> Vec<String> {
        Self::attached_endpoints(self)
    }

    fn put_endpoint(&mut self, address: Ipv4Addr, row: &Endpoint) -> Result<(), Error> {
        Self::put_endpoint(self, address, row)
    }

    fn remove_endpoint(&mut self, address: Ipv4Addr) -> Result<(), Error> {
        Self::remove_endpoint(self, address)
    }

    fn endpoints(&self) -> Result<BTreeMap<Ipv4Addr, Endpoint>, Error> {
        Self::endpoints(self)
    }

    fn set_leases(&mut self, want: &BTreeMap<LeaseKey, Lease>) -> Result<Change, Error> {
        Self::set_leases(self, want)
    }

    fn set_policies(&mut self, want: &BTreeMap<PolicyKey, u64>) -> Result<Change, Error> {
        Self::set_policies(self, want)
    }

    fn change_policies(&mut self, rows: &BTreeMap<PolicyKey, u64>) -> Result<Change, Error> {
        Self::change_policies(self, rows)
    }

    fn put_egress(&mut self, rows: &EgressRows) -> Result<Change, Error> {
        Self::put_egress(self, rows)
    }

    fn prune_egress(&mut self, rows: &EgressRows) -> Result<Change, Error> {
        Self::prune_egress(self, rows)
    }

    fn set_mappings(&mut self, want: &BTreeMap<MappedPort, (Ipv4Addr, u16)>) -> Result<Change, Error> {
        Self::set_mappings(self, want)
    }

    fn set_locals(&mut self, want: &BTreeSet<Ipv4Addr>) -> Result<Change, Error> {
        Self::set_locals(self, want)
    }

    fn set_host_services(&mut self, want: &BTreeSet<ServiceKey>) -> Result<Change, Error> {
        Self::set_host_services(self, want)
    }

    fn refresh(&mut self) -> Result<bool, Error> {
        Self::refresh(self)
    }
}
