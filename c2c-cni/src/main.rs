//! The plugin's process: environment and stdin in, one JSON document and an exit code out. Everything else is the
//! library's.

use c2c_cni::{AgentSocket, Outcome, run};
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let environment = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let Outcome { stdout, log, ok } = run(&environment, Box::new(io::stdin()), &AgentSocket);
    for line in log {
        _ = writeln!(io::stderr(), "c2c-cni: {line}");
    }
    let written = stdout.map_or(Ok(()), |document| writeln!(io::stdout(), "{document}"));
    if ok && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
