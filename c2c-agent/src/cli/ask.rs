//! Asking the running agent, and showing the answer as a table or as the JSON it is.

use c2c_proto::agent_api::{DEFAULT_SOCKET, Request};
use c2c_proto::agent_socket::Client;
use clap::Args;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::time::Duration;

/// Even a full flow table is read in a second.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where to ask, and how to show the answer.
#[derive(Debug, Args)]
pub(super) struct Ask {
    /// The agent's socket
    #[arg(long, env = "C2C_SOCKET", value_name = "FILE", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Show JSON, whose field names are stable
    #[arg(long)]
    json: bool,
}

impl Ask {
    /// Asks, and answers the text to be shown.
    pub(super) fn show<P: DeserializeOwned>(
        &self,
        request: &Request,
        table: fn(&P) -> String,
    ) -> anyhow::Result<String> {
        let answer = Client::new(&self.socket, DEADLINE).call(request, None)?;
        if self.json {
            return Ok(serde_json::to_string_pretty(&answer)? + "\n");
        }
        Ok(table(&serde_json::from_value(answer)?))
    }
}
