//! Every way in which a request can fail, with its status and text.

use crate::auth::AuthError;
use crate::web;
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

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
        let mut response = web::error(status, &self.to_string());
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// At most 300 characters: what was sent is repeated in texts, and may be megabytes.
fn shortened(text: &str) -> &str {
    text.char_indices().nth(300).map_or(text, |(end, _)| text.get(..end).unwrap_or(text))
}
