//! Leases of cells that still run Silk, by its controller's rules, out of the pool that all cells share. Such a cell is known
//! by its underlay address alone: it is found again as one of ours after it was migrated, and the other way round.

use super::decide::{displace, free, put};
use super::{CellName, Change, Lease, LeaseRefusal, LeaseSize, Now, Rules, State};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// The lease of this address stays what it is, if it is one of this size and of the pool.
pub(super) fn acquire(
    state: &State,
    rules: &Rules,
    now: Now<'_>,
    underlay: Ipv4Addr,
    size: LeaseSize,
    pick: u64,
) -> Result<Vec<Change>, LeaseRefusal> {
    if state.lease_at(underlay).is_some_and(|known| rules.pool.leases_as(size, known.block)) {
        return Ok(Vec::new());
    }
    let mut changes = Vec::new();
    let block = free(state, rules, now, size, pick, &mut changes)?;
    Ok(put(state, lease(underlay, block, now), changes))
}

/// Changes nothing when the lease is known. Silk takes over whatever it does not know; here it has to be a lease of the
/// pool, and nobody else's.
pub(super) fn renew(
    state: &State,
    rules: &Rules,
    now: Now<'_>,
    underlay: Ipv4Addr,
    held: Ipv4Net,
) -> Result<Vec<Change>, LeaseRefusal> {
    match state.lease_at(underlay) {
        Some(known) if known.block == held => return Ok(Vec::new()),
        Some(known) => return Err(LeaseRefusal::NotThisOne { held, known: known.block }),
        None => {}
    }
    if !rules.pool.contains(held) && !rules.pool.contains_single(held) {
        return Err(LeaseRefusal::OutsidePool { held, pool: rules.pool });
    }
    let changes = displace(state, rules, now, held)?;
    Ok(put(state, lease(underlay, held, now), changes))
}

fn lease(underlay: Ipv4Addr, block: Ipv4Net, now: Now<'_>) -> Lease {
    Lease { cell: CellName::of_silk(underlay), underlay, block, renewed: now.moment.wall }
}
