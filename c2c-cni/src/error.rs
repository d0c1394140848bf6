//! Errors as CNI words them: a code, one line, and details. The codes are the specification's below 100; those from 100
//! on are the agent's (`c2c_proto::agent_api::code`).

use c2c_proto::agent_api::{ApiError, code};
use c2c_proto::agent_socket::CallError;
use serde_json::{Value, json};
use std::error::Error;
use std::io;

/// The version asked for is not one of ours.
pub(crate) const INCOMPATIBLE_VERSION: u32 = 1;
/// An environment variable is missing or cannot be right.
pub(crate) const INVALID_ENVIRONMENT: u32 = 4;
/// stdin cannot be read, or stdout not be written.
pub(crate) const IO_FAILURE: u32 = 5;
/// stdin cannot be decoded.
pub(crate) const DECODING_FAILURE: u32 = 6;
/// A field of the configuration is missing or cannot be right.
pub(crate) const INVALID_CONFIG: u32 = 7;
/// `CNI_NETNS` is the plugin's own namespace (the reference's, not in the specification).
pub(crate) const INVALID_NETNS: u32 = 8;

/// Why the plugin did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}{}{details}", if .details.is_empty() { "" } else { ": " })]
pub struct CniError {
    /// A CNI error code.
    pub code: u32,
    /// One line: what was tried, on what, what was expected.
    pub msg: String,
    /// The chain of causes, or what to do. May be empty.
    pub details: String,
}

impl CniError {
    /// An error of that code.
    pub(crate) fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The configuration is not JSON, or a field is of another type.
    pub(crate) fn decode(msg: impl Into<String>) -> Self {
        Self::new(DECODING_FAILURE, msg)
    }

    /// A field of the configuration cannot be right.
    pub(crate) fn config(msg: impl Into<String>) -> Self {
        Self::new(INVALID_CONFIG, msg)
    }

    /// stdin cannot be read.
    pub(crate) fn stdin(error: &io::Error) -> Self {
        Self::new(IO_FAILURE, format!("cannot read the network configuration from stdin: {error}"))
    }

    /// The answer cannot be written to stdout.
    pub(crate) fn output(error: &dyn Error) -> Self {
        Self::new(IO_FAILURE, format!("cannot write the answer to stdout: {error}"))
    }

    /// The same error with details.
    pub(crate) fn with(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The document that CNI wants on stdout.
    pub(crate) fn document(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "code": self.code, "msg": self.msg, "details": self.details })
    }
}

impl From<ApiError> for CniError {
    fn from(ApiError { code, msg, details }: ApiError) -> Self {
        Self { code, msg, details }
    }
}

impl From<CallError> for CniError {
    fn from(error: CallError) -> Self {
        let details = error.source().map(ToString::to_string).unwrap_or_default();
        match error {
            CallError::Refused(error) => error.into(),
            CallError::Unreachable { .. }
            | CallError::NotTheAgent { .. }
            | CallError::Deadline { .. }
            | CallError::Broken { .. } => Self::new(code::NO_AGENT, error.to_string()).with(details),
        }
    }
}
