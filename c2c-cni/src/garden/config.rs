//! The configuration file that guardian is told to hand over: CF's `adapter.json`, of which little concerns us, with our
//! own keys if an operator adds them.

use crate::conf::Reach;
use crate::error::CniError;
use crate::fields::Fields;
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

/// What begins each line on stderr unless the file says another.
const DEFAULT_PREFIX: &str = "c2c-cni";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) log_prefix: String,
    /// `None`: as the agent is configured. An empty list is what CF's templates write for none.
    pub(super) search_domains: Option<Vec<String>>,
    pub(super) reach: Reach,
}

impl Default for Config {
    fn default() -> Self {
        Self { log_prefix: DEFAULT_PREFIX.to_owned(), search_domains: None, reach: Reach::default() }
    }
}

impl Config {
    /// Reads the file. Keys that do not concern us are tolerated.
    pub(super) fn read(file: &Path) -> Result<Self, CniError> {
        let fault = |error: &dyn std::fmt::Display| {
            CniError::config(format!("parse args: configFile {}: {error}", file.display()))
        };
        let bytes = fs::read(file).map_err(|error| fault(&error))?;
        let object: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|error| fault(&error))?;
        Self::of(&Fields::of(&object)).map_err(|error| fault(&error))
    }

    fn of(fields: &Fields<'_>) -> Result<Self, CniError> {
        Ok(Self {
            log_prefix: fields.text("log_prefix")?.unwrap_or(DEFAULT_PREFIX).to_owned(),
            search_domains: fields.texts("search_domains")?.filter(|domains| !domains.is_empty()),
            reach: Reach::read(fields)?,
        })
    }
}
