//! The metrics page for Prometheus, and two pages for load balancers and people: `/healthz` (the process works) and
//! `/readyz` (an ADD can be served and everything known is enforced; else what is wrong).

mod page;

use crate::fabric::report_chain;
use crate::status::Observer;
use crate::stop::Stop;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Why the pages cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address cannot be used.
    #[error("cannot listen on metrics_address {address}: is it another program's, or not this cell's?")]
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
pub async fn listen(address: SocketAddr) -> Result<TcpListener, MetricsError> {
    TcpListener::bind(address).await.map_err(|source| MetricsError::Listen { address, source })
}

/// Serves the pages until `stop` is true.
///
/// # Errors
/// When the listener fails; what a client sends is never a reason.
pub async fn serve(listener: TcpListener, observer: Observer, mut stop: Stop) -> Result<(), MetricsError> {
    let pages = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(observer);
    axum::serve(listener, pages)
        .with_graceful_shutdown(async move { stop.said().await })
        .await
        .map_err(MetricsError::Serve)
}

/// Reading the maps blocks for as long as they are large.
async fn metrics(State(observer): State<Observer>) -> Response {
    let text = tokio::task::spawn_blocking(move || page::text(&observer)).await;
    match text {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, page::CONTENT_TYPE)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, report_chain(&error)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(observer): State<Observer>) -> Response {
    let problems = tokio::task::spawn_blocking(move || observer.facts().problems()).await;
    match problems {
        Ok(problems) if problems.is_empty() => "ready\n".into_response(),
        Ok(problems) => (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
