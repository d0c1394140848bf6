//! Where the state is kept. [`Store`] is what every implementation promises; `conformance` is the suite that holds each
//! of them to it. Nothing here decides anything, and no implementation is known outside this folder but by its name.

#[cfg(test)]
pub(crate) mod conformance;
mod keys;
mod memory;
mod postgres;
pub(crate) mod record;
mod rows;
mod sled;

pub use self::postgres::{PostgresStore, PostgresUrl};
pub use self::sled::SledStore;
pub use memory::MemoryStore;

use crate::domain::{Commit, Inconsistent, Revision, State, Timestamp};
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// How many commits are kept for agents that resume. At one change a second it is most of three hours of absence; an
/// agent that was away longer takes a snapshot.
pub const LOG_LENGTH: u64 = 10_000;

/// Names one store for ever: revisions of another store mean nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreId(Arc<str>);

impl StoreId {
    /// Made once, with the store.
    fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()).into())
    }

    /// As it is stored and sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for StoreId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What came after a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// Every commit after it, in order, each once, as watchers are told of it ([`Commit::told`]).
    Commits(Vec<Arc<Commit>>),
    /// The store does not know any more, or not yet: take a snapshot.
    Compacted,
}

/// When leases were renewed, by their underlay address.
pub type Renewals = BTreeMap<Ipv4Addr, Timestamp>;

/// What other controllers wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Others {
    /// Every commit, in order, each once. A security group has the rules in it that it has after the last one, so they
    /// make the state that is stored when all of them are applied.
    Commits(Vec<Commit>),
    /// More than the store's log has: take a snapshot.
    Compacted,
}

/// What one controller at a time does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Importing security groups from Cloud Controller.
    ImportGroups,
    /// Removing policies of apps that are gone.
    CleanPolicies,
}

/// A duty that was taken; it is given back when this is dropped.
pub trait Lead: fmt::Debug + Send {
    /// Whether it is still ours. Blocks while the store is asked.
    fn still(&mut self) -> bool;
}

/// Leads because there is nobody else.
#[derive(Debug)]
struct Alone;

impl Lead for Alone {
    fn still(&mut self) -> bool {
        true
    }
}

/// Keeps the state. Calls block: what the disk or the database takes.
pub trait Store: fmt::Debug + Send + Sync {
    /// The store's identity, the same as long as it exists.
    fn id(&self) -> StoreId;

    /// Everything, at one revision.
    ///
    /// # Errors
    /// When what is stored cannot be read or makes no state.
    fn snapshot(&self) -> Result<State, StoreError>;

    /// Writes a commit, all of it or nothing. When this returns `Ok` the commit survives whatever happens to the process.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the commit does not follow the stored revision, and nothing was written. After any
    /// other error it is not known whether the commit will be there after a restart.
    fn commit(&self, commit: &Commit) -> Result<(), StoreError>;

    /// Notes when leases were renewed; nothing where there is none, or was renewed later. Makes no revision, and the last
    /// seconds of it may be lost with the process: the next heartbeat says it again.
    ///
    /// # Errors
    /// When it cannot be written.
    fn renew(&self, renewals: &Renewals) -> Result<(), StoreError>;

    /// When each lease was renewed, by all controllers that share the store; nothing when none do.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    fn renewals(&self) -> Result<Renewals, StoreError> {
        Ok(Renewals::new())
    }

    /// Whether a write would find room.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`], or when it cannot be told.
    fn has_room(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// How long it has been at what it was asked for; zero when it waits to be asked.
    fn silent_for(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether other controllers may write, too.
    fn is_shared(&self) -> bool {
        false
    }

    /// What other controllers wrote after the revision that we know; nothing when the store is ours alone.
    ///
    /// # Errors
    /// When what is stored cannot be read, or is older than what we know.
    fn others_since(&self, _known: Revision) -> Result<Others, StoreError> {
        Ok(Others::Commits(Vec::new()))
    }

    /// Waits until the store may be further than the revision that we know, or as long as it is told to.
    fn wait(&self, _known: Revision, patience: Duration) {
        std::thread::sleep(patience);
    }

    /// Takes a duty, unless another controller that shares the store has it.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn lead(&self, _duty: Duty) -> Result<Option<Box<dyn Lead>>, StoreError> {
        Ok(Some(Box::new(Alone)))
    }

    /// What came after a revision.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    fn changes_since(&self, revision: Revision) -> Result<Since, StoreError>;

    /// Makes it another store, with an identity of its own, that holds this state at revision 1 and nothing else: all of it,
    /// or the store is as it was. What it held has to be at revision `over`. The log begins with a commit that says nothing,
    /// because nobody has an earlier revision of that store.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the store is at another revision. After any other error it has to be opened again to
    /// know which it is.
    fn refill(self: Box<Self>, over: Revision, state: &State) -> Result<Box<dyn Store>, StoreError>;
}

/// Why the store cannot do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote first.
    #[error("revision {wanted} does not follow the stored revision {stored}")]
    Conflict {
        /// The commit's revision.
        wanted: Revision,
        /// The store's.
        stored: Revision,
    },
    /// The database refused; nothing was written.
    #[error("the store {place} did not take the change; nothing was written")]
    NotTaken {
        /// Where it is.
        place: String,
        /// What the database says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is too little room on the disk; nothing was written.
    #[error(
        "the disk of the store {place} has {free} MiB left, and nothing is written below {reserve} MiB; make room there"
    )]
    NoRoom {
        /// Where it is.
        place: String,
        /// What is left, in MiB.
        free: u64,
        /// What is kept, in MiB.
        reserve: u64,
    },
    /// It could not be reached just before; nobody was asked and nothing was written.
    #[error("{problem}; it is being tried again")]
    Away {
        /// What was said then.
        problem: String,
    },
    /// Another process has it.
    #[error("the store {place} is in use by another process; end that first")]
    InUse {
        /// Where it is.
        place: String,
    },
    /// It cannot be opened, read or written.
    #[error("the store {place} cannot be {tried}")]
    Failed {
        /// What was tried: "opened", "read" or "written".
        tried: &'static str,
        /// Where it is.
        place: String,
        /// What the database or the system says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is stored is not what was written.
    #[error(
        "the store {place} is damaged: {problem}; move it away and restore a backup, or start with an empty one (cells bring their leases back, policies and security groups have to be given again)"
    )]
    Damaged {
        /// Where it is.
        place: String,
        /// What was found.
        problem: String,
    },
    /// Written by another version of the controller.
    #[error("the store {place} has schema version {found}; this controller reads versions up to {expected}")]
    Schema {
        /// Where it is.
        place: String,
        /// The stored version.
        found: u32,
        /// Our latest.
        expected: u32,
    },
}

impl StoreError {
    /// Whether it is certain that nothing was written.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        matches!(
            self,
            Self::Conflict { .. } | Self::NotTaken { .. } | Self::NoRoom { .. } | Self::Away { .. }
        )
    }

    /// Whether it will not be better until the store is opened again.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Schema { .. })
    }

    fn inconsistent(place: String, error: &Inconsistent) -> Self {
        Self::Damaged { place, problem: error.to_string() }
    }
}

/// The commit that a refilled store begins with, as it is kept in the log.
fn refilled() -> Commit {
    Commit { revision: Revision::FIRST, changes: Vec::new() }
}

/// The oldest revision after which a store at `current` still has every commit.
pub(crate) fn log_start(current: Revision) -> Revision {
    Revision::new(current.get().saturating_sub(LOG_LENGTH))
}
