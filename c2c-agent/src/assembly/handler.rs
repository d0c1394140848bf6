//! Who answers what on the agent's socket: containers are the manager's, everything else is looked up.

use crate::cni_api::Handle;
use crate::datapath;
use crate::endpoint::Manager;
use crate::fabric::report_chain;
use crate::status::Observer;
use c2c_proto::agent_api::{ApiError, Reply, Request, code};
use serde::Serialize;
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Answers.
#[derive(Debug)]
pub(super) struct Handler {
    pub(super) manager: Arc<Manager>,
    pub(super) observer: Observer,
}

impl Handle for Handler {
    async fn handle(&self, request: Request, netns: Option<OwnedFd>) -> Reply {
        self.answer(request, netns).await.map_or_else(Reply::Error, Reply::Ok)
    }
}

impl Handler {
    async fn answer(&self, request: Request, netns: Option<OwnedFd>) -> Result<Value, ApiError> {
        match request {
            Request::Add(add) => {
                let netns = netns
                    .ok_or_else(|| error(code::INVALID, "an ADD needs the network namespace's descriptor"))?;
                json(&self.manager.add(add, netns).await.map_err(|error| self.explained(error))?)
            }
            Request::Del(attachment) => json(&self.manager.del(attachment).await?),
            Request::Check(check) => json(&self.manager.check(check, netns).await?),
            Request::Gc { valid } => json(&self.manager.gc(valid).await?),
            Request::Ready => self.ready(),
            Request::NetIn(port) => json(&self.manager.net_in(port).await?),
            Request::NetOut(rules) => json(&self.manager.net_out(rules).await?),
            Request::Status => self.look(Observer::status).await,
            Request::Endpoints => self.look(|observer| Ok(observer.endpoints())).await,
            Request::Policies => self.look(|observer| Ok(observer.policies())).await,
            Request::Flows => self.look(Observer::flows).await,
            Request::Egress => self.look(|observer| Ok(observer.egress())).await,
            Request::Ports => self.look(|observer| Ok(observer.ports())).await,
            Request::Counters => self.look(Observer::counters).await,
        }
    }

    fn ready(&self) -> Result<Value, ApiError> {
        self.manager.ready().map(|()| Value::Null).map_err(|error| self.explained(error))
    }

    /// The manager knows that the lease is missing; why, is the stream's to say.
    fn explained(&self, error: ApiError) -> ApiError {
        if self.observer.fabric.cell_lease().is_some() || !error.details.is_empty() {
            return error;
        }
        ApiError { details: self.observer.facts().problems().join("; "), ..error }
    }

    /// Reading a map can take as long as it is large.
    async fn look<T: Serialize + Send + 'static>(
        &self,
        page: impl FnOnce(&Observer) -> Result<T, datapath::Error> + Send + 'static,
    ) -> Result<Value, ApiError> {
        let observer = self.observer.clone();
        let page = tokio::task::spawn_blocking(move || page(&observer)).await;
        match page {
            Ok(Ok(page)) => json(&page),
            Ok(Err(refused)) => Err(error(code::DATAPATH, report_chain(&refused))),
            Err(lost) => Err(error(code::DATAPATH, lost.to_string())),
        }
    }
}

fn json<T: Serialize>(value: &T) -> Result<Value, ApiError> {
    serde_json::to_value(value)
        .map_err(|fault| error(code::STATE, format!("cannot write the answer: {fault}")))
}

fn error(code: u32, msg: impl Into<String>) -> ApiError {
    ApiError { code, msg: msg.into(), details: String::new() }
}
