//! The network configuration on stdin. CNI's own fields and ours are checked, and an error names the field; whatever
//! else a configuration holds is tolerated, as the specification wants it.

use crate::env::is_identifier;
use crate::error::CniError;
use c2c_proto::agent_api::{Attachment, DEFAULT_PENDING_DIR, DEFAULT_SOCKET};
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

/// A network configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conf {
    /// `cniVersion`; a configuration without one means 0.1.0.
    pub(crate) version: String,
    pub(crate) socket: PathBuf,
    pub(crate) pending_dir: PathBuf,
    pub(crate) timeout: Duration,
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) dns: Map<String, Value>,
    pub(crate) previous: Option<Map<String, Value>>,
    /// `None` when the runtime did not say what is valid.
    pub(crate) valid: Option<Vec<Attachment>>,
}

impl Conf {
    /// Reads a configuration. First whether it is JSON, then its name, then the rest.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, CniError> {
        let fields: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| {
            CniError::decode(format!("the network configuration on stdin is no JSON object: {error}"))
        })?;
        let fields = Fields(&fields);
        fields.check_name()?;
        Ok(Self {
            version: fields.text("cniVersion")?.unwrap_or("0.1.0").to_owned(),
            socket: fields.path("agentSocket", DEFAULT_SOCKET)?,
            pending_dir: fields.path("pendingDir", DEFAULT_PENDING_DIR)?,
            timeout: fields.timeout()?,
            metadata: fields.metadata()?,
            dns: fields.object("dns")?.cloned().unwrap_or_default(),
            previous: fields.object("prevResult")?.cloned(),
            valid: fields.valid()?,
        })
    }
}

/// The fields of a configuration, asked for by type.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn check_name(&self) -> Result<(), CniError> {
        match self.text("name")? {
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

    /// A field that is null counts as absent, and so does an empty text.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, CniError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| wrong_type(key, value, "a string"))?;
        Ok((!text.is_empty()).then_some(text))
    }

    fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, CniError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_object().map(Some).ok_or_else(|| wrong_type(key, value, "an object"))
    }

    fn path(&self, key: &str, default: &str) -> Result<PathBuf, CniError> {
        let path = PathBuf::from(self.text(key)?.unwrap_or(default));
        if path.is_absolute() {
            return Ok(path);
        }
        Err(CniError::config(format!("{key} is {:?}, expected an absolute path", path.display().to_string())))
    }

    fn timeout(&self) -> Result<Duration, CniError> {
        let Some(value) = self.get("timeoutSeconds") else { return Ok(DEFAULT_TIMEOUT) };
        let seconds = value.as_f64().filter(|seconds| *seconds > 0.0 && *seconds <= MAX_TIMEOUT_SECONDS);
        seconds.map(Duration::from_secs_f64).filter(|timeout| !timeout.is_zero()).ok_or_else(|| {
            CniError::config(format!(
                "timeoutSeconds is {value}, expected a number above 0 and up to {MAX_TIMEOUT_SECONDS}"
            ))
        })
    }

    /// CF's external networker puts it at the top; runtimes that know capabilities put it into `runtimeConfig`.
    fn metadata(&self) -> Result<BTreeMap<String, Value>, CniError> {
        let nested =
            self.object("runtimeConfig")?.map(Fields).map(|fields| fields.object("metadata")).transpose()?;
        let metadata = self.object("metadata")?.or(nested.flatten());
        Ok(metadata.map(|fields| fields.clone().into_iter().collect()).unwrap_or_default())
    }

    fn valid(&self) -> Result<Option<Vec<Attachment>>, CniError> {
        let Some((key, value)) = VALID_ATTACHMENTS.iter().find_map(|key| Some((*key, self.get(key)?))) else {
            return Ok(None);
        };
        let items = value.as_array().ok_or_else(|| wrong_type(key, value, "a list"))?;
        items.iter().map(|item| attachment(key, item)).collect::<Result<_, _>>().map(Some)
    }
}

/// Whatever is not understood here could be a container that must stay, so it is an error.
fn attachment(key: &str, item: &Value) -> Result<Attachment, CniError> {
    let text = |name: &str| item.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    let attachment = text("containerID").zip(text("ifname"));
    let attachment = attachment.map(|(container_id, ifname)| Attachment { container_id, ifname });
    attachment.ok_or_else(|| wrong_type(key, item, "objects with containerID and ifname"))
}

fn wrong_type(key: &str, found: &Value, expected: &str) -> CniError {
    CniError::decode(format!("{key} is {found}, expected {expected}"))
}
