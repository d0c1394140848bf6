//! What a step of the world costs: where only policies changed, the rows concerned are written, and the change is put
//! behind the world on disk. A step that cannot be taken so is taken as a whole.

use super::Enforcer;
use crate::datapath::Error;
use crate::fabric::kernel::Kernel;
use crate::fabric::report::chain;
use crate::policy::mirror::{Mismatch, Update};
use crate::policy::saved::SavedError;
use crate::policy::step::Step;
use c2c_common::layout::Endpoint;
use std::collections::BTreeMap;

impl<K: Kernel> Enforcer<K> {
    /// A step from here, if everything is known and in force. Otherwise the whole is to be written.
    pub(super) fn step(&self) -> Option<Step> {
        let in_force = self.failure.is_none() && self.enforced == self.mirror.world().revision;
        let whole = self.settled && self.restored && self.lease.is_some();
        (in_force && whole).then(Step::default)
    }

    /// Takes an update, and with it the step that it is a part of; `None` when it is more than a step can say.
    pub(super) fn take_one(&mut self, update: Update, step: Option<Step>) -> Result<Option<Step>, Mismatch> {
        let step = step.and_then(|step| step.with(&update, self.mirror.world()));
        self.mirror.take(update)?;
        Ok(step)
    }

    /// Writes a step down and enforces it, in the order that holds for the whole: tags before policies, because the
    /// policies' epoch is raised last.
    pub(super) fn remember_and_enforce_step(&mut self, step: &Step) {
        if let Err(error) = self.remember_step(step) {
            tracing::error!(error = chain(&error), "enforced all the same; saved as soon as it can be");
        }
        let tags = self.write_tags(step);
        let hosted = self.placed.values().map(|place| place.app.clone()).collect();
        let rows = step.rows(self.mirror.world(), &hosted);
        match tags.and(self.datapath.change_policies(&rows)) {
            Ok(_) => self.enforced = self.mirror.world().revision,
            Err(error) => self.failed(&error),
        }
    }

    fn write_tags(&mut self, step: &Step) -> Result<(), Error> {
        let have = self.datapath.endpoints()?;
        // One look for all containers of an app.
        let mut tags = BTreeMap::new();
        for (address, place) in &self.placed {
            let Some(row) = have.get(address) else { continue };
            let look = || step.tag(&place.app, row.tag, self.mirror.world());
            let tag = *tags.entry(place.app.as_str()).or_insert_with(look);
            if let Some(tag) = tag.filter(|tag| *tag != row.tag) {
                self.datapath.put_endpoint(*address, &Endpoint { tag, ..*row })?;
            }
        }
        Ok(())
    }

    /// Behind the world on disk, while that is the one that the step starts from and steps are the smaller part of it. An
    /// app that came or left since changed the world without a step.
    fn remember_step(&mut self, step: &Step) -> Result<(), SavedError> {
        let (Some(saved), Some(written)) = (&self.saved, &mut self.written) else { return self.remember() };
        let follows = self.remembered && !self.mirror.rewritten();
        if !follows || written.steps > written.world.max(STEPS_ANYWAY) {
            return self.remember();
        }
        self.remembered = false;
        written.steps += saved.add_step(step, self.mirror.world().revision)?;
        self.remembered = true;
        Ok(())
    }
}

/// Bytes of steps for which a small world is not written anew.
const STEPS_ANYWAY: u64 = 64 * 1024;
