//! The fabrics that are the kernel's own: cells over a bare underlay, and kernel VXLAN between containers, wired as the
//! incumbent wires them (addresses, routes, neighbours, devices), with or without its rules.

mod container;
pub(super) mod rules;
mod vtep;

use super::setting::{App, Setting};
use crate::lab::{Joined, Place, UNDERLAY_INTERFACE, join_underlay, lay_cable};
use crate::netns::Namespace;
use anyhow::{Context, Result};
use std::net::Ipv4Addr;

pub(super) use container::Container;

/// The same addresses as a lab's cells and its outside have; every fabric has an underlay of its own.
const CELLS: [(&str, Ipv4Addr); 2] =
    [("a", Ipv4Addr::new(192, 0, 2, 11)), ("b", Ipv4Addr::new(192, 0, 2, 12))];

/// Two cells, and what joins them.
#[derive(Debug)]
pub(super) struct Underlay {
    place: Place,
    fabric: &'static str,
    pub(super) cells: Vec<Cell>,
    /// None where a cable joins the cells.
    pub(super) switch: Option<Switch>,
}

/// A bridge, and on it a host that is no cell.
#[derive(Debug)]
pub(super) struct Switch {
    pub(super) namespace: Namespace,
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
    pub(super) fn build(place: &Place, fabric: &'static str, joined: Joined) -> Result<Self> {
        let (cells, switch) = match joined {
            Joined::Cable => (Self::cabled(place, fabric)?, None),
            Joined::Switch => Self::switched(place, fabric).map(|(cells, switch)| (cells, Some(switch)))?,
        };
        for cell in &cells {
            cell.namespace.ip(&[&format!("route add default via {}", Self::OUTSIDE)])?;
        }
        Ok(Self { place: place.clone(), fabric, cells, switch })
    }

    fn cabled(place: &Place, fabric: &str) -> Result<Vec<Cell>> {
        let cells =
            Cell::each(|name, _| Namespace::create(place.namespace(&format!("{fabric}-{name}")).name()))?;
        if let [a, b] = cells.as_slice() {
            lay_cable([(&a.namespace, a.address), (&b.namespace, b.address)])?;
        }
        Ok(cells)
    }

    fn switched(place: &Place, fabric: &str) -> Result<(Vec<Cell>, Switch)> {
        let namespace = Namespace::create(place.namespace(&format!("{fabric}-switch")).name())?;
        namespace.ip(&["link add br0 type bridge", "link set br0 up"])?;
        let join = |name: &str, address| {
            join_underlay(place, &namespace, &format!("{fabric}-{name}"), UNDERLAY_INTERFACE, address)
        };
        let outside = join("out", Self::OUTSIDE)?;
        Ok((Cell::each(join)?, Switch { namespace, outside }))
    }

    /// The host that is no cell.
    pub(super) fn outside(&self) -> Result<&Namespace> {
        let switch = self.switch.as_ref().context("a cable joins the cells: nothing else is on it")?;
        Ok(&switch.outside)
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
    fn each(make: impl Fn(&str, Ipv4Addr) -> Result<Namespace>) -> Result<Vec<Self>> {
        let cell =
            |(block, (name, address))| Ok(Self { name, namespace: make(name, address)?, address, block });
        (1..).zip(CELLS).map(cell).collect()
    }

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
        let underlay = Underlay::build(place, fabric, setting.joined)?;
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
    const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 21);
    pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 22);

    pub(super) fn build(place: &Place) -> Result<Self> {
        let client = Namespace::create(place.namespace("bare-client").name())?;
        let server = Namespace::create(place.namespace("bare-server").name())?;
        lay_cable([(&client, Self::CLIENT), (&server, Self::SERVER)])?;
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
