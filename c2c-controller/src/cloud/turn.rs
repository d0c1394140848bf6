//! What one controller at a time does, again and again: once in every period, if it is this controller's turn.

use crate::ledger::{Leading, Ledger};
use crate::store::Duty;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

/// A duty with its period.
#[derive(Debug)]
pub(super) struct Turn {
    ledger: Arc<Ledger>,
    duty: Duty,
    ticks: Interval,
    stopping: watch::Receiver<bool>,
    held: Option<Leading>,
}

impl Turn {
    /// The first time is `first` from now.
    pub(super) fn new(
        ledger: Arc<Ledger>,
        duty: Duty,
        [first, every]: [Duration; 2],
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + first, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ledger, duty, ticks, stopping, held: None }
    }

    /// Waits for the next turn that is ours; false when we stop.
    pub(super) async fn comes(&mut self) -> bool {
        loop {
            tokio::select! {
                // An error means that nobody is left to tell us.
                _ = self.stopping.wait_for(|stopping| *stopping) => return false,
                _ = self.ticks.tick() => {}
            }
            if self.is_ours().await {
                return true;
            }
        }
    }

    async fn is_ours(&mut self) -> bool {
        let (ledger, duty, held) = (Arc::clone(&self.ledger), self.duty, self.held.take());
        let ask = move || {
            let still = held.and_then(|mut leading| leading.still().then_some(leading));
            still.map_or_else(|| ledger.lead(duty), |leading| Ok(Some(leading)))
        };
        match tokio::task::spawn_blocking(ask).await {
            Ok(Ok(held)) => self.held = held,
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, ?duty, "it is not known which controller's turn it is");
            }
            // We are stopping.
            Err(_) => {}
        }
        self.held.is_some()
    }
}
