//! Every way in which a request can fail, with silk-controller's status and text. 409 is final to silk-daemon: it ends with
//! its cell's network as it is. So nothing is a 409 that another attempt may mend, but for a pool without a free lease.

use crate::domain::{LeaseRefusal, Refusal};
use crate::ledger::LedgerError;
use crate::store::StoreError;
use crate::web;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The body is too long or came too slowly.
    #[error("read-body: the request is too long or came too slowly")]
    Read,
    /// The body is no JSON of this shape.
    #[error("unmarshal-request: {0}")]
    Json(serde_json::Error),
    /// What should be a cell's address is none.
    #[error("invalid ipv4 address: {0}")]
    Address(String),
    /// Nothing is free.
    #[error("no lease available")]
    Exhausted,
    /// The cell may not have what it holds.
    #[error("renew-subnet-lease: {0}")]
    Renewal(String),
    /// Somebody else did it in the same moment.
    #[error("the lease was taken away while it was given")]
    TakenAway,
    /// The change was not stored.
    #[error("{0}")]
    Store(String),
    /// We are stopping.
    #[error("the work was interrupted")]
    Interrupted,
}

impl Failure {
    pub(super) fn mismatch() -> Self {
        Self::Renewal("lease mismatch".to_owned())
    }

    pub(super) fn renewal(why: &Self) -> Self {
        Self::Renewal(why.to_string())
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Read | Self::Json(_) => StatusCode::BAD_REQUEST,
            Self::Exhausted | Self::Renewal(_) => StatusCode::CONFLICT,
            Self::Address(_) | Self::TakenAway | Self::Store(_) | Self::Interrupted => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Refused(Refusal::Lease(refusal)) => refusal.into(),
            error @ (LedgerError::Refused(_)
            | LedgerError::Store(_)
            | LedgerError::Broken
            | LedgerError::Busy) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a lease could not be stored");
                Self::Store(error.to_string())
            }
        }
    }
}

impl From<LeaseRefusal> for Failure {
    fn from(refusal: LeaseRefusal) -> Self {
        tracing::warn!(%refusal, "a cell that runs Silk gets no lease");
        match refusal {
            LeaseRefusal::PoolExhausted { .. } | LeaseRefusal::SinglesExhausted { .. } => Self::Exhausted,
            LeaseRefusal::NotThisOne { .. } => Self::mismatch(),
            other @ (LeaseRefusal::HeldByAnother { .. }
            | LeaseRefusal::TakenAway { .. }
            | LeaseRefusal::OutsidePool { .. }
            | LeaseRefusal::NameInUse { .. }) => Self::Renewal(other.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "leases could not be read");
        Self::Store(error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        web::error(self.status(), &self.to_string())
    }
}
