//! Every way in which a request can fail, with policy-server-internal's status and text.

use crate::web;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// Why a request was not done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The body is too long or came too slowly.
    #[error("failed reading request body")]
    Read,
    /// The body is no JSON of this shape.
    #[error("failed parsing request body")]
    Json,
    /// A parameter that is no integer.
    #[error("invalid value for '{0}' parameter")]
    Integer(&'static str),
    /// What is stored could not be asked for. The log says more.
    #[error("database read failed")]
    Stored,
    /// There is no such tag, and none could be given.
    #[error("database create failed")]
    Create,
}

impl Failure {
    /// The log is told why.
    pub(super) fn read(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "what Silk's cells ask for could not be read");
        Self::Stored
    }

    /// The log is told why.
    pub(super) fn create(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::warn!(error, "a tag was not given");
        Self::Create
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Read | Self::Json => StatusCode::BAD_REQUEST,
            Self::Integer(_) | Self::Stored | Self::Create => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        web::error(self.status(), &self.to_string())
    }
}
