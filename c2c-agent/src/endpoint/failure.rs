//! What the shim is told when something fails: one CNI code for each different reaction, one line, and the causes.

use crate::host;
use c2c_proto::agent_api::{ApiError, Attachment, code};
use std::error::Error;

/// A failure that needs no more words.
pub(super) fn failure(code: u32, msg: impl Into<String>) -> ApiError {
    ApiError { code, msg: msg.into(), details: String::new() }
}

/// A failure with the chain of its causes.
pub(super) fn caused(code: u32, msg: impl Into<String>, cause: &dyn Error) -> ApiError {
    ApiError { code, msg: msg.into(), details: chain(cause) }
}

/// What the kernel's network refused, for this container.
pub(super) fn of_host(attachment: &Attachment, error: &host::Error) -> ApiError {
    let code = if let host::Error::Exists { .. } = error { code::EXISTS } else { code::HOST };
    caused(code, format!("the interfaces of {} are not as asked", called(attachment)), error)
}

/// A container in a message.
pub(super) fn called(attachment: &Attachment) -> String {
    format!("container {} ({})", attachment.container_id, attachment.ifname)
}

/// An error and its causes, on one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
