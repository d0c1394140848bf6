//! What the controller decides, as pure functions: leases, tags, policies, security groups, revisions.
//!
//! A [`State`] and a [`Command`] give the [`Change`]s to make, or a [`Refusal`]; applying a [`Commit`] of changes gives
//! the next state. No clock, randomness, store, network or runtime is used here: time and random numbers are arguments.

mod clock;
mod decide;
mod figures;
mod group;
mod import;
mod lease;
mod name;
mod policy;
mod pool;
mod revision;
mod silk;
mod stamp;
mod state;
mod tag;
#[cfg(test)]
mod tests;

pub use clock::{Heard, Moment, Now, SILENCE_SECONDS, Timestamp, Uptime};
pub use decide::{Acquire, Command, LeaseRefusal, Refusal, Rules, decide};
pub use figures::{Figures, LeaseFigures, TagFigures};
pub use group::{Binding, GroupRules, Reach, SecurityGroup, Workload};
pub use lease::{Lease, hardware_address};
pub use name::{AppId, CellName, GroupGuid, GroupName, SpaceId};
pub use policy::{Policy, Ports, Protocol, TaggedPolicy};
pub use pool::{LeaseSize, Pool, PoolError};
pub use revision::{Change, Commit, Revision};
pub use stamp::{Stamp, stamped};
pub use state::{Inconsistent, Parts, State};
pub use tag::{QUARANTINE_SECONDS, Tag, TagFreed, TagHeld};

/// A value that cannot be right, as one line: the field, what it was, what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}; expected {expected}")]
pub struct Invalid {
    /// The field's name as the sender knows it.
    pub field: &'static str,
    /// What is wrong with the value.
    pub problem: String,
    /// What would have been right.
    pub expected: &'static str,
}
