//! What rules ask to be logged: from the programs, through whom the manager knows, to the flow log.

use super::open::Cell;
use crate::config::Config;
use crate::datapath;
use crate::endpoint::Record;
use crate::flow_log::{self, Container, FlowLog};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Starts the flow log, and answers where it counts lines that could not be written.
pub(super) fn start(config: &Config, cell: &Cell) -> Result<Arc<AtomicU64>, datapath::Error> {
    let own = flow_log::Cell { name: config.cell.clone(), address: cell.facts.underlay };
    let log = FlowLog::new(config.flow_log.clone(), own);
    let lost = log.lost();
    // The fabric owns the thread, and the manager the fabric: it must not be kept by its own child.
    let manager = Arc::downgrade(&cell.manager);
    let who = move |address| Some(container(manager.upgrade()?.at(address)?));
    cell.fabric.events(log.taker(who))?;
    Ok(lost)
}

fn container(record: Record) -> Container {
    let said = |key: &str| record.metadata.get(key).and_then(|value| value.as_str()).unwrap_or_default();
    let app = if said("app_id").is_empty() { &record.app } else { said("app_id") };
    Container {
        app: app.to_owned(),
        space: said("space_id").to_owned(),
        organization: said("org_id").to_owned(),
        handle: record.attachment.container_id.clone(),
    }
}
