//! Containers as the incumbent's plugin wires them. Those that take part have a namespace each; the idle ones of a cell
//! share one: what they cost is on the cell.

use super::super::setting::App;
use super::{Cell, Underlay, hardware, set};
use crate::netns::Namespace;
use anyhow::Result;
use std::net::Ipv4Addr;

/// What the tunnel leaves of the underlay's 1,500 bytes.
const MTU: u32 = 1_450;
/// What every container's default route leads to.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// .0 is the tunnel's device, .1 is never given out.
const FIRST_HOST: u8 = 2;

/// A container.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Container {
    pub(in crate::bench) app: App,
    pub(in crate::bench) cell: &'static str,
    pub(in crate::bench) namespace: Namespace,
    pub(in crate::bench) address: Ipv4Addr,
    /// Its number on its cell, from 0.
    pub(super) number: u8,
}

/// Puts so many containers on a cell: one of the client's app, one of the server's, and idle ones.
pub(super) fn fill(underlay: &Underlay, cell: &Cell, containers: u8) -> Result<Vec<Container>> {
    set(&cell.namespace, "ip_forward", "1")?;
    let idle = Namespace::create(underlay.namespace(&format!("idle-{}", cell.name)).name())?;
    let mut filled = Vec::new();
    for number in 0..containers {
        let (app, namespace) = match number {
            0 => (App::Client, own_namespace(underlay, cell, "client")?),
            1 => (App::Server, own_namespace(underlay, cell, "server")?),
            // Beyond the apps that policies name.
            _ => (App::Other(2_000 + 100 * u16::from(cell.block) + u16::from(number)), idle.clone()),
        };
        let address = cell.overlay(FIRST_HOST + number);
        let container = Container { app, cell: cell.name, namespace, address, number };
        attach(cell, &container, number)?;
        filled.push(container);
    }
    Ok(filled)
}

fn own_namespace(underlay: &Underlay, cell: &Cell, name: &str) -> Result<Namespace> {
    Namespace::create(underlay.namespace(&format!("{name}-{}", cell.name)).name())
}

fn attach(cell: &Cell, container: &Container, number: u8) -> Result<()> {
    let address = container.address;
    let [a, b, c, d] = address.octets();
    let (device, inside) = (format!("s-{a:03}{b:03}{c:03}{d:03}"), format!("eth{number}"));
    let (outer, inner) = (hardware("aa:aa", address), hardware("ee:ee", address));
    let namespace = container.namespace.name();
    cell.namespace.ip(&[
        &format!(
            "link add {device} address {outer} mtu {MTU} type veth peer name {inside} address {inner} mtu {MTU} netns {namespace}"
        ),
        &format!("addr add {GATEWAY}/32 peer {address}/32 dev {device} scope link"),
        &format!("link set {device} arp off up"),
        &format!("neigh add {address} lladdr {inner} dev {device} nud permanent"),
    ])?;
    set(&cell.namespace, &format!("conf/{device}/rp_filter"), "1")?;
    match container.app {
        App::Client | App::Server => configure(container, &inside, &outer),
        App::Other(_) => container.namespace.ip(&[&format!("link set {inside} arp off up")]),
    }
}

fn configure(container: &Container, device: &str, gateway: &str) -> Result<()> {
    let address = container.address;
    container.namespace.ip(&[
        &format!("addr add {address}/32 peer {GATEWAY}/32 dev {device} scope link"),
        &format!("link set {device} arp off up"),
        &format!("route add default via {GATEWAY} src {address}"),
        &format!("neigh add {GATEWAY} lladdr {gateway} dev {device} nud permanent"),
    ])?;
    set(&container.namespace, &format!("conf/{device}/rp_filter"), "1")
}
