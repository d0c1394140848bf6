//! What a command changes. Silk's lease rules, with what its controller does not check: a lease that is not known is
//! taken over only if it is a block of the pool and nobody else's.

use super::{
    AppId, Binding, CellName, Change, GroupName, GroupRules, Lease, LeaseSize, Now, Policy, Pool,
    SecurityGroup, Stamp, State, TagFreed, TagHeld, TaggedPolicy,
};
use super::{import, silk};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::slice;

/// A cell's name is kept for its underlay address this long after the last renewal: 20 heartbeats of the default
/// length. So two cells that were given the same name by mistake do not take turns, and a machine that was recreated
/// with another address gets its lease soon.
const NAME_GRACE_SECONDS: u64 = 600;

/// How leases are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Where from.
    pub pool: Pool,
    /// For how long after the last renewal, in seconds.
    pub lease_seconds: u64,
}

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A cell opens its stream: it wants its lease, or to renew the one that it holds.
    Acquire(Acquire),
    /// A cell that runs Silk wants a lease: the one that its address has, if it is of this size.
    SilkAcquire {
        /// Where it is.
        underlay: Ipv4Addr,
        /// What it wants.
        size: LeaseSize,
        /// A random number that picks the block.
        pick: u64,
    },
    /// A cell that runs Silk says what it holds. A lease that is not known is its own if that hurts nobody.
    SilkRenew {
        /// Where it is.
        underlay: Ipv4Addr,
        /// What it holds.
        held: Ipv4Net,
    },
    /// A cell leaves; nothing happens when it holds no lease.
    Release {
        /// Where it is.
        underlay: Ipv4Addr,
    },
    /// An operator takes a lease away.
    Evict {
        /// A cell's name or its underlay address.
        cell: String,
    },
    /// Access is allowed.
    Allow(Policy),
    /// Access is not allowed any more.
    Remove(Policy),
    /// Each of these is allowed, in one commit; those that are already, or are named twice, change nothing.
    AllowAll {
        /// Which.
        policies: Vec<Policy>,
        /// How many policies an app that gets another one as its source may have then; nothing: any number.
        per_source: Option<usize>,
    },
    /// None of these is allowed any more, in one commit; those that are not anyway change nothing.
    RemoveAll(Vec<Policy>),
    /// A router wants a tag, to keep, whether or not policies name it.
    HoldTag(AppId),
    /// Somebody polls for changes of policies: there shall be a time of the last one, though none is known.
    Stamp,
    /// A security group shall have these rules.
    SetGroup {
        /// Which; made when there is none, and then bound to nothing.
        name: GroupName,
        /// What it allows.
        rules: GroupRules,
    },
    /// A security group shall apply there.
    Bind(Binding),
    /// A security group shall not apply there any more.
    Unbind(Binding),
    /// A security group shall be no more, nor any binding of it.
    DeleteGroup(GroupName),
    /// These shall be the security groups, with these rules and bindings, and no others. Each name is there once.
    ReplaceGroups(Vec<SecurityGroup>),
}

/// A cell's request for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    /// Its name.
    pub cell: CellName,
    /// Its address.
    pub underlay: Ipv4Addr,
    /// The block it holds, with containers that may be alive.
    pub held: Option<Ipv4Net>,
    /// Whether its lease was given by this very store, at a revision that this store still knows: then a lease that is
    /// not here was taken away, and not lost.
    pub from_this_store: bool,
    /// A random number that picks the block.
    pub pick: u64,
}

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No lease.
    #[error(transparent)]
    Lease(#[from] LeaseRefusal),
    /// All 65,535 tags are in use or in quarantine.
    #[error(
        "all 65535 tags are in use or were freed in the last 10 minutes: no policy may name another app now"
    )]
    TagsExhausted,
    /// An app is the source of as many policies as its owners may make.
    #[error("app {app} would be the source of {count} policies; expected at most {limit}")]
    Quota {
        /// Which app.
        app: AppId,
        /// How many it would have.
        count: usize,
        /// How many it may have.
        limit: usize,
    },
    /// Somebody else has a tag under this name.
    #[error("{0} has the tag of an app, because policies name it, and not that of a router")]
    TagOfAnApp(AppId),
    /// There is no such cell.
    #[error("cell: no lease is held by {0:?}; expected a cell's name or underlay address, see `leases`")]
    UnknownCell(String),
    /// There is no such security group.
    #[error("name: there is no security group {0}; expected one of `security-groups list`")]
    UnknownGroup(GroupName),
}

/// Why a cell gets no lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseRefusal {
    /// Every block is leased, and no lease has expired.
    #[error("all {blocks} blocks of {} are leased and none has expired; evict cells that are gone, or enlarge the overlay network", pool.network())]
    PoolExhausted {
        /// The pool.
        pool: Pool,
        /// How many blocks it has.
        blocks: usize,
    },
    /// Every single address is leased, and no lease has expired.
    #[error("all single addresses of the first block of {} are leased and none has expired", pool.network())]
    SinglesExhausted {
        /// The pool.
        pool: Pool,
    },
    /// Another cell holds the block.
    #[error("held lease {held} overlaps lease {other}")]
    HeldByAnother {
        /// What the cell holds.
        held: Ipv4Net,
        /// Who has it here.
        other: Box<Lease>,
    },
    /// The store has another block for this address.
    #[error("held lease {held} is not the one of this cell: here it is {known}")]
    NotThisOne {
        /// What the cell holds.
        held: Ipv4Net,
        /// What it should hold.
        known: Ipv4Net,
    },
    /// The lease was evicted, released or reclaimed.
    #[error(
        "held lease {held} was taken away from this cell: it was evicted, or had expired and was given away"
    )]
    TakenAway {
        /// What the cell holds.
        held: Ipv4Net,
    },
    /// The block is none of this pool.
    #[error("held lease {held} is not a block of /{} of {} after the first; was the overlay network changed?", pool.block_prefix(), pool.network())]
    OutsidePool {
        /// What the cell holds.
        held: Ipv4Net,
        /// The pool.
        pool: Pool,
    },
    /// Another machine uses the name.
    #[error("cell name {} is used by the cell at {}, which was alive {seconds_ago} s ago; expected a unique name (if that machine is gone: `evict {}`)", other.cell, other.underlay, other.underlay)]
    NameInUse {
        /// The lease of the other machine.
        other: Box<Lease>,
        /// When that was renewed.
        seconds_ago: u64,
    },
}

/// What the command changes in this state; nothing when all is so already.
///
/// # Errors
/// When the command cannot be followed. The state stays as it is.
pub fn decide(state: &State, rules: &Rules, now: Now<'_>, command: &Command) -> Result<Vec<Change>, Refusal> {
    match command {
        Command::Acquire(request) => Ok(acquire(state, rules, now, request)?),
        Command::SilkAcquire { underlay, size, pick } => {
            Ok(silk::acquire(state, rules, now, *underlay, *size, *pick)?)
        }
        Command::SilkRenew { underlay, held } => Ok(silk::renew(state, rules, now, *underlay, *held)?),
        Command::Release { underlay } => {
            Ok(state.lease_at(*underlay).cloned().map(Change::LeaseRemoved).into_iter().collect())
        }
        Command::Evict { cell } => evict(state, cell),
        Command::Allow(policy) => allow(state, now, slice::from_ref(policy)),
        Command::Remove(policy) => Ok(remove(state, now, slice::from_ref(policy))),
        Command::AllowAll { policies, per_source } => {
            if let Some(limit) = per_source {
                within(state, policies, *limit)?;
            }
            allow(state, now, policies)
        }
        Command::RemoveAll(policies) => Ok(remove(state, now, policies)),
        Command::HoldTag(router) => hold_tag(state, now, router),
        Command::Stamp => Ok(first_stamp(state, now).into_iter().collect()),
        Command::SetGroup { name, rules } => Ok(set_group(state, name, rules)),
        Command::Bind(binding) => bind(state, binding),
        Command::Unbind(binding) => unbind(state, binding),
        Command::DeleteGroup(name) => delete_group(state, name),
        Command::ReplaceGroups(groups) => Ok(import::replace(&state.groups, groups)),
    }
}

fn acquire(
    state: &State,
    rules: &Rules,
    now: Now<'_>,
    request: &Acquire,
) -> Result<Vec<Change>, LeaseRefusal> {
    let mut changes = Vec::new();
    let mut known = state.lease_at(request.underlay);
    if let Some(other) = state.lease_of(&request.cell).filter(|other| other.underlay != request.underlay) {
        let seconds_ago = other.renewed.seconds_until(now.moment.wall);
        if seconds_ago < NAME_GRACE_SECONDS {
            return Err(LeaseRefusal::NameInUse { other: Box::new(other.clone()), seconds_ago });
        }
        // The machine was recreated at another address: its lease moves with it, unless that address has one.
        changes.push(Change::LeaseRemoved(other.clone()));
        known = known.or(Some(other));
    }
    let block = match (known, request.held) {
        (Some(known), Some(held)) if known.block != held => {
            return Err(LeaseRefusal::NotThisOne { held, known: known.block });
        }
        (Some(known), held) if rules.pool.contains(known.block) => held.unwrap_or(known.block),
        (Some(_), Some(held)) => return Err(LeaseRefusal::OutsidePool { held, pool: rules.pool }),
        (None, Some(held)) => reclaim_held(state, rules, now, request, held, &mut changes)?,
        (Some(_) | None, None) => free(state, rules, now, LeaseSize::Block, request.pick, &mut changes)?,
    };
    let lease =
        Lease { cell: request.cell.clone(), underlay: request.underlay, block, renewed: now.moment.wall };
    Ok(put(state, lease, changes))
}

/// The lease after the changes before it, if it is not there already.
pub(super) fn put(state: &State, lease: Lease, mut changes: Vec<Change>) -> Vec<Change> {
    match state.lease_at(lease.underlay) {
        Some(same) if same.cell == lease.cell && same.block == lease.block => return changes,
        Some(old) => changes.push(Change::LeaseRemoved(old.clone())),
        None => {}
    }
    changes.push(Change::LeasePut(lease));
    changes
}

/// A lease that this store does not know, as after the store was wiped: the cell keeps it if that hurts nobody.
fn reclaim_held(
    state: &State,
    rules: &Rules,
    now: Now<'_>,
    request: &Acquire,
    held: Ipv4Net,
    changes: &mut Vec<Change>,
) -> Result<Ipv4Net, LeaseRefusal> {
    if !rules.pool.contains(held) {
        return Err(LeaseRefusal::OutsidePool { held, pool: rules.pool });
    }
    if request.from_this_store {
        return Err(LeaseRefusal::TakenAway { held });
    }
    changes.extend(displace(state, rules, now, held)?);
    Ok(held)
}

/// Removes the leases that share addresses with this one, if all of them have expired.
pub(super) fn displace(
    state: &State,
    rules: &Rules,
    now: Now<'_>,
    held: Ipv4Net,
) -> Result<Vec<Change>, LeaseRefusal> {
    let others = state.leases_overlapping(held);
    let removed = others.map(|other| match now.is_expired(other, rules.lease_seconds) {
        true => Ok(Change::LeaseRemoved(other.clone())),
        false => Err(LeaseRefusal::HeldByAnother { held, other: Box::new(other.clone()) }),
    });
    removed.collect()
}

/// A random free block of this size, or else that of the lease which expired first.
pub(super) fn free(
    state: &State,
    rules: &Rules,
    now: Now<'_>,
    size: LeaseSize,
    pick: u64,
    changes: &mut Vec<Change>,
) -> Result<Ipv4Net, LeaseRefusal> {
    let free: Vec<Ipv4Net> =
        rules.pool.leases(size).filter(|block| state.leases_overlapping(*block).next().is_none()).collect();
    let index = pick.checked_rem(free.len() as u64).and_then(|index| usize::try_from(index).ok());
    if let Some(block) = index.and_then(|index| free.get(index)) {
        return Ok(*block);
    }
    let reclaimable = state.leases().filter(|lease| {
        now.is_expired(lease, rules.lease_seconds) && rules.pool.leases_as(size, lease.block)
    });
    let Some(oldest) = reclaimable.min_by_key(|lease| lease.renewed) else {
        return Err(exhausted(rules.pool, size));
    };
    changes.push(Change::LeaseRemoved(oldest.clone()));
    Ok(oldest.block)
}

fn exhausted(pool: Pool, size: LeaseSize) -> LeaseRefusal {
    match size {
        LeaseSize::Block => LeaseRefusal::PoolExhausted { pool, blocks: pool.blocks().count() },
        LeaseSize::Single => LeaseRefusal::SinglesExhausted { pool },
    }
}

fn evict(state: &State, cell: &str) -> Result<Vec<Change>, Refusal> {
    let lease = match cell.parse() {
        Ok(underlay) => state.lease_at(underlay),
        Err(_) => state.leases().find(|lease| lease.cell.as_str() == cell),
    };
    let lease = lease.ok_or_else(|| Refusal::UnknownCell(cell.to_owned()))?;
    Ok(vec![Change::LeaseRemoved(lease.clone())])
}

fn allow(state: &State, now: Now<'_>, policies: &[Policy]) -> Result<Vec<Change>, Refusal> {
    let new: BTreeSet<&Policy> = policies.iter().filter(|policy| state.policy(policy).is_none()).collect();
    let mut tags = state.tags.assignment(now);
    let put = |policy: &Policy| {
        let source_tag = tags.of(&policy.source)?;
        let destination_tag = tags.of(&policy.destination)?;
        Some(Change::PolicyPut(TaggedPolicy { policy: policy.clone(), source_tag, destination_tag }))
    };
    new.into_iter().map(put).collect::<Option<_>>().ok_or(Refusal::TagsExhausted)
}

/// Whether every app that gets new policies as their source stays within the limit. What is there already, or is named
/// twice, is counted once.
fn within(state: &State, policies: &[Policy], limit: usize) -> Result<(), Refusal> {
    let new: BTreeSet<&Policy> = policies.iter().filter(|policy| state.policy(policy).is_none()).collect();
    let mut counts: BTreeMap<&AppId, usize> = BTreeMap::new();
    for policy in new {
        let count = counts.entry(&policy.source).or_insert_with(|| state.policies_from(&policy.source));
        *count = count.saturating_add(1);
    }
    match counts.into_iter().find(|(_, count)| *count > limit) {
        Some((app, count)) => Err(Refusal::Quota { app: app.clone(), count, limit }),
        None => Ok(()),
    }
}

fn remove(state: &State, now: Now<'_>, policies: &[Policy]) -> Vec<Change> {
    let removed: BTreeSet<&Policy> = policies.iter().collect();
    let mut uses_left = BTreeMap::new();
    let mut changes = Vec::new();
    for removed in removed.into_iter().filter_map(|policy| state.policy(policy)) {
        let TaggedPolicy { policy, source_tag, destination_tag } = removed.clone();
        changes.push(Change::PolicyRemoved(removed));
        for (app, tag) in [(policy.source, source_tag), (policy.destination, destination_tag)] {
            let left = uses_left.entry(app.clone()).or_insert_with(|| state.tags.uses(&app));
            *left = left.saturating_sub(1);
            if *left == 0 {
                changes.push(Change::TagFreed(TagFreed { tag, app, at: now.moment.wall }));
            }
        }
    }
    changes
}

fn hold_tag(state: &State, now: Now<'_>, router: &AppId) -> Result<Vec<Change>, Refusal> {
    if state.tags.is_router(router) {
        return Ok(Vec::new());
    }
    if state.tags.of(router).is_some() {
        return Err(Refusal::TagOfAnApp(router.clone()));
    }
    let tag = state.tags.assignment(now).of(router).ok_or(Refusal::TagsExhausted)?;
    Ok(vec![Change::TagHeld(TagHeld { tag, app: router.clone() })])
}

fn first_stamp(state: &State, now: Now<'_>) -> Option<Change> {
    let never = Stamp::default();
    (state.stamp() == never).then(|| Change::Stamped(never.next(now.moment)))
}

fn set_group(state: &State, name: &GroupName, rules: &GroupRules) -> Vec<Change> {
    if state.groups.rules(name) == Some(rules) {
        return Vec::new();
    }
    let guid = state.groups.guid(name).cloned();
    vec![Change::GroupSet { name: name.clone(), guid, rules: rules.clone() }]
}

fn bind(state: &State, binding: &Binding) -> Result<Vec<Change>, Refusal> {
    known(state, &binding.group)?;
    let change = (!state.groups.is_bound(binding)).then(|| Change::GroupBound(binding.clone()));
    Ok(change.into_iter().collect())
}

fn unbind(state: &State, binding: &Binding) -> Result<Vec<Change>, Refusal> {
    known(state, &binding.group)?;
    let change = state.groups.is_bound(binding).then(|| Change::GroupUnbound(binding.clone()));
    Ok(change.into_iter().collect())
}

fn delete_group(state: &State, name: &GroupName) -> Result<Vec<Change>, Refusal> {
    known(state, name)?;
    let reaches = state.groups.reaches(name).cloned();
    let unbound = reaches.map(|reach| Change::GroupUnbound(Binding { group: name.clone(), reach }));
    Ok(unbound.chain([Change::GroupRemoved(name.clone())]).collect())
}

fn known(state: &State, name: &GroupName) -> Result<(), Refusal> {
    match state.groups.rules(name) {
        Some(_) => Ok(()),
        None => Err(Refusal::UnknownGroup(name.clone())),
    }
}
