//! What the controller says of itself on its pages ([`c2c_proto::pages`]): ready when changes can be made and stored and
//! connections can be taken. `meters` count what goes by, `calls` and `requests` bring it to them, `page` writes it down.

mod calls;
mod meters;
mod page;
mod requests;

pub use calls::{calls, count_call};
pub use meters::{Meters, StoreMeter};
pub use requests::count_request;

use crate::api::now;
use crate::certificates::Certificates;
use crate::ledger::Ledger;
use crate::watch::Sessions;
use c2c_proto::pages::Observed;
use std::sync::Arc;
use tokio::sync::watch;

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
        stopping.into_iter().chain(store).chain(self.certificates.problems(now().wall)).collect()
    }
}
