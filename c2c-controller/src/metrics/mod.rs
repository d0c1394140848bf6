//! What the controller says of itself on its pages ([`c2c_proto::pages`]): ready when changes can be made and stored and
//! connections can be taken. `meters` count what goes by, `calls` and `requests` bring it to them, `page` writes it down.

mod calls;
mod meters;
mod page;
mod requests;

pub use calls::{calls, count_call};
pub(crate) use meters::in_one_line;
pub use meters::{Asked, Meters, StoreMeter};
pub use requests::count_request;

use crate::api::now;
use crate::certificates::Certificates;
use crate::ledger::Ledger;
use crate::watch::Sessions;
use c2c_proto::pages::Observed;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long the store may take before it is said. A commit to a busy disk takes well below a second.
const SILENCE: Duration = Duration::from_secs(5);

/// Sees everything that the pages tell.
#[derive(Clone, Debug)]
pub struct Observer {
    /// The state and its store.
    pub ledger: Arc<Ledger>,
    /// The cells that are connected.
    pub sessions: Arc<Sessions>,
    /// What is shown to who connects.
    pub certificates: Certificates,
    /// What went by.
    pub meters: Meters,
    /// Whether we are about to end.
    pub stopping: watch::Receiver<bool>,
}

impl Observed for Observer {
    fn metrics(&self) -> Result<String, String> {
        page::text(self).map_err(|error| error.to_string())
    }

    fn problems(&self) -> Vec<String> {
        let stopping = self.stopping.borrow().then(|| "the controller is stopping".to_owned());
        let failure = self.ledger.meter().last_failure();
        let store = failure.map(|failure| format!("the store does not do what it is asked for: {failure}"));
        let silent = Some(self.ledger.store_is_silent_for()).filter(|silent| *silent > SILENCE);
        let silent = silent.map(|silent| format!("the store has not answered for {} s", silent.as_secs()));
        stopping
            .into_iter()
            .chain(store)
            .chain(silent)
            .chain(self.certificates.problems(now().wall))
            .collect()
    }
}
