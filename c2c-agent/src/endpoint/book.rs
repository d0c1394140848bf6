//! The records in memory and the addresses and ports they use, kept in step under one lock.

use super::ipam::Pool;
use super::ports::{PortError, Ports};
use super::record::Record;
use c2c_proto::agent_api::{Attachment, PortMapping, PortRequest};
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All containers of the cell.
#[derive(Debug)]
pub(super) struct Book(Mutex<Pages>);

#[derive(Debug)]
struct Pages {
    records: BTreeMap<Attachment, Record>,
    pool: Pool,
    ports: Ports,
}

/// Why a container cannot be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// Every address of the block is in use.
    Address,
    /// A port cannot be had.
    Port(PortError),
}

impl Book {
    /// A book of what was found on disk. Of two records of one address or port the later one in order is left out and
    /// returned: it cannot be, and must not free what is the other's.
    pub(super) fn new(
        records: Vec<Record>,
        last_address: Option<Ipv4Addr>,
        ports: Ports,
    ) -> (Self, Vec<Record>) {
        let mut pages = Pages { records: BTreeMap::new(), pool: Pool::new([], last_address), ports };
        let refused = records.into_iter().filter_map(|record| pages.adopt(record).err()).collect();
        (Self(Mutex::new(pages)), refused)
    }

    /// Takes a free address of the block and the ports that are asked for, and enters the record that is made with
    /// them.
    pub(super) fn enter(
        &self,
        block: Ipv4Net,
        ports: &[PortRequest],
        record: impl FnOnce(Ipv4Addr, Vec<PortMapping>) -> Record,
    ) -> Result<Record, NoRoom> {
        let mut pages = self.pages();
        let ports = pages.ports.take(ports).map_err(NoRoom::Port)?;
        let Some(address) = pages.pool.take(block) else {
            pages.ports.release(&ports);
            return Err(NoRoom::Address);
        };
        let record = record(address, ports);
        pages.records.insert(record.attachment.clone(), record.clone());
        Ok(record)
    }

    /// Enters a record that has its address and ports already. False, and nothing is changed, when another one uses
    /// one of them.
    pub(super) fn adopt(&self, record: Record) -> bool {
        self.pages().adopt(record).is_ok()
    }

    /// Takes a port for a container that is entered already. It is nobody's until the container's record has it.
    pub(super) fn take_port(&self, port: PortRequest) -> Result<PortMapping, PortError> {
        self.pages().ports.take_one(port)
    }

    /// Gives back what [`Book::take_port`] took.
    pub(super) fn release_port(&self, port: PortMapping) {
        self.pages().ports.release(&[port]);
    }

    /// The port of the range that was handed out last.
    pub(super) fn last_port(&self) -> Option<u16> {
        self.pages().ports.last()
    }

    /// Replaces a record by a later state of it.
    pub(super) fn update(&self, record: Record) {
        self.pages().records.insert(record.attachment.clone(), record);
    }

    /// Strikes out a record and frees its address and ports.
    pub(super) fn strike(&self, attachment: &Attachment) {
        let mut pages = self.pages();
        if let Some(record) = pages.records.remove(attachment) {
            pages.pool.release(record.address);
            pages.ports.release(&record.ports);
        }
    }

    /// The record of an attachment.
    pub(super) fn get(&self, attachment: &Attachment) -> Option<Record> {
        self.pages().records.get(attachment).cloned()
    }

    /// The record of the container at an address.
    pub(super) fn at(&self, address: Ipv4Addr) -> Option<Record> {
        self.pages().records.values().find(|record| record.address == address).cloned()
    }

    /// The first record of a container, whatever its interface is called.
    pub(super) fn of_container(&self, container_id: &str) -> Option<Record> {
        let pages = self.pages();
        let mut records = pages.records.values();
        records.find(|record| record.attachment.container_id == container_id).cloned()
    }

    /// All records.
    pub(super) fn all(&self) -> Vec<Record> {
        self.pages().records.values().cloned().collect()
    }

    /// How many addresses of a block are free.
    pub(super) fn free(&self, block: Ipv4Net) -> u32 {
        self.pages().pool.free(block)
    }

    /// Every change under the lock is whole before anything can panic.
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    /// Enters a record, or gives it back when another one has its address or one of its ports.
    #[expect(clippy::result_large_err, reason = "the record is as large in either case")]
    fn adopt(&mut self, record: Record) -> Result<(), Record> {
        if !self.pool.claim(record.address) {
            return Err(record);
        }
        if !self.ports.claim(&record.ports) {
            self.pool.release(record.address);
            return Err(record);
        }
        self.records.insert(record.attachment.clone(), record);
        Ok(())
    }
}
