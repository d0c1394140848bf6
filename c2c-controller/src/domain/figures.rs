//! How much there is of everything, for those who watch over it.

use super::{QUARANTINE_SECONDS, Revision, Rules, State, Timestamp};

/// Tags are numbers of 16 bits, and 0 is none.
const TAGS: usize = u16::MAX as usize;

/// How much there is of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// The state's.
    pub revision: Revision,
    /// Policies.
    pub policies: usize,
    /// Security groups.
    pub groups: usize,
    /// Blocks of the overlay network.
    pub leases: LeaseFigures,
    /// Tags of apps.
    pub tags: TagFigures,
}

/// Blocks by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseFigures {
    /// That can be leased.
    pub total: usize,
    /// Held by a cell that renewed its lease in time.
    pub held: usize,
    /// Held by a cell that did not; given away when none is free.
    pub expired: usize,
    /// Nobody's.
    pub free: usize,
}

/// Tags by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagFigures {
    /// An app's.
    pub used: usize,
    /// Nobody's, but an app had it a moment ago.
    pub quarantined: usize,
    /// To be had.
    pub free: usize,
}

impl Figures {
    /// Of a state.
    #[must_use]
    pub fn of(state: &State, rules: &Rules, now: Timestamp) -> Self {
        Self {
            revision: state.revision(),
            policies: state.policy_count(),
            groups: state.groups().count(),
            leases: LeaseFigures::of(state, rules, now),
            tags: TagFigures::of(state, now),
        }
    }
}

impl LeaseFigures {
    fn of(state: &State, rules: &Rules, now: Timestamp) -> Self {
        let total = rules.pool.blocks().count();
        // After the network was changed there may be leases of the one before.
        let taken = state.leases().filter(|lease| rules.pool.contains(lease.block)).count();
        let expired = state.leases().filter(|lease| lease.is_expired(rules.lease_seconds, now)).count();
        let held = state.leases().count() - expired;
        Self { total, held, expired, free: total.saturating_sub(taken) }
    }
}

impl TagFigures {
    fn of(state: &State, now: Timestamp) -> Self {
        let used = state.tags().count();
        let fresh = |at: Timestamp| at.seconds_until(now) < QUARANTINE_SECONDS;
        let quarantined = state.freed_tags().filter(|freed| fresh(freed.at)).count();
        Self { used, quarantined, free: TAGS.saturating_sub(used + quarantined) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CellName, Change, Commit, Lease, Policy, Pool, Tag, TagFreed, TaggedPolicy};

    #[test]
    fn every_block_and_tag_is_counted_once() {
        let rules =
            Rules { pool: Pool::new("10.255.0.0/16".parse().unwrap(), 24).unwrap(), lease_seconds: 100 };
        let lease = |number: u8, block: &str, renewed| {
            Change::LeasePut(Lease {
                cell: CellName::parse("cell", &format!("cell-{number}")).unwrap(),
                underlay: [192, 0, 2, number].into(),
                block: block.parse().unwrap(),
                renewed: Timestamp(renewed),
            })
        };
        let policy = Policy::parse("a", "b", "tcp", "1").unwrap();
        let (one, two) = (Tag::new(1).unwrap(), Tag::new(2).unwrap());
        let freed = |number, at| {
            let (app, at) = (policy.source.clone(), Timestamp(at));
            Change::TagFreed(TagFreed { tag: Tag::new(number).unwrap(), app, at })
        };
        let changes = vec![
            lease(1, "10.255.1.0/24", 950),
            lease(2, "10.255.2.0/24", 900),
            lease(3, "10.254.1.0/24", 950),
            freed(3, 1_000 - QUARANTINE_SECONDS),
            freed(4, 1_000),
            Change::PolicyPut(TaggedPolicy { policy, source_tag: one, destination_tag: two }),
        ];
        let mut state = State::default();
        state.apply(&Commit { revision: Revision::new(1), changes });
        let figures = Figures::of(&state, &rules, Timestamp(1_000));
        assert_eq!(figures.leases, LeaseFigures { total: 255, held: 2, expired: 1, free: 253 });
        assert_eq!(figures.tags, TagFigures { used: 2, quarantined: 1, free: 65_532 });
        assert_eq!((figures.revision, figures.policies, figures.groups), (Revision::new(1), 1, 0));
    }
}
