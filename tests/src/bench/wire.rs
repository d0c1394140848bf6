//! How the underlay behaves: what a device may put into one frame, and what a switch may not join.

use super::load::CONGESTION_CONTROL;
use crate::lab::UNDERLAY_INTERFACE;
use crate::netns::Namespace;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::process::Command;

/// Two kinds of underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// Frames of 1,500 bytes on the way, put together by the receiving cell: an Ethernet. TSO and GSO off, GRO on.
    Ethernet,
    /// Frames of up to 64 KiB on the way: virtual NICs of one host. TSO and GSO on.
    Virtual,
}

/// Makes the devices of an underlay behave so: those of its hosts and, where it has a switch, the switch's ends of them.
pub(super) fn behave(switch: Option<&Namespace>, hosts: &[&Namespace], wire: Wire) -> Result<()> {
    if let Some(switch) = switch {
        // A switch does not put frames together.
        ports(switch)?.iter().try_for_each(|port| offload(switch, port, wire, "off"))?;
    }
    hosts.iter().try_for_each(|host| offload(host, UNDERLAY_INTERFACE, wire, "on"))
}

fn offload(namespace: &Namespace, device: &str, wire: Wire, gro: &str) -> Result<()> {
    let split = if wire == Wire::Ethernet { "off" } else { "on" };
    let mut ethtool = Command::new("ethtool");
    ethtool.args(["-K", device, "tso", split, "gso", split, "gro", gro]);
    namespace.output(&mut ethtool).map(drop).context("this takes ethtool (package ethtool)")
}

fn ports(switch: &Namespace) -> Result<Vec<String>> {
    let json = switch.output(Command::new("ip").args(["-json", "link", "show", "type", "veth"]))?;
    let links: Value = serde_json::from_str(&json).context("ip did not print JSON")?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// Packets that a device of a namespace has sent.
pub(super) fn sent(namespace: &Namespace, device: &str) -> Result<u64> {
    let json =
        namespace.output(Command::new("ip").args(["-json", "-stats", "link", "show", "dev", device]))?;
    let links: Value = serde_json::from_str(&json).context("ip did not print JSON")?;
    match links.pointer("/0/stats64/tx/packets").and_then(Value::as_u64) {
        Some(packets) => Ok(packets),
        None => bail!("ip told nothing of {device} in {}", namespace.name()),
    }
}

/// What a reader of figures has to know of the machine, one line each.
pub fn environment() -> Vec<String> {
    let read =
        |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    vec![
        format!("Linux {}, {processors} processors, {build} build", read("/proc/sys/kernel/osrelease")),
        format!("load average before: {}", read("/proc/loadavg")),
        format!(
            "congestion control: {CONGESTION_CONTROL}; underlay: veth, MTU 1500, Ethernet-like unless the scenario says virtual-nic"
        ),
    ]
}
