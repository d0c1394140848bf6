//! The controller: leases blocks of the overlay network to cells, owns policies and tags, streams every change.
//!
//! `domain` decides, `store` keeps, `ledger` does both under one lock and tells `watch`, whose subscriptions `api` turns
//! into messages; `rest` is Cloud Foundry's policy API, for those whose tokens `auth` verifies, and `cloud` asks Cloud
//! Controller what they may, both over `https`. `internal` is what cells that still run Silk ask, their leases by
//! `silk`; `web` is what all HTTP APIs share. `backup` is the state as a file, `import` what the incumbents' databases hold. `assembly` puts them
//! together for `serve`, with the `certificates` that it shows and the `metrics` that say how it does; `cli` is also the
//! operator's client.

pub mod api;
pub mod assembly;
pub mod auth;
pub mod backup;
pub mod certificates;
pub mod cli;
pub mod cloud;
pub mod config;
pub mod domain;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod https;
pub mod import;
mod internal;
pub mod ledger;
mod memory;
pub mod metrics;
pub mod pki;
pub mod rest;
pub mod silk;
pub mod store;
pub mod watch;
mod web;
