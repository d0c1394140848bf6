//! The CNI plugin of c2c, which is Garden's external networker as well, and nothing but a shim: it checks what the
//! runtime says as the CNI specification (1.1.0, and the reference `skel` where runtimes rely on that) or guardian wants
//! it, asks the agent within a deadline, and words the answer.
//!
//! [`run`] is the whole of CNI, a function of environment, stdin and agent; [`run_garden`] is Garden's. Nothing here holds
//! state, makes an interface, or knows a lease; without the agent it can do one thing, which is to leave a DEL for later.

mod actions;
mod conf;
mod env;
mod error;
mod fields;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod garden;
mod pending;
mod previous;
mod result;
#[cfg(test)]
mod tests;
mod version;
mod wiring;
mod wishes;

pub use error::CniError;
pub use garden::run_garden;
pub use version::SUPPORTED as SUPPORTED_VERSIONS;

use c2c_proto::agent_api::Request;
use c2c_proto::agent_socket::{CallError, Client};
use conf::Conf;
use env::{Call, Command};
use serde_json::Value;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

/// More than this is no network configuration, in bytes. A GC of 10,000 attachments is about 1 MB.
const MAX_STDIN_BYTES: u64 = 4 << 20;

/// What the process shall print, and whether it succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// One JSON document, or nothing.
    pub stdout: Option<String>,
    /// Lines for people, on stderr, whole.
    pub log: Vec<String>,
    /// Whether the exit code is 0.
    pub ok: bool,
}

/// Whoever answers for the agent.
pub trait Agent {
    /// Asks the agent at `socket`, and waits at most `timeout` for the answer.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    fn ask(
        &self,
        socket: &Path,
        timeout: Duration,
        request: &Request,
        netns: Option<BorrowedFd<'_>>,
    ) -> Result<Value, CallError>;
}

/// The agent behind its Unix socket.
#[derive(Clone, Copy, Debug)]
pub struct AgentSocket;

impl Agent for AgentSocket {
    fn ask(
        &self,
        socket: &Path,
        timeout: Duration,
        request: &Request,
        netns: Option<BorrowedFd<'_>>,
    ) -> Result<Value, CallError> {
        Client::new(socket, timeout).call(request, netns)
    }
}

/// What one action has to say: a document, and lines for people.
#[derive(Debug, Default)]
struct Said {
    document: Option<Value>,
    log: Vec<String>,
}

/// One call of the plugin. `environment` gives the value of a variable, `stdin` the network configuration; VERSION does
/// not wait for it.
pub fn run(
    environment: &dyn Fn(&str) -> Option<String>,
    stdin: Box<dyn Read + Send>,
    agent: &dyn Agent,
) -> Outcome {
    let mut spoken = version::NEWEST.to_owned();
    match dispatch(environment, stdin, agent, &mut spoken) {
        Ok(Said { document, log }) => {
            let log = log.into_iter().map(|line| format!("c2c-cni: {line}")).collect();
            Outcome { stdout: document.map(|value| value.to_string()), log, ok: true }
        }
        Err(error) => {
            let log = vec![format!("c2c-cni: {error}")];
            Outcome { stdout: Some(error.document(&spoken).to_string()), log, ok: false }
        }
    }
}

/// `spoken` becomes the version that the configuration asks for, as soon as it is known to be one of ours: errors are
/// worded in it too.
fn dispatch(
    environment: &dyn Fn(&str) -> Option<String>,
    stdin: Box<dyn Read + Send>,
    agent: &dyn Agent,
    spoken: &mut String,
) -> Result<Said, CniError> {
    let call = Call::read(environment)?;
    if call.command == Command::Version {
        return Ok(Said { document: Some(version::document(stdin)), log: Vec::new() });
    }
    let conf = Conf::parse(&read_all(stdin)?)?;
    if version::is_supported(&conf.version) {
        spoken.clone_from(&conf.version);
    }
    version::check(&call.command, &conf.version)?;
    actions::act(&call, &conf, agent)
}

fn read_all(stdin: Box<dyn Read + Send>) -> Result<Vec<u8>, CniError> {
    let mut bytes = Vec::new();
    stdin.take(MAX_STDIN_BYTES + 1).read_to_end(&mut bytes).map_err(|error| CniError::stdin(&error))?;
    if bytes.len() as u64 > MAX_STDIN_BYTES {
        return Err(CniError::decode(format!(
            "the network configuration on stdin is longer than {MAX_STDIN_BYTES} bytes"
        )));
    }
    Ok(bytes)
}
