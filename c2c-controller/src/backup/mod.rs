//! A backup: one state at one revision, as lines of JSON that say what they are. The first line is the [`Header`], then
//! comes one line for each record, and the last one has the SHA-256 of all before it, so that a file that was cut off or
//! altered is refused. Records are as stores keep them (`store::record`), so a backup of one kind of store fills another.
//!
//! ```text
//! {"format":"c2c-controller backup","version":2,"store":"…","revision":17,"taken":1763000000,"policies_changed":…,"counts":{"leases":1,…}}
//! {"lease":{"cell":"cell-1","underlay":"192.0.2.11","block":"10.255.7.0/24","renewed":1763000000}}
//! {"policy":{"source":"…","destination":"…","protocol":6,"start":7000,"end":7010,"source_tag":1,"destination_tag":2}}
//! {"freed_tag":{…}}   {"held_tag":{…}}   {"security_group":{…}}   {"binding":{…}}
//! {"end":{"sha256":"…"}}
//! ```

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{Backup, BackupError, read};
pub use write::write;

use crate::domain::{Parts, Revision, Timestamp};
use crate::store::StoreId;
use crate::store::record::{BindingRecord, FreedRecord, GroupRecord, HeldRecord, LeaseRecord, PolicyRecord};
use serde::{Deserialize, Serialize};

const FORMAT: &str = "c2c-controller backup";
/// Of the lines. A controller refuses later ones.
const VERSION: u32 = 2;
/// Without routers' tags and without when policies changed. Read as well.
const FIRST_VERSION: u32 = 1;

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    format: String,
    version: u32,
    /// The store's identity.
    pub store: String,
    /// The store's revision.
    pub revision: u64,
    /// When, in seconds since the epoch.
    pub taken: u64,
    /// When policies last changed, in nanoseconds since the epoch.
    #[serde(default)]
    pub policies_changed: u64,
    /// How much there is of each kind.
    pub counts: Counts,
}

impl Header {
    /// Of these parts of a store.
    #[must_use]
    pub fn new(store: &StoreId, taken: Timestamp, parts: &Parts) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            store: store.to_string(),
            revision: parts.revision.get(),
            taken: taken.0,
            policies_changed: parts.stamp.0,
            counts: Counts::of(parts),
        }
    }

    fn revision(&self) -> Revision {
        Revision::new(self.revision)
    }
}

/// How much there is of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Leases.
    pub leases: usize,
    /// Policies.
    pub policies: usize,
    /// Tags that are nobody's.
    pub freed_tags: usize,
    /// Tags that routers hold.
    #[serde(default)]
    pub held_tags: usize,
    /// Security groups.
    pub security_groups: usize,
    /// Their bindings.
    pub bindings: usize,
}

impl Counts {
    /// Of what a state is made of.
    #[must_use]
    pub fn of(parts: &Parts) -> Self {
        let Parts { revision: _, stamp: _, leases, policies, freed, held, groups, bindings } = parts;
        Self {
            leases: leases.len(),
            policies: policies.len(),
            freed_tags: freed.len(),
            held_tags: held.len(),
            security_groups: groups.len(),
            bindings: bindings.len(),
        }
    }
}

/// A line after the first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Lease(LeaseRecord),
    Policy(PolicyRecord),
    FreedTag(FreedRecord),
    HeldTag(HeldRecord),
    SecurityGroup(GroupRecord),
    Binding(BindingRecord),
    End(End),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    /// Of all lines before, in hexadecimal.
    sha256: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
