//! The agent's program: reads the command line and ends with its exit code. Everything else is the library's.

use c2c_agent::cli::{self, Cli};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
