//! Counters and a histogram that live as long as the process. Cheap to clone; clones count together.

use crate::store::StoreError;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds in seconds: from a commit to a fast disk to what nobody would wait for.
const STORE_SECONDS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Requests and calls that were answered.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    pub(super) requests: Family<Request, Counter>,
    pub(super) calls: Family<Call, Counter>,
}

/// A request of the policy API. The route is one of ours or "none", so that nobody can make series.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Request {
    pub(super) route: String,
    pub(super) status: u16,
}

/// A gRPC call.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Call {
    pub(super) method: String,
    pub(super) code: String,
}

/// How the store does.
#[derive(Clone, Debug)]
pub struct StoreMeter {
    pub(super) seconds: Histogram,
    pub(super) failures: Counter,
    last_failure: Arc<Mutex<Option<String>>>,
}

impl Default for StoreMeter {
    fn default() -> Self {
        let (failures, last_failure) = (Counter::default(), Arc::default());
        Self { seconds: Histogram::new(STORE_SECONDS), failures, last_failure }
    }
}

impl StoreMeter {
    /// A commit was stored and took so long.
    pub fn committed(&self, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
        self.answered();
    }

    /// The store answers.
    pub fn answered(&self) {
        self.set(None);
    }

    /// The store could not do what it was asked for.
    pub fn failed(&self, error: &StoreError) {
        self.failures.inc();
        self.set(Some(in_one_line(error)));
    }

    fn set(&self, failure: Option<String>) {
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Why it could not when it was asked last; nothing when it could.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_until_the_store_does_what_it_is_asked_for() {
        let meter = StoreMeter::default();
        let source = "no space left on device".into();
        let failed = StoreError::Failed { tried: "written", place: "/store".into(), source };
        meter.failed(&failed);
        let line = "the store /store cannot be written: no space left on device";
        assert_eq!((meter.last_failure().as_deref(), meter.failures.get()), (Some(line), 1));
        meter.committed(Duration::from_millis(3));
        assert_eq!((meter.last_failure(), meter.failures.get()), (None, 1));
    }
}
