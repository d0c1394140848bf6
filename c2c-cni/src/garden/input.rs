//! What guardian says on stdin.

use crate::error::CniError;
use crate::fields::Fields;
use crate::wishes;
use c2c_proto::agent_api::{NetOutRule, PortRequest};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// `up`: whose namespace, and all that is known of the container.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Up {
    /// 0: the namespace is an inherited descriptor.
    pub(super) pid: u32,
    /// Garden's properties of the network, which become the container's metadata.
    pub(super) properties: BTreeMap<String, Value>,
    pub(super) ports: Vec<PortRequest>,
    pub(super) egress: Vec<NetOutRule>,
}

/// `net-in`. The addresses in it are the cell's and the container's, which the agent knows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NetInInput {
    pub(super) port: PortRequest,
}

impl Up {
    /// Reads the input of `up`.
    pub(super) fn parse(input: &Map<String, Value>) -> Result<Self, CniError> {
        let fields = Fields::of(input);
        let missing = || fields.invalid("Pid", "absent", "the process whose network namespace is wired");
        if !fields.has_any(&["Pid"]) {
            return Err(missing());
        }
        Ok(Self {
            pid: fields.number("Pid", "a process id, or 0 for descriptor 3")?,
            properties: properties(&fields)?,
            ports: fields.children("netin")?.iter().map(wishes::port).collect::<Result<_, _>>()?,
            egress: rules(input, "netout_rules")?,
        })
    }
}

impl NetInInput {
    /// Reads the input of `net-in`.
    pub(super) fn parse(input: &Map<String, Value>) -> Result<Self, CniError> {
        Ok(Self { port: wishes::port(&Fields::of(input))? })
    }
}

/// The rules under `key`, a list of them or one.
pub(super) fn rules(input: &Map<String, Value>, key: &str) -> Result<Vec<NetOutRule>, CniError> {
    let fields = Fields::of(input);
    if key == "netout_rule" {
        let rule = fields.child(key)?.ok_or_else(|| fields.invalid(key, "absent", "a rule"))?;
        return Ok(vec![wishes::net_out_rule(&rule)?]);
    }
    fields.children(key)?.iter().map(wishes::net_out_rule).collect()
}

/// Guardian's properties are texts, all of them.
fn properties(fields: &Fields<'_>) -> Result<BTreeMap<String, Value>, CniError> {
    let found = fields.map("Properties")?.cloned().unwrap_or_default();
    if let Some((key, value)) = found.iter().find(|(_, value)| !value.is_string()) {
        return Err(fields.wrong(&format!("Properties.{key}"), value, "a string"));
    }
    Ok(found.into_iter().collect())
}
