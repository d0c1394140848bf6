//! What the runtime says in the environment. Checked in the order of the reference's `skel`: an invalid id or name is
//! told at once, missing variables are told together, and an unknown command only after the configuration was read.

use crate::error::{CniError, INVALID_ENVIRONMENT};
use c2c_proto::agent_api::Attachment;

/// What is asked of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
    Unknown(String),
}

/// One call, with what its command needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) command: Command,
    pub(crate) attachment: Attachment,
    pub(crate) netns: String,
    /// Whether the plugin may work on its own namespace.
    pub(crate) netns_override: bool,
}

impl Command {
    fn parse(text: &str) -> Self {
        match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            other => Self::Unknown(other.to_owned()),
        }
    }

    fn has_attachment(&self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }

    fn needs(&self, variable: &str) -> bool {
        match variable {
            "CNI_COMMAND" => true,
            "CNI_CONTAINERID" | "CNI_IFNAME" => self.has_attachment(),
            "CNI_NETNS" => matches!(self, Self::Add | Self::Check),
            "CNI_PATH" => self.has_attachment() || matches!(self, Self::Gc | Self::Status),
            _ => false,
        }
    }
}

impl Call {
    /// Reads and checks the environment. An empty variable counts as unset: libcni sets all six, always.
    pub(crate) fn read(environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let value = |name: &str| environment(name).unwrap_or_default();
        let command = Command::parse(&value("CNI_COMMAND"));
        let mut missing = Vec::new();
        for name in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"] {
            let value = value(name);
            if value.is_empty() {
                missing.extend(command.needs(name).then_some(name));
            } else if command.needs(name) {
                check(name, &value)?;
            }
        }
        if !missing.is_empty() {
            let msg = format!("required env variables [{}] missing", missing.join(","));
            return Err(CniError::new(INVALID_ENVIRONMENT, msg));
        }
        let attachment = Attachment { container_id: value("CNI_CONTAINERID"), ifname: value("CNI_IFNAME") };
        let netns_override = matches!(value("CNI_NETNS_OVERRIDE").to_uppercase().as_str(), "1" | "TRUE");
        Ok(Self { command, attachment, netns: value("CNI_NETNS"), netns_override })
    }
}

fn check(name: &str, value: &str) -> Result<(), CniError> {
    let expected = match name {
        "CNI_CONTAINERID" if !is_identifier(value) => {
            "letters, digits, '_', '.' and '-', a letter or digit first"
        }
        "CNI_IFNAME" if !is_interface_name(value) => {
            "1 to 15 bytes without '/', ':' and blanks, neither '.' nor '..'"
        }
        _ => return Ok(()),
    };
    Err(CniError::new(INVALID_ENVIRONMENT, format!("{name} is {value:?}, expected {expected}")))
}

/// Container ids and network names: `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`.
pub(crate) fn is_identifier(text: &str) -> bool {
    let tail = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(tail)
}

fn is_interface_name(text: &str) -> bool {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
    text.len() <= 15 && !matches!(text, "." | "..") && !text.contains(bad)
}
