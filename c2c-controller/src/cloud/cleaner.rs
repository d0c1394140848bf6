//! Removes the policies of apps that Cloud Controller no longer knows, in one commit. Only policies that were there before
//! Cloud Controller was asked are removed, and only after all of its answer was read.
//!
//! A Cloud Controller that knows none of the apps at all is asked for a space. One that shows us none has lost its data, or
//! does not show them to our client: then nothing is removed, because policies that stay hurt nobody, and policies of
//! living apps that go cut their connections.

use super::turn::Turn;
use super::{Cloud, CloudError};
use crate::api::now;
use crate::domain::{AppId, Change, Command, Policy, TaggedPolicy};
use crate::ledger::{Done, Ledger, LedgerError};
use crate::store::Duty;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CleanError {
    /// It is not known which apps there are.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// It is not believed.
    #[error(
        "Cloud Controller knows none of the {apps} apps that policies name, and shows us no space either; expected that uaa_client has the authority cloud_controller.admin_read_only"
    )]
    Suspicious {
        /// How many apps policies name.
        apps: usize,
    },
    /// It could not be stored.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// We are stopping.
    #[error("the work was interrupted")]
    Interrupted,
}

impl Cloud {
    /// Removes them, and gives what was removed.
    pub(crate) async fn clean(&self, ledger: &Arc<Ledger>) -> Result<Vec<TaggedPolicy>, CleanError> {
        let policies = ledger.policies(None).1;
        let apps = policies.iter().flat_map(|tagged| [&tagged.policy.source, &tagged.policy.destination]);
        let apps: BTreeSet<AppId> = apps.cloned().collect();
        let known = self.shared.controller.known(&apps).await?;
        if known.is_empty() && !apps.is_empty() && !self.shared.controller.has_spaces().await? {
            return Err(CleanError::Suspicious { apps: apps.len() });
        }
        let policies = policies.into_iter().map(|tagged| tagged.policy);
        let stale: Vec<Policy> = policies
            .filter(|policy| !known.contains(&policy.source) || !known.contains(&policy.destination))
            .collect();
        let ledger = Arc::clone(ledger);
        let remove = move || ledger.execute(&Command::RemoveAll(stale), now());
        let done = tokio::task::spawn_blocking(remove).await.map_err(|_| CleanError::Interrupted)??;
        let removed = removed(&done);
        tracing::info!(apps = apps.len(), removed = removed.len(), revision = %done.revision, "policies of apps that are gone were cleaned");
        Ok(removed)
    }
}

fn removed(done: &Done) -> Vec<TaggedPolicy> {
    let changes = done.commit.iter().flat_map(|commit| &commit.changes);
    let removed = changes.filter_map(|change| match change {
        Change::PolicyRemoved(removed) => Some(removed.clone()),
        Change::PolicyPut(_)
        | Change::TagFreed(_)
        | Change::TagHeld(_)
        | Change::Stamped(_)
        | Change::LeasePut(_)
        | Change::LeaseRemoved(_)
        | Change::GroupSet { .. }
        | Change::GroupRulesChanged(_)
        | Change::GroupBound(_)
        | Change::GroupUnbound(_)
        | Change::GroupRemoved(_) => None,
    });
    removed.collect()
}

/// Cleans every so often until we stop. The first time after a whole period, so that controllers that start again and again
/// do not ask each time.
pub(crate) async fn run(cloud: Cloud, ledger: Arc<Ledger>, every: Duration, stopping: watch::Receiver<bool>) {
    let mut turn = Turn::new(Arc::clone(&ledger), Duty::CleanPolicies, [every, every], stopping);
    while turn.comes().await {
        if let Err(error) = cloud.clean(&ledger).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the policies of apps that are gone cannot be cleaned now");
        }
    }
}
