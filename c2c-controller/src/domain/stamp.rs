//! When policies last changed, as Cloud Foundry's policy server tells it to agents that poll: nanoseconds since the epoch. It
//! is stored with each change of policies, so that every controller tells the same, also after a restart; and it only grows,
//! whatever the clock does, because an agent ignores what is not later than what it has seen.

use super::{Change, Moment, State};

/// When policies last changed, in nanoseconds since the epoch; 0 as long as they never did and nobody asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The one of a change now.
    #[must_use]
    pub fn next(self, now: Moment) -> Self {
        Self(now.wall.0.saturating_mul(1_000_000_000).max(self.0.saturating_add(1)))
    }
}

/// The changes, and that they change policies if they do.
#[must_use]
pub fn stamped(state: &State, now: Moment, mut changes: Vec<Change>) -> Vec<Change> {
    let is_of_policies = |change: &Change| matches!(change, Change::PolicyPut(_) | Change::PolicyRemoved(_));
    if changes.iter().any(is_of_policies) {
        changes.push(Change::Stamped(state.stamp().next(now)));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Timestamp, Uptime};
    use proptest::prelude::*;

    #[test]
    fn it_grows_whatever_the_clock_does() {
        let at = |seconds| Moment { wall: Timestamp(seconds), up: Uptime(0) };
        let first = Stamp::default().next(at(1_763_000_000));
        assert_eq!(first, Stamp(1_763_000_000_000_000_000));
        assert_eq!(first.next(at(1_763_000_000)), Stamp(1_763_000_000_000_000_001));
        assert_eq!(first.next(at(5)), Stamp(1_763_000_000_000_000_001), "a clock that was set back");
        assert!(first.next(at(u64::MAX)) > first);
    }

    proptest! {
        #[test]
        fn whoever_saw_an_earlier_one_sees_each_change(clock in prop::collection::vec(0..9_u64, 1..50)) {
            let stamps = clock.into_iter().scan(Stamp::default(), |stamp, seconds| {
                *stamp = stamp.next(Moment { wall: Timestamp(seconds), up: Uptime(0) });
                Some(*stamp)
            });
            let stamps: Vec<_> = stamps.collect();
            prop_assert!(stamps.first() > Some(&Stamp::default()));
            prop_assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
