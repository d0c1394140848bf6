//! The command line. `serve` is the agent; everything else but `uninstall` asks the running one over its socket.

mod ask;
mod check;
mod table;
mod uninstall;

use crate::assembly;
use crate::config::{Config, ConfigError, Layer};
use crate::fabric::report_chain;
use ask::Ask;
use c2c_proto::agent_api::Request;
use c2c_proto::agent_socket::CallError;
use clap::{Args, Parser, Subcommand};
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// It was refused, or failed.
const FAILED: u8 = 1;
/// What was asked cannot be right; clap ends with the same.
const USAGE: u8 = 2;
/// Nobody answers on the agent's socket.
const UNREACHABLE: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  c2c-agent serve --config /etc/c2c/agent.toml    run the agent (the systemd unit does this)
  c2c-agent status                                what this cell holds, and what is wrong
  c2c-agent counters                              why was it refused? drops by program and reason
  c2c-agent flows --json | jq '.flows[] | select(.verdict != \"allowed\")'
  c2c-agent egress                                what each container may reach outside, and by whose rules

Exit codes: 0 done, 1 refused or failed, 2 usage or configuration, 3 the agent cannot be reached";

const SERVE_EXAMPLES: &str = "\
Every key of the configuration file can also be given as C2C_KEY in the environment or as a flag; a flag wins over the
environment, the environment over the file.

Signals: SIGTERM stops the agent and leaves everything enforced; SIGHUP reads the certificates, `trace`, `log` and what
containers may reach (`no_masquerade`, `host_*`, `deny_networks_*`, `outbound_*`, `static_egress`) again.

Examples:
  c2c-agent serve --config /etc/c2c/agent.toml
  c2c-agent serve --config /etc/c2c/agent.toml --check-config
  c2c-agent serve --config /etc/c2c/agent.toml --log info,c2c_agent=debug --trace drops";

/// One per cell of a c2c container network: keeps the cell's lease, follows the controller, wires containers and
/// enforces policies in eBPF.
#[derive(Debug, Parser)]
#[command(name = "c2c-agent", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<Start>),
    /// Lease, stream, revision and datapath of this cell, and what is wrong
    Status(Ask),
    /// The containers of this cell
    Endpoints(Ask),
    /// The policies that touch this cell's apps
    Policies(Ask),
    /// The flow tables: between containers, and with the outside
    Flows(Ask),
    /// What the containers may reach outside, and by whose rules
    Egress(Ask),
    /// The cell's ports that lead into containers
    Ports(Ask),
    /// Packets by program and what was done with them, and how full the maps are
    Counters(Ask),
    /// Remove programs, maps, interfaces and state from this cell; the agent must be stopped
    Uninstall(Box<Uninstall>),
}

#[derive(Debug, Args)]
struct Start {
    /// Check the configuration, the files that it names and the underlay device, show what the agent would run with, and start
    /// nothing
    #[arg(long)]
    check_config: bool,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, Args)]
struct Serve {
    /// The configuration file, TOML
    #[arg(long, env = "C2C_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    layer: Layer,
}

#[derive(Debug, Args)]
struct Uninstall {
    /// Also when containers are wired; they lose their network
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    serve: Serve,
}

/// Does what the command line says, and tells how it went.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done about a closed standard error.
            let _ = writeln!(io::stderr(), "c2c-agent: {}", describe(&error));
            ExitCode::from(code(&error))
        }
    }
}

impl Command {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Serve(start) => {
                let Start { check_config, serve } = *start;
                let config = Config::load(serve.config.as_deref(), serve.layer.clone())?;
                if check_config {
                    return show(check::run(&config)?);
                }
                assembly::run(config, move || Config::load(serve.config.as_deref(), serve.layer.clone()))
            }
            Self::Status(ask) => show(ask.show(&Request::Status, table::status)?),
            Self::Endpoints(ask) => show(ask.show(&Request::Endpoints, table::endpoints)?),
            Self::Policies(ask) => show(ask.show(&Request::Policies, table::policies)?),
            Self::Flows(ask) => show(ask.show(&Request::Flows, table::flows)?),
            Self::Egress(ask) => show(ask.show(&Request::Egress, table::egress)?),
            Self::Ports(ask) => show(ask.show(&Request::Ports, table::ports)?),
            Self::Counters(ask) => show(ask.show(&Request::Counters, table::counters)?),
            Self::Uninstall(what) => {
                let config = Config::load(what.serve.config.as_deref(), what.serve.layer)?;
                show(uninstall::run(&config, what.force)?)
            }
        }
    }
}

/// A reader that has seen enough (`| head`) is no failure.
fn show(text: String) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn describe(error: &anyhow::Error) -> String {
    let refused = match error.downcast_ref() {
        Some(CallError::Refused(refused)) if !refused.details.is_empty() => {
            Some(format!("{refused} ({})", refused.details))
        }
        Some(_) | None => None,
    };
    let line = refused.unwrap_or_else(|| report_chain(error.as_ref()));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn code(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigError>() {
        return USAGE;
    }
    match error.downcast_ref::<CallError>() {
        Some(CallError::Refused(_)) | None => FAILED,
        Some(_) => UNREACHABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn exit_codes_mean_something() {
        let unreachable = CallError::Unreachable { socket: "/x".into(), source: ErrorKind::NotFound.into() };
        assert_eq!(code(&unreachable.into()), UNREACHABLE);
        assert_eq!(code(&ConfigError::Missing { key: "cell" }.into()), USAGE);
        assert_eq!(code(&anyhow::anyhow!("no")), FAILED);
    }
}
