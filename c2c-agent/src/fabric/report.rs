//! What a reconcile pass did.

use serde::Serialize;
use std::fmt::Display;

/// What a pass over the kernel's state found and did. Each entry is one line for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What had drifted and was put back.
    pub repaired: Vec<String>,
    /// What could not be put back; the next pass tries again.
    pub failed: Vec<String>,
}

impl Report {
    /// Notes something that was put back.
    pub fn repaired(&mut self, what: impl Display) {
        self.repaired.push(what.to_string());
    }

    /// Notes something that failed, with the chain of causes.
    pub fn failed(&mut self, what: impl Display, error: &dyn std::error::Error) {
        self.failed.push(format!("{what}: {}", chain(error)));
    }

    /// Notes the failure of an attempt, if it failed.
    pub fn note<E: std::error::Error>(&mut self, what: impl Display, attempt: Result<(), E>) {
        if let Err(error) = attempt {
            self.failed(what, &error);
        }
    }

    /// Takes in what another pass did.
    pub fn merge(&mut self, other: Self) {
        self.repaired.extend(other.repaired);
        self.failed.extend(other.failed);
    }
}

/// An error and its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
