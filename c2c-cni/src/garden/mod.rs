//! Garden's external networker: what guardian calls with `--action A --handle H`, in the words of CF's own
//! (`garden-external-networker`), which knows only `up` and `down`.
//!
//! A call answers on stdout, or says one line on stderr and fails. An `up` that failed leaves nothing behind, however it
//! failed: guardian calls `down` next, but not when it was killed meanwhile.

mod arguments;
mod config;
mod input;
mod output;
#[cfg(test)]
mod tests;

use crate::env::is_identifier;
use crate::error::CniError;
use crate::wiring::{Wiring, open_netns};
use crate::{Agent, Outcome};
use arguments::{Action, Arguments};
use c2c_proto::agent_api::{Add, Attachment, Bandwidth, NetIn, NetOut, PortMapping, Request};
use config::Config;
use input::{NetInInput, Up};
use serde_json::{Map, Value};
use std::io::{Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Garden's containers have this interface, as CF's networker names it.
const IFNAME: &str = "eth0";
/// In `Pid`: the namespace is this process's descriptor 3.
const INHERITED: &str = "/proc/self/fd/3";
/// No answer of guardian's is larger; a container with 10,000 egress rules is about 1 MB. In bytes.
const MAX_STDIN_BYTES: u64 = 16 << 20;

/// One call of Garden. Nothing is printed but the answer; the outcome has what belongs on stderr.
pub fn run_garden(
    arguments: &[String],
    stdin: Box<dyn Read + Send>,
    stdout: &mut dyn Write,
    agent: &dyn Agent,
) -> Outcome {
    let mut config = Config::default();
    let served = serve(arguments, stdin, stdout, agent, &mut config);
    let ok = served.is_ok();
    let said = served.unwrap_or_else(|error| Some(error.to_string()));
    let line = |said: String| format!("{}: {}", config.log_prefix, said.replace('\n', " "));
    Outcome { stdout: None, log: said.map(line).into_iter().collect(), ok }
}

/// One call that can be made: everything it needs was read and checked.
struct Call<'a> {
    handle: String,
    config: &'a Config,
    wiring: Wiring<'a>,
    stdout: &'a mut dyn Write,
}

/// `config` becomes the file's as soon as it is read: errors bear its prefix. Answers a line for the log.
fn serve(
    arguments: &[String],
    stdin: Box<dyn Read + Send>,
    stdout: &mut dyn Write,
    agent: &dyn Agent,
    config: &mut Config,
) -> Result<Option<String>, CniError> {
    let started = Instant::now();
    let Arguments { action, handle, config_file } = Arguments::parse(arguments)?;
    if let Some(file) = config_file {
        *config = Config::read(&file)?;
    }
    let action = Action::parse(&action)?;
    if action == Action::Down && !is_identifier(&handle) {
        return Ok(Some(format!(
            "the handle {handle:?} cannot have been wired: there is nothing to take down"
        )));
    }
    if action == Action::Down {
        // Its stdin says nothing, and guardian may keep it open.
        let wiring = Wiring { agent, reach: &config.reach };
        return wiring.del(&attachment(&handle));
    }
    let input = object(stdin, config.reach.timeout)?;
    config.reach.timeout =
        config.reach.timeout.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
    let wiring = Wiring { agent, reach: &config.reach };
    let mut call = Call { handle, config, wiring, stdout };
    match action {
        Action::Up => call.up(&input)?,
        Action::NetIn => call.net_in(&input)?,
        Action::NetOut => call.net_out(&input, "netout_rule")?,
        Action::BulkNetOut => call.net_out(&input, "netout_rules")?,
        Action::Down => {}
    }
    Ok(None)
}

impl Call<'_> {
    fn up(&mut self, input: &Map<String, Value>) -> Result<(), CniError> {
        let Up { pid, properties, ports, egress } = Up::parse(input)?;
        let named = format!("/proc/{pid}/ns/net");
        // The path of a descriptor means nothing to the agent, so then it is told of none.
        let (path, netns) =
            if pid == 0 { (INHERITED, String::new()) } else { (named.as_str(), named.clone()) };
        let opened = open_netns(&format!("the network namespace of Pid {pid}"), path, false)?;
        let attachment = attachment(&self.handle);
        let add = Add {
            attachment: attachment.clone(),
            netns,
            metadata: properties,
            ports,
            egress,
            bandwidth: Bandwidth::default(),
        };
        let added = self.wiring.add(add, &opened)?;
        let answered = self.answer(&output::up(&added, self.config));
        answered.map_err(|error| self.wiring.undo(&attachment, error))
    }

    fn net_in(&mut self, input: &Map<String, Value>) -> Result<(), CniError> {
        let NetInInput { port } = NetInInput::parse(input)?;
        let request = Request::NetIn(NetIn { container_id: self.handle.clone(), port });
        let answer = self.wiring.ask_patiently(&request, None)?;
        let mapping: PortMapping = serde_json::from_value(answer).map_err(|error| {
            self.wiring.not_the_agent(&format!("its answer to NET-IN cannot be read: {error}"))
        })?;
        self.answer(&output::net_in(mapping))
    }

    fn net_out(&mut self, input: &Map<String, Value>, key: &str) -> Result<(), CniError> {
        let rules = input::rules(input, key)?;
        let request = Request::NetOut(NetOut { container_id: self.handle.clone(), rules });
        self.wiring.ask_patiently(&request, None).map(drop)
    }

    /// One line.
    fn answer(&mut self, text: &Result<String, serde_json::Error>) -> Result<(), CniError> {
        let text = text.as_ref().map_err(|error| CniError::output(error))?;
        let written = writeln!(self.stdout, "{text}").and_then(|()| self.stdout.flush());
        written.map_err(|error| CniError::output(&error))
    }
}

fn attachment(handle: &str) -> Attachment {
    Attachment { container_id: handle.to_owned(), ifname: IFNAME.to_owned() }
}

/// What guardian says, as an object. It writes at once; one that does not must not keep its container waiting for ever.
/// The reading thread is left behind then, and ends with the process.
fn object(stdin: Box<dyn Read + Send>, patience: Duration) -> Result<Map<String, Value>, CniError> {
    let (sender, receiver) = mpsc::channel();
    let read = move || {
        let mut bytes = Vec::new();
        let read = stdin.take(MAX_STDIN_BYTES).read_to_end(&mut bytes);
        _ = sender.send(read.map(|_| bytes));
    };
    thread::Builder::new().spawn(read).map_err(|error| CniError::stdin(&error))?;
    let bytes = receiver.recv_timeout(patience).map_err(|_| {
        CniError::decode(format!("the input on stdin did not end within {} s", patience.as_secs_f64()))
    })?;
    let bytes = bytes.map_err(|error| CniError::stdin(&error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| CniError::decode(format!("the input on stdin is no JSON object: {error}")))
}
