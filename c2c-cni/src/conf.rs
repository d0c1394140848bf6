//! The network configuration on stdin. CNI's own fields and ours are checked, and an error names the field; whatever
//! else a configuration holds is tolerated, as the specification wants it: also all that Silk's wrapper was told.

use crate::env::is_identifier;
use crate::error::CniError;
use crate::fields::Fields;
use crate::wishes;
use c2c_proto::agent_api::{
    Attachment, Bandwidth, DEFAULT_PENDING_DIR, DEFAULT_SOCKET, NetOutRule, PortRequest,
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Long enough for an agent that is busy with 50 other containers, short enough for Garden's patience.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Nobody waits longer for a container's network. In seconds.
const MAX_TIMEOUT_SECONDS: f64 = 600.0;
/// What libcni calls what may stay; the second name is the one that it used first.
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// How the agent is reached. The same keys in a network configuration and in Garden's configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) socket: PathBuf,
    pub(crate) pending_dir: PathBuf,
    pub(crate) timeout: Duration,
}

/// A network configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conf {
    /// `cniVersion`; a configuration without one means 0.1.0.
    pub(crate) version: String,
    pub(crate) reach: Reach,
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) ports: Vec<PortRequest>,
    pub(crate) egress: Vec<NetOutRule>,
    pub(crate) bandwidth: Bandwidth,
    pub(crate) dns: Map<String, Value>,
    pub(crate) previous: Option<Map<String, Value>>,
    /// `None` when the runtime did not say what is valid.
    pub(crate) valid: Option<Vec<Attachment>>,
}

impl Conf {
    /// Reads a configuration. First whether it is JSON, then its name, then the rest.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, CniError> {
        let object: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| {
            CniError::decode(format!("the network configuration on stdin is no JSON object: {error}"))
        })?;
        let fields = Fields::of(&object);
        check_name(&fields)?;
        let runtime = fields.child("runtimeConfig")?;
        Ok(Self {
            version: fields.text("cniVersion")?.unwrap_or("0.1.0").to_owned(),
            reach: Reach::read(&fields)?,
            metadata: metadata(&fields, runtime.as_ref())?,
            ports: all(runtime.as_ref(), "portMappings", wishes::mapping)?,
            egress: all(runtime.as_ref(), "netOutRules", wishes::net_out_rule)?,
            bandwidth: bandwidth(&fields, runtime.as_ref())?,
            dns: fields.map("dns")?.cloned().unwrap_or_default(),
            previous: fields.map("prevResult")?.cloned(),
            valid: valid(&fields)?,
        })
    }
}

impl Reach {
    /// Reads how the agent is reached; every key has a default.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self, CniError> {
        Ok(Self {
            socket: fields.path("agentSocket", DEFAULT_SOCKET)?,
            pending_dir: fields.path("pendingDir", DEFAULT_PENDING_DIR)?,
            timeout: timeout(fields)?,
        })
    }
}

impl Default for Reach {
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            pending_dir: DEFAULT_PENDING_DIR.into(),
            timeout: DEFAULT_TIMEOUT,
        }
    }
}

fn timeout(fields: &Fields<'_>) -> Result<Duration, CniError> {
    let Some((seconds, found)) = fields.decimal("timeoutSeconds") else { return Ok(DEFAULT_TIMEOUT) };
    let seconds = (seconds > 0.0 && seconds <= MAX_TIMEOUT_SECONDS).then_some(seconds);
    seconds.map(Duration::from_secs_f64).filter(|timeout| !timeout.is_zero()).ok_or_else(|| {
        fields.invalid("timeoutSeconds", found, &format!("a number above 0 and up to {MAX_TIMEOUT_SECONDS}"))
    })
}

fn check_name(fields: &Fields<'_>) -> Result<(), CniError> {
    match fields.text("name")? {
        None => Err(CniError::config("missing network name: the configuration needs a field \"name\"")),
        Some(name) if !is_identifier(name) => {
            let msg = format!(
                "invalid characters found in network name: {name:?}, expected letters, digits, '_', '.', '-'"
            );
            Err(CniError::config(msg))
        }
        Some(_) => Ok(()),
    }
}

/// CF's external networker puts it at the top; runtimes that know capabilities put it into `runtimeConfig`.
fn metadata(fields: &Fields<'_>, runtime: Option<&Fields<'_>>) -> Result<BTreeMap<String, Value>, CniError> {
    let nested = runtime.map(|fields| fields.map("metadata")).transpose()?.flatten();
    let metadata = fields.map("metadata")?.or(nested);
    Ok(metadata.map(|fields| fields.clone().into_iter().collect()).unwrap_or_default())
}

/// A list in `runtimeConfig`, read item by item.
fn all<T>(
    runtime: Option<&Fields<'_>>,
    key: &str,
    read: impl Fn(&Fields<'_>) -> Result<T, CniError>,
) -> Result<Vec<T>, CniError> {
    let items = runtime.map(|fields| fields.children(key)).transpose()?.unwrap_or_default();
    items.iter().map(read).collect()
}

/// What stands at the top wins, as in CNI's bandwidth plugin.
fn bandwidth(fields: &Fields<'_>, runtime: Option<&Fields<'_>>) -> Result<Bandwidth, CniError> {
    if let Some(bandwidth) = wishes::bandwidth(fields)? {
        return Ok(bandwidth);
    }
    let nested = runtime.map(|fields| fields.child("bandwidth")).transpose()?.flatten();
    let nested = nested.as_ref().map(wishes::bandwidth).transpose()?.flatten();
    Ok(nested.unwrap_or_default())
}

fn valid(fields: &Fields<'_>) -> Result<Option<Vec<Attachment>>, CniError> {
    for key in VALID_ATTACHMENTS {
        if let Some(items) = fields.list(key)? {
            let read = |item| attachment(fields, key, item);
            return items.iter().map(read).collect::<Result<_, _>>().map(Some);
        }
    }
    Ok(None)
}

/// Whatever is not understood here could be a container that must stay, so it is an error.
fn attachment(fields: &Fields<'_>, key: &str, item: &Value) -> Result<Attachment, CniError> {
    let text = |name: &str| item.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    let attachment = text("containerID").zip(text("ifname"));
    let attachment = attachment.map(|(container_id, ifname)| Attachment { container_id, ifname });
    attachment.ok_or_else(|| fields.wrong(key, item, "objects with containerID and ifname"))
}
