//! What each command asks of the agent.

use crate::conf::Conf;
use crate::env::{Call, Command};
use crate::error::{CniError, INVALID_ENVIRONMENT, INVALID_NETNS};
use crate::{Agent, Said, pending, previous, result};
use c2c_proto::agent_api::{Add, Added, Check, Request, code};
use c2c_proto::agent_socket::CallError;
use serde_json::Value;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Does what the call asks.
pub(crate) fn act(call: &Call, conf: &Conf, agent: &dyn Agent) -> Result<Said, CniError> {
    match &call.command {
        Command::Add => add(call, conf, agent),
        Command::Del => del(call, conf, agent),
        Command::Check => check(call, conf, agent),
        Command::Gc => gc(conf, agent),
        Command::Status => status(conf, agent),
        Command::Version | Command::Unknown(_) => unknown(&call.command),
    }
}

fn add(call: &Call, conf: &Conf, agent: &dyn Agent) -> Result<Said, CniError> {
    if let Some(previous) = &conf.previous {
        previous::check_version(previous, &conf.version)?;
    }
    let netns = open_netns(call)?;
    let request = Request::Add(Add {
        attachment: call.attachment.clone(),
        netns: call.netns.clone(),
        metadata: conf.metadata.clone(),
    });
    let answer = ask(agent, conf, &request, Some(&netns))?;
    let added: Added = serde_json::from_value(answer).map_err(|error| {
        let msg = format!(
            "{} is not the agent's socket: its answer to ADD cannot be read: {error}",
            conf.socket.display()
        );
        CniError::new(code::NO_AGENT, msg)
    })?;
    Ok(Said { document: Some(result::document(&added, &call.netns, conf)?), log: Vec::new() })
}

/// DEL must succeed when everything is gone already, and an agent that is away must not keep the runtime from going on:
/// then the DEL is left for it. A refusal is an answer, and so is somebody else behind the socket.
fn del(call: &Call, conf: &Conf, agent: &dyn Agent) -> Result<Said, CniError> {
    let request = Request::Del(call.attachment.clone());
    let away = match agent.ask(&conf.socket, conf.timeout, &request, None) {
        Ok(_) => return Ok(Said::default()),
        Err(error @ (CallError::Refused(_) | CallError::NotTheAgent { .. })) => return Err(error.into()),
        Err(away) => CniError::from(away),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    pending::leave(&conf.pending_dir, &call.attachment, now).map_err(|error| {
        let msg =
            format!("{}, and the DEL cannot be left for it in {}", away.msg, conf.pending_dir.display());
        CniError::new(away.code, msg).with(error.to_string())
    })?;
    let line = format!("{away}; the DEL is left for it in {}", conf.pending_dir.display());
    Ok(Said { document: None, log: vec![line] })
}

fn check(call: &Call, conf: &Conf, agent: &dyn Agent) -> Result<Said, CniError> {
    let missing = || CniError::config("required prevResult missing: CHECK compares with the result of ADD");
    let previous = conf.previous.as_ref().ok_or_else(missing)?;
    previous::check_version(previous, &conf.version)?;
    let address = previous::container_address(previous, &call.attachment.ifname)?;
    let netns = open_netns(call)?;
    let request = Request::Check(Check { attachment: call.attachment.clone(), address });
    ask(agent, conf, &request, Some(&netns))?;
    Ok(Said::default())
}

/// A runtime that does not say what is valid does not mean that nothing is (cnitool says nothing).
fn gc(conf: &Conf, agent: &dyn Agent) -> Result<Said, CniError> {
    let Some(valid) = conf.valid.clone() else {
        let line = "the configuration has no cni.dev/valid-attachments, so everything is taken for valid";
        return Ok(Said { document: None, log: vec![line.to_owned()] });
    };
    ask(agent, conf, &Request::Gc { valid }, None)?;
    Ok(Said::default())
}

/// Without the agent no container can be wired, while those that are keep their network: the datapath is the kernel's.
fn status(conf: &Conf, agent: &dyn Agent) -> Result<Said, CniError> {
    let answer = ask(agent, conf, &Request::Ready, None);
    answer.map_err(|error| match error.code {
        code::NO_AGENT => CniError { code: code::UNAVAILABLE, ..error },
        _ => error,
    })?;
    Ok(Said::default())
}

fn unknown(command: &Command) -> Result<Said, CniError> {
    let name = if let Command::Unknown(name) = command { name } else { "" };
    let msg = format!("CNI_COMMAND is {name:?}, expected ADD, DEL, CHECK, GC, STATUS or VERSION");
    Err(CniError::new(INVALID_ENVIRONMENT, msg))
}

fn ask(agent: &dyn Agent, conf: &Conf, request: &Request, netns: Option<&File>) -> Result<Value, CniError> {
    agent.ask(&conf.socket, conf.timeout, request, netns.map(AsFd::as_fd)).map_err(Into::into)
}

/// Opens the container's namespace, and refuses the plugin's own: it is the cell's.
fn open_netns(call: &Call) -> Result<File, CniError> {
    let unusable = |error| {
        let msg = format!("CNI_NETNS is {:?}, expected the path of a network namespace: {error}", call.netns);
        CniError::new(INVALID_ENVIRONMENT, msg)
    };
    let file = File::open(&call.netns).map_err(unusable)?;
    let found = file.metadata().map_err(unusable)?;
    let own = std::fs::metadata("/proc/self/ns/net").map_err(unusable)?;
    if !call.netns_override && (found.dev(), found.ino()) == (own.dev(), own.ino()) {
        let msg = format!(
            "CNI_NETNS is {:?}, the plugin's own network namespace, expected the container's",
            call.netns
        );
        return Err(CniError::new(INVALID_NETNS, msg));
    }
    if found.dev() != own.dev() {
        let msg = format!("CNI_NETNS is {:?}, which is no namespace", call.netns);
        return Err(CniError::new(INVALID_ENVIRONMENT, msg));
    }
    Ok(file)
}
