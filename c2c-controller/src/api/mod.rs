//! The gRPC services: `agent` for the cells' agents, `operator` for people and programs. Who may call which is decided
//! here, by the role in the caller's certificate; what the calls do is the ledger's business.

mod agent;
pub(crate) mod convert;
mod operator;

pub use agent::{AgentService, Terms};
pub use operator::{GroupsFrom, OperatorService};

use crate::domain::{Moment, Timestamp, Uptime};
use c2c_proto::tls::{Peer, Role};
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tonic::{Request, Status};

/// Who calls, if their role may.
fn caller<T>(request: &Request<T>, role: Role) -> Result<Arc<Peer>, Box<Status>> {
    let peer = request.extensions().get::<Arc<Peer>>();
    let peer = peer.ok_or_else(|| Box::new(Status::unauthenticated("no certificate was presented")))?;
    if peer.role == Some(role) {
        return Ok(Arc::clone(peer));
    }
    let unit = peer.role.map_or_else(|| "none".to_owned(), |role| role.to_string());
    let message = format!(
        "the certificate of {:?} has the role {unit} (organizationalUnitName); this call needs {role}",
        peer.name
    );
    Err(Box::new(Status::permission_denied(message)))
}

/// Does what blocks away from the runtime's threads: the ledger waits for a disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Status::internal("the work was interrupted"))
}

/// When this process began, as far as anybody asks.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// This moment, by both clocks; the epoch itself on a machine whose clock is before it.
pub(crate) fn now() -> Moment {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Moment { wall: Timestamp(wall), up: Uptime(BEGAN.elapsed().as_secs()) }
}
