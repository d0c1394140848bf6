//! The lease keeper: a sans-IO machine. Time is an argument (since the Unix epoch, because a lease outlives a restart),
//! and so is the number of live containers.
//!
//! ```text
//!              Opened                Granted
//!   Unleased ----------> Requesting ----------> Held <------------------+
//!      ^  ^                 |                    |  Closed, or no ack   | Granted,
//!      |  +---- Refused ----+                    v  for 3 heartbeats    | Acked
//!      |        Closed                         Grace -------------------+
//!      |                                         |  not renewed for the |
//!      |  Contradicted, no container             v  tolerance           |
//!      +--------------------------------------- Lost -------------------+
//! ```
//!
//! A container is never cut off because of the lease: `Grace` changes nothing at all, and `Lost` only refuses new
//! containers and says so. A lease that the controller contradicts is given up once no container uses it.

use super::Grant;
use std::mem;
use std::time::Duration;

/// Heartbeats without an answer after which a lease counts as not renewed: two may be lost on the way.
const MISSED_HEARTBEATS: u32 = 3;

/// Where the lease stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No lease, and nobody is being asked for one.
    Unleased,
    /// No lease; the controller was asked.
    Requesting,
    /// The lease is renewed by heartbeats.
    Held(Tenure),
    /// The lease cannot be renewed at the moment. Everything goes on as before.
    Grace(Tenure),
    /// The lease must be assumed gone. What runs keeps running, nothing new is started.
    Lost(Tenure, Loss),
}

/// A lease and when it was last known to be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// What was granted.
    pub grant: Grant,
    /// When the controller last confirmed it.
    pub renewed: Duration,
}

/// Why a lease is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It was not renewed for the partition tolerance.
    Partitioned,
    /// The controller says that it is not this cell's; its words.
    Contradicted(String),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A stream was opened and a Hello was sent.
    Opened,
    /// The controller granted a lease.
    Granted(Grant),
    /// The controller refused a lease; its words.
    Refused(Refusal, String),
    /// The controller answered a heartbeat.
    Acked,
    /// The stream ended.
    Closed,
    /// Time passed. Wanted about once a second.
    Tick,
}

/// The controller's reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No block is free.
    PoolExhausted,
    /// The lease held is another cell's, or not this cell's any more.
    Contradiction,
    /// A field of the Hello cannot be right.
    Invalid,
    /// The certificate does not speak for this underlay address.
    NotYou,
}

/// What is to be done. What to enforce and to remember is not among it: that is [`Keeper::tenure`] and
/// [`Keeper::admits`], after every input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send a heartbeat.
    Heartbeat,
    /// End the stream.
    EndStream {
        /// Whether there is something new to ask for, so that the next stream should be opened soon.
        ask_anew: bool,
    },
    /// Tell the operator.
    Alarm(Alarm),
}

/// What the operator has to know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// The tolerance is over.
    #[error(
        "the lease was not renewed for {hours} h, the partition tolerance: containers keep running, new ones are \
         refused; bring the controller back, or drain the cell"
    )]
    Partitioned {
        /// The tolerance in hours.
        hours: u64,
    },
    /// The lease is contradicted while containers use it.
    #[error(
        "the controller contradicts this cell's lease ({message}) and {live} containers use it: they keep running, \
         new ones are refused; drain the cell, it then asks for a new lease by itself"
    )]
    Contradicted {
        /// The controller's words.
        message: String,
        /// Containers that live in the lease.
        live: usize,
    },
    /// The controller refused for a reason that has nothing to do with the lease held.
    #[error("the controller refused a lease ({reason:?}): {message}")]
    Refused {
        /// Its reason.
        reason: Refusal,
        /// Its words.
        message: String,
    },
}

/// Keeps the lease.
#[derive(Debug)]
pub struct Keeper {
    state: State,
    tolerance: Duration,
    last_heartbeat: Duration,
    /// Heartbeats go only to a stream that granted the lease.
    granted_on_stream: bool,
}

impl Keeper {
    /// A keeper that remembers `saved`. A saved lease is in `Grace` until the controller confirms it.
    #[must_use]
    pub fn new(tolerance: Duration, saved: Option<Tenure>) -> Self {
        let state = saved.map_or(State::Unleased, State::Grace);
        Self { state, tolerance, last_heartbeat: Duration::ZERO, granted_on_stream: false }
    }

    /// Where the lease stands.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The lease, good or not.
    #[must_use]
    pub fn tenure(&self) -> Option<&Tenure> {
        match &self.state {
            State::Unleased | State::Requesting => None,
            State::Held(tenure) | State::Grace(tenure) | State::Lost(tenure, _) => Some(tenure),
        }
    }

    /// Whether a new container may be given an address of the lease.
    #[must_use]
    pub fn admits(&self) -> bool {
        matches!(self.state, State::Held(_) | State::Grace(_))
    }

    /// Takes an input at `now` with `live` containers on the cell; answers what is to be done, in order.
    pub fn on(&mut self, input: Input, live: usize, now: Duration) -> Vec<Command> {
        match input {
            Input::Opened => {
                self.opened();
                Vec::new()
            }
            Input::Granted(grant) => self.granted(grant, live, now),
            Input::Refused(Refusal::Contradiction, message) => self.contradicted(message, live),
            Input::Refused(reason, message) => self.refused(reason, message),
            Input::Acked => {
                self.acked(now);
                Vec::new()
            }
            Input::Closed => {
                self.closed();
                Vec::new()
            }
            Input::Tick => self.tick(live, now),
        }
    }

    fn opened(&mut self) {
        if self.state == State::Unleased {
            self.state = State::Requesting;
        }
    }

    fn granted(&mut self, grant: Grant, live: usize, now: Duration) -> Vec<Command> {
        let held = self.tenure().map(|tenure| tenure.grant.lease.block);
        if let Some(held) = held
            && held != grant.lease.block
            && live > 0
        {
            return self.contradicted(format!("it granted {} in place of {held}", grant.lease.block), live);
        }
        self.last_heartbeat = now;
        self.granted_on_stream = true;
        self.state = State::Held(Tenure { grant, renewed: now });
        Vec::new()
    }

    fn contradicted(&mut self, message: String, live: usize) -> Vec<Command> {
        self.granted_on_stream = false;
        match mem::replace(&mut self.state, State::Unleased) {
            State::Unleased | State::Requesting => vec![Command::EndStream { ask_anew: false }],
            State::Held(_) | State::Grace(_) | State::Lost(..) if live == 0 => {
                vec![Command::EndStream { ask_anew: true }]
            }
            State::Held(tenure) | State::Grace(tenure) | State::Lost(tenure, _) => {
                self.state = State::Lost(tenure, Loss::Contradicted(message.clone()));
                vec![
                    Command::Alarm(Alarm::Contradicted { message, live }),
                    Command::EndStream { ask_anew: false },
                ]
            }
        }
    }

    fn refused(&mut self, reason: Refusal, message: String) -> Vec<Command> {
        self.closed();
        vec![Command::Alarm(Alarm::Refused { reason, message }), Command::EndStream { ask_anew: false }]
    }

    fn acked(&mut self, now: Duration) {
        self.state = match mem::replace(&mut self.state, State::Unleased) {
            State::Held(tenure) | State::Grace(tenure) | State::Lost(tenure, Loss::Partitioned) => {
                State::Held(Tenure { renewed: now, ..tenure })
            }
            other @ (State::Unleased | State::Requesting | State::Lost(_, Loss::Contradicted(_))) => other,
        };
    }

    fn closed(&mut self) {
        self.granted_on_stream = false;
        self.state = match mem::replace(&mut self.state, State::Unleased) {
            State::Unleased | State::Requesting => State::Unleased,
            State::Held(tenure) | State::Grace(tenure) => State::Grace(tenure),
            lost @ State::Lost(..) => lost,
        };
    }

    fn tick(&mut self, live: usize, now: Duration) -> Vec<Command> {
        let mut commands = self.heartbeat(now);
        let silent = |tenure: &Tenure| {
            now.saturating_sub(tenure.renewed) > heartbeat_period(&tenure.grant) * MISSED_HEARTBEATS
        };
        self.state = match mem::replace(&mut self.state, State::Unleased) {
            State::Held(tenure) if silent(&tenure) => State::Grace(tenure),
            State::Grace(tenure) if now.saturating_sub(tenure.renewed) > self.tolerance => {
                commands.push(Command::Alarm(Alarm::Partitioned { hours: self.tolerance.as_secs() / 3600 }));
                State::Lost(tenure, Loss::Partitioned)
            }
            State::Lost(_, Loss::Contradicted(_)) if live == 0 => {
                commands.push(Command::EndStream { ask_anew: true });
                State::Unleased
            }
            other @ (State::Unleased
            | State::Requesting
            | State::Held(_)
            | State::Grace(_)
            | State::Lost(..)) => other,
        };
        commands
    }

    /// The distance to the last heartbeat is taken in both directions, so that a clock set back does not silence it.
    fn heartbeat(&mut self, now: Duration) -> Vec<Command> {
        let due = self.granted_on_stream
            && self
                .tenure()
                .is_some_and(|tenure| now.abs_diff(self.last_heartbeat) >= heartbeat_period(&tenure.grant));
        if !due {
            return Vec::new();
        }
        self.last_heartbeat = now;
        vec![Command::Heartbeat]
    }
}

fn heartbeat_period(grant: &Grant) -> Duration {
    Duration::from_secs(grant.heartbeat_seconds.max(1))
}

#[cfg(test)]
mod tests;
