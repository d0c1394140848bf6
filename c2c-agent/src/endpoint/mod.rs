//! The containers of this cell: what is recorded of each, which address it has, and how it comes and goes.
//!
//! `manager` does what CNI asks and `change` what Garden asks later; `recovery` finds its way back after a crash and puts
//! back what drifted; `journal` keeps a record of every container on disk, and `metadata_file` tells other programs of the
//! cell; `ipam`, `ports` and `plan` are pure. What the kernel is told about interfaces is `host`'s, what the programs are
//! told is `fabric`'s.

mod book;
mod change;
mod failure;
mod ipam;
mod journal;
mod manager;
mod metadata_file;
mod plan;
mod ports;
mod record;
mod recovery;
mod settings;
#[cfg(test)]
mod tests;
mod turns;
mod wire;

pub use journal::Error;
pub(crate) use journal::{LAST_ADDRESS, LAST_PORT};
pub use manager::Manager;
pub(crate) use plan::GATEWAY;
pub use record::{Record, State};
pub use recovery::Report;
pub use settings::Settings;
pub use wire::Wire;
