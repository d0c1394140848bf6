//! What goes on beside the commands, on a thread of its own: commits of other controllers are applied as they are heard of,
//! and the store is told which leases were renewed.

use super::{Health, Ledger};
use crate::domain::{Moment, Revision};
use crate::metrics::Asked;
use crate::store::Store;
use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// How often the store is looked at when it says nothing, so that what it failed to say is noticed, and how often it is
/// told of renewals: a twelfth of the default heartbeat, and nothing to a lease of a week.
const INTERVAL: Duration = Duration::from_millis(2500);
/// How often the renewals that other controllers took are read, for who asks which leases have expired: nothing to a lease of
/// hours, and little to a database of many cells.
const RENEWALS_INTERVAL: Duration = Duration::from_secs(60);

impl Ledger {
    /// Begins to follow the store, until the ledger is dropped. The time is asked of `now`.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn keep(self: &Arc<Self>, now: fn() -> Moment) -> io::Result<()> {
        // Holding the ledger while it waits would keep it alive when the controller ends.
        let (ledger, store, known) = (Arc::downgrade(self), Arc::clone(&self.store), self.revision());
        let run = move || run(&ledger, &*store, known, now);
        thread::Builder::new().name("ledger".to_owned()).spawn(run).map(drop)
    }

    /// Tells the store of the renewals that it has not been told of. What it does not take is told again.
    fn store_renewals(&self) {
        let renewals = std::mem::take(&mut *self.pending());
        if renewals.is_empty() {
            return;
        }
        let Err(error) = self.store.renew(&renewals) else { return self.meter.did(Asked::Write) };
        self.meter.failed(Asked::Write, &error);
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, leases = renewals.len(), "renewals are not stored; they are tried again");
        let mut pending = self.pending();
        for (underlay, at) in renewals {
            pending.entry(underlay).or_insert(at);
        }
    }

    /// A disk that is full is told before anybody needs it, and not any longer than it is.
    fn look_for_room(&self) {
        match self.store.has_room() {
            Ok(()) => self.meter.did(Asked::Room),
            Err(error) => self.meter.note(Asked::Room, &error),
        }
    }

    fn follow(&self, now: Moment) {
        if *self.writing() == Health::Broken {
            return;
        }
        if let Err(error) = self.refresh(now) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "what other controllers do is not known; it is tried again");
        }
        self.store_renewals();
        self.look_for_room();
    }

    fn follow_renewals(&self, now: Moment) {
        if let Err(error) = self.learn_renewals(now) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "which leases other controllers renewed is not known; it is tried again");
        }
    }
}

fn run(ledger: &Weak<Ledger>, store: &dyn Store, mut known: Revision, now: fn() -> Moment) {
    let mut renewals = Instant::now();
    loop {
        store.wait(known, INTERVAL);
        let Some(ledger) = ledger.upgrade() else { return };
        ledger.follow(now());
        if store.is_shared() && renewals.elapsed() > RENEWALS_INTERVAL {
            ledger.follow_renewals(now());
            renewals = Instant::now();
        }
        known = ledger.revision();
    }
}

/// The last renewals are not lost when the process ends in order.
impl Drop for Ledger {
    fn drop(&mut self) {
        if *self.writing() == Health::Good && self.away().is_none() {
            self.store_renewals();
        }
    }
}
