//! Counters and a histogram that live as long as the process. Cheap to clone; clones count together.

use crate::store::StoreError;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// What the store is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// To say what others wrote.
    Read,
    /// To write.
    Write,
    /// Whether it has room.
    Room,
}

/// How the store does.
#[derive(Clone, Debug)]
pub struct StoreMeter {
    pub(super) seconds: Histogram,
    pub(super) failures: Counter,
    /// Why it could not when it was asked last. That it can be read does not mean that it can be written.
    last_failures: Arc<Mutex<BTreeMap<Asked, String>>>,
}

impl Default for StoreMeter {
    fn default() -> Self {
        let (failures, last_failures) = (Counter::default(), Arc::default());
        Self { seconds: Histogram::new(STORE_SECONDS), failures, last_failures }
    }
}

impl StoreMeter {
    /// A commit was stored and took so long.
    pub fn committed(&self, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
        self.lock().clear();
    }

    /// The store did what it was asked for.
    pub fn did(&self, asked: Asked) {
        self.lock().remove(&asked);
    }

    /// It could not.
    pub fn failed(&self, asked: Asked, error: &StoreError) {
        self.failures.inc();
        self.note(asked, error);
    }

    /// It could not, were it asked.
    pub fn note(&self, asked: Asked, error: &StoreError) {
        let asked = if matches!(error, StoreError::NoRoom { .. }) { Asked::Room } else { asked };
        self.lock().insert(asked, in_one_line(error));
    }

    /// Why it could not when it was asked last; nothing when it could.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.lock().values().next().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Asked, String>> {
        self.last_failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with its causes, for who has one line.
pub(crate) fn in_one_line(error: &(dyn Error + 'static)) -> String {
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
        meter.failed(Asked::Write, &failed);
        let line = "the store /store cannot be written: no space left on device";
        assert_eq!((meter.last_failure().as_deref(), meter.failures.get()), (Some(line), 1));
        meter.did(Asked::Read);
        assert_eq!(meter.last_failure().as_deref(), Some(line), "what can be read may still not be written");
        meter.committed(Duration::from_millis(3));
        assert_eq!((meter.last_failure(), meter.failures.get()), (None, 1));
        let full = StoreError::NoRoom { place: "/store".into(), free: 3, reserve: 64 };
        meter.note(Asked::Write, &full);
        assert!(meter.last_failure().is_some());
        meter.did(Asked::Room);
        assert_eq!((meter.last_failure(), meter.failures.get()), (None, 1));
    }
}
