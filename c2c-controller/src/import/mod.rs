//! What an existing foundation has, taken over: the rows of silk-controller's and policy-server's databases become a state.
//! `database` reads the rows, `convert` says what each means here, and which cannot be taken and why. Nothing is written
//! here. The incumbents' tags are kept as they are, because cells that still run Silk go on enforcing them.

mod convert;
mod database;
#[cfg(test)]
mod tests;

pub use convert::{Imported, convert};
pub use database::{ImportError, read_policies, read_subnets};

use serde::Serialize;

/// The rows of the incumbents' tables, as they are. What can be missing is an option, whatever the schema says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Table `subnets`.
    pub subnets: Vec<Subnet>,
    /// Table `groups`, as far as somebody has the tag.
    pub tags: Vec<TagRow>,
    /// Tables `policies` and `destinations`.
    pub policies: Vec<PolicyRow>,
    /// Table `security_groups`.
    pub security_groups: Vec<GroupRow>,
}

/// A cell's lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subnet {
    /// The row's number.
    pub id: i64,
    /// `underlay_ip`
    pub underlay: Option<String>,
    /// `overlay_subnet`
    pub block: Option<String>,
    /// `overlay_hwaddr`
    pub hardware_address: Option<String>,
    /// `last_renewed_at`, in seconds since the epoch.
    pub renewed: Option<i64>,
}

/// A tag that somebody has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagRow {
    /// The row's number, which is the tag.
    pub id: i64,
    /// Who has it.
    pub guid: Option<String>,
    /// `app` or `router`.
    pub kind: Option<String>,
}

/// A policy with its destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRow {
    /// The row's number.
    pub id: i64,
    /// The source's tag.
    pub source: Option<i64>,
    /// The destination's tag.
    pub destination: Option<i64>,
    /// `tcp` or `udp`
    pub protocol: Option<String>,
    /// The one port, in rows of before there were ranges.
    pub port: Option<i64>,
    /// The first port.
    pub start: Option<i64>,
    /// The last port.
    pub end: Option<i64>,
}

/// A security group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRow {
    /// The row's number.
    pub id: i64,
    /// Cloud Controller's GUID of it.
    pub guid: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// A JSON array of rules.
    pub rules: Option<String>,
    /// Whether it applies to all spaces: running, staging.
    pub defaults: [Option<bool>; 2],
    /// To which it applies, as a JSON array of GUIDs: running, staging.
    pub spaces: [Option<String>; 2],
}

/// A row that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Its table.
    pub table: &'static str,
    /// Its `id`.
    pub id: i64,
    /// Why, on one line.
    pub reason: String,
}
