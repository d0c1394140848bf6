//! What cells that still run Silk ask, from outside: the controller's own binary, clients with certificates of Silk's CA, and
//! the bytes that Silk's components send.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod access;
#[path = "../../src/store/postgres/cluster.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod cluster;
mod harness;
mod leases;
mod policies;
mod replicas;
#[path = "../started/mod.rs"]
mod started;
