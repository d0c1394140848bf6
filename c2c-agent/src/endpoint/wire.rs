//! What an endpoint needs of the rest of the cell: a lease to get an address from, and programs to be enforced by. A
//! trait, so that ADD and DEL can be tested with real namespaces and without programs.

use super::record::Record;
use crate::fabric::{CellLease, Fabric, FabricError};
use std::error::Error;
use std::future::Future;

/// The cell's lease and datapath, as [`Fabric`] offers them.
pub trait Wire: Send + Sync + 'static {
    /// Why the datapath refused.
    type Error: Error + Send;

    /// Where a new container gets its address from, if a lease is held.
    fn cell_lease(&self) -> Option<CellLease>;

    /// Enforces a new container. After an error nothing of it is left in the datapath.
    fn endpoint_add(&self, record: &Record) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Enforces what changed of a container that is enforced already: its ports or its rules. After an error the
    /// datapath is as before.
    fn endpoint_update(&self, record: &Record) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Takes a container out of the datapath; it may be gone already.
    fn endpoint_remove(&self, record: &Record) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Takes over the containers that an earlier run left.
    fn endpoint_restore(&self, records: &[Record]) -> Result<(), Self::Error>;
}

impl Wire for Fabric {
    type Error = FabricError;

    fn cell_lease(&self) -> Option<CellLease> {
        Self::cell_lease(self)
    }

    async fn endpoint_add(&self, record: &Record) -> Result<(), FabricError> {
        Self::endpoint_add(self, record).await
    }

    async fn endpoint_update(&self, record: &Record) -> Result<(), FabricError> {
        Self::endpoint_update(self, record).await
    }

    async fn endpoint_remove(&self, record: &Record) -> Result<(), FabricError> {
        Self::endpoint_remove(self, record).await
    }

    fn endpoint_restore(&self, records: &[Record]) -> Result<(), FabricError> {
        Self::endpoint_restore(self, records)
    }
}
