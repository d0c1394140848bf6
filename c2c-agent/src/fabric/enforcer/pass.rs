//! A reconcile pass: the kernel's state is compared with what shall be, and what drifted is put back and told.

use super::Enforcer;
use super::believable;
use crate::datapath::{Change, Error};
use crate::fabric::kernel::Kernel;
use crate::fabric::report::{Report, chain};
use crate::policy::compile::{Cell, Rows};
use std::collections::BTreeSet;

impl<K: Kernel> Enforcer<K> {
    pub(in crate::fabric) fn reconcile(&mut self, cell: Cell) -> Report {
        let mut report = Report::default();
        let readdressed = self.cell.locals != cell.locals;
        self.look_at(cell, &mut report);
        if let Err(error) = self.datapath.refresh() {
            report.failed("reading the maps", &error);
        }
        self.reattach(&mut report);
        if self.settled {
            self.compare(readdressed, &mut report);
            self.forget_other_layouts(&mut report);
        }
        report
    }

    /// When all programs are this agent's, nobody has an earlier layout's maps any more.
    fn forget_other_layouts(&mut self, report: &mut Report) {
        if self.restored && report.failed.is_empty() {
            report.note("removing another layout's maps", self.datapath.forget_other_layouts());
        }
    }

    fn look_at(&mut self, cell: Cell, report: &mut Report) {
        let was = Cell { locals: cell.locals.clone(), ..self.cell.clone() };
        if was != cell {
            report.repaired(format!("the underlay device is another now: {cell:?}, was {was:?}"));
        }
        self.cell = cell;
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

    /// In the order of [`Enforcer::write`]. What was owing, or changed by our own doing, is no drift.
    fn compare(&mut self, readdressed: bool, report: &mut Report) {
        let rows = self.rows();
        let owing = self.failure.take().is_some() || self.enforced != self.mirror.world().revision;
        let added = self.outside.owed();
        let egress = self.put_egress();
        let whole = egress.is_ok();
        self.compared("egress rules", egress, owing || added, report);
        self.compare_endpoints(&rows, whole, report);
        let leases = self.datapath.set_leases(&rows.leases);
        self.compared("leases", leases, owing, report);
        if self.restored {
            let policies = self.datapath.set_policies(&rows.policies);
            self.compared("policies", policies, owing, report);
            let mappings = self.datapath.set_mappings(&rows.mappings);
            self.compared("mapped ports", mappings, owing, report);
        }
        if whole && self.restored {
            let expected = owing || self.outside.surplus();
            let pruned = self.prune_egress();
            self.compared("egress rules", pruned, expected, report);
        }
        let locals = self.datapath.set_locals(&rows.locals);
        self.compared("the cell's addresses", locals, owing || readdressed, report);
        let services = self.datapath.set_host_services(&rows.host_services);
        self.compared("the cell's services", services, owing, report);
        let config = self.datapath.configure(&rows.config).map(|()| Change::default());
        self.compared("configuration", config, owing, report);
        if self.failure.is_none() {
            self.enforced = self.mirror.world().revision;
        }
    }

    fn compared(&mut self, what: &str, result: Result<Change, Error>, expected: bool, report: &mut Report) {
        match result {
            Ok(change) if change != Change::default() && !expected => {
                report.repaired(format!("wrote {what}: {change:?}"));
            }
            Ok(_) => {}
            Err(error) => {
                self.failure = Some(chain(&error));
                report.failed(format!("writing {what}"), &error);
            }
        }
    }

    fn compare_endpoints(&mut self, rows: &Rows, egress_is_whole: bool, report: &mut Report) {
        let have = match self.datapath.endpoints() {
            Ok(have) => have,
            Err(error) => return report.failed("reading the endpoints", &error),
        };
        for (address, row) in &rows.endpoints {
            let row = believable(*row, have.get(address), egress_is_whole);
            if have.get(address) != Some(&row) {
                report.repaired(format!("wrote the endpoint {address}"));
                report.note(
                    format!("writing the endpoint {address}"),
                    self.datapath.put_endpoint(*address, &row),
                );
            }
        }
        let leftovers = have.keys().filter(|address| self.restored && !rows.endpoints.contains_key(address));
        for address in leftovers.collect::<Vec<_>>() {
            report.repaired(format!("removed the endpoint {address}, which is no container's"));
            report.note(format!("removing the endpoint {address}"), self.datapath.remove_endpoint(*address));
        }
    }
}
