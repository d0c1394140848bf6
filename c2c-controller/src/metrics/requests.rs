//! Counts the requests of the policy API by route and status.

use super::Meters;
use super::meters::Request as Labels;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;

/// A layer that counts.
pub async fn count_request(State(meters): State<Meters>, request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or_else(|| "none".to_owned(), |matched| matched.as_str().to_owned());
    let response = next.run(request).await;
    let status = response.status().as_u16();
    meters.requests.get_or_create(&Labels { route, status }).inc();
    response
}
