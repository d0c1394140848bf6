//! The result of the plugins before us, or of our own ADD, as the runtime hands it back in `prevResult`.

use crate::error::CniError;
use crate::version::is_before_1;
use serde_json::{Map, Value};
use std::net::Ipv4Addr;

/// Refuses a previous result that ours cannot be added to.
pub(crate) fn check(previous: &Map<String, Value>, version: &str) -> Result<(), CniError> {
    check_version(previous, version)?;
    ["interfaces", "ips", "routes"].iter().try_for_each(|key| list(previous, key).map(drop))
}

/// Refuses a previous result of another shape than the configuration's version has. One without a version has it.
pub(crate) fn check_version(previous: &Map<String, Value>, version: &str) -> Result<(), CniError> {
    let found = previous.get("cniVersion").and_then(Value::as_str).unwrap_or(version);
    if is_before_1(found) == is_before_1(version) {
        return Ok(());
    }
    Err(CniError::config(format!(
        "prevResult has cniVersion {found:?}, expected that of the configuration, {version:?}"
    )))
}

/// The container's IPv4 address: that of the interface of this name inside the container, or the first address that
/// belongs to no interface, as old plugins word it.
pub(crate) fn container_address(previous: &Map<String, Value>, ifname: &str) -> Result<Ipv4Addr, CniError> {
    let interfaces = list(previous, "interfaces")?;
    let ips = list(previous, "ips")?;
    let owner = |ip: &Value| interface_of(ip).and_then(|index| interfaces.get(index));
    let inside = |interface: &Value| {
        let sandboxed =
            interface.get("sandbox").and_then(Value::as_str).is_some_and(|sandbox| !sandbox.is_empty());
        sandboxed && interface.get("name").and_then(Value::as_str) == Some(ifname)
    };
    let own = ips.iter().filter(|ip| owner(ip).is_some_and(inside)).find_map(ipv4);
    let unowned = || ips.iter().filter(|ip| owner(ip).is_none()).find_map(ipv4);
    own.or_else(unowned).ok_or_else(|| {
        CniError::config(format!(
            "prevResult has no IPv4 address of the interface {ifname:?} in the container"
        ))
    })
}

/// A list in a previous result; absent counts as empty.
pub(crate) fn list<'a>(previous: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], CniError> {
    match previous.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(CniError::decode(format!("prevResult.{key} is {other}, expected a list"))),
    }
}

/// Some old plugins say -1 for "of none".
fn interface_of(ip: &Value) -> Option<usize> {
    ip.get("interface")?.as_u64().and_then(|index| usize::try_from(index).ok())
}

fn ipv4(ip: &Value) -> Option<Ipv4Addr> {
    let address = ip.get("address")?.as_str()?;
    address.split_once('/').map_or(address, |(address, _)| address).parse().ok()
}
