//! The controller's binary: everything is in the library, so that tests can reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    c2c_controller::cli::run(std::env::args_os())
}
