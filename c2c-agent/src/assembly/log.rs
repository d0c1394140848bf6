//! What the agent logs, and how loud. The filter can be changed while it runs.

use anyhow::Context;
use std::env;
use std::io::{self, IsTerminal};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// The handle of the log's filter.
#[derive(Debug)]
pub(super) struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// The filter cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error("log = {0:?}: expected a filter such as \"info\" or \"info,c2c_agent::policy=debug\"")]
    Filter(String, #[source] tracing_subscriber::filter::ParseError),
    #[error("cannot change the log's filter")]
    Reload(#[from] reload::Error),
}

impl Log {
    /// Logs to standard error; without time stamps when that is the journal, which has its own.
    pub(super) fn start(filter: &str) -> anyhow::Result<Self> {
        let (filter, handle) = reload::Layer::new(parse(filter)?);
        let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
        let lines = if env::var_os("JOURNAL_STREAM").is_some() {
            lines.without_time().boxed()
        } else {
            lines.boxed()
        };
        let log = tracing_subscriber::registry().with(filter).with(lines);
        log.try_init().context("a log was started before")?;
        Ok(Self { filter: handle })
    }

    /// Changes the filter.
    pub(super) fn set(&self, filter: &str) -> Result<(), LogError> {
        Ok(self.filter.reload(parse(filter)?)?)
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder().parse(filter).map_err(|error| LogError::Filter(filter.to_owned(), error))
}
