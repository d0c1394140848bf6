//! Containers as the incumbent's plugin wires them. Those that take part have a namespace each; the idle ones of a cell
//! share one: what they cost is on the cell.

use super::super::setting::App;
use super::{Cell, Underlay, hardware, set};
use crate::netns::Namespace;
use anyhow::{Context, Result};
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
    let own = |name: &str| Namespace::create(underlay.namespace(&format!("{name}-{}", cell.name)).name());
    let (client, server, idle) = (own("client")?, own("server")?, own("idle")?);
    let mut filled = Vec::new();
    for number in 0..containers {
        let (app, namespace) = match number {
            0 => (App::Client, &client),
            1 => (App::Server, &server),
            // Beyond the apps that policies name.
            _ => (App::Other(2_000 + 100 * u16::from(cell.block) + u16::from(number)), &idle),
        };
        let (address, namespace) = (cell.overlay(FIRST_HOST + number), namespace.clone());
        filled.push(Container { app, cell: cell.name, namespace, address, number });
    }
    attach(cell, &filled)?;
    let (taking_part, idle_ones): (Vec<&Container>, Vec<&Container>) =
        filled.iter().partition(|container| matches!(container.app, App::Client | App::Server));
    taking_part.into_iter().try_for_each(configure)?;
    let up: Vec<String> =
        idle_ones.iter().map(|container| format!("link set {} arp off up", container.inside())).collect();
    batch(&idle, &up)?;
    Ok(filled)
}

/// The cell's ends of all pairs, in one go.
fn attach(cell: &Cell, containers: &[Container]) -> Result<()> {
    batch(&cell.namespace, &containers.iter().flat_map(Container::on_cell).collect::<Vec<_>>())?;
    let mut devices = containers.iter().map(Container::outside);
    cell.namespace.run(|| devices.try_for_each(|device| check_source(&device)))
}

fn configure(container: &Container) -> Result<()> {
    let (address, device, gateway) =
        (container.address, container.inside(), hardware("aa:aa", container.address));
    container.namespace.ip(&[
        &format!("addr add {address}/32 peer {GATEWAY}/32 dev {device} scope link"),
        &format!("link set {device} arp off up"),
        &format!("route add default via {GATEWAY} src {address}"),
        &format!("neigh add {GATEWAY} lladdr {gateway} dev {device} nud permanent"),
    ])?;
    container.namespace.run(|| check_source(&device))
}

impl Container {
    /// The cell's end of its pair.
    fn outside(&self) -> String {
        let [a, b, c, d] = self.address.octets();
        format!("s-{a:03}{b:03}{c:03}{d:03}")
    }

    /// Its own end. Idle containers of a cell share a namespace.
    fn inside(&self) -> String {
        format!("eth{}", self.number)
    }

    fn on_cell(&self) -> [String; 4] {
        let (address, device, inside) = (self.address, self.outside(), self.inside());
        let (outer, inner) = (hardware("aa:aa", address), hardware("ee:ee", address));
        let namespace = self.namespace.name();
        [
            format!(
                "link add {device} address {outer} mtu {MTU} type veth peer name {inside} address {inner} mtu {MTU} netns {namespace}"
            ),
            format!("addr add {GATEWAY}/32 peer {address}/32 dev {device} scope link"),
            format!("link set {device} arp off up"),
            format!("neigh add {address} lladdr {inner} dev {device} nud permanent"),
        ]
    }
}

fn batch(namespace: &Namespace, commands: &[String]) -> Result<()> {
    namespace.ip(&commands.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Switches the check of source addresses on for a device of the namespace that the thread is in.
fn check_source(device: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/conf/{device}/rp_filter");
    std::fs::write(&path, "1").with_context(|| format!("cannot write {path}"))
}
