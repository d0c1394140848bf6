//! The external policy API from outside: the controller's own binary, its real listener, tokens of a UAA whose keys are
//! made here, and a Cloud Controller that does what a test wants; both over TLS.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod access;
mod api;
mod cc;
mod cf;
mod cleanup;
mod harness;
mod importer;
#[path = "../started/mod.rs"]
mod started;
mod stub;
mod uaa;
