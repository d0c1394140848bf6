//! The state under the fabric's lock, and the order in which it is written to the kernel.
//!
//! Order of a change of the world: leases, rows of egress rules, endpoints, policies, mapped ports, the removal of egress
//! rows that no endpoint has any more, the cell's own addresses and services, configuration. Endpoints go before policies,
//! because the policies' epoch is raised last and every packet is judged anew then: by that time everything is the new
//! world. A set of egress rules is whole before an endpoint has it, and goes after the last one has left it.

mod pass;
mod step;

use super::kernel::Kernel;
use super::outside::Outside;
use super::report::chain;
use super::view::{Applied, EgressView, Tunnels, View};
use super::{CellLease, FabricError};
use crate::config::Network;
use crate::datapath::{self, Change};
use crate::lease::Grant;
use crate::policy::compile::{self, Cell, Placed, Rows, Scene};
use crate::policy::mirror::{Mirror, Mismatch, Update};
use crate::policy::saved::{Saved, SavedError};
use crate::policy::world::{self, Hosted, Policy, Rule, Tags};
use c2c_common::layout;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(super) struct Enforcer<K> {
    datapath: K,
    cell: Cell,
    mirror: Mirror,
    lease: Option<Grant>,
    admits: bool,
    outside: Outside,
    placed: BTreeMap<Ipv4Addr, Placed>,
    /// Until the containers of an earlier run are known, nothing unknown may be taken for a leftover.
    restored: bool,
    /// Whether lease and world are known. Maps that were adopted without (a state file was lost) stay as they are until
    /// the controller has said what is right: nothing is emptied to be refilled.
    settled: bool,
    enforced: u64,
    failure: Option<String>,
    saved: Option<Saved>,
    /// Whether the world that is enforced is the one on disk.
    remembered: bool,
    /// What of it this agent has written.
    written: Option<Written>,
}

/// Sizes in bytes.
#[derive(Clone, Copy, Debug)]
struct Written {
    /// The world, as a whole.
    world: u64,
    /// The steps after it.
    steps: u64,
}

impl<K: Kernel> Enforcer<K> {
    pub(super) fn new(
        datapath: K,
        (cell, network): (Cell, Network),
        mirror: Mirror,
        lease: Option<Grant>,
    ) -> Self {
        let settled = !datapath.adopted() || (lease.is_some() && mirror.world().revision > 0);
        Self {
            datapath,
            cell,
            mirror,
            settled,
            admits: lease.is_some(),
            lease,
            outside: Outside::new(network),
            placed: BTreeMap::new(),
            restored: false,
            enforced: 0,
            failure: None,
            saved: None,
            remembered: true,
            written: None,
        }
    }

    pub(super) fn remember_in(&mut self, saved: Saved) {
        self.saved = Some(saved);
    }

    /// Writes the world down if that failed when it became what it is.
    pub(super) fn remember_owed(&mut self) -> Result<(), SavedError> {
        if self.remembered { Ok(()) } else { self.remember(None) }
    }

    pub(super) fn mirror(&mut self) -> &mut Mirror {
        &mut self.mirror
    }

    pub(super) fn datapath(&mut self) -> &mut K {
        &mut self.datapath
    }

    pub(super) fn live(&self) -> usize {
        self.placed.len()
    }

    pub(super) fn cell_lease(&self) -> Option<CellLease> {
        let grant = self.lease.as_ref().filter(|_| self.admits)?;
        Some(CellLease { block: grant.lease.block, overlay: grant.overlay, mtu: self.cell.mtu })
    }

    /// The cell's address on the underlay.
    pub(super) fn underlay(&self) -> Ipv4Addr {
        self.cell.underlay
    }

    pub(super) fn udp_port(&self) -> Option<u16> {
        self.lease.as_ref().map(|grant| grant.udp_port)
    }

    /// Whether the app's policies or the space's security groups were asked for and may come soon.
    pub(super) fn awaits(&self, app: &str, space: &str) -> bool {
        let mut these = Hosted { apps: [app.to_owned()].into(), spaces: [space.to_owned()].into() };
        these.retain(self.mirror.hosted());
        self.mirror.is_live() && !self.mirror.is_complete(&these)
    }

    /// Changes what the operator says about the outside.
    pub(super) fn set_network(&mut self, network: Network) {
        if *self.outside.network() != network {
            self.outside.set_network(network);
            self.enforce();
        }
    }

    pub(super) fn set_lease(&mut self, lease: Option<Grant>, admits: bool) {
        self.admits = admits;
        if self.lease != lease {
            self.lease = lease;
            self.enforce();
        }
    }

    pub(super) fn take(&mut self, updates: impl IntoIterator<Item = Update>) -> Result<Applied, Mismatch> {
        let taken = updates.into_iter().try_for_each(|update| self.mirror.take(update));
        self.follow();
        taken.map(|()| self.applied())
    }

    pub(super) fn applied(&self) -> Applied {
        Applied { received: self.mirror.world().revision, enforced: self.enforced }
    }

    pub(super) fn add(&mut self, address: Ipv4Addr, place: Placed) -> Result<(), FabricError> {
        let app = place.app.clone();
        let (name, has_ports) = (place.host_name.clone(), !place.ports.is_empty());
        self.enter(address, place)?;
        if has_ports && let Err(source) = self.write_mappings() {
            self.leave(address, &name);
            return Err(FabricError::Ports { address, source });
        }
        self.hosted_changed(&app);
        Ok(())
    }

    /// The map entry is written last: until then the programs drop what comes from the device.
    fn enter(&mut self, address: Ipv4Addr, place: Placed) -> Result<(), FabricError> {
        let name = &place.host_name;
        let failed = |source| FabricError::Attach { name: name.clone(), source };
        self.datapath.attach_endpoint(name, place.ifindex).map_err(failed)?;
        let entered = self.row(address, &place).and_then(|row| self.datapath.put_endpoint(address, &row));
        if let Err(source) = entered {
            self.undo_attach(name);
            return Err(FabricError::Enter { address, source });
        }
        self.placed.insert(address, place);
        Ok(())
    }

    /// The container's row, after the egress rows that it leads to were written. Without a world, it says what the adopted
    /// map says.
    fn row(&mut self, address: Ipv4Addr, place: &Placed) -> Result<layout::Endpoint, datapath::Error> {
        if let Some(adopted) = self.adopted_row(address) {
            return Ok(compile::endpoint_row(place, adopted.tag, adopted.egress));
        }
        let tag = self.mirror.world().policies.tag(&place.app);
        Ok(compile::endpoint_row(place, if self.settled { tag } else { 0 }, self.set_of(address, place)?))
    }

    fn adopted_row(&self, address: Ipv4Addr) -> Option<layout::Endpoint> {
        let rows = if self.settled { None } else { self.datapath.endpoints().ok() };
        rows?.get(&address).copied()
    }

    /// The container's set of egress rules, after its rows were written. Nothing is written for rules that another
    /// container has already.
    fn set_of(&mut self, address: Ipv4Addr, place: &Placed) -> Result<u32, datapath::Error> {
        let set = self.outside.learn(self.mirror.world(), place);
        if set == 0 || !self.outside.owed() {
            return Ok(set);
        }
        match self.put_egress() {
            Ok(_) => Ok(set),
            // A new container is refused, and another one may find room.
            Err(error) if self.restored => {
                self.outside.settle(self.mirror.world(), &self.placed);
                Err(error)
            }
            // One that runs since before keeps what it had.
            Err(error) => {
                self.failed(&error);
                Ok(self.datapath.endpoints()?.get(&address).map_or(0, |old| old.egress))
            }
        }
    }

    fn put_egress(&mut self) -> Result<Change, datapath::Error> {
        let change = self.datapath.put_egress(self.outside.rows())?;
        self.outside.written();
        Ok(change)
    }

    /// Enforces what changed of a container: its ports, or its static rules. After an error everything is as before.
    pub(super) fn update(&mut self, address: Ipv4Addr, place: Placed) -> Result<(), FabricError> {
        let Some(old) = self.placed.get(&address).filter(|old| old.host_name == place.host_name).cloned()
        else {
            return Err(FabricError::Unknown { address });
        };
        let failed = |source| FabricError::Enter { address, source };
        let row = self.row(address, &place).map_err(failed)?;
        self.datapath.put_endpoint(address, &row).map_err(failed)?;
        let ports_changed = old.ports != place.ports;
        self.placed.insert(address, place);
        if ports_changed && let Err(source) = self.write_mappings() {
            self.placed.insert(address, old);
            self.enforce();
            return Err(FabricError::Ports { address, source });
        }
        Ok(())
    }

    /// Until the containers of an earlier run are known, their ports stay as they are.
    fn write_mappings(&mut self) -> Result<(), datapath::Error> {
        if !self.restored {
            return Ok(());
        }
        self.datapath.set_mappings(&compile::mappings(&self.placed)).map(drop)
    }

    /// Undoes what an ADD entered. The next pass removes what cannot be removed now.
    fn leave(&mut self, address: Ipv4Addr, name: &str) {
        self.placed.remove(&address);
        if let Err(error) = self.datapath.remove_endpoint(address).and_then(|()| self.write_mappings()) {
            tracing::warn!(%address, error = chain(&error), "the next reconcile pass removes what was left");
        }
        self.undo_attach(name);
    }

    fn undo_attach(&mut self, name: &str) {
        if let Err(error) = self.datapath.detach_endpoint(name) {
            tracing::warn!(
                device = name,
                error = chain(&error),
                "the next reconcile pass detaches what was left"
            );
        }
    }

    /// Egress rules that were the container's alone are removed by the next pass.
    pub(super) fn remove(&mut self, address: Ipv4Addr, name: &str) -> Result<(), FabricError> {
        let ours = self.placed.get(&address).is_none_or(|place| place.host_name == name);
        let place = if ours { self.placed.remove(&address) } else { None };
        let has_ports = place.as_ref().is_some_and(|place| !place.ports.is_empty());
        match self.take_out(address, name, (ours, has_ports)) {
            Ok(()) => {
                place.iter().for_each(|place| self.hosted_changed(&place.app));
                Ok(())
            }
            Err(source) => {
                self.placed.extend(place.map(|place| (address, place)));
                Err(FabricError::Remove { address, source })
            }
        }
    }

    /// The map entry goes before the programs, so that the device is never open: without an entry they drop.
    fn take_out(
        &mut self,
        address: Ipv4Addr,
        name: &str,
        (ours, has_ports): (bool, bool),
    ) -> Result<(), datapath::Error> {
        if has_ports {
            self.write_mappings()?;
        }
        if ours {
            self.datapath.remove_endpoint(address)?;
        }
        self.datapath.detach_endpoint(name)
    }

    /// Containers in maps that are in force are attached to first, so that nothing passes them by. Maps that are not yet
    /// (another layout's programs are attached, if any are) are filled first: no packet finds them empty. One that cannot
    /// be attached to, or entered, keeps what it has: the next pass tries again.
    pub(super) fn restore(&mut self, placed: BTreeMap<Ipv4Addr, Placed>) -> Result<(), FabricError> {
        // All at once, so that the first container brings the rules of all.
        self.placed = placed;
        self.outside.settle(self.mirror.world(), &self.placed);
        if self.datapath.adopted() {
            let attached = self.attach_all();
            let entered = self.enter_all();
            self.restored();
            attached.and(entered)
        } else {
            self.restored();
            self.attach_all()
        }
    }

    fn attach_all(&mut self) -> Result<(), FabricError> {
        let mut first = Ok(());
        for place in self.placed.values() {
            let attached = self.datapath.attach_endpoint(&place.host_name, place.ifindex);
            let failed = |source| FabricError::Attach { name: place.host_name.clone(), source };
            first = first.and(attached.map_err(failed));
        }
        first
    }

    fn enter_all(&mut self) -> Result<(), FabricError> {
        let mut first = Ok(());
        for (address, place) in self.placed.clone() {
            let row = self.row(address, &place);
            let entered = row.and_then(|row| self.datapath.put_endpoint(address, &row));
            first = first.and(entered.map_err(|source| FabricError::Enter { address, source }));
        }
        first
    }

    fn restored(&mut self) {
        self.restored = true;
        if let Err(error) = self.write_mappings() {
            self.failed(&error);
        }
        self.mirror.host(self.hosted());
        self.enforce();
    }

    fn hosted(&self) -> Hosted {
        let names = |name: fn(&Placed) -> &String| {
            let names = self.placed.values().map(name);
            names.filter(|name| world::is_name(name)).cloned().collect()
        };
        Hosted { apps: names(|place| &place.app), spaces: names(|place| &place.space) }
    }

    /// A container came or left. Without the controller the world stays as it is; what it says of an app that is new or
    /// gone is enforced, or not any more.
    fn hosted_changed(&mut self, app: &str) {
        let hosted = self.hosted();
        if hosted == *self.mirror.hosted() {
            return;
        }
        self.mirror.host(hosted);
        if self.mirror.is_live() {
            self.follow();
        } else if self.mirror.world().policies.tag(app) != 0 {
            self.enforce();
        }
    }

    /// Writes the world to the kernel. A failure is kept, told, and tried again by the next pass.
    fn enforce(&mut self) {
        self.settled |= self.lease.is_some() && self.mirror.world().revision > 0;
        if !self.settled {
            return;
        }
        let rows = self.rows();
        match self.write(&rows) {
            Ok(()) => {
                self.failure = None;
                self.enforced = self.mirror.world().revision;
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &datapath::Error) {
        let failure = chain(error);
        tracing::error!(
            error = failure,
            "the datapath refused; what found room is enforced, the rest is tried again"
        );
        self.failure = Some(failure);
    }

    fn rows(&mut self) -> Rows {
        let sets = self.outside.settle(self.mirror.world(), &self.placed);
        compile::rows(Scene {
            world: self.mirror.world(),
            grant: self.lease.as_ref(),
            cell: &self.cell,
            network: self.outside.network(),
            placed: &self.placed,
            sets: &sets,
        })
    }

    /// What can be written is written, also when something else fails.
    fn write(&mut self, rows: &Rows) -> Result<(), datapath::Error> {
        let leases = self.datapath.set_leases(&rows.leases).map(drop);
        let egress = if self.outside.owed() { self.put_egress().map(drop) } else { Ok(()) };
        let endpoints = self.write_endpoints(&rows.endpoints, egress.is_ok());
        // Before it is known which containers there are, they would be those of none.
        let (policies, mappings) = if self.restored {
            let policies = self.datapath.set_policies(&rows.policies).map(drop);
            (policies, self.datapath.set_mappings(&rows.mappings).map(drop))
        } else {
            (Ok(()), Ok(()))
        };
        let whole = egress.is_ok() && endpoints.is_ok();
        let pruned = if whole { self.prune_surplus() } else { Ok(()) };
        let locals = self.datapath.set_locals(&rows.locals).map(drop);
        let services = self.datapath.set_host_services(&rows.host_services).map(drop);
        let config = self.datapath.configure(&rows.config);
        leases
            .and(egress)
            .and(endpoints)
            .and(policies)
            .and(mappings)
            .and(pruned)
            .and(locals)
            .and(services)
            .and(config)
    }

    fn write_endpoints(
        &mut self,
        rows: &BTreeMap<Ipv4Addr, layout::Endpoint>,
        egress_is_whole: bool,
    ) -> Result<(), datapath::Error> {
        let have = self.datapath.endpoints()?;
        for (address, row) in rows {
            let old = have.get(address);
            let row = believable(*row, old, egress_is_whole);
            if old != Some(&row) {
                self.datapath.put_endpoint(*address, &row)?;
            }
        }
        Ok(())
    }

    /// Removes the rows that no container has any more. Not before all containers are known.
    fn prune_egress(&mut self) -> Result<Change, datapath::Error> {
        let change = self.datapath.prune_egress(self.outside.rows())?;
        self.outside.pruned();
        Ok(change)
    }

    pub(super) fn view(&self) -> View {
        let world = self.mirror.world();
        let own = self.lease.as_ref().map(|grant| grant.lease.cell.as_str());
        View {
            applied: self.applied(),
            failure: self.failure.clone(),
            adopted: self.datapath.adopted(),
            live: self.mirror.is_live(),
            settled: self.settled,
            lease: self.lease.clone(),
            peers: world.leases.values().filter(|lease| Some(lease.cell.as_str()) != own).count(),
            endpoints: self.placed.len(),
            apps: self.tags(),
            // A world that a stream keeps up to date has no others.
            policies: if self.mirror.is_live() { world.policies.len() } else { self.touching().count() },
            groups: world.groups.len(),
            skipped: self.outside.skipped().iter().cloned().collect(),
            mapped_ports: compile::mappings(&self.placed).len(),
            max_connections: self.outside.network().outbound.max_connections,
        }
    }

    /// The tags in force, by app.
    fn tags(&self) -> BTreeMap<String, u16> {
        let rows = self.datapath.endpoints().unwrap_or_default();
        let tag = |address| rows.get(address).map_or(0, |row| row.tag);
        let named = self.placed.iter().filter(|(_, place)| world::is_name(&place.app));
        named.map(|(address, place)| (place.app.clone(), tag(address))).collect()
    }

    /// The policies that touch a hosted app.
    pub(super) fn policies(&self) -> Vec<Policy> {
        self.touching().map(|(rule, tags)| Policy { rule: rule.clone(), tags: *tags }).collect()
    }

    fn touching(&self) -> impl Iterator<Item = (&Rule, &Tags)> {
        let apps = &self.mirror.hosted().apps;
        self.mirror.world().policies.iter().filter(move |(rule, _)| rule.touches(apps))
    }

    pub(super) fn tunnels(&self) -> Option<Tunnels> {
        let grant = self.lease.as_ref()?;
        let others = compile::others(self.mirror.world(), grant);
        let others = others.filter(|lease| lease.block.prefix_len() == grant.block_prefix);
        Some(Tunnels {
            own: grant.lease.block.network(),
            underlay: self.cell.underlay,
            vxlan_ifindex: self.cell.vxlan_ifindex,
            mtu: self.cell.mtu,
            vni: grant.vni,
            udp_port: grant.udp_port,
            others: others.map(|lease| (lease.block.network(), lease.underlay)).collect(),
        })
    }

    pub(super) fn egress(&self) -> Vec<EgressView> {
        let view = |(address, place): (&Ipv4Addr, &Placed)| {
            let (choice, known) = self.outside.look(self.mirror.world(), place);
            EgressView {
                address: *address,
                space: place.space.clone(),
                choice,
                set: known.map_or(0, |known| known.set),
                selected: known.map(|known| Arc::clone(&known.selected)).unwrap_or_default(),
            }
        };
        self.placed.iter().map(view).collect()
    }
}

/// A set whose rows found no room could allow what it must not: the container keeps the one it had, or has none.
fn believable(
    row: layout::Endpoint,
    old: Option<&layout::Endpoint>,
    egress_is_whole: bool,
) -> layout::Endpoint {
    let egress = if egress_is_whole { row.egress } else { old.map_or(0, |old| old.egress) };
    layout::Endpoint { egress, ..row }
}

#[cfg(test)]
mod tests;
