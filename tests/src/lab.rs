//! A lab: cells in network namespaces on an underlay of their own, an agent on each, one controller, and containers that
//! went through the CNI shim. It lives in a directory and stays up until it is taken down, whoever started it.

mod build;
mod cells;
mod containers;
mod description;
mod garden;
mod groups;
mod outside;
mod place;
mod temporary;
mod wanted;

pub use build::UNDERLAY_INTERFACE;
pub use build::{Joined, Options};
pub(crate) use build::{join_underlay, lay_cable};
pub use cells::{command, output_of, program};
pub use containers::{Answer, Container, MappedPort, added_address};
pub use description::{Cell, Controller, Description};
pub use garden::{GardenAnswer, Sandbox};
pub use outside::Outside;
pub use place::Place;
pub use temporary::{TemporaryLab, guard, in_lab};
pub use wanted::{Bandwidth, Wanted};

use crate::netns::Namespace;
use anyhow::{Context, Result, bail};

/// A lab that is up, as far as its description tells.
#[derive(Debug)]
pub struct Lab {
    place: Place,
    description: Description,
}

impl Lab {
    /// The lab that is up in a place.
    pub fn open(place: Place) -> Result<Self> {
        let description = place.read_description()?;
        let Some(description) = description else {
            bail!("no lab is up in {}: start one with `lab up`", place.directory().display());
        };
        Ok(Self { place, description })
    }

    /// What outside programs may know of it; the same as in `lab.json`.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Where it lives.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The cell of this name.
    pub fn cell(&self, name: &str) -> Result<&Cell> {
        let cells = &self.description.cells;
        cells.iter().find(|cell| cell.name == name).with_context(|| {
            let names: Vec<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
            format!("no cell is called {name:?}; this lab has {}", names.join(", "))
        })
    }

    /// The controller.
    #[must_use]
    pub fn controller(&self) -> &Controller {
        &self.description.controller
    }

    /// What is on the underlay beside cells and controller.
    #[must_use]
    pub fn outside(&self) -> &Outside {
        &self.description.outside
    }

    /// The namespace of a container, of a cell (`cell-a`), of the `controller`, of the `underlay`, of the host `outside`
    /// or of the one behind it (`far`).
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        let namespace = self.place.namespace(name);
        if !namespace.exists() {
            bail!(
                "nothing in this lab is called {name:?}: neither a container nor controller, underlay, outside, far or cell-NAME"
            );
        }
        Ok(namespace)
    }
}
