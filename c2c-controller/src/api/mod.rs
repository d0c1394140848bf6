//! The gRPC services: `agent` for the cells' agents, `operator` for people and programs. Who may call which is decided
//! here, by the role in the caller's certificate; what the calls do is the ledger's business.

mod agent;
mod convert;
mod operator;

pub use agent::{AgentService, Terms};
pub use operator::OperatorService;

use crate::domain::Timestamp;
use c2c_proto::tls::{Peer, Role};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
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

/// The clock's seconds; the epoch itself on a machine whose clock is before it.
pub(crate) fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}
