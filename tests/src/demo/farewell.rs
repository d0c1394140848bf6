//! The last chapter: everything goes, and the cells look as they did before.

use super::story::Story;
use crate::lab::{Cell, Lab};
use crate::observe::counters;
use crate::observe::files_below;
use crate::observe::network::NetworkState;
use crate::wait;
use anyhow::Result;

/// What the cells looked like before the first container came.
#[derive(Debug)]
pub(super) struct Untouched(Vec<(String, NetworkState, Vec<String>)>);

impl Untouched {
    /// Looks at every cell.
    pub(super) fn of(lab: &Lab) -> Result<Self> {
        let look = |cell: &Cell| {
            Ok((cell.name.clone(), NetworkState::of(&cell.namespace())?, files_below(&cell.pin_dir)?))
        };
        lab.description().cells.iter().map(look).collect::<Result<_>>().map(Self)
    }
}

/// Chapter 9.
pub(super) fn nothing_is_left(story: &mut Story, lab: &Lab, before: &Untouched) -> Result<()> {
    story.chapter("DEL of everything: nothing is left");
    for container in lab.containers()? {
        story.happens(&format!("DEL {}", container.name), "gone", || {
            lab.remove(&container.name).map(|()| "gone".to_owned())
        });
    }
    for (cell, network, pins) in &before.0 {
        let cell = lab.cell(cell)?;
        story.happens(&format!("cell {}: devices, addresses, routes", cell.name), "as before", || {
            let differences = network.differences(&NetworkState::of(&cell.namespace())?);
            Ok(if differences.is_empty() { "as before".to_owned() } else { differences.join("; ") })
        });
        story.happens(&format!("cell {}: pins", cell.name), "as before", || {
            let now = files_below(&cell.pin_dir)?;
            Ok(if &now == pins { "as before".to_owned() } else { format!("{now:?}") })
        });
        story
            .happens(&format!("cell {}: map entries, records", cell.name), "none", || left_behind(lab, cell));
    }
    for (cell, _, _) in &before.0 {
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

fn left_behind(lab: &Lab, cell: &Cell) -> Result<String> {
    // Rows of policies go when the controller's world no longer holds them for this cell, a moment after the last DEL.
    let emptied = wait::until_true("the policy rows to go", || {
        let maps = counters::maps(lab, &cell.name)?;
        Ok(["ENDPOINTS", "POLICIES"].iter().all(|map| maps.get(*map).is_some_and(|map| map.entries == 0)))
    });
    let records = files_below(&cell.state_dir.join("endpoints"))?;
    Ok(match (emptied, records.is_empty()) {
        (Ok(()), true) => "none".to_owned(),
        (Err(error), _) => format!("{error:#}"),
        (Ok(()), false) => format!("{records:?}"),
    })
}
