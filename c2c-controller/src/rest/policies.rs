//! Policies listed, created, deleted and cleaned.

use super::answer::Failure;
use super::caller::{Administrator, Caller};
use super::query::Filter;
use super::{Rest, Version, wire};
use crate::api::now;
use crate::domain::{Command, Policy, Refusal, TaggedPolicy};
use crate::ledger::{Ledger, LedgerError};
use crate::web;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use std::sync::Arc;

/// The policy server's own limit; some ten thousand policies.
const BODY_MAX_BYTES: usize = 10 << 20;

pub(super) async fn list(
    State(rest): State<Rest>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let filter = Filter::parse(query.as_deref().unwrap_or_default());
    let policies = rest.read(move |ledger| filter.select(ledger)).await?;
    let policies = caller.visible(policies).await?;
    written(caller.version, policies).await
}

/// Removes the policies of apps that are gone, and shows them as version 1 does, whichever is asked.
pub(super) async fn cleanup(State(rest): State<Rest>, caller: Administrator) -> Result<Response, Failure> {
    let cloud = rest.shared.access.cloud.as_ref().ok_or(Failure::NotFound)?;
    tracing::info!(subject = caller.subject, "a clean-up of policies is asked for");
    let removed = cloud.clean(&rest.shared.ledger).await;
    written(Version::V1, removed.map_err(|error| Failure::internal("policies cleanup failed", &error))?).await
}

async fn written(version: Version, policies: Vec<TaggedPolicy>) -> Result<Response, Failure> {
    const FAILED: &str = "map policy as bytes failed";
    let bytes = blocking(move || wire::write(version, &policies), Failure::Internal(FAILED)).await?;
    bytes.map(web::of_bytes).map_err(|error| Failure::internal(FAILED, &error))
}

pub(super) async fn create(
    State(rest): State<Rest>,
    caller: Caller,
    body: Body,
) -> Result<Response, Failure> {
    let change = Change {
        done: "policies created",
        unread: "failed reading request body",
        failed: "database create failed",
        command: |policies, per_source| Command::AllowAll { policies, per_source },
    };
    change.make(rest, caller, body).await
}

pub(super) async fn delete(
    State(rest): State<Rest>,
    caller: Caller,
    body: Body,
) -> Result<Response, Failure> {
    let change = Change {
        done: "policies deleted",
        unread: "invalid request body",
        failed: "database delete failed",
        command: |policies, _| Command::RemoveAll(policies),
    };
    change.make(rest, caller, body).await
}

/// What creating and deleting differ in.
struct Change {
    /// What the log says.
    done: &'static str,
    /// What a caller is told whose request was not received.
    unread: &'static str,
    /// What a caller is told when it is not done.
    failed: &'static str,
    /// Of policies, and of how many of them an app may become the source.
    command: fn(Vec<Policy>, Option<usize>) -> Command,
}

impl Change {
    /// All of the body's policies in one commit. That all was so already is as good.
    async fn make(self, rest: Rest, caller: Caller, body: Body) -> Result<Response, Failure> {
        let version = caller.version;
        let body = web::read(body, BODY_MAX_BYTES).await.ok_or(Failure::Body(self.unread))?;
        let parse = move || wire::parse(version, &body);
        let policies = blocking(parse, Failure::Internal(self.failed)).await?.map_err(Failure::Mapper)?;
        caller.check(&policies).await?;
        let (count, first) = (policies.len(), policies.first().map(ToString::to_string));
        let command = (self.command)(policies, caller.policies_per_source());
        let execute = move || rest.shared.ledger.execute(&command, now());
        match blocking(execute, Failure::Internal(self.failed)).await? {
            Ok(done) => {
                let (changed, revision) = (done.commit.is_some(), done.revision);
                tracing::info!(subject = caller.subject, count, first, %revision, changed, "{}", self.done);
                Ok(web::of_bytes(b"{}".to_vec()))
            }
            Err(LedgerError::Refused(Refusal::Quota { .. })) => {
                Err(Failure::Forbidden("policy quota exceeded"))
            }
            Err(error) => Err(Failure::internal(self.failed, &error)),
        }
    }
}

impl Rest {
    /// Reads what every controller has acknowledged until now.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Ledger) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        const FAILED: &str = "database read failed";
        let ledger = Arc::clone(&self.shared.ledger);
        let fresh = move || ledger.refresh(now()).map(|()| read(&ledger));
        let read = blocking(fresh, Failure::Internal(FAILED)).await?;
        read.map_err(|error| Failure::internal(FAILED, &error))
    }
}

/// Does what takes long, or waits for a disk, away from the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    interrupted: Failure,
) -> Result<T, Failure> {
    web::blocking(work).await.map_err(|_| interrupted)
}
