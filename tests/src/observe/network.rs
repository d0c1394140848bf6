//! The network configuration of a namespace, to be compared with what it was: nothing may be left, nothing may be lost.
//!
//! Left out is what moves by itself: statistics, ages, learned neighbours, and what says where a device's other end is.

use crate::netns::Namespace;
use anyhow::{Context, Result};
use serde_json::Value;
use std::process::Command;

/// Everything an administrator configured, in the words of `ip` and `tc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkState {
    parts: Vec<(String, Value)>,
}

const PARTS: &[(&str, &[&str])] = &[
    ("devices", &["ip", "-json", "-details", "link", "show"]),
    ("addresses", &["ip", "-json", "address", "show"]),
    ("routes", &["ip", "-json", "route", "show", "table", "all"]),
    ("routes (IPv6)", &["ip", "-json", "-6", "route", "show", "table", "all"]),
    ("rules", &["ip", "-json", "rule", "show"]),
    ("neighbours", &["ip", "-json", "neighbour", "show", "nud", "permanent"]),
    ("queueing", &["tc", "-json", "qdisc", "show"]),
];
/// Sysctls that somebody who routes between devices may be tempted to change, for every device.
const SYSCTLS: &str =
    "net.ipv4.conf.*.{forwarding,rp_filter,proxy_arp,accept_local,route_localnet,arp_ignore}";
const VOLATILE: &[&str] = &[
    "stats64",
    "stats",
    "expires",
    "used",
    "preferred_life_time",
    "valid_life_time",
    "gc_timer",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
];

impl NetworkState {
    /// Looks at a namespace.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        let mut parts = Vec::new();
        for (name, words) in PARTS {
            let (program, arguments) = words.split_first().context("a part without a command")?;
            let json = namespace.output(Command::new(program).args(arguments))?;
            let mut value: Value = match json.trim() {
                "" => Value::Null,
                json => serde_json::from_str(json).with_context(|| format!("{words:?} printed no JSON"))?,
            };
            forget_volatile(&mut value);
            parts.push(((*name).to_owned(), value));
        }
        parts.push((SYSCTLS.to_owned(), namespace.run(sysctls)?));
        Ok(Self { parts })
    }

    /// What differs, one line for each entry that went or came; empty when nothing does.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for ((name, left), (_, right)) in self.parts.iter().zip(&other.parts) {
            let (left, right) = (entries(left), entries(right));
            let only = |these: &[String], those: &[String], what: &str| -> Vec<String> {
                let missing = these.iter().filter(|entry| !those.contains(entry));
                missing.map(|entry| format!("{name}: {what} {entry}")).collect()
            };
            lines.extend(only(&left, &right, "gone"));
            lines.extend(only(&right, &left, "new"));
        }
        lines
    }

    /// Names of the devices.
    #[must_use]
    pub fn devices(&self) -> Vec<String> {
        let devices = self.parts.first().and_then(|(_, value)| value.as_array()).into_iter().flatten();
        devices.filter_map(|device| device["ifname"].as_str().map(str::to_owned)).collect()
    }
}

/// The entries of a part, as text.
fn entries(part: &Value) -> Vec<String> {
    match part {
        Value::Array(items) => items.iter().map(Value::to_string).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| format!("{name} = {value}")).collect(),
        Value::Null => Vec::new(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => vec![part.to_string()],
    }
}

fn forget_volatile(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(forget_volatile),
        Value::Object(fields) => {
            fields.retain(|name, _| !VOLATILE.contains(&name.as_str()));
            fields.values_mut().for_each(forget_volatile);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Reads `/proc/sys/net` of the namespace that the thread is in.
fn sysctls() -> Result<Value> {
    let mut values = serde_json::Map::new();
    for device in std::fs::read_dir("/proc/sys/net/ipv4/conf").context("cannot list sysctls")? {
        let device = device.context("cannot list sysctls")?.path();
        for name in ["forwarding", "rp_filter", "proxy_arp", "accept_local", "route_localnet", "arp_ignore"] {
            let path = device.join(name);
            let value =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            values.insert(path.display().to_string(), Value::String(value.trim().to_owned()));
        }
    }
    Ok(Value::Object(values))
}
