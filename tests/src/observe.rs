//! What can be seen of a lab from outside: what agents say, what they counted, what a namespace's network looks like, and
//! which files are there.

pub mod counters;
pub mod metrics;
pub mod network;
pub mod status;
pub mod traces;

use anyhow::{Context, Result};
use std::path::Path;

/// Every file below a directory, by path; none when the directory does not exist.
pub fn files_below(directory: &Path) -> Result<Vec<String>> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", directory.display()))?;
        if entry.file_type().context("cannot read a file's type")?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path().display().to_string());
        }
    }
    files.sort();
    Ok(files)
}
