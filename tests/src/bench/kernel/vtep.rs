//! The tunnel's device on each cell and what leads to the other cells, as the incumbent's daemon sets them.

use super::{Cell, hardware};
use crate::lab::UNDERLAY_INTERFACE;
use anyhow::Result;
use std::process::Command;

/// The incumbent's name for it.
pub(in crate::bench) const DEVICE: &str = "silk-vtep";

/// Makes the device of each cell, and on each the route, the neighbour and the forwarding entry of every other one.
pub(super) fn join(cells: &[Cell]) -> Result<()> {
    for cell in cells {
        create(cell)?;
        for peer in cells.iter().filter(|peer| peer.name != cell.name) {
            lead_to(cell, peer)?;
        }
    }
    Ok(())
}

fn create(cell: &Cell) -> Result<()> {
    let (base, underlay) = (cell.overlay(0), cell.address);
    let address = hardware("ee:ee", base);
    cell.namespace.ip(&[
        &format!(
            "link add {DEVICE} address {address} type vxlan id 1 dev {UNDERLAY_INTERFACE} local {underlay} dstport 4789 nolearning gbp"
        ),
        &format!("addr add {base}/16 dev {DEVICE} scope link"),
        &format!("link set {DEVICE} up"),
    ])
}

fn lead_to(cell: &Cell, peer: &Cell) -> Result<()> {
    let (own, base) = (cell.overlay(0), peer.overlay(0));
    let address = hardware("ee:ee", base);
    cell.namespace.ip(&[
        &format!("route add {base}/24 via {base} dev {DEVICE} src {own}"),
        &format!("neigh add {base} lladdr {address} dev {DEVICE} nud permanent"),
    ])?;
    let destination = peer.address.to_string();
    let mut entry = Command::new("bridge");
    entry.args(["fdb", "add", &address, "dev", DEVICE, "dst", &destination, "permanent"]);
    cell.namespace.output(&mut entry).map(drop)
}
