//! When to try the controller again: a sans-IO machine. Randomness is an argument.

use crate::lease::Refusal;
use std::time::Duration;

/// The first pause; a controller that was just restarted is found again quickly.
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause: with 10,000 agents still only 1,000 to 2,000 attempts a second.
const LONGEST: Duration = Duration::from_secs(10);
/// How long a stream has to work to be taken for one that does.
const STEADY: Duration = Duration::from_secs(3);
/// The pause after a refusal that only an operator can mend.
const REFUSED: Duration = Duration::from_secs(30);

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It could not be opened, or broke.
    Broken,
    /// A message did not fit; the next stream starts with a snapshot.
    Mismatched,
    /// The controller refused the lease, and the agent keeps what it has.
    Refused(Refusal),
    /// The lease was given up and another is to be asked for, now.
    AskAnew,
}

/// How long to wait, as data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconnect {
    attempts: u32,
}

impl Reconnect {
    /// A stream ended on which a lease was granted that long ago. Whatever was wrong before is over if it then worked for a
    /// while: else the controller cannot be heard, and would be asked for everything again and again.
    pub fn held(&mut self, granted: Duration) {
        if granted >= STEADY {
            self.attempts = 0;
        }
    }

    /// How long to wait before the next attempt. `random` is in 0..1 and spreads the agents of a foundation over the
    /// second half of the pause, so that they do not all come back at once.
    pub fn after(&mut self, ended: Ended, random: f64) -> Duration {
        let pause = match ended {
            Ended::AskAnew => FIRST,
            Ended::Refused(Refusal::Contradiction | Refusal::Invalid | Refusal::NotYou) => REFUSED,
            Ended::Broken | Ended::Mismatched | Ended::Refused(Refusal::PoolExhausted) => self.growing(),
        };
        self.attempts = self.attempts.saturating_add(1);
        pause.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    fn growing(self) -> Duration {
        FIRST.saturating_mul(1 << self.attempts.min(16)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_grow_to_a_limit_and_start_again_after_a_stream_that_worked() {
        let mut reconnect = Reconnect::default();
        let pauses: Vec<_> = (0..8).map(|_| reconnect.after(Ended::Broken, 1.0).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        reconnect.held(STEADY / 2);
        assert_eq!(reconnect.after(Ended::Mismatched, 1.0), LONGEST, "it was granted and of no use");
        reconnect.held(STEADY);
        assert_eq!(reconnect.after(Ended::Broken, 1.0), FIRST);
    }

    #[test]
    fn what_only_an_operator_can_mend_is_not_hammered() {
        let mut reconnect = Reconnect::default();
        assert_eq!(reconnect.after(Ended::Refused(Refusal::NotYou), 0.0), REFUSED / 2);
        assert_eq!(reconnect.after(Ended::AskAnew, 1.0), FIRST);
    }

    proptest! {
        #[test]
        fn a_pause_is_never_nothing_and_never_long(attempts in 0u32..1_000_000, random in 0.0f64..1.0) {
            let pause = Reconnect { attempts }.after(Ended::Broken, random);
            prop_assert!(pause >= FIRST / 2 && pause <= LONGEST);
        }
    }
}
