//! Replies as Cloud Foundry's servers write them: JSON, errors too.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// A refusal with its text.
pub(crate) fn error(status: StatusCode, text: &str) -> Response {
    // With the space that Cloud Foundry's servers have here.
    let text = serde_json::Value::from(text);
    (status, of_bytes(format!("{{\"error\": {text}}}").into_bytes())).into_response()
}

/// A value as a reply.
pub(crate) fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => of_bytes(bytes),
        Err(error) => {
            tracing::error!(%error, "a reply cannot be written as JSON");
            self::error(StatusCode::INTERNAL_SERVER_ERROR, "reply failed")
        }
    }
}

/// JSON that is written already.
pub(crate) fn of_bytes(bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
