//! The fabrics that are the kernel's own: cells over a bare underlay, and kernel VXLAN between containers, wired as the
//! incumbent wires them (addresses, routes, neighbours, devices), with or without its rules.

mod container;
pub(super) mod rules;
mod vtep;

use super::setting::{App, Setting};
use crate::lab::{Place, UNDERLAY_INTERFACE, join_underlay};
use crate::netns::Namespace;
use anyhow::{Context, Result};
use std::net::Ipv4Addr;

pub(super) use container::Container;

/// The same addresses as a lab's cells and its outside have; every fabric has an underlay of its own.
const CELLS: [(&str, Ipv4Addr); 2] =
    [("a", Ipv4Addr::new(192, 0, 2, 11)), ("b", Ipv4Addr::new(192, 0, 2, 12))];

/// A bridge, two cells and a host that is no cell.
#[derive(Debug)]
pub(super) struct Underlay {
    place: Place,
    fabric: &'static str,
    pub(super) switch: Namespace,
    pub(super) cells: Vec<Cell>,
    pub(super) outside: Namespace,
}

/// One cell.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) name: &'static str,
    pub(super) namespace: Namespace,
    pub(super) address: Ipv4Addr,
    /// Third byte of the addresses in its block of the overlay, 10.255.N.0/24.
    block: u8,
}

impl Underlay {
    /// The host that is no cell.
    pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

    /// Makes it, as a lab makes its own.
    pub(super) fn build(place: &Place, fabric: &'static str) -> Result<Self> {
        let switch = Namespace::create(place.namespace(&format!("{fabric}-switch")).name())?;
        switch.ip(&["link add br0 type bridge", "link set br0 up"])?;
        let join = |name: &str, address| join_underlay(place, &switch, &format!("{fabric}-{name}"), address);
        let outside = join("out", Self::OUTSIDE)?;
        let mut cells = Vec::new();
        for (block, (name, address)) in (1..).zip(CELLS) {
            let namespace = join(name, address)?;
            namespace.ip(&[&format!("route add default via {}", Self::OUTSIDE)])?;
            cells.push(Cell { name, namespace, address, block });
        }
        Ok(Self { place: place.clone(), fabric, switch, cells, outside })
    }

    /// A cell by its name.
    pub(super) fn cell(&self, name: &str) -> Result<&Cell> {
        self.cells.iter().find(|cell| cell.name == name).with_context(|| format!("no cell is called {name}"))
    }

    fn namespace(&self, name: &str) -> Namespace {
        self.place.namespace(&format!("{}-{name}", self.fabric))
    }
}

impl Cell {
    fn overlay(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 255, self.block, host)
    }
}

/// Kernel VXLAN between containers.
#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) underlay: Underlay,
    pub(super) containers: Vec<Container>,
}

impl Overlay {
    /// Makes cells with their tunnels and containers, without any rules.
    pub(super) fn build(place: &Place, fabric: &'static str, setting: &Setting) -> Result<Self> {
        let underlay = Underlay::build(place, fabric)?;
        vtep::join(&underlay.cells)?;
        let mut containers = Vec::new();
        for cell in &underlay.cells {
            containers.extend(container::fill(&underlay, cell, setting.containers)?);
        }
        Ok(Self { underlay, containers })
    }

    /// The container of an app on a cell.
    pub(super) fn container(&self, app: App, cell: &str) -> Result<&Container> {
        let found = self.containers.iter().find(|container| container.app == app && container.cell == cell);
        found.with_context(|| format!("no container of {app:?} on cell {cell}"))
    }
}

/// Two namespaces with nothing between them but a pair of devices: the limit for two containers of one cell.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) client: Namespace,
    pub(super) server: Namespace,
}

impl Pair {
    pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 22);

    pub(super) fn build(place: &Place) -> Result<Self> {
        let client = Namespace::create(place.namespace("bare-client").name())?;
        let server = Namespace::create(place.namespace("bare-server").name())?;
        let (device, peer) = (UNDERLAY_INTERFACE, server.name());
        client.ip(&[
            &format!("link add {device} type veth peer name {device} netns {peer}"),
            &format!("addr add 192.0.2.21/24 dev {device}"),
            &format!("link set {device} up"),
        ])?;
        server
            .ip(&[&format!("addr add {}/24 dev {device}", Self::SERVER), &format!("link set {device} up")])?;
        Ok(Self { client, server })
    }
}

/// Sets a value below `/proc/sys/net/ipv4` in a namespace.
fn set(namespace: &Namespace, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    namespace.run(|| std::fs::write(&path, value).with_context(|| format!("cannot write {path}")))
}

/// The incumbent's scheme for hardware addresses: two fixed bytes and the address.
fn hardware(prefix: &str, address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{prefix}:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}
