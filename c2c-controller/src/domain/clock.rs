//! Two clocks, because one of them can be set: the time of day, by which leases and freed tags are stored, and the time
//! that this process has been up, which only grows. What is given away has to be old by both: so a clock that jumps, or one
//! of another machine that is wrong, takes nothing from a cell that lives.

use super::{Change, Commit, Lease, Tag, TagFreed};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// How long this process must have heard nothing of a lease before it may give it away: 20 heartbeats of the default
/// length, so that after a start or a failover every cell that lives had time to connect.
pub const SILENCE_SECONDS: u64 = 600;

/// Seconds since the epoch, as the caller's clock has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Seconds from then until now; 0 when the clock was set back.
    #[must_use]
    pub fn seconds_until(self, now: Self) -> u64 {
        now.0.saturating_sub(self.0)
    }
}

/// Seconds since this process began, by a clock that nobody sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uptime(pub u64);

/// A moment by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The time of day.
    pub wall: Timestamp,
    /// How long the process is up.
    pub up: Uptime,
}

/// When this process last heard of leases and freed tags. Of what is not here it has heard nothing since it began.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    leases: BTreeMap<Ipv4Addr, Uptime>,
    freed: BTreeMap<Tag, Uptime>,
}

/// When something is decided, and what was heard until then.
#[derive(Clone, Copy, Debug)]
pub struct Now<'a> {
    /// The moment.
    pub moment: Moment,
    /// What this process heard.
    pub heard: &'a Heard,
}

impl Now<'_> {
    /// Whether the cell has been silent for so long, by both clocks, that its block may be given away.
    #[must_use]
    pub fn is_expired(self, lease: &Lease, lease_seconds: u64) -> bool {
        let Moment { wall, up } = self.moment;
        let heard = self.heard.leases.get(&lease.underlay).copied().unwrap_or_default();
        lease.is_expired(lease_seconds, wall) && up.0.saturating_sub(heard.0) >= SILENCE_SECONDS
    }

    /// Seconds since the tag was freed: by the clock by which these are fewer.
    pub(super) fn seconds_freed(self, freed: &TagFreed) -> u64 {
        let Moment { wall, up } = self.moment;
        let heard = self.heard.freed.get(&freed.tag).map(|then| up.0.saturating_sub(then.0));
        freed.at.seconds_until(wall).min(heard.unwrap_or(u64::MAX))
    }
}

impl Heard {
    /// The cell at this address lives.
    pub fn renewed(&mut self, underlay: Ipv4Addr, up: Uptime) {
        self.leases.insert(underlay, up);
    }

    /// A commit was made.
    pub fn committed(&mut self, commit: &Commit, up: Uptime) {
        for change in &commit.changes {
            match change {
                Change::LeasePut(lease) => self.renewed(lease.underlay, up),
                Change::LeaseRemoved(lease) => drop(self.leases.remove(&lease.underlay)),
                Change::TagFreed(freed) => drop(self.freed.insert(freed.tag, up)),
                Change::PolicyPut(put) => {
                    self.freed.remove(&put.source_tag);
                    self.freed.remove(&put.destination_tag);
                }
                Change::TagHeld(held) => drop(self.freed.remove(&held.tag)),
                Change::PolicyRemoved(_)
                | Change::Stamped(_)
                | Change::GroupSet { .. }
                | Change::GroupRulesChanged(_)
                | Change::GroupBound(_)
                | Change::GroupUnbound(_)
                | Change::GroupRemoved(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AppId, CellName, Revision, TagFreed};

    const LEASE_SECONDS: u64 = 7 * 24 * 60 * 60;
    const DAY: u64 = 24 * 60 * 60;

    fn lease(renewed: u64) -> Lease {
        let cell = CellName::parse("cell", "a").unwrap();
        let block = "10.255.1.0/24".parse().unwrap();
        Lease { cell, underlay: Ipv4Addr::new(192, 0, 2, 1), block, renewed: Timestamp(renewed) }
    }

    fn expired(heard: &Heard, lease: &Lease, wall: u64, up: u64) -> bool {
        let moment = Moment { wall: Timestamp(wall), up: Uptime(up) };
        Now { moment, heard }.is_expired(lease, LEASE_SECONDS)
    }

    #[test]
    fn a_lease_expires_by_both_clocks() {
        let (mut heard, lease) = (Heard::default(), lease(1000));
        let late = 1000 + LEASE_SECONDS;
        assert!(expired(&heard, &lease, late, SILENCE_SECONDS), "nobody was heard for long");
        assert!(!expired(&heard, &lease, late - 1, SILENCE_SECONDS), "its time is not over");
        assert!(!expired(&heard, &lease, late, SILENCE_SECONDS - 1), "the process has just begun");
        heard.renewed(lease.underlay, Uptime(5000));
        assert!(!expired(&heard, &lease, late + 300 * DAY, 5000 + SILENCE_SECONDS - 1), "a jump forward");
        assert!(expired(&heard, &lease, late, 5000 + SILENCE_SECONDS));
        assert!(!expired(&heard, &lease, 3, 5000 + LEASE_SECONDS), "a jump back");
    }

    #[test]
    fn a_commit_is_heard_of_its_lease_and_its_removal_ends_that() {
        let (mut heard, lease) = (Heard::default(), lease(0));
        let commit = |change| Commit { revision: Revision::FIRST, changes: vec![change] };
        heard.committed(&commit(Change::LeasePut(lease.clone())), Uptime(9000));
        assert!(!expired(&heard, &lease, LEASE_SECONDS, 9001));
        heard.committed(&commit(Change::LeaseRemoved(lease.clone())), Uptime(9002));
        assert!(expired(&heard, &lease, LEASE_SECONDS, 9003));
    }

    #[test]
    fn a_tag_is_freed_for_as_long_as_the_slower_clock_says() {
        let mut heard = Heard::default();
        let app = AppId::parse("app", "a").unwrap();
        let freed = TagFreed { tag: Tag::new(7).unwrap(), app, at: Timestamp(1000) };
        let seconds = |heard: &Heard, wall, up| {
            let moment = Moment { wall: Timestamp(wall), up: Uptime(up) };
            Now { moment, heard }.seconds_freed(&freed)
        };
        assert_eq!(seconds(&heard, 1500, 3), 500, "freed before the process began");
        let commit = Commit { revision: Revision::FIRST, changes: vec![Change::TagFreed(freed.clone())] };
        heard.committed(&commit, Uptime(100));
        assert_eq!(seconds(&heard, 1000 + DAY, 130), 30, "a jump forward");
        assert_eq!(seconds(&heard, 10, 900), 0, "a jump back");
    }
}
