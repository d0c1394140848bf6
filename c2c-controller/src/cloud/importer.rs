//! Makes our security groups Cloud Controller's, again and again: asks when its groups last changed, and reads all of them
//! when that is another time than before. A list during which they changed is read again. Whatever goes wrong, the groups
//! that we have stay.

use super::groups::{ListError, groups};
use super::turn::Turn;
use super::{Cloud, CloudError};
use crate::api::now;
use crate::domain::{Command, SecurityGroup};
use crate::https::{Call, CallError, Https, Identity, Server, SetupError};
use crate::ledger::{Done, Ledger, LedgerError};
use crate::store::Duty;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often a list is read that changes meanwhile, and the pause before the next time. Then comes the next poll.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// All is read after this time, whatever Cloud Controller says of changes: its older API forgets to note some.
const REREAD: Duration = Duration::from_secs(3600);

/// Where Cloud Controller says when its security groups last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportSettings {
    /// Its internal API: `https://HOST[:PORT]`.
    pub url: String,
    /// The CAs (PEM) that may sign its certificate there.
    pub ca: PathBuf,
    /// What we show it (PEM).
    pub certificate: PathBuf,
    /// The private key of that (PEM).
    pub key: PathBuf,
    /// How often it is asked.
    pub every: Duration,
}

impl ImportSettings {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// When the URL cannot be one, or a file cannot be used.
    pub(crate) fn open(&self) -> Result<Https, SetupError> {
        Https::new(&Server {
            name: "Cloud Controller's internal API",
            url: self.url.clone(),
            url_key: "cc_internal_url",
            ca: self.ca.clone(),
            ca_key: "cc_internal_ca",
            identity: Some(Identity {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
                certificate_key: "cc_internal_certificate",
            }),
        })
    }
}

/// Why the groups stay as they are.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    /// No whole answer.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// An answer that cannot be.
    #[error(transparent)]
    List(#[from] ListError),
    /// They change all the time.
    #[error(
        "the security groups of Cloud Controller changed each of the {ATTEMPTS} times that they were read"
    )]
    Unstable,
    /// It is not believed.
    #[error(
        "Cloud Controller shows us no security group and no space; expected that uaa_client has the authority cloud_controller.admin_read_only"
    )]
    Suspicious,
    /// It could not be stored.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// We are stopping.
    #[error("the work was interrupted")]
    Interrupted,
}

/// When the groups changed, as Cloud Controller says it: compared, never understood. Nothing: it does not say.
type Stamp = Option<Value>;

/// Imports security groups.
#[derive(Debug)]
pub(crate) struct Importer {
    cloud: Cloud,
    internal: Https,
    ledger: Arc<Ledger>,
}

impl Importer {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// When the URL cannot be one, or a file cannot be used.
    pub(crate) fn new(
        cloud: Cloud,
        settings: &ImportSettings,
        ledger: Arc<Ledger>,
    ) -> Result<Self, SetupError> {
        Ok(Self { cloud, internal: settings.open()?, ledger })
    }

    /// Imports until we stop.
    pub(crate) async fn run(self, every: Duration, stopping: watch::Receiver<bool>) {
        let periods = [Duration::ZERO, every];
        let mut turn = Turn::new(Arc::clone(&self.ledger), Duty::ImportGroups, periods, stopping);
        let mut followed = Followed::default();
        while turn.comes().await {
            if let Err(error) = self.follow(&mut followed).await {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "security groups cannot be imported now; those that we have stay");
            }
        }
    }

    async fn follow(&self, followed: &mut Followed) -> Result<(), ImportError> {
        let stamp = self.stamp().await?;
        if !followed.is_due(&stamp, Instant::now()) {
            return Ok(());
        }
        let stamp = self.import(stamp).await?;
        followed.imported(stamp, Instant::now());
        Ok(())
    }

    /// Gives the stamp that what was imported has.
    async fn import(&self, mut before: Stamp) -> Result<Stamp, ImportError> {
        for attempt in 1..=ATTEMPTS {
            if attempt > 1 {
                tokio::time::sleep(PAUSE).await;
            }
            let listed = self.cloud.shared.controller.groups().await;
            let after = self.stamp().await?;
            match listed {
                Ok(listed) if before == after => {
                    let held = self.ledger.groups(None).1;
                    match groups(listed, &held) {
                        Err(ListError::Twice(_)) => {}
                        groups => {
                            self.replace(groups?).await?;
                            return Ok(after);
                        }
                    }
                }
                // Pages that do not fit together: it changed between two of them.
                Ok(_) | Err(CloudError::NotWhole { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            tracing::info!(attempt, "the security groups of Cloud Controller changed while they were read");
            before = after;
        }
        Err(ImportError::Unstable)
    }

    async fn replace(&self, groups: Vec<SecurityGroup>) -> Result<(), ImportError> {
        if groups.is_empty() && !self.cloud.shared.controller.has_spaces().await? {
            return Err(ImportError::Suspicious);
        }
        let count = groups.len();
        let ledger = Arc::clone(&self.ledger);
        let replace = move || ledger.execute(&Command::ReplaceGroups(groups), now());
        let Done { revision, commit } =
            tokio::task::spawn_blocking(replace).await.map_err(|_| ImportError::Interrupted)??;
        let changes = commit.map_or(0, |commit| commit.changes.len());
        tracing::info!(groups = count, changes, %revision, "security groups were imported from Cloud Controller");
        Ok(())
    }

    async fn stamp(&self) -> Result<Stamp, CloudError> {
        #[derive(Deserialize)]
        struct Answer {
            last_update: Value,
        }
        let answer = self.internal.json(Call::get("/internal/v4/asg_latest_update")).await;
        match answer {
            Ok(Answer { last_update }) => Ok(Some(last_update)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A Cloud Controller that has no such page, as older ones.
fn is_missing(error: &CallError) -> bool {
    error.status() == Some(StatusCode::NOT_FOUND)
}

/// What was imported last.
#[derive(Debug, Default)]
struct Followed {
    stamp: Stamp,
    /// Whether the stamp was the same at the import before the last one. It has whole seconds, so a change may come after
    /// an import and leave it as it was: the first import of a stamp is not the last.
    is_settled: bool,
    at: Option<Instant>,
}

impl Followed {
    fn is_due(&self, stamp: &Stamp, now: Instant) -> bool {
        let is_recent = self.at.is_some_and(|at| now.duration_since(at) < REREAD);
        stamp.is_none() || *stamp != self.stamp || !self.is_settled || !is_recent
    }

    fn imported(&mut self, stamp: Stamp, now: Instant) {
        self.is_settled = self.stamp == stamp;
        self.stamp = stamp;
        self.at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_read_when_it_changed_once_more_after_that_and_every_hour() {
        let start = Instant::now();
        let [one, two] = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"].map(|at| Some(Value::from(at)));
        let mut followed = Followed::default();
        assert!(followed.is_due(&one, start));
        followed.imported(one.clone(), start);
        assert!(followed.is_due(&one, start), "another change may be in the same second");
        followed.imported(one.clone(), start);
        assert!(!followed.is_due(&one, start + REREAD - Duration::from_nanos(1)));
        assert!(followed.is_due(&one, start + REREAD));
        assert!(followed.is_due(&two, start) && followed.is_due(&None, start));
        followed.imported(two.clone(), start);
        assert!(followed.is_due(&two, start));
        followed.imported(None, start);
        followed.imported(None, start);
        assert!(followed.is_due(&None, start), "a Cloud Controller that does not say is read each time");
    }
}
