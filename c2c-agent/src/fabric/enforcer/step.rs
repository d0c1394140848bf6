//! What is done when the world became another: it is written down, and enforced. A step costs what it changes: it is put
//! behind the world on disk, and the rows that follow from it are written. What is no step, or cannot be taken as one, is
//! taken as a whole.

use super::{Enforcer, Written};
use crate::datapath::{Change, Error};
use crate::fabric::kernel::Kernel;
use crate::fabric::report::chain;
use crate::policy::compile;
use crate::policy::saved::SavedError;
use crate::policy::step::Step;
use c2c_common::layout::Endpoint;

impl<K: Kernel> Enforcer<K> {
    /// Writes down and enforces what became different of the world.
    pub(super) fn follow(&mut self) {
        match self.mirror.step() {
            Some(step) if step.is_empty() && self.in_force() => self.enforced = self.mirror.world().revision,
            step => {
                if let Err(error) = self.remember(step.as_ref()) {
                    tracing::error!(
                        error = chain(&error),
                        "enforced all the same; saved as soon as it can be"
                    );
                }
                match step.filter(|_| self.in_force()) {
                    Some(step) => self.enforce_step(&step),
                    None => self.enforce(),
                }
            }
        }
    }

    /// Whether everything is known, and the maps held it before the step.
    fn in_force(&self) -> bool {
        self.failure.is_none() && self.settled && self.restored && self.lease.is_some()
    }

    /// Writes the world down. It is done before the world is enforced: an agent that is killed in between finds, when it
    /// starts again, a world that is newer than the maps, which costs nothing. The other way round it would undo in the
    /// maps what it does not remember, and cut flows that are allowed.
    ///
    /// A step goes behind the world on disk, while that is the one it starts from and steps are the smaller part of it.
    pub(super) fn remember(&mut self, step: Option<&Step>) -> Result<(), SavedError> {
        let Some(saved) = &self.saved else { return Ok(()) };
        let written = self.written.take().filter(|_| self.remembered);
        self.remembered = false;
        let small = |written: &Written| written.steps <= written.world.max(STEPS_ANYWAY);
        let written = match (step, written.filter(small)) {
            (Some(step), Some(Written { world, steps })) => {
                Written { world, steps: steps + saved.add_step(step, self.mirror.world().revision)? }
            }
            _ => Written { world: saved.put_world(self.mirror.world())?, steps: 0 },
        };
        self.written = Some(written);
        self.remembered = true;
        Ok(())
    }

    /// In the order that holds for the whole.
    fn enforce_step(&mut self, step: &Step) {
        let leases = if step.moves_leases() { self.write_leases() } else { Ok(()) };
        let endpoints = if step.moves_groups() { self.write_sets() } else { self.write_tags(step) };
        let hosted = self.placed.values().map(|place| place.app.clone()).collect();
        let rows = step.rows(self.mirror.world(), &hosted);
        let policies =
            if rows.is_empty() { Ok(Change::default()) } else { self.datapath.change_policies(&rows) };
        let pruned = if endpoints.is_ok() { self.prune_surplus() } else { Ok(()) };
        match leases.and(endpoints).and(policies.map(drop)).and(pruned) {
            Ok(()) => self.enforced = self.mirror.world().revision,
            Err(error) => self.failed(&error),
        }
    }

    fn write_leases(&mut self) -> Result<(), Error> {
        let Some(grant) = &self.lease else { return Ok(()) };
        let leases = compile::leases(self.mirror.world(), grant);
        self.datapath.set_leases(&leases).map(drop)
    }

    /// The rows of egress rules, and of all containers.
    fn write_sets(&mut self) -> Result<(), Error> {
        let sets = self.outside.settle(self.mirror.world(), &self.placed);
        let rows = compile::endpoints(self.mirror.world(), &self.placed, &sets);
        let egress = if self.outside.owed() { self.put_egress().map(drop) } else { Ok(()) };
        let endpoints = self.write_endpoints(&rows, egress.is_ok());
        egress.and(endpoints)
    }

    /// The rows of the containers whose apps the step names.
    fn write_tags(&mut self, step: &Step) -> Result<(), Error> {
        let named = step.apps();
        if named.is_empty() {
            return Ok(());
        }
        let have = self.datapath.endpoints()?;
        for (address, place) in self.placed.iter().filter(|(_, place)| named.contains(place.app.as_str())) {
            let tag = self.mirror.world().policies.tag(&place.app);
            if let Some(row) = have.get(address).filter(|row| row.tag != tag) {
                self.datapath.put_endpoint(*address, &Endpoint { tag, ..*row })?;
            }
        }
        Ok(())
    }

    /// Removes the egress rows that no container has any more, if there may be any.
    pub(super) fn prune_surplus(&mut self) -> Result<(), Error> {
        let prune = self.restored && self.outside.surplus();
        if prune { self.prune_egress().map(drop::<Change>) } else { Ok(()) }
    }
}

/// Bytes of steps for which a small world is not written anew.
const STEPS_ANYWAY: u64 = 64 * 1024;
