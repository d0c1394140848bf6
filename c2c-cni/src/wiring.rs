//! Asking the agent to wire and unwire, whoever wants it. A wiring of which no answer came is undone, and an unwiring that
//! the agent could not be asked for is left for it: nothing stays behind in either case.

use crate::conf::Reach;
use crate::error::{CniError, INVALID_ENVIRONMENT, INVALID_NETNS};
use crate::{Agent, pending};
use c2c_proto::agent_api::{Add, Added, Attachment, Request, code};
use c2c_proto::agent_socket::CallError;
use serde_json::Value;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long undoing may take on top: an agent that has not answered in time is not waited for as long again.
const UNDO_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two attempts to reach an agent that is away.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The agent, and how it is reached.
#[derive(Clone, Copy)]
pub(crate) struct Wiring<'a> {
    pub(crate) agent: &'a dyn Agent,
    pub(crate) reach: &'a Reach,
}

impl Wiring<'_> {
    /// Asks the agent what a container needs to start. An agent that is away for a moment, as it is while it is upgraded, is
    /// waited for; nothing was sent to it, so nothing needs to be undone.
    pub(crate) fn ask_patiently(&self, request: &Request, netns: Option<&File>) -> Result<Value, CniError> {
        self.call_patiently(request, netns).map_err(Into::into)
    }

    /// Asks the agent anything.
    pub(crate) fn ask(&self, request: &Request, netns: Option<&File>) -> Result<Value, CniError> {
        self.call(request, netns, self.reach.timeout).map_err(Into::into)
    }

    /// Wires a container. After an error nothing of it is left, or will be left when the agent is back. A refusal is not
    /// undone: the agent has done that, and what it refuses may be a second wiring of a container that works.
    pub(crate) fn add(&self, add: Add, netns: &File) -> Result<Added, CniError> {
        let attachment = add.attachment.clone();
        match self.call_patiently(&Request::Add(add), Some(netns)) {
            Ok(answer) => serde_json::from_value(answer).map_err(|error| {
                let msg = format!("its answer to ADD cannot be read: {error}");
                self.undo(&attachment, self.not_the_agent(&msg))
            }),
            Err(error @ (CallError::Deadline { .. } | CallError::Broken { .. })) => {
                Err(self.undo(&attachment, error.into()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Unwires a container, and says so when that is left for later. It must succeed when everything is gone already, and
    /// an agent that is away must not keep the runtime from going on. A refusal is an answer, and so is somebody else
    /// behind the socket.
    pub(crate) fn del(&self, attachment: &Attachment) -> Result<Option<String>, CniError> {
        let away = match self.call(&Request::Del(attachment.clone()), None, self.reach.timeout) {
            Ok(_) => return Ok(None),
            Err(error @ (CallError::Refused(_) | CallError::NotTheAgent { .. })) => return Err(error.into()),
            Err(away) => CniError::from(away),
        };
        self.leave(attachment, away).map(|line| Some(line.to_string()))
    }

    /// Undoes a wiring of which the answer is not known, and words its error.
    pub(crate) fn undo(&self, attachment: &Attachment, error: CniError) -> CniError {
        match self.call(&Request::Del(attachment.clone()), None, UNDO_TIMEOUT) {
            Ok(_) => error,
            Err(_) => self.leave(attachment, error).unwrap_or_else(|error| error),
        }
    }

    /// The agent's socket speaks, but not as the agent does.
    pub(crate) fn not_the_agent(&self, reason: &str) -> CniError {
        let msg = format!("{} is not the agent's socket: {reason}", self.reach.socket.display());
        CniError::new(code::NO_AGENT, msg)
    }

    /// Leaves a DEL for the agent, and adds to `because` that it did; an error is one with two reasons.
    fn leave(&self, attachment: &Attachment, because: CniError) -> Result<CniError, CniError> {
        let dir = &self.reach.pending_dir;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        pending::leave(dir, attachment, now).map_err(|error| {
            let msg = format!("{because}, and the DEL cannot be left for it in {}", dir.display());
            CniError::new(because.code, msg).with(error.to_string())
        })?;
        let msg = format!("{because}; the DEL is left for it in {}", dir.display());
        Ok(CniError::new(because.code, msg))
    }

    fn call_patiently(&self, request: &Request, netns: Option<&File>) -> Result<Value, CallError> {
        let started = Instant::now();
        let mut answer = self.call(request, netns, self.reach.timeout);
        while answer.as_ref().is_err_and(is_away) && started.elapsed() + RETRY_PAUSE < self.reach.timeout {
            thread::sleep(RETRY_PAUSE);
            answer = self.call(request, netns, self.reach.timeout.saturating_sub(started.elapsed()));
        }
        answer
    }

    fn call(&self, request: &Request, netns: Option<&File>, timeout: Duration) -> Result<Value, CallError> {
        self.agent.ask(&self.reach.socket, timeout, request, netns.map(AsFd::as_fd))
    }
}

/// Whether nobody listens at the socket, or there is none.
fn is_away(error: &CallError) -> bool {
    let CallError::Unreachable { source, .. } = error else { return false };
    matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

/// Opens a container's namespace, and unless `own` may be it refuses the plugin's own: it is the cell's. `what` names the
/// path in messages.
pub(crate) fn open_netns(what: &str, path: &str, own_too: bool) -> Result<File, CniError> {
    let unusable = |error| {
        let msg = format!("{what} is {path:?}, expected the path of a network namespace: {error}");
        CniError::new(INVALID_ENVIRONMENT, msg)
    };
    let file = File::open(path).map_err(unusable)?;
    let found = file.metadata().map_err(unusable)?;
    let own = std::fs::metadata("/proc/self/ns/net").map_err(unusable)?;
    if !own_too && (found.dev(), found.ino()) == (own.dev(), own.ino()) {
        let msg = format!("{what} is {path:?}, the plugin's own network namespace, expected the container's");
        return Err(CniError::new(INVALID_NETNS, msg));
    }
    if found.dev() != own.dev() {
        return Err(CniError::new(INVALID_ENVIRONMENT, format!("{what} is {path:?}, which is no namespace")));
    }
    Ok(file)
}
