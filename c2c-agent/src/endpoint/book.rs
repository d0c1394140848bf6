//! The records in memory and the addresses they use, kept in step under one lock.

use super::ipam::Pool;
use super::record::Record;
use c2c_proto::agent_api::Attachment;
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
}

impl Book {
    /// A book of what was found on disk. Of two records of one address the later one in order is left out and returned:
    /// it cannot be, and must not free the other's address.
    pub(super) fn new(records: Vec<Record>, last_address: Option<Ipv4Addr>) -> (Self, Vec<Record>) {
        let mut pages = Pages { records: BTreeMap::new(), pool: Pool::new([], last_address) };
        let mut refused = Vec::new();
        for record in records {
            if pages.pool.claim(record.address) {
                pages.records.insert(record.attachment.clone(), record);
            } else {
                refused.push(record);
            }
        }
        (Self(Mutex::new(pages)), refused)
    }

    /// Takes a free address of the block and enters the record that is made with it.
    pub(super) fn enter(&self, block: Ipv4Net, record: impl FnOnce(Ipv4Addr) -> Record) -> Option<Record> {
        let mut pages = self.pages();
        let record = record(pages.pool.take(block)?);
        pages.records.insert(record.attachment.clone(), record.clone());
        Some(record)
    }

    /// Enters a record that has its address already. False, and nothing is changed, when another one uses it.
    pub(super) fn adopt(&self, record: Record) -> bool {
        let mut pages = self.pages();
        let free = pages.pool.claim(record.address);
        if free {
            pages.records.insert(record.attachment.clone(), record);
        }
        free
    }

    /// Replaces a record by a later state of it.
    pub(super) fn update(&self, record: Record) {
        self.pages().records.insert(record.attachment.clone(), record);
    }

    /// Strikes out a record and frees its address.
    pub(super) fn strike(&self, attachment: &Attachment) {
        let mut pages = self.pages();
        if let Some(record) = pages.records.remove(attachment) {
            pages.pool.release(record.address);
        }
    }

    /// The record of an attachment.
    pub(super) fn get(&self, attachment: &Attachment) -> Option<Record> {
        self.pages().records.get(attachment).cloned()
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
