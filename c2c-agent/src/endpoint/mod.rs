//! The containers of this cell: what is recorded of each, which address it has, and how it comes and goes.
//!
//! `manager` does what CNI asks; `recovery` finds its way back after a crash and puts back what drifted; `journal` keeps
//! a record of every container on disk; `ipam` and `plan` are pure. What the kernel is told about interfaces is `host`'s,
//! what the programs are told is `fabric`'s.

mod book;
mod failure;
mod ipam;
mod journal;
mod manager;
mod plan;
mod record;
mod recovery;
#[cfg(test)]
mod tests;
mod turns;
mod wire;

pub use journal::Error;
pub(crate) use journal::LAST_ADDRESS;
pub use manager::Manager;
pub use record::{Record, State};
pub use recovery::Report;
pub use wire::Wire;
