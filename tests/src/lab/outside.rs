//! The outside world of a lab: a host on the underlay that is no cell, routes, and has another host behind it.
//!
//! The cells' default route leads through it, so that a router's errors (time exceeded, fragmentation needed) can be had.

use super::build::{UNDERLAY_INTERFACE, join_underlay};
use super::place::Place;
use crate::netns::Namespace;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// The router's address on the underlay.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
/// 198.51.100.0/24 is documentation's own, as the underlay's network is (RFC 5737).
const FAR_NETWORK: &str = "198.51.100.0/24";
const FAR_GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const FAR_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The router's device to the network behind it.
const FAR_INTERFACE: &str = "to-far";

/// What is on the underlay beside cells and controller.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outside {
    /// Network namespace of the host and router on the underlay.
    pub namespace: String,
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// Network namespace of the host behind it.
    pub far_namespace: String,
    /// That host's address.
    pub far_address: Ipv4Addr,
    /// The network that it is in, as CIDR.
    pub far_network: String,
}

impl Outside {
    /// The namespace of the host and router on the underlay.
    #[must_use]
    pub fn namespace(&self) -> Namespace {
        Namespace::named(&self.namespace)
    }

    /// The namespace of the host behind it.
    #[must_use]
    pub fn far(&self) -> Namespace {
        Namespace::named(&self.far_namespace)
    }

    /// Gives the host behind the router one more address.
    pub fn add_far_address(&self, address: Ipv4Addr) -> Result<()> {
        self.far().ip(&[&format!("addr add {address}/32 dev {UNDERLAY_INTERFACE}")])
    }

    /// Makes the way between the router and the host behind it narrower, in bytes.
    pub fn set_far_mtu(&self, mtu: u32) -> Result<()> {
        self.namespace().ip(&[&format!("link set {FAR_INTERFACE} mtu {mtu}")])
    }
}

/// Builds both hosts and what joins them.
pub(super) fn prepare(place: &Place, underlay: &Namespace) -> Result<Outside> {
    let router = join_underlay(place, underlay, "outside", UNDERLAY_INTERFACE, ADDRESS)?;
    let far = Namespace::create(place.namespace("far").name())?;
    router.ip(&[
        &format!("link add {FAR_INTERFACE} type veth peer name {UNDERLAY_INTERFACE} netns {}", far.name()),
        &format!("addr add {FAR_GATEWAY}/24 dev {FAR_INTERFACE}"),
        &format!("link set {FAR_INTERFACE} up"),
    ])?;
    far.ip(&[
        &format!("addr add {FAR_ADDRESS}/24 dev {UNDERLAY_INTERFACE}"),
        &format!("link set {UNDERLAY_INTERFACE} up"),
        &format!("route add default via {FAR_GATEWAY}"),
    ])?;
    // Every error is told, however many there are: a test must not depend on what another one used up.
    router.run(|| set("ip_forward", "1").and_then(|()| set("icmp_ratelimit", "0")))?;
    far.run(|| set("icmp_ratelimit", "0"))?;
    Ok(Outside {
        namespace: router.name().to_owned(),
        address: ADDRESS,
        far_namespace: far.name().to_owned(),
        far_address: FAR_ADDRESS,
        far_network: FAR_NETWORK.to_owned(),
    })
}

/// Sets a sysctl of IPv4 in the namespace that the thread is in.
fn set(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    std::fs::write(&path, value).with_context(|| format!("cannot write {path}"))
}
