//! The pages that every daemon has for Prometheus, load balancers and people: `/metrics`, `/healthz` (the process works)
//! and `/readyz` (it can do its work; else what is wrong, a line each). What they say is the daemon's; how it is served and
//! written is the same for all.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

/// `OpenMetrics`, which Prometheus has asked for since version 2.5.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whose pages they are. Both calls may block.
pub trait Observed: Clone + Send + Sync + 'static {
    /// Everything that can be counted, made anew for each scrape.
    ///
    /// # Errors
    /// One line, when there is no page.
    fn metrics(&self) -> Result<String, String>;

    /// Why the daemon cannot do its work, a line each; nothing when it can.
    fn problems(&self) -> Vec<String>;
}

/// Why the pages cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    /// The address cannot be used.
    #[error("cannot listen on metrics_address {address}: is it another program's, or not this machine's?")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The listener failed while serving.
    #[error("the metrics listener has failed")]
    Serve(#[source] io::Error),
}

/// Opens the listener.
///
/// # Errors
/// When the address cannot be used.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, PagesError> {
    TcpListener::bind(address).await.map_err(|source| PagesError::Listen { address, source })
}

/// Serves the pages until `stop` is ready.
///
/// # Errors
/// When the listener fails; what a client sends is never a reason.
pub async fn serve(
    listener: TcpListener,
    observed: impl Observed,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), PagesError> {
    axum::serve(listener, router(observed)).with_graceful_shutdown(stop).await.map_err(PagesError::Serve)
}

fn router<O: Observed>(observed: O) -> Router {
    Router::new()
        .route("/metrics", get(metrics::<O>))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready::<O>))
        .with_state(observed)
}

async fn metrics<O: Observed>(State(observed): State<O>) -> Response {
    match spawn_blocking(move || observed.metrics()).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready<O: Observed>(State(observed): State<O>) -> Response {
    match spawn_blocking(move || observed.problems()).await {
        Ok(problems) if problems.is_empty() => "ready\n".into_response(),
        Ok(problems) => (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The page of `/metrics` as text.
///
/// # Errors
/// When it cannot be written.
pub fn text(registry: &Registry) -> Result<String, fmt::Error> {
    let mut page = String::new();
    text::encode(&mut page, registry)?;
    Ok(page)
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// A value that goes up and down.
pub fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(number(value));
    registry.register(name, help, gauge);
}

/// A value that goes up.
pub fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter = Counter::<u64>::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

/// Gauges of the same thing in each of its states; or, with [`current`], which state it is in.
pub fn by_state(
    registry: &mut Registry,
    name: &str,
    help: &str,
    states: impl IntoIterator<Item = (&'static str, u64)>,
) {
    let family = Family::<StateLabel, Gauge>::default();
    for (state, value) in states {
        family.get_or_create(&StateLabel { state }).set(number(value));
    }
    registry.register(name, help, family);
}

/// Each of the states with 1 if it is the present one, else 0.
pub fn current<const N: usize>(
    states: [&'static str; N],
    current: &str,
) -> impl Iterator<Item = (&'static str, u64)> {
    states.into_iter().map(move |state| (state, u64::from(state == current)))
}

/// Which version runs.
pub fn build(registry: &mut Registry, help: &str, version: &'static str) {
    let build = Family::<Build, Gauge>::default();
    build.get_or_create(&Build { version }).set(1);
    registry.register("build_info", help, build);
}

/// Gauges are signed in OpenMetrics' client; nothing here comes near the limit.
#[must_use]
pub fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
