//! The door between messages and domain types. What comes in is checked here, with the message's field names; nothing
//! generated goes further in.

use crate::domain::{
    AppId, CellName, Change, GroupName, GroupRules, Invalid, Lease, LeaseRefusal, Reach, Refusal, Revision,
    SecurityGroup, SpaceId, TaggedPolicy, Workload,
};
use crate::watch::{GroupNews, Hosted, Moves};
use c2c_proto::v1;
use c2c_proto::v1::change::Change as To;
use c2c_proto::v1::lease_refused::Reason;
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// The version of the protocol in `fabric.proto`.
const PROTOCOL: u32 = 2;

/// What an agent says of itself when it opens its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(super) cell: CellName,
    pub(super) underlay: Ipv4Addr,
    pub(super) held: Option<Ipv4Net>,
    pub(super) hosted: Hosted,
    /// The store and revision of the world that it has; nothing when it has none.
    pub(super) has: Option<(String, Revision)>,
}

impl TryFrom<v1::Hello> for Hello {
    type Error = Invalid;

    fn try_from(hello: v1::Hello) -> Result<Self, Invalid> {
        if hello.protocol != PROTOCOL {
            let problem = format!("is version {}", hello.protocol);
            return Err(Invalid {
                field: "protocol",
                problem,
                expected: "version 2; upgrade the older side",
            });
        }
        let has = (!hello.store_id.is_empty() && hello.resume_revision != 0)
            .then(|| (hello.store_id, Revision::new(hello.resume_revision)));
        let underlay = address("underlay_address", &hello.underlay_address)?;
        Ok(Self {
            cell: cell(&hello.cell, underlay)?,
            underlay,
            held: hello.held.map(|lease| block("held.overlay_block", &lease.overlay_block)).transpose()?,
            hosted: hosted(["apps", "spaces"], [&hello.apps, &hello.spaces])?,
            has,
        })
    }
}

/// A cell's name; not the one that is another cell's as long as that runs Silk.
fn cell(name: &str, underlay: Ipv4Addr) -> Result<CellName, Invalid> {
    let cell = CellName::parse("cell", name)?;
    match cell.is_of_silk() && cell != CellName::of_silk(underlay) {
        true => Err(Invalid {
            field: "cell",
            problem: format!("{name:?} begins as the names of cells that run Silk do"),
            expected: "another name",
        }),
        false => Ok(cell),
    }
}

/// What came and left by a message.
pub(crate) fn moves(changed: &v1::AppsChanged) -> Result<Moves, Invalid> {
    Ok(Moves {
        removed: hosted(["removed", "spaces_removed"], [&changed.removed, &changed.spaces_removed])?,
        added: hosted(["added", "spaces_added"], [&changed.added, &changed.spaces_added])?,
    })
}

/// Apps and spaces by their names.
fn hosted([app, space]: [&'static str; 2], [apps, spaces]: [&[String]; 2]) -> Result<Hosted, Invalid> {
    let apps: Result<_, _> = apps.iter().map(|name| AppId::parse(app, name)).collect();
    let spaces: Result<_, _> = spaces.iter().map(|name| SpaceId::parse(space, name)).collect();
    Ok(Hosted { apps: apps?, spaces: spaces? })
}

/// The rules of a request.
pub(crate) fn rules(rules: Vec<v1::SecurityRule>) -> Result<GroupRules, Invalid> {
    GroupRules::parse("rules", rules.into_iter().map(Into::into).collect())
}

fn address(field: &'static str, text: &str) -> Result<Ipv4Addr, Invalid> {
    let problem = || format!("{text:?} is not an address");
    text.parse().map_err(|_| Invalid { field, problem: problem(), expected: "an IPv4 address" })
}

fn block(field: &'static str, text: &str) -> Result<Ipv4Net, Invalid> {
    let problem = || format!("{text:?} is not a block");
    text.parse().map_err(|_| Invalid {
        field,
        problem: problem(),
        expected: "an IPv4 network in CIDR notation",
    })
}

pub(super) fn lease(lease: &Lease) -> v1::Lease {
    v1::Lease {
        cell: lease.cell.as_str().to_owned(),
        underlay_address: lease.underlay.to_string(),
        overlay_block: lease.block.to_string(),
        hardware_address: lease.hardware_address(),
    }
}

pub(super) fn policy(tagged: &TaggedPolicy) -> v1::Policy {
    let policy = &tagged.policy;
    v1::Policy {
        source_app: policy.source.as_str().to_owned(),
        destination_app: policy.destination.as_str().to_owned(),
        protocol: i32::from(policy.protocol.number()),
        port_start: u32::from(policy.ports.start()),
        port_end: u32::from(policy.ports.end()),
        source_tag: u32::from(tagged.source_tag.get()),
        destination_tag: u32::from(tagged.destination_tag.get()),
    }
}

pub(super) fn group(group: &SecurityGroup) -> v1::SecurityGroup {
    let reaches = |workload| group.reaches.iter().filter(move |reach| reach.workload == workload);
    let default = |workload| reaches(workload).any(|reach| reach.space.is_none());
    let spaces = |workload| {
        let spaces = reaches(workload).filter_map(|reach: &Reach| reach.space.as_ref());
        spaces.map(|space| space.as_str().to_owned()).collect()
    };
    v1::SecurityGroup {
        name: group.name.as_str().to_owned(),
        rules: group.rules.as_slice().iter().cloned().map(Into::into).collect(),
        running_default: default(Workload::Running),
        staging_default: default(Workload::Staging),
        running_spaces: spaces(Workload::Running),
        staging_spaces: spaces(Workload::Staging),
    }
}

pub(super) fn group_news(news: &GroupNews<'_>) -> v1::Change {
    let removed = |name: &GroupName| name.as_str().to_owned();
    let change = match news {
        GroupNews::Put(put) => To::GroupPut(group(put)),
        GroupNews::Removed(name) => To::GroupRemoved(removed(name)),
    };
    v1::Change { change: Some(change) }
}

/// Nothing for a change that agents need not know, or that they are told of by [`group_news`].
pub(super) fn change(change: &Change) -> Option<v1::Change> {
    let change = match change {
        Change::LeasePut(put) => To::LeasePut(lease(put)),
        Change::LeaseRemoved(removed) => To::LeaseRemoved(lease(removed)),
        Change::PolicyPut(put) => To::PolicyPut(policy(put)),
        Change::PolicyRemoved(removed) => To::PolicyRemoved(policy(removed)),
        Change::TagFreed(_)
        | Change::TagHeld(_)
        | Change::Stamped(_)
        | Change::GroupSet { .. }
        | Change::GroupRulesChanged(_)
        | Change::GroupBound(_)
        | Change::GroupUnbound(_)
        | Change::GroupRemoved(_) => return None,
    };
    Some(v1::Change { change: Some(change) })
}

/// What a refusal is to an agent.
pub(super) fn lease_refused(refusal: &Refusal) -> v1::LeaseRefused {
    let reason = match refusal {
        Refusal::Lease(LeaseRefusal::PoolExhausted { .. } | LeaseRefusal::SinglesExhausted { .. }) => {
            Reason::PoolExhausted
        }
        Refusal::Lease(
            LeaseRefusal::HeldByAnother { .. }
            | LeaseRefusal::NotThisOne { .. }
            | LeaseRefusal::TakenAway { .. }
            | LeaseRefusal::OutsidePool { .. }
            | LeaseRefusal::NameInUse { .. },
        ) => Reason::Contradiction,
        Refusal::TagsExhausted
        | Refusal::TagOfAnApp(_)
        | Refusal::Quota { .. }
        | Refusal::UnknownCell(_)
        | Refusal::UnknownGroup(_) => Reason::Invalid,
    };
    refused(reason, refusal.to_string())
}

pub(super) fn refused(reason: Reason, message: String) -> v1::LeaseRefused {
    v1::LeaseRefused { reason: reason.into(), message }
}
