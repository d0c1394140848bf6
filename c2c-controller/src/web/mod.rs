//! What the servers of Cloud Foundry's HTTP APIs share: connections, bodies, replies, and the headers that go with each. What
//! is served, and to whom, is the business of `rest`, `internal` and `silk`.

mod answer;
mod body;
mod listener;
mod query;
mod security;

pub(crate) use answer::{error, json, of_bytes};
pub(crate) use body::{blocking, read};
pub(crate) use listener::run;
pub(crate) use query::value;
pub(crate) use security::{only_over_tls, secure};
