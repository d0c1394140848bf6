//! The command line: `serve`, what an operator asks of a running controller, what is done to the store of a stopped one, and
//! `pki`.
//!
//! Exit codes: 0 done, 1 refused, 2 the command line or a file that it names is wrong, 3 no controller could be reached.

mod access;
mod backup;
mod check;
mod client;
mod groups;
mod import;
mod leases;
mod output;
mod pki;
mod restore;

use crate::config::{Config, ServeArgs};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::fmt;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

/// Leases overlay blocks to cells, owns policies, tags and security groups, and streams every change to the agents.
#[derive(Debug, Parser)]
#[command(name = "c2c-controller", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// How long what still waits when the controller has stopped is waited for.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Examples:
  c2c-controller pki init --dir pki
  c2c-controller pki issue --dir pki --role controller --name controller --address 192.0.2.10
  c2c-controller pki issue --dir pki --role operator --name admin
  c2c-controller serve --data-dir /var/lib/c2c-controller \\
      --ca pki/ca.crt --certificate pki/controller.crt --key pki/controller.key

  export C2C_CONTROLLER=https://192.0.2.10:4103
  export C2C_CA=pki/ca.crt C2C_CERTIFICATE=pki/admin.crt C2C_KEY=pki/admin.key
  c2c-controller allow-access frontend backend --port 7000 --protocol tcp
  c2c-controller list-access
  c2c-controller security-groups set web web.json
  c2c-controller security-groups bind web --default
  c2c-controller leases
  c2c-controller backup net.backup

Exit codes: 0 done, 1 refused, 2 wrong usage, 3 controller not reachable";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controller
    Serve(Box<ServeArgs>),
    /// Let one app reach another on a port or a range of ports
    AllowAccess(access::ChangeArgs),
    /// Take back what allow-access gave; connections that live by it are cut
    RemoveAccess(access::ChangeArgs),
    /// Show who may reach whom
    ListAccess(access::ListArgs),
    /// Say what containers may reach outside the overlay network
    SecurityGroups(groups::GroupsArgs),
    /// Show which cell holds which block of the overlay network
    Leases(leases::LeasesArgs),
    /// Take a cell's lease away, for a cell that is gone for good
    Evict(leases::EvictArgs),
    /// Write everything that a running controller knows to a file
    Backup(backup::BackupArgs),
    /// Fill the store of a stopped controller with a backup
    Restore(restore::RestoreArgs),
    /// Fill an empty store with what silk-controller's and policy-server's databases hold
    Import(import::ImportArgs),
    /// Make a certificate authority and certificates, for those who have no other
    Pki(pki::PkiArgs),
}

/// Why a command was not done, by what the caller would do about it. Each is one line.
#[derive(Debug)]
enum Failure {
    /// Ask something else.
    Refused(String),
    /// Write the command line, or a file that it names, differently.
    Usage(String),
    /// See to the controller or the network.
    Unreachable(String),
}

impl Failure {
    /// An error with its causes, as a line.
    fn usage(error: impl std::error::Error) -> Self {
        Self::Usage(output::chain(&error))
    }

    fn refused(error: impl std::error::Error) -> Self {
        Self::Refused(output::chain(&error))
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Refused(line) | Self::Usage(line) | Self::Unreachable(line)) = self;
        f.write_str(line)
    }
}

/// Runs the command line. Results go to standard output, one line about a failure to standard error.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let done = parse(arguments).and_then(|cli| cli.map_or(Ok(()), |cli| execute(cli.command)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}

/// Nothing when all that was wanted was help.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Cli>, Failure> {
    let error = match Cli::try_parse_from(arguments) {
        Ok(cli) => return Ok(Some(cli)),
        Err(error) => error,
    };
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // Nobody reads a closed pipe.
        let _ = error.print();
        return Ok(None);
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let line = "a command is missing; expected one such as `leases` or `pki init` (see --help)";
        return Err(Failure::Usage(line.to_owned()));
    }
    Err(Failure::Usage(output::first_paragraph(&error.to_string())))
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => serve(&args),
        Command::AllowAccess(args) => access::allow(&args),
        Command::RemoveAccess(args) => access::remove(&args),
        Command::ListAccess(args) => access::list(&args),
        Command::SecurityGroups(args) => groups::run(&args),
        Command::Leases(args) => leases::list(&args),
        Command::Evict(args) => leases::evict(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Pki(args) => pki::run(&args),
    }
}

fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let config = Config::load(args).map_err(Failure::usage)?;
    if args.check_config {
        return check::run(&config);
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(&config.log)
        .init();
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::refused)?;
    let served = runtime.block_on(crate::assembly::serve(config));
    // Who waits for a store that does not answer is not waited for.
    runtime.shutdown_timeout(STOP_PATIENCE);
    served.map_err(|error| Failure::Refused(format!("{error:#}")))
}
