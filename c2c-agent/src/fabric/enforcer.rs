//! The state under the fabric's lock, and the order in which it is written to the kernel.
//!
//! Order of a change of the world: leases, tags of endpoints, policies, configuration. Tags go before policies, because
//! the policies' epoch is raised last and every packet is judged anew then: by that time everything is the new world.

use super::kernel::Kernel;
use super::report::{Report, chain};
use super::{CellLease, FabricError};
use crate::datapath::{self, Change};
use crate::lease::Grant;
use crate::policy::compile::{self, Cell, Placed, Rows};
use crate::policy::mirror::{Mirror, Mismatch, Update};
use crate::policy::saved::{Saved, SavedError};
use crate::policy::world::{self, Policy};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// How far the cell has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Revision of the world that was received.
    pub received: u64,
    /// Revision of the world that the maps hold.
    pub enforced: u64,
}

/// What can be told about the fabric.
#[derive(Clone, Debug)]
pub struct View {
    /// How far the cell has got.
    pub applied: Applied,
    /// What the datapath refused, if it did; tried again with every reconcile pass.
    pub failure: Option<String>,
    /// Whether the programs and maps were found and taken over at start.
    pub adopted: bool,
    /// Whether a stream keeps the world up to date.
    pub live: bool,
    /// Whether the maps hold what this agent knows. Not so when maps were adopted and what was saved is lost: then they
    /// stay as they are until the controller has spoken.
    pub settled: bool,
    /// The lease that is enforced.
    pub lease: Option<Grant>,
    /// All other cells that are known.
    pub peers: usize,
    /// Containers of the cell.
    pub endpoints: usize,
    /// Tag by app hosted here, 0 when no policy names it.
    pub apps: BTreeMap<String, u16>,
    /// The policies that touch a hosted app.
    pub policies: Vec<Policy>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Enforcer<K> {
    datapath: K,
    cell: Cell,
    mirror: Mirror,
    lease: Option<Grant>,
    admits: bool,
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
}

impl<K: Kernel> Enforcer<K> {
    pub(super) fn new(datapath: K, cell: Cell, mirror: Mirror, lease: Option<Grant>) -> Self {
        let settled = !datapath.adopted() || (lease.is_some() && mirror.world().revision > 0);
        Self {
            datapath,
            cell,
            mirror,
            settled,
            admits: lease.is_some(),
            lease,
            placed: BTreeMap::new(),
            restored: false,
            enforced: 0,
            failure: None,
            saved: None,
            remembered: true,
        }
    }

    pub(super) fn remember_in(&mut self, saved: Saved) {
        self.saved = Some(saved);
    }

    /// Writes the world down. It is done before the world is enforced: an agent that is killed in between finds, when it
    /// starts again, a world that is newer than the maps, which costs nothing. The other way round it would undo in the
    /// maps what it does not remember, and cut flows that are allowed.
    pub(super) fn remember(&mut self) -> Result<(), SavedError> {
        self.remembered = false;
        if let Some(saved) = &self.saved {
            saved.put_world(self.mirror.world())?;
        }
        self.remembered = true;
        Ok(())
    }

    /// The same, if it did not succeed before.
    pub(super) fn remember_owed(&mut self) -> Result<(), SavedError> {
        if self.remembered { Ok(()) } else { self.remember() }
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

    pub(super) fn udp_port(&self) -> Option<u16> {
        self.lease.as_ref().map(|grant| grant.udp_port)
    }

    /// Whether the app's policies were asked for and may come soon.
    pub(super) fn awaits(&self, app: &str) -> bool {
        self.mirror.is_live() && self.mirror.hosted().contains(app) && !self.mirror.is_complete(app)
    }

    pub(super) fn set_lease(&mut self, lease: Option<Grant>, admits: bool) {
        self.admits = admits;
        if self.lease != lease {
            self.lease = lease;
            self.enforce();
        }
    }

    pub(super) fn take(&mut self, updates: impl IntoIterator<Item = Update>) -> Result<Applied, Mismatch> {
        let mut changed = self.failure.is_some();
        let taken = updates.into_iter().try_for_each(|update| {
            let only_revision = matches!(&update, Update::Delta { changes, .. } if changes.is_empty());
            self.mirror.take(update)?;
            changed |= !only_revision;
            Ok(())
        });
        if changed {
            self.remember_and_enforce();
        } else {
            self.enforced = self.mirror.world().revision;
        }
        taken.map(|()| self.applied())
    }

    fn remember_and_enforce(&mut self) {
        if let Err(error) = self.remember() {
            tracing::error!(error = chain(&error), "enforced all the same; saved as soon as it can be");
        }
        self.enforce();
    }

    pub(super) fn applied(&self) -> Applied {
        Applied { received: self.mirror.world().revision, enforced: self.enforced }
    }

    pub(super) fn add(&mut self, address: Ipv4Addr, place: Placed) -> Result<(), FabricError> {
        let app = place.app.clone();
        self.enter(address, place)?;
        self.hosted_changed(&app);
        Ok(())
    }

    /// The map entry is written last: until then the programs drop what comes from the device.
    fn enter(&mut self, address: Ipv4Addr, place: Placed) -> Result<(), FabricError> {
        let name = &place.host_name;
        let failed = |source| FabricError::Attach { name: name.clone(), source };
        self.datapath.attach_endpoint(name, place.ifindex).map_err(failed)?;
        let row = compile::endpoint_row(&place, self.tag(address, &place.app));
        if let Err(source) = self.datapath.put_endpoint(address, &row) {
            self.undo_attach(name);
            return Err(FabricError::Enter { address, source });
        }
        self.placed.insert(address, place);
        Ok(())
    }

    /// Without a world, what the adopted map says.
    fn tag(&self, address: Ipv4Addr, app: &str) -> u16 {
        if self.settled {
            return compile::tag(self.mirror.world(), app);
        }
        let adopted = self.datapath.endpoints().ok().and_then(|rows| rows.get(&address).map(|row| row.tag));
        adopted.unwrap_or(0)
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

    /// The map entry goes first, so that the device is never open: without an entry the programs drop.
    pub(super) fn remove(&mut self, address: Ipv4Addr, name: &str) -> Result<(), FabricError> {
        let failed = |source| FabricError::Remove { address, source };
        let ours = self.placed.get(&address).is_none_or(|place| place.host_name == name);
        if ours {
            self.datapath.remove_endpoint(address).map_err(failed)?;
        }
        self.datapath.detach_endpoint(name).map_err(failed)?;
        if let Some(place) = ours.then(|| self.placed.remove(&address)).flatten() {
            self.hosted_changed(&place.app);
        }
        Ok(())
    }

    pub(super) fn restore(&mut self, placed: BTreeMap<Ipv4Addr, Placed>) -> Result<(), FabricError> {
        let mut first = Ok(());
        for (address, place) in placed {
            let entered = self.enter(address, place);
            first = first.and(entered);
        }
        self.restored = true;
        self.mirror.host(self.hosted());
        self.enforce();
        first
    }

    fn hosted(&self) -> BTreeSet<String> {
        let apps = self.placed.values().map(|place| &place.app);
        apps.filter(|app| world::is_app_name(app)).cloned().collect()
    }

    /// A container came or left. Policies have to be written only when its app is new or gone, and one names it.
    fn hosted_changed(&mut self, app: &str) {
        let hosted = self.hosted();
        if hosted == *self.mirror.hosted() {
            return;
        }
        let named = self.mirror.world().names(app);
        self.mirror.host(hosted);
        if named {
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
            Err(error) => {
                let failure = chain(&error);
                tracing::error!(
                    error = failure,
                    "the datapath refused; what found room is enforced, the rest is tried again"
                );
                self.failure = Some(failure);
            }
        }
    }

    fn rows(&self) -> Rows {
        compile::rows(self.mirror.world(), self.lease.as_ref(), &self.cell, &self.placed)
    }

    /// What can be written is written, also when something else fails.
    fn write(&mut self, rows: &Rows) -> Result<(), datapath::Error> {
        let leases = self.datapath.set_leases(&rows.leases).map(drop);
        let tags = self.write_tags(rows);
        let policies = self.datapath.set_policies(&rows.policies).map(drop);
        let config = self.datapath.configure(&rows.config);
        leases.and(tags).and(policies).and(config)
    }

    fn write_tags(&mut self, rows: &Rows) -> Result<(), datapath::Error> {
        let have = self.datapath.endpoints()?;
        let changed = rows.endpoints.iter().filter(|(address, row)| have.get(address) != Some(row));
        for (address, row) in changed {
            self.datapath.put_endpoint(*address, row)?;
        }
        Ok(())
    }

    pub(super) fn reconcile(&mut self, cell: Cell) -> Report {
        let mut report = Report::default();
        if self.cell != cell {
            report.repaired(format!("the underlay device is another now: {:?}, was {:?}", cell, self.cell));
            self.cell = cell;
        }
        if let Err(error) = self.datapath.refresh() {
            report.failed("reading the maps", &error);
        }
        self.reattach(&mut report);
        if self.settled {
            self.compare_endpoints(&mut report);
            self.compare_rows(&mut report);
        }
        report
    }

    fn reattach(&mut self, report: &mut Report) {
        report.note(
            "attaching to the underlay device",
            self.datapath.attach_underlay(self.cell.underlay_ifindex),
        );
        report.note("attaching to the VXLAN device", self.datapath.attach_vxlan(self.cell.vxlan_ifindex));
        for place in self.placed.values() {
            let attached = self.datapath.attach_endpoint(&place.host_name, place.ifindex);
            report.note(format!("attaching to {}", place.host_name), attached);
        }
        let names: BTreeSet<_> = self.placed.values().map(|place| place.host_name.as_str()).collect();
        let leftovers =
            self.datapath.attached_endpoints().into_iter().filter(|name| !names.contains(name.as_str()));
        for name in leftovers.filter(|_| self.restored).collect::<Vec<_>>() {
            report.repaired(format!("detached from {name}, which is no container's"));
            report.note(format!("detaching from {name}"), self.datapath.detach_endpoint(&name));
        }
    }

    fn compare_endpoints(&mut self, report: &mut Report) {
        let have = match self.datapath.endpoints() {
            Ok(have) => have,
            Err(error) => return report.failed("reading the endpoints", &error),
        };
        let want = self.rows().endpoints;
        for (address, row) in want.iter().filter(|(address, row)| have.get(address) != Some(row)) {
            report.repaired(format!("wrote the endpoint {address}"));
            report.note(format!("writing the endpoint {address}"), self.datapath.put_endpoint(*address, row));
        }
        for address in have.keys().filter(|address| self.restored && !want.contains_key(address)) {
            report.repaired(format!("removed the endpoint {address}, which is no container's"));
            report.note(format!("removing the endpoint {address}"), self.datapath.remove_endpoint(*address));
        }
    }

    fn compare_rows(&mut self, report: &mut Report) {
        let rows = self.rows();
        let owing = self.failure.take().is_some() || self.enforced != self.mirror.world().revision;
        let results = [
            ("leases", self.datapath.set_leases(&rows.leases)),
            ("policies", self.datapath.set_policies(&rows.policies)),
            ("configuration", self.datapath.configure(&rows.config).map(|()| Change::default())),
        ];
        for (what, result) in results {
            match result {
                Ok(change) if change.added + change.changed + change.removed > 0 && !owing => {
                    report.repaired(format!("wrote {what}: {change:?}"));
                }
                Ok(_) => {}
                Err(error) => {
                    self.failure = Some(chain(&error));
                    report.failed(format!("writing {what}"), &error);
                }
            }
        }
        if self.failure.is_none() {
            self.enforced = self.mirror.world().revision;
        }
    }

    pub(super) fn view(&self) -> View {
        let world = self.mirror.world();
        let touching = world.policies.iter().filter(|(rule, _)| rule.touches(self.mirror.hosted()));
        let tags = compile::tags(world);
        let tag = |app: &String| tags.get(app.as_str()).copied().unwrap_or(0);
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
            apps: self.mirror.hosted().iter().map(|app| (app.clone(), tag(app))).collect(),
            policies: touching.map(|(rule, tags)| Policy { rule: rule.clone(), tags: *tags }).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
