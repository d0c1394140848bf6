//! What can be told about the stream and the lease.

use crate::fabric::Applied;
use crate::lease::{Loss, State, Tenure};
use serde::Serialize;
use std::time::Duration;

/// Where the stream stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    /// A connection is being made, or the lease was asked for.
    #[default]
    Connecting,
    /// The lease was granted on it.
    Live,
    /// Until the next attempt.
    Waiting,
}

impl StreamState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Connecting, Self::Live, Self::Waiting];

    /// The name, as in metrics and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Live => "live",
            Self::Waiting => "waiting",
        }
    }
}

/// What can be told about the stream and the lease.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Where the stream stands.
    pub stream: StreamState,
    /// Streams that were opened since the agent started.
    pub opened: u64,
    /// Since when it is live, since the Unix epoch.
    pub live_since: Option<Duration>,
    /// Why the last stream ended.
    pub last_error: Option<String>,
    /// What the operator has to know about the lease; cleared when the lease is held again.
    pub alarm: Option<String>,
    /// `unleased`, `requesting`, `held`, `grace` or `lost`.
    pub lease_state: &'static str,
    /// Why it is lost.
    pub loss: Option<String>,
    /// The lease and when it was renewed.
    pub tenure: Option<Tenure>,
    /// The newest revision that the controller spoke of.
    pub known_revision: u64,
    /// How far the cell has got.
    pub applied: Applied,
    /// Since when a newer revision is known than the one enforced, since the Unix epoch.
    pub behind_since: Option<Duration>,
}

impl View {
    pub(super) fn connecting(&mut self) {
        self.stream = StreamState::Connecting;
    }

    pub(super) fn live(&mut self, now: Duration) {
        self.stream = StreamState::Live;
        self.opened += 1;
        self.live_since = Some(now);
        self.last_error = None;
        self.known_revision = 0;
    }

    pub(super) fn waiting(&mut self, why: String) {
        self.stream = StreamState::Waiting;
        self.live_since = None;
        self.last_error = Some(why);
    }

    pub(super) fn known(&mut self, revision: u64) {
        self.known_revision = self.known_revision.max(revision);
    }

    pub(super) fn applied(&mut self, applied: Applied, now: Duration) {
        self.applied = applied;
        self.known(applied.received);
        let behind = self.known_revision > applied.enforced;
        self.behind_since = behind.then(|| self.behind_since.unwrap_or(now));
    }

    pub(super) fn lease(&mut self, state: &State) {
        self.loss = None;
        (self.lease_state, self.tenure) = match state {
            State::Unleased => ("unleased", None),
            State::Requesting => ("requesting", None),
            State::Held(tenure) => {
                self.alarm = None;
                ("held", Some(tenure.clone()))
            }
            State::Grace(tenure) => ("grace", Some(tenure.clone())),
            State::Lost(tenure, loss) => {
                self.loss = Some(match loss {
                    Loss::Partitioned => "not renewed for the partition tolerance".to_owned(),
                    Loss::Contradicted(message) => format!("contradicted: {message}"),
                });
                ("lost", Some(tenure.clone()))
            }
        };
    }

    /// Revisions that are known and not enforced.
    #[must_use]
    pub fn behind(&self) -> u64 {
        self.known_revision.saturating_sub(self.applied.enforced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn lag_starts_when_a_newer_revision_is_known_and_ends_when_it_is_enforced() {
        let mut view = View::default();
        view.live(at(1));
        view.applied(Applied { received: 5, enforced: 5 }, at(2));
        assert_eq!((view.behind(), view.behind_since), (0, None));
        view.known(7);
        view.applied(Applied { received: 6, enforced: 5 }, at(3));
        view.applied(Applied { received: 7, enforced: 5 }, at(4));
        assert_eq!((view.behind(), view.behind_since), (2, Some(at(3))));
        view.applied(Applied { received: 7, enforced: 7 }, at(5));
        assert_eq!((view.behind(), view.behind_since), (0, None));
    }
}
