//! Replies: JSON, and every way in which a request can fail, with its status and text.

use crate::auth::AuthError;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Why a request was not done. The text is what `cf` prints.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Who calls is not known, or may not.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// A version that there is not.
    #[error("api version '{}' not supported", shortened(.0))]
    Version(String),
    /// The body cannot be read, is too long or came too slowly.
    #[error("{0}")]
    Body(&'static str),
    /// The body says something that cannot be.
    #[error("mapper: {}", shortened(.0))]
    Mapper(String),
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(&'static str),
    /// There is no such route.
    #[error("not found")]
    NotFound,
    /// There is no such method here.
    #[error("method not allowed")]
    Method,
    /// It is not the caller's fault; the log says more.
    #[error("{0}")]
    Internal(&'static str),
}

impl Failure {
    /// The log is told why.
    pub(super) fn internal(text: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "{text}");
        Self::Internal(text)
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Auth(error) => {
                StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
            Self::Version(_) => StatusCode::NOT_ACCEPTABLE,
            Self::Body(_) | Self::Mapper(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.status();
        // With the space that Cloud Foundry's policy server has here.
        let text = serde_json::Value::from(self.to_string());
        let mut response = (status, of_bytes(format!("{{\"error\": {text}}}").into_bytes())).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A value as a reply.
pub(super) fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => of_bytes(bytes),
        Err(error) => {
            tracing::error!(%error, "a reply cannot be written as JSON");
            Failure::Internal("reply failed").into_response()
        }
    }
}

/// JSON that is written already.
pub(super) fn of_bytes(bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// At most 300 characters: what was sent is repeated in texts, and may be megabytes.
fn shortened(text: &str) -> &str {
    text.char_indices().nth(300).map_or(text, |(end, _)| text.get(..end).unwrap_or(text))
}
