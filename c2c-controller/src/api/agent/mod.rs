//! The agents' service: one stream per cell. `machine` knows what to say; here is when, and to whom.

mod conversation;
mod machine;

use super::caller;
use crate::ledger::Ledger;
use crate::watch::Sessions;
use c2c_proto::tls::Role;
use c2c_proto::v1;
use c2c_proto::v1::fabric_server::Fabric;
use conversation::Conversation;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Messages that wait for the network. Beyond these the agent's subscription waits, which is bounded too.
const OUTGOING: usize = 16;

/// What every cell is told with its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// The UDP port of the tunnel.
    pub udp_port: u16,
    /// How often an agent says that it lives.
    pub heartbeat_seconds: u64,
}

/// The agents' service.
#[derive(Clone, Debug)]
pub struct AgentService {
    ledger: Arc<Ledger>,
    sessions: Arc<Sessions>,
    terms: Terms,
    stopping: watch::Receiver<bool>,
}

impl AgentService {
    /// Over this state. Streams end when `stopping` becomes true.
    #[must_use]
    pub fn new(
        ledger: Arc<Ledger>,
        sessions: Arc<Sessions>,
        terms: Terms,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self { ledger, sessions, terms, stopping }
    }
}

#[tonic::async_trait]
impl Fabric for AgentService {
    type SyncStream = ReceiverStream<Result<v1::ControllerMessage, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let peer = caller(&request, Role::Cell).map_err(|status| *status)?;
        let (outgoing, stream) = mpsc::channel(OUTGOING);
        let conversation = Conversation::new(self.clone(), peer, outgoing);
        tokio::spawn(conversation.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[cfg(test)]
mod tests;
