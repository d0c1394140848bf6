//! The fabrics side by side, and the ways that traffic takes through each of them.

use super::cells::Cells;
use super::kernel::rules;
use super::kernel::{Container, Overlay, Pair, Underlay};
use super::load::Way;
use super::setting::{App, PORT, Setting};
use super::wire::{self, Wire};
use crate::netns::Namespace;
use anyhow::{Context, Result};
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fabric {
    /// The underlay without any overlay: the limit.
    Bare,
    /// Kernel VXLAN without rules.
    Vxlan,
    /// Kernel VXLAN with group policy and the incumbent's rules.
    Silk,
    /// This project: the shipping object, wired by controller, agent and shim.
    C2c,
}

impl Fabric {
    /// All of them; this is the order within a round.
    pub const ALL: [Self; 4] = [Self::Bare, Self::Vxlan, Self::Silk, Self::C2c];

    /// Its name in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Vxlan => "vxlan",
            Self::Silk => "silk",
            Self::C2c => "c2c",
        }
    }
}

/// Where the client's traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// To a container of the other cell.
    OtherCell,
    /// To a container of the same cell.
    SameCell,
    /// From a host outside through a port of the cell to a container.
    Mapped,
    /// From a container to a host outside, with the cell's address.
    Outside,
}

/// All fabrics of one setting. They go away with this value, also when the program is killed: what was made here bears
/// the lab's name, and the lab's guard removes all that does.
#[derive(Debug)]
pub(super) struct Fabrics {
    pub(super) setting: Setting,
    pub(super) bare: Underlay,
    pair: Pair,
    pub(super) vxlan: Overlay,
    pub(super) silk: Overlay,
    /// How long the slower cell took to take its rules; none when it could not.
    pub(super) silk_laid: Option<Duration>,
    pub(super) c2c: Cells,
}

impl Fabrics {
    /// Makes them.
    pub(super) fn build(setting: Setting, progress: &impl Fn(&str)) -> Result<Self> {
        let c2c = Cells::build(&setting, progress)?;
        let place = c2c.lab.place().clone();
        progress("bare, vxlan and silk: cells and containers");
        let bare = Underlay::build(&place, "bare", setting.joined)?;
        let pair = Pair::build(&place)?;
        let vxlan = Overlay::build(&place, "vxlan", &setting)?;
        let silk = Overlay::build(&place, "silk", &setting)?;
        progress("silk: rules");
        let silk_laid = match rules::lay(&silk, &setting) {
            Ok(took) => Some(took),
            Err(error) => {
                progress(&format!("silk: cut off here: {error:#}"));
                None
            }
        };
        Ok(Self { setting, bare, pair, vxlan, silk, silk_laid, c2c })
    }

    /// Makes the underlay of each fabric behave so.
    pub(super) fn behave(&self, wire: Wire) -> Result<()> {
        for underlay in [&self.bare, &self.vxlan.underlay, &self.silk.underlay] {
            let (switch, outside) = underlay.switch.as_ref().map(|on| (&on.namespace, &on.outside)).unzip();
            let hosts: Vec<&Namespace> =
                underlay.cells.iter().map(|cell| &cell.namespace).chain(outside).collect();
            wire::behave(switch, &hosts, wire)?;
        }
        self.c2c.behave(wire)
    }

    /// The way that traffic takes; none where a fabric has no such way.
    pub(super) fn way(&self, fabric: Fabric, path: Path) -> Result<Option<Way>> {
        match fabric {
            Fabric::Bare => self.bare_way(path).map(Some),
            Fabric::Vxlan => self.overlay_way(&self.vxlan, path, false),
            Fabric::Silk if self.silk_laid.is_none() => Ok(None),
            Fabric::Silk => self.overlay_way(&self.silk, path, true),
            Fabric::C2c => self.c2c.way(path).map(Some),
        }
    }

    fn bare_way(&self, path: Path) -> Result<Way> {
        let (a, b) = (self.bare.cell("a")?, self.bare.cell("b")?);
        let straight = |client: &Namespace, server: &Namespace, address| {
            Way::straight(client.clone(), server.clone(), address, PORT)
        };
        Ok(match path {
            Path::OtherCell => straight(&a.namespace, &b.namespace, b.address),
            Path::SameCell => straight(&self.pair.client, &self.pair.server, Pair::SERVER),
            Path::Mapped => straight(self.bare.outside()?, &b.namespace, b.address),
            Path::Outside => straight(&a.namespace, self.bare.outside()?, Underlay::OUTSIDE),
        })
    }

    fn overlay_way(&self, overlay: &Overlay, path: Path, translates: bool) -> Result<Option<Way>> {
        let client = &overlay.container(App::Client, "a")?.namespace;
        let to = |server: &Container| {
            Way::straight(client.clone(), server.namespace.clone(), server.address, PORT)
        };
        Ok(match path {
            Path::OtherCell => Some(to(overlay.container(App::Server, "b")?)),
            Path::SameCell => Some(to(overlay.container(App::Server, "a")?)),
            Path::Mapped | Path::Outside if !translates => None,
            Path::Mapped => {
                let server = overlay.container(App::Server, "b")?;
                let port = rules::mapped_port(server).context("a server without a mapped port")?;
                let outside = overlay.underlay.outside()?;
                Some(mapped(outside, &server.namespace, overlay.underlay.cell("b")?.address, port))
            }
            Path::Outside => {
                let outside = overlay.underlay.outside()?.clone();
                Some(Way::straight(client.clone(), outside, Underlay::OUTSIDE, PORT))
            }
        })
    }
}

/// A way through a port of a cell.
pub(super) fn mapped(client: &Namespace, server: &Namespace, cell: Ipv4Addr, port: u16) -> Way {
    Way { client: client.clone(), server: server.clone(), to: SocketAddrV4::new(cell, port), port: PORT }
}
