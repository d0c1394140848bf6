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
                Change::PolicyRemoved(_)
                | Change::GroupSet { .. }
                | Change::GroupRulesChanged(_)
                | Change::GroupBound(_)
                | Change::GroupUnbound(_)
                | Change::GroupRemoved(_) => {}
            }
        }
    }
}
