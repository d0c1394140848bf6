//! The controller from outside: its own binary, real certificates, real connections, on this machine's loopback.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod agents;
mod backup;
#[path = "../../src/store/postgres/cluster.rs"]
mod cluster;
mod durability;
mod full_disk;
mod groups;
mod harness;
mod import;
mod kill;
mod operation;
mod operators;
mod postgres;
mod tls;
