//! What can be wrong with a configuration.

use std::io;
use std::path::PathBuf;

/// Why the agent cannot start with what it was told.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there, or not readable.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not TOML, has an unknown key, or a value of another type.
    #[error("the configuration file {} has a fault", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A key that has no default is not set.
    #[error("{key} is not set: give it in the configuration file, as C2C_{} or as --{}", key.to_uppercase(), key.replace('_', "-"))]
    Missing {
        /// Which key.
        key: &'static str,
    },
    /// A value cannot be right.
    #[error("{key} = {found:?}: expected {expected}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What it is set to.
        found: String,
        /// What it can be.
        expected: &'static str,
    },
    /// A name server is not an address; Silk's words, and which key.
    #[error(
        "invalid DNS server {found:?}, must be valid IP address (dns_servers; IPv4, because IPv6 is not carried)"
    )]
    DnsServer {
        /// What stands there.
        found: String,
    },
}

impl ConfigError {
    pub(super) fn value(key: &'static str, found: &str, expected: &'static str) -> Self {
        Self::Value { key, found: found.to_owned(), expected }
    }
}
