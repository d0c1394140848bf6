//! The external policy API from outside: the controller's own binary, its real listener, tokens of a UAA whose keys are
//! made here and served over TLS.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod api;
mod cf;
mod harness;
mod uaa;
