//! What each command of CNI asks of the agent.

use crate::conf::Conf;
use crate::env::{Call, Command};
use crate::error::{CniError, INVALID_ENVIRONMENT};
use crate::wiring::{Wiring, open_netns};
use crate::{Agent, Said, previous, result};
use c2c_proto::agent_api::{Add, Check, Request, code};

/// Does what the call asks.
pub(crate) fn act(call: &Call, conf: &Conf, agent: &dyn Agent) -> Result<Said, CniError> {
    let wiring = Wiring { agent, reach: &conf.reach };
    match &call.command {
        Command::Add => add(call, conf, wiring),
        Command::Del => {
            let left = wiring.del(&call.attachment)?;
            Ok(Said { document: None, log: left.into_iter().collect() })
        }
        Command::Check => check(call, conf, wiring),
        Command::Gc => gc(conf, wiring),
        Command::Status => status(wiring),
        Command::Version | Command::Unknown(_) => unknown(&call.command),
    }
}

fn add(call: &Call, conf: &Conf, wiring: Wiring<'_>) -> Result<Said, CniError> {
    if let Some(previous) = &conf.previous {
        previous::check(previous, &conf.version)?;
    }
    let netns = open_netns("CNI_NETNS", &call.netns, call.netns_override)?;
    let add = Add {
        attachment: call.attachment.clone(),
        netns: call.netns.clone(),
        metadata: conf.metadata.clone(),
        ports: conf.ports.clone(),
        egress: conf.egress.clone(),
        bandwidth: conf.bandwidth,
    };
    let added = wiring.add(add, &netns)?;
    Ok(Said { document: Some(result::document(&added, &call.netns, conf)?), log: Vec::new() })
}

fn check(call: &Call, conf: &Conf, wiring: Wiring<'_>) -> Result<Said, CniError> {
    let missing = || CniError::config("required prevResult missing: CHECK compares with the result of ADD");
    let previous = conf.previous.as_ref().ok_or_else(missing)?;
    previous::check_version(previous, &conf.version)?;
    let address = previous::container_address(previous, &call.attachment.ifname)?;
    let netns = open_netns("CNI_NETNS", &call.netns, call.netns_override)?;
    let request = Request::Check(Check { attachment: call.attachment.clone(), address });
    wiring.ask(&request, Some(&netns))?;
    Ok(Said::default())
}

/// A runtime that does not say what is valid does not mean that nothing is (cnitool says nothing).
fn gc(conf: &Conf, wiring: Wiring<'_>) -> Result<Said, CniError> {
    let Some(valid) = conf.valid.clone() else {
        let line = "the configuration has no cni.dev/valid-attachments, so everything is taken for valid";
        return Ok(Said { document: None, log: vec![line.to_owned()] });
    };
    wiring.ask(&Request::Gc { valid }, None)?;
    Ok(Said::default())
}

/// Without the agent no container can be wired, while those that are keep their network: the datapath is the kernel's.
fn status(wiring: Wiring<'_>) -> Result<Said, CniError> {
    wiring.ask(&Request::Ready, None).map_err(|error| match error.code {
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
