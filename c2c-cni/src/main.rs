//! The plugin's process: arguments or environment and stdin in, an answer and an exit code out. Everything else is the
//! library's.

use c2c_cni::{AgentSocket, Outcome, run, run_garden};
use std::io::{self, Write};
use std::process::ExitCode;

/// CNI's plugins get no arguments, Garden's get nothing else.
fn main() -> ExitCode {
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    let arguments: Vec<_> = std::env::args_os().skip(1).map(text).collect();
    let stdin = Box::new(io::stdin());
    let Outcome { stdout, log, ok } = if arguments.is_empty() {
        run(&|name| std::env::var_os(name).map(text), stdin, &AgentSocket)
    } else {
        run_garden(&arguments, stdin, &mut io::stdout(), &AgentSocket)
    };
    for line in log {
        _ = writeln!(io::stderr(), "{line}");
    }
    let written = stdout.map_or(Ok(()), |document| writeln!(io::stdout(), "{document}"));
    if ok && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
