//! Security groups: set, bound, unbound, deleted and listed.

use super::{GroupsFrom, OperatorService, count, invalid, microseconds, patience};
use crate::api::{blocking, caller, convert};
use crate::domain::{Binding, Change, Command, GroupName, Reach, Refusal};
use crate::ledger::{Done, Ledger};
use crate::watch::{Audience, Enforcement};
use c2c_proto::tls::{Peer, Role};
use c2c_proto::v1;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::{Request, Response, Status};

type Reply = Result<Response<v1::SecurityGroupReply>, Status>;

/// Who asked, when, and how long the answer may take.
struct Asked {
    operator: Arc<Peer>,
    began: Instant,
    patience: Duration,
}

impl Asked {
    /// Checks that an operator asks.
    fn new<T>(request: &Request<T>, wait_milliseconds: impl FnOnce(&T) -> u32) -> Result<Self, Status> {
        let operator = caller(request, Role::Operator).map_err(|status| *status)?;
        let patience = patience(wait_milliseconds(request.get_ref()));
        Ok(Self { operator, began: Instant::now(), patience })
    }

    fn log(&self, group: &GroupName, done: &Done, action: &'static str) {
        let changed = done.commit.is_some();
        tracing::info!(operator = self.operator.name, %group, revision = %done.revision, changed, "{action}");
    }
}

impl OperatorService {
    pub(super) async fn set_group(&self, request: Request<v1::SetSecurityGroupRequest>) -> Reply {
        let asked = Asked::new(&request, |request| request.wait_milliseconds)?;
        self.may_change_groups()?;
        let v1::SetSecurityGroupRequest { name, rules, .. } = request.into_inner();
        let name = group_name(&name)?;
        // Some thousand rules take a while to read.
        let read = blocking(move || convert::rules(rules).map(|rules| (rules.skipped(), rules))).await?;
        let (skipped, rules) = read.map_err(|error| invalid(&error))?;
        let done = self.execute(Command::SetGroup { name: name.clone(), rules }).await?;
        asked.log(&name, &done, "security group set");
        let (_, groups) = self.ledger.groups(Some(&name));
        let audience = Audience::of_reaches(groups.iter().flat_map(|group| &group.reaches));
        self.reply(&asked, &done, &audience, skipped).await
    }

    pub(super) async fn change_binding(
        &self,
        request: Request<v1::BindSecurityGroupRequest>,
        action: &'static str,
        command: impl FnOnce(Binding) -> Command,
    ) -> Reply {
        let asked = Asked::new(&request, |request| request.wait_milliseconds)?;
        self.may_change_groups()?;
        let v1::BindSecurityGroupRequest { name, workload, space, .. } = request.into_inner();
        let group = group_name(&name)?;
        let reach = Reach::parse(&workload, &space).map_err(|error| invalid(&error))?;
        let audience = Audience::of_reaches([&reach]);
        let done = self.execute(command(Binding { group: group.clone(), reach })).await?;
        asked.log(&group, &done, action);
        self.reply(&asked, &done, &audience, Vec::new()).await
    }

    pub(super) async fn delete_group(&self, request: Request<v1::DeleteSecurityGroupRequest>) -> Reply {
        let asked = Asked::new(&request, |request| request.wait_milliseconds)?;
        self.may_change_groups()?;
        let name = group_name(&request.into_inner().name)?;
        let done = self.execute(Command::DeleteGroup(name.clone())).await?;
        asked.log(&name, &done, "security group deleted");
        let changes = done.commit.iter().flat_map(|commit| &commit.changes);
        let unbound = changes.filter_map(|change| match change {
            Change::GroupUnbound(binding) => Some(&binding.reach),
            Change::GroupRemoved(_)
            | Change::GroupSet { .. }
            | Change::GroupRulesChanged(_)
            | Change::GroupBound(_)
            | Change::LeasePut(_)
            | Change::LeaseRemoved(_)
            | Change::PolicyPut(_)
            | Change::PolicyRemoved(_)
            | Change::TagFreed(_)
            | Change::TagHeld(_)
            | Change::Stamped(_) => None,
        });
        let audience = Audience::of_reaches(unbound);
        self.reply(&asked, &done, &audience, Vec::new()).await
    }

    fn may_change_groups(&self) -> Result<(), Status> {
        match self.groups {
            GroupsFrom::Operators => Ok(()),
            GroupsFrom::CloudController => Err(Status::failed_precondition(
                "security groups are imported from Cloud Controller (cc_internal_url); change them there, as with `cf update-security-group` and `cf bind-security-group`",
            )),
        }
    }

    pub(super) async fn list_groups(
        &self,
        request: &Request<v1::ListSecurityGroupsRequest>,
    ) -> Result<Response<v1::ListSecurityGroupsReply>, Status> {
        caller(request, Role::Operator).map_err(|status| *status)?;
        let name = &request.get_ref().name;
        let name = (!name.is_empty()).then(|| group_name(name)).transpose()?;
        self.refresh(Ledger::refresh).await?;
        let (revision, groups) = self.ledger.groups(name.as_ref());
        if let (Some(name), true) = (name, groups.is_empty()) {
            return Err(Status::not_found(Refusal::UnknownGroup(name).to_string()));
        }
        let groups = groups.iter().map(convert::group).collect();
        Ok(Response::new(v1::ListSecurityGroupsReply { revision: revision.get(), groups }))
    }

    async fn reply(&self, asked: &Asked, done: &Done, audience: &Audience, skipped: Vec<String>) -> Reply {
        let Enforcement { concerned, enforcing } =
            self.sessions.enforced(audience, done.revision, asked.patience).await;
        Ok(Response::new(v1::SecurityGroupReply {
            revision: done.revision.get(),
            changed: done.commit.is_some(),
            cells_concerned: count(concerned),
            cells_enforcing: count(enforcing),
            elapsed_microseconds: microseconds(asked.began),
            skipped,
        }))
    }
}

fn group_name(name: &str) -> Result<GroupName, Status> {
    GroupName::parse("name", name).map_err(|error| invalid(&error))
}
