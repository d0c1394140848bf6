//! Everything on a cell that a container leaves traces in, to be compared with what was there before it came.

use super::counters;
use super::files_below;
use super::network::NetworkState;
use crate::lab::{Cell, Lab};
use crate::wait;
use anyhow::{Result, ensure};

/// A cell at one time.
#[derive(Clone, Debug)]
pub struct Traces {
    network: NetworkState,
    files: Vec<String>,
}

impl Traces {
    /// Looks at a cell.
    pub fn of(cell: &Cell) -> Result<Self> {
        let mut files = files_below(&cell.pin_dir)?;
        files.extend(files_below(&cell.state_dir.join("endpoints"))?);
        files.extend(files_below(&cell.state_dir.join("pending-del"))?);
        Ok(Self { network: NetworkState::of(&cell.namespace())?, files })
    }

    /// Nothing of any container is left: the cell looks as it did, its endpoint map is empty, and no port leads anywhere.
    pub fn are_all_there_is(&self, lab: &Lab, cell: &str) -> Result<()> {
        wait::until_true("the endpoints to be gone", || {
            Ok(counters::maps(lab, cell)?.get("ENDPOINTS").is_some_and(|map| map.entries == 0))
        })?;
        let ports = lab.ask_agent(cell, "ports")?;
        ensure!(ports.as_array().is_some_and(Vec::is_empty), "ports of cell {cell}: {ports}");
        let now = Self::of(lab.cell(cell)?)?;
        let differences = self.network.differences(&now.network);
        ensure!(differences.is_empty(), "the network of cell {cell}: {differences:?}");
        ensure!(self.files == now.files, "the files of cell {cell}: {:?} became {:?}", self.files, now.files);
        Ok(())
    }
}
