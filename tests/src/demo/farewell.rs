//! The last chapter: everything goes, and the cells look as they did before.

use super::story::Story;
use crate::lab::{Cell, Lab};
use crate::observe::counters;
use crate::observe::files_below;
use crate::observe::network::NetworkState;
use crate::wait;
use anyhow::{Context, Result};

/// Maps that speak of containers and of what is theirs.
const MAPS: [&str; 5] = ["ENDPOINTS", "POLICIES", "MAPPINGS", "EGRESS", "EGRESS_PORTS"];

/// What the cells looked like before the first container came.
#[derive(Debug)]
pub(super) struct Untouched(Vec<Looks>);

/// One of them.
#[derive(Debug)]
struct Looks {
    cell: String,
    network: NetworkState,
    pins: Vec<String>,
    entries: Vec<(&'static str, u64)>,
}

impl Untouched {
    /// Looks at every cell.
    pub(super) fn of(lab: &Lab) -> Result<Self> {
        let look = |cell: &Cell| {
            Ok(Looks {
                cell: cell.name.clone(),
                network: NetworkState::of(&cell.namespace())?,
                pins: files_below(&cell.pin_dir)?,
                entries: entries(lab, cell)?,
            })
        };
        lab.description().cells.iter().map(look).collect::<Result<_>>().map(Self)
    }
}

/// Chapter 10.
pub(super) fn nothing_is_left(story: &mut Story, lab: &Lab, before: &Untouched) -> Result<()> {
    story.chapter("DEL of everything: nothing is left");
    for container in lab.containers()? {
        story.happens(&format!("DEL {}", container.name), "gone", || {
            lab.remove(&container.name).map(|()| "gone".to_owned())
        });
    }
    for Looks { cell, network, pins, entries } in &before.0 {
        let cell = lab.cell(cell)?;
        story.happens(&format!("cell {}: devices, addresses, routes", cell.name), "as before", || {
            let differences = network.differences(&NetworkState::of(&cell.namespace())?);
            Ok(if differences.is_empty() { "as before".to_owned() } else { differences.join("; ") })
        });
        story.happens(&format!("cell {}: pins", cell.name), "as before", || {
            let now = files_below(&cell.pin_dir)?;
            Ok(if &now == pins { "as before".to_owned() } else { format!("{now:?}") })
        });
        story.happens(&format!("cell {}: map entries, records", cell.name), "none", || {
            left_behind(lab, cell, entries)
        });
    }
    for Looks { cell, .. } in &before.0 {
        let cell = lab.cell(cell)?;
        story.happens(
            &format!("cell {}: the agent is stopped and uninstalled", cell.name),
            "lo, eth0; no pin",
            || {
                lab.stop_agent(&cell.name)?;
                lab.uninstall_agent(&cell.name)?;
                let devices = NetworkState::of(&cell.namespace())?.devices().join(", ");
                let pins = files_below(&cell.pin_dir)?;
                Ok(if pins.is_empty() {
                    format!("{devices}; no pin")
                } else {
                    format!("{devices}; {pins:?}")
                })
            },
        );
    }
    Ok(())
}

fn left_behind(lab: &Lab, cell: &Cell, before: &[(&str, u64)]) -> Result<String> {
    // Rows of policies and groups go when the controller's world no longer holds them for this cell, a moment after the
    // last DEL.
    let emptied = wait::until_true("the rows of maps to go", || Ok(entries(lab, cell)? == before));
    let records = files_below(&cell.state_dir.join("endpoints"))?;
    Ok(match (emptied, records.is_empty()) {
        (Ok(()), true) => "none".to_owned(),
        (Err(error), _) => format!("{error:#}: {:?}", entries(lab, cell)?),
        (Ok(()), false) => format!("{records:?}"),
    })
}

fn entries(lab: &Lab, cell: &Cell) -> Result<Vec<(&'static str, u64)>> {
    let maps = counters::maps(lab, &cell.name)?;
    let entries = |name| maps.get(name).map(|map| map.entries).with_context(|| format!("no map {name}"));
    MAPS.into_iter().map(|name| Ok((name, entries(name)?))).collect()
}
