//! A file of rules, in Cloud Foundry's JSON.

use crate::cli::{Failure, output};
use crate::domain::GroupRules;
use std::io::Read;
use std::path::Path;

/// Reads the rules in a file, or on standard input for `-`. What the single rules mean is not asked here.
pub(super) fn read(path: &Path) -> Result<GroupRules, Failure> {
    let bytes = bytes(path)?;
    let rules = serde_json::from_slice(&bytes).map_err(|error| {
        Failure::Usage(format!(
            "file: {path:?} is not a list of rules: {error}; expected JSON such as [{{\"protocol\":\"tcp\",\"destination\":\"192.0.2.0/24\",\"ports\":\"443\"}}]"
        ))
    })?;
    GroupRules::parse("rules", rules).map_err(Failure::usage)
}

fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().read_to_end(&mut bytes).map(|_| bytes),
        Some(_) | None => std::fs::read(path),
    };
    read.map_err(|error| Failure::Usage(format!("file: cannot read {path:?}: {}", output::chain(&error))))
}
