//! `leases` and `evict`.

use super::client::{self, Client, Connection};
use super::{Failure, output};
use c2c_proto::v1;
use clap::Args;
use serde::Serialize;

/// How to list leases.
#[derive(Clone, Debug, Args)]
pub(super) struct LeasesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

const EVICT_EXAMPLES: &str = "\
A connected agent loses its stream and must ask for a new lease; evict cells that are gone.

Examples:
  c2c-controller evict cell-17
  c2c-controller evict 192.0.2.17";

/// Which cell to evict.
#[derive(Clone, Debug, Args)]
#[command(after_help = EVICT_EXAMPLES)]
pub(super) struct EvictArgs {
    /// The cell's name or underlay address
    cell: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Serialize)]
struct Listed {
    revision: u64,
    overlay_network: String,
    leases: Vec<ListedLease>,
}

#[derive(Debug, Serialize)]
struct ListedLease {
    #[serde(flatten)]
    lease: Lease,
    renewed_seconds_ago: u64,
    expires_in_seconds: u64,
    connected: bool,
    applied_revision: u64,
}

#[derive(Debug, Serialize)]
struct Lease {
    cell: String,
    underlay_address: String,
    overlay_block: String,
    hardware_address: String,
}

#[derive(Debug, Serialize)]
struct Evicted {
    revision: u64,
    evicted: Lease,
}

pub(super) fn list(args: &LeasesArgs) -> Result<(), Failure> {
    let reply = client::call(&args.connection, async |mut client: Client| {
        client.list_leases(v1::ListLeasesRequest {}).await
    })?;
    let listed = Listed {
        revision: reply.revision,
        overlay_network: reply.overlay_network,
        leases: reply.leases.into_iter().map(ListedLease::from).collect(),
    };
    output::print(args.json, &listed, || human_list(&listed));
    Ok(())
}

pub(super) fn evict(args: &EvictArgs) -> Result<(), Failure> {
    let cell = args.cell.clone();
    let reply = client::call(&args.connection, async |mut client: Client| {
        client.evict_cell(v1::EvictCellRequest { cell }).await
    })?;
    let evicted = Evicted { revision: reply.revision, evicted: reply.evicted.unwrap_or_default().into() };
    output::print(args.json, &evicted, || {
        let Lease { cell, underlay_address, overlay_block, .. } = &evicted.evicted;
        format!(
            "cell {cell} at {underlay_address} evicted at revision {}; {overlay_block} is free",
            evicted.revision
        )
    });
    Ok(())
}

fn human_list(listed: &Listed) -> String {
    if listed.leases.is_empty() {
        return format!("no lease of {} at revision {}", listed.overlay_network, listed.revision);
    }
    let rows = listed.leases.iter().map(|state| {
        let expires = match state.expires_in_seconds {
            0 => "expired".to_owned(),
            seconds => format!("in {}", output::duration(seconds)),
        };
        let stream = match state.connected {
            true => format!("at revision {} of {}", state.applied_revision, listed.revision),
            false => "not connected".to_owned(),
        };
        let renewed = format!("{} ago", output::duration(state.renewed_seconds_ago));
        let Lease { cell, underlay_address, overlay_block, .. } = &state.lease;
        vec![cell.clone(), underlay_address.clone(), overlay_block.clone(), renewed, expires, stream]
    });
    output::table(&["cell", "underlay", "block", "renewed", "expires", "agent"], rows)
}

impl From<v1::Lease> for Lease {
    fn from(lease: v1::Lease) -> Self {
        Self {
            cell: lease.cell,
            underlay_address: lease.underlay_address,
            overlay_block: lease.overlay_block,
            hardware_address: lease.hardware_address,
        }
    }
}

impl From<v1::LeaseState> for ListedLease {
    fn from(state: v1::LeaseState) -> Self {
        Self {
            lease: state.lease.unwrap_or_default().into(),
            renewed_seconds_ago: state.renewed_seconds_ago,
            expires_in_seconds: state.expires_in_seconds,
            connected: state.connected,
            applied_revision: state.applied_revision,
        }
    }
}
