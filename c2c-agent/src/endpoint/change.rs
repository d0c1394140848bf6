//! What Garden changes of a container that is wired: more ports that lead into it, more that it may reach.
//!
//! The record is written first, so that what is enforced is never forgotten; when the datapath refuses, the record is put
//! back as it was.

use super::failure::{caused, failure};
use super::journal::Durability;
use super::manager::{Manager, no_port};
use super::plan;
use super::record::{Record, State};
use super::wire::Wire;
use c2c_proto::agent_api::{ApiError, NetIn, NetOut, PortMapping, PortRequest, code};
use c2c_proto::egress;

impl<W: Wire> Manager<W> {
    /// Leads one more port of the cell into a container. One that leads there already stays and is answered.
    ///
    /// # Errors
    /// When the container is not wired, the port cannot be had, or the datapath refuses; nothing is changed then.
    pub async fn net_in(&self, NetIn { container_id, port }: NetIn) -> Result<PortMapping, ApiError> {
        let _turn = self.cell.turns.take(&container_id).await;
        let before = self.wired(&container_id)?;
        if let Some(there) = before.ports.iter().find(|mapping| is_asked(mapping, port)) {
            return Ok(*there);
        }
        let taken = self.cell.book.take_port(port).map_err(|error| no_port(&error, &before.called()))?;
        let mut after = before.clone();
        after.ports.push(taken);
        let changed = self.change(before, after).await;
        changed.inspect_err(|_| self.cell.book.release_port(taken))?;
        Ok(taken)
    }

    /// Lets a container reach more. Rules that it has already are not had twice.
    ///
    /// # Errors
    /// When the container is not wired, one of the rules cannot be used, or the datapath refuses; nothing is changed
    /// then.
    pub async fn net_out(&self, NetOut { container_id, rules }: NetOut) -> Result<(), ApiError> {
        let _turn = self.cell.turns.take(&container_id).await;
        let before = self.wired(&container_id)?;
        for rule in &rules {
            egress::of_net_out(rule).map_err(|error| failure(code::INVALID, error.to_string()))?;
        }
        let mut after = before.clone();
        after.egress = plan::distinct(after.egress.into_iter().chain(rules));
        if after.egress == before.egress { Ok(()) } else { self.change(before, after).await }
    }

    /// The record of a container that is wired. Garden's containers have one interface.
    fn wired(&self, container_id: &str) -> Result<Record, ApiError> {
        let found = self.cell.book.of_container(container_id).filter(|record| record.state == State::Wired);
        found.ok_or_else(|| {
            let msg = format!("the container {container_id:?} is not wired on this cell");
            failure(code::UNKNOWN_CONTAINER, msg)
        })
    }

    async fn change(&self, before: Record, after: Record) -> Result<(), ApiError> {
        self.put(after.clone()).await?;
        let Err(refusal) = self.cell.wire.endpoint_update(&after).await else {
            self.cell.book.update(after);
            return Ok(());
        };
        let msg = format!("the datapath does not take what changed of {}", before.called());
        let mut error = caused(code::DATAPATH, msg, &refusal);
        if let Err(second) = self.put(before).await {
            tracing::error!(%error, undo = %second, "a change that failed is still in the container's record");
            error.details = format!("{}; and its record still has it: {}", error.details, second.details);
        }
        Err(error)
    }

    async fn put(&self, record: Record) -> Result<(), ApiError> {
        let put = move |cell: &super::manager::Cell<W>| {
            cell.write(&record, Durability::Lazy)?;
            cell.note_last_port(&record);
            Ok(())
        };
        self.blocking(put).await
    }
}

/// Whether a port leads where it is asked to lead. What is to be chosen is always a new one.
fn is_asked(mapping: &PortMapping, port: PortRequest) -> bool {
    let container_port = if port.container_port == 0 { port.host_port } else { port.container_port };
    let asked = PortMapping { host_port: port.host_port, container_port, protocol: port.protocol };
    *mapping == asked
}
