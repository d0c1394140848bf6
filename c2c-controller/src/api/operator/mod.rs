//! What an operator may ask: access allowed, removed and listed, leases listed and evicted; and in `groups`, security
//! groups; in `backup`, everything at once.

mod backup;
mod groups;

use super::{blocking, caller, convert, now};
use crate::domain::{AppId, Change, Command, Invalid, Lease, Moment, Policy, Refusal, Revision};
use crate::ledger::{Done, Ledger, LedgerError};
use crate::store::StoreError;
use crate::watch::{Audience, Enforcement, Sessions};
use c2c_proto::tls::Role;
use c2c_proto::v1;
use c2c_proto::v1::operator_server::Operator;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::{Request, Response, Status};

/// The longest that a reply waits for cells: an operator who wants longer can ask again.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The operator's service.
#[derive(Clone, Debug)]
pub struct OperatorService {
    ledger: Arc<Ledger>,
    sessions: Arc<Sessions>,
    groups: GroupsFrom,
}

/// Who says what security groups there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupsFrom {
    /// Operators do, here.
    Operators,
    /// Cloud Controller does, and we import them.
    CloudController,
}

impl OperatorService {
    /// Over this state.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, sessions: Arc<Sessions>, groups: GroupsFrom) -> Self {
        Self { ledger, sessions, groups }
    }

    async fn change_access(
        &self,
        request: Request<v1::AccessRequest>,
        action: &'static str,
        command: impl FnOnce(Policy) -> Command,
    ) -> Result<Response<v1::AccessReply>, Status> {
        let began = Instant::now();
        let peer = caller(&request, Role::Operator).map_err(|status| *status)?;
        let request = request.into_inner();
        let policy =
            Policy::parse(&request.source_app, &request.destination_app, &request.protocol, &request.ports);
        let policy = policy.map_err(|error| invalid(&error))?;
        let done = self.execute(command(policy.clone())).await?;
        let changed = done.commit.is_some();
        tracing::info!(operator = peer.name, %policy, revision = %done.revision, changed, "{action}");
        let audience = Audience::of_policy(&policy);
        let Enforcement { concerned, enforcing } =
            self.sessions.enforced(&audience, done.revision, patience(request.wait_milliseconds)).await;
        Ok(Response::new(v1::AccessReply {
            revision: done.revision.get(),
            changed,
            cells_concerned: count(concerned),
            cells_enforcing: count(enforcing),
            elapsed_microseconds: microseconds(began),
        }))
    }

    /// What is read then is what every controller has acknowledged.
    async fn refresh(&self, learn: fn(&Ledger, Moment) -> Result<(), StoreError>) -> Result<(), Status> {
        let ledger = Arc::clone(&self.ledger);
        blocking(move || learn(&ledger, now())).await?.map_err(|error| status(&error.into()))
    }

    async fn execute(&self, command: Command) -> Result<Done, Status> {
        let ledger = Arc::clone(&self.ledger);
        blocking(move || ledger.execute(&command, now())).await?.map_err(|error| status(&error))
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    async fn allow_access(
        &self,
        request: Request<v1::AccessRequest>,
    ) -> Result<Response<v1::AccessReply>, Status> {
        self.change_access(request, "access allowed", Command::Allow).await
    }

    async fn remove_access(
        &self,
        request: Request<v1::AccessRequest>,
    ) -> Result<Response<v1::AccessReply>, Status> {
        self.change_access(request, "access removed", Command::Remove).await
    }

    async fn list_access(
        &self,
        request: Request<v1::ListAccessRequest>,
    ) -> Result<Response<v1::ListAccessReply>, Status> {
        caller(&request, Role::Operator).map_err(|status| *status)?;
        let app = request.into_inner().app;
        let app = (!app.is_empty()).then(|| AppId::parse("app", &app)).transpose();
        let app = app.map_err(|error| invalid(&error))?;
        self.refresh(Ledger::refresh).await?;
        let (revision, policies) = self.ledger.policies(app.as_ref());
        let policies = policies.iter().map(convert::policy).collect();
        Ok(Response::new(v1::ListAccessReply { revision: revision.get(), policies }))
    }

    async fn list_leases(
        &self,
        request: Request<v1::ListLeasesRequest>,
    ) -> Result<Response<v1::ListLeasesReply>, Status> {
        caller(&request, Role::Operator).map_err(|status| *status)?;
        self.refresh(Ledger::refresh_leases).await?;
        let (revision, leases) = self.ledger.leases();
        let (rules, now) = (self.ledger.rules(), now());
        let state = |lease: &Lease| {
            let age = lease.renewed.seconds_until(now.wall);
            let applied = self.sessions.applied(&lease.cell);
            v1::LeaseState {
                lease: Some(convert::lease(lease)),
                renewed_seconds_ago: age,
                expires_in_seconds: rules.lease_seconds.saturating_sub(age),
                connected: applied.is_some(),
                applied_revision: applied.map_or(0, Revision::get),
            }
        };
        Ok(Response::new(v1::ListLeasesReply {
            revision: revision.get(),
            overlay_network: rules.pool.network().to_string(),
            leases: leases.iter().map(state).collect(),
        }))
    }

    async fn evict_cell(
        &self,
        request: Request<v1::EvictCellRequest>,
    ) -> Result<Response<v1::EvictCellReply>, Status> {
        let peer = caller(&request, Role::Operator).map_err(|status| *status)?;
        let cell = request.into_inner().cell;
        let done = self.execute(Command::Evict { cell }).await?;
        let lease = done.commit.iter().flat_map(|commit| &commit.changes).find_map(|change| match change {
            Change::LeaseRemoved(lease) => Some(lease),
            Change::LeasePut(_)
            | Change::PolicyPut(_)
            | Change::PolicyRemoved(_)
            | Change::TagFreed(_)
            | Change::TagHeld(_)
            | Change::Stamped(_)
            | Change::GroupSet { .. }
            | Change::GroupRulesChanged(_)
            | Change::GroupBound(_)
            | Change::GroupUnbound(_)
            | Change::GroupRemoved(_) => None,
        });
        if let Some(lease) = lease {
            tracing::info!(operator = peer.name, %lease, revision = %done.revision, "evicted");
        }
        let evicted = lease.map(convert::lease);
        Ok(Response::new(v1::EvictCellReply { revision: done.revision.get(), evicted }))
    }

    async fn set_security_group(
        &self,
        request: Request<v1::SetSecurityGroupRequest>,
    ) -> Result<Response<v1::SecurityGroupReply>, Status> {
        self.set_group(request).await
    }

    async fn bind_security_group(
        &self,
        request: Request<v1::BindSecurityGroupRequest>,
    ) -> Result<Response<v1::SecurityGroupReply>, Status> {
        self.change_binding(request, "security group bound", Command::Bind).await
    }

    async fn unbind_security_group(
        &self,
        request: Request<v1::BindSecurityGroupRequest>,
    ) -> Result<Response<v1::SecurityGroupReply>, Status> {
        self.change_binding(request, "security group unbound", Command::Unbind).await
    }

    async fn delete_security_group(
        &self,
        request: Request<v1::DeleteSecurityGroupRequest>,
    ) -> Result<Response<v1::SecurityGroupReply>, Status> {
        self.delete_group(request).await
    }

    async fn list_security_groups(
        &self,
        request: Request<v1::ListSecurityGroupsRequest>,
    ) -> Result<Response<v1::ListSecurityGroupsReply>, Status> {
        self.list_groups(&request).await
    }

    type BackupStream = backup::Chunks;

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        self.back_up(&request).await
    }
}

/// The only table of status codes for refused commands.
fn status(error: &LedgerError) -> Status {
    match error {
        LedgerError::Refused(Refusal::TagsExhausted | Refusal::Quota { .. }) => {
            Status::resource_exhausted(error.to_string())
        }
        LedgerError::Refused(Refusal::UnknownCell(_) | Refusal::UnknownGroup(_)) => {
            Status::not_found(error.to_string())
        }
        LedgerError::Refused(Refusal::Lease(_) | Refusal::TagOfAnApp(_)) => {
            Status::failed_precondition(error.to_string())
        }
        LedgerError::Store(source) => {
            tracing::error!(error = source as &dyn std::error::Error, "a change could not be stored");
            let causes: Vec<String> = anyhow::Chain::new(error).map(ToString::to_string).collect();
            // A database's hints are on lines of their own.
            Status::internal(causes.join(": ").replace('\n', ", "))
        }
        LedgerError::Broken | LedgerError::Busy => Status::unavailable(error.to_string()),
    }
}

fn invalid(error: &Invalid) -> Status {
    Status::invalid_argument(error.to_string())
}

/// How long a request wants to wait, as far as it may.
fn patience(wait_milliseconds: u32) -> Duration {
    Duration::from_millis(u64::from(wait_milliseconds)).min(MAX_WAIT)
}

fn microseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn count(cells: usize) -> u32 {
    u32::try_from(cells).unwrap_or(u32::MAX)
}
