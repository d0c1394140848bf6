//! A map whose rows the agent owns: knows what the kernel holds, so that a wanted set of rows costs only its
//! difference, and never empties a map to fill it again. Hash or trie, which differ in how a key is written.

use std::collections::HashMap as Rows;
use std::hash::Hash;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError};
use c2c_common::layout::{EGRESS_SET_BITS, EgressAddress, EgressClass};

use super::Error;
use super::batch;
use super::egress::EgressRange;
use super::error::is_full;
use super::people::{MapUse, used};
use super::pod::Raw;

/// What was done to a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// Rows that were not there.
    pub added: usize,
    /// Rows that had another value.
    pub changed: usize,
    /// Rows that are gone.
    pub removed: usize,
}

impl Change {
    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            added: self.added + other.added,
            changed: self.changed + other.changed,
            removed: self.removed + other.removed,
        }
    }
}

/// A kernel map of rows.
pub(super) trait Map<K, V> {
    /// All rows.
    fn all(&self) -> Result<Rows<K, V>, MapError>;
    /// Adds or replaces one.
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError>;
    /// Removes one.
    fn delete(&mut self, key: &K) -> Result<(), MapError>;
}

impl<K: Pod + Eq + Hash, V: Pod> Map<K, V> for HashMap<MapData, K, V> {
    fn all(&self) -> Result<Rows<K, V>, MapError> {
        Ok(batch::rows(self)?.into_iter().collect())
    }

    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.insert(key, value, 0)
    }

    fn delete(&mut self, key: &K) -> Result<(), MapError> {
        self.remove(key)
    }
}

/// The trie of egress ranges.
pub(super) type Trie = LpmTrie<MapData, Raw<EgressAddress>, Raw<EgressClass>>;

impl Map<EgressRange, Raw<EgressClass>> for Trie {
    fn all(&self) -> Result<Rows<EgressRange, Raw<EgressClass>>, MapError> {
        self.iter().map(|row| row.map(|(key, class)| (range(&key), class))).collect()
    }

    fn put(&mut self, range: &EgressRange, class: &Raw<EgressClass>) -> Result<(), MapError> {
        self.insert(&key(range), class, 0)
    }

    fn delete(&mut self, range: &EgressRange) -> Result<(), MapError> {
        self.remove(&key(range))
    }
}

fn key(range: &EgressRange) -> Key<Raw<EgressAddress>> {
    let address = EgressAddress { set: range.set, addr: range.addr };
    Key::new(EGRESS_SET_BITS + u32::from(range.prefix), Raw(address))
}

fn range(key: &Key<Raw<EgressAddress>>) -> EgressRange {
    let EgressAddress { set, addr } = key.data().0;
    let prefix = key.prefix_len().saturating_sub(EGRESS_SET_BITS);
    EgressRange { set, addr, prefix: u8::try_from(prefix).unwrap_or(u8::MAX) }
}

/// A kernel map and its rows as last written or read.
#[derive(Debug)]
pub(super) struct Table<K, V, M = HashMap<MapData, K, V>> {
    name: &'static str,
    capacity: u32,
    map: M,
    rows: Rows<K, V>,
}

impl<K: Copy + Eq + Hash, V: Copy + Eq, M: Map<K, V>> Table<K, V, M> {
    /// Takes over a map with what is in it.
    pub(super) fn open(name: &'static str, map: M, capacity: u32) -> Result<Self, Error> {
        let mut table = Self { name, capacity, map, rows: Rows::new() };
        table.refresh()?;
        Ok(table)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter()
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    pub(super) fn used(&self) -> MapUse {
        used(self.name, self.rows.len(), self.capacity)
    }

    /// Reads the kernel's rows. True when they differ from what was known.
    pub(super) fn refresh(&mut self) -> Result<bool, Error> {
        let rows = self.map.all().map_err(|source| Error::map(self.name, source))?;
        let differs = rows != self.rows;
        self.rows = rows;
        Ok(differs)
    }

    /// Adds or replaces a row and returns the one that was there.
    pub(super) fn put(&mut self, key: K, value: V) -> Result<Option<V>, Error> {
        if self.rows.get(&key) == Some(&value) {
            return Ok(Some(value));
        }
        match self.map.put(&key, &value) {
            Ok(()) => Ok(self.rows.insert(key, value)),
            Err(error) if is_full(&error) => Err(self.full()),
            Err(source) => Err(Error::map(self.name, source)),
        }
    }

    /// Removes a row; false when there was none.
    pub(super) fn remove(&mut self, key: &K) -> Result<bool, Error> {
        match self.map.delete(key) {
            Ok(()) => Ok(self.rows.remove(key).is_some()),
            Err(source) if is_absent(&source) => Ok(self.rows.remove(key).is_some()),
            Err(source) => Err(Error::map(self.name, source)),
        }
    }

    /// Makes the rows these. What is new goes in before what is old goes out, so that a packet sees the old or the new
    /// rows and never neither; only rows that a full map refuses wait until the old ones made room.
    pub(super) fn set(&mut self, want: &Rows<K, V>) -> Result<Change, Error> {
        let old: Vec<K> = self.rows.keys().filter(|key| !want.contains_key(key)).copied().collect();
        self.replace(&old, want)
    }

    /// Adds and replaces some rows, and removes others, in this order as for [`Table::set`].
    pub(super) fn replace(&mut self, old: &[K], new: &Rows<K, V>) -> Result<Change, Error> {
        let mut change = Change::default();
        let late = self.put_all(new.iter(), &mut change)?;
        for key in old {
            change.removed += usize::from(self.remove(key)?);
        }
        let refused = self.put_all(late.iter().map(|(key, value)| (key, value)), &mut change)?;
        if refused.is_empty() { Ok(change) } else { Err(self.full()) }
    }

    /// Adds and replaces, removes nothing. What found room is written, also when the rest does not.
    pub(super) fn add(&mut self, want: &Rows<K, V>) -> Result<Change, Error> {
        let mut change = Change::default();
        let refused = self.put_all(want.iter(), &mut change)?;
        if refused.is_empty() { Ok(change) } else { Err(self.full()) }
    }

    /// Removes the rows whose keys are not among these.
    pub(super) fn prune(&mut self, want: &Rows<K, V>) -> Result<Change, Error> {
        let old: Vec<K> = self.rows.keys().filter(|key| !want.contains_key(key)).copied().collect();
        old.iter().try_for_each(|key| self.remove(key).map(drop))?;
        Ok(Change { removed: old.len(), ..Change::default() })
    }

    /// Writes rows and returns those for which there was no room.
    fn put_all<'a>(
        &mut self,
        rows: impl Iterator<Item = (&'a K, &'a V)>,
        change: &mut Change,
    ) -> Result<Vec<(K, V)>, Error>
    where
        K: 'a,
        V: 'a,
    {
        let mut refused = Vec::new();
        for (key, value) in rows {
            match self.put(*key, *value) {
                Ok(None) => change.added += 1,
                Ok(Some(old)) if old != *value => change.changed += 1,
                Ok(Some(_)) => {}
                Err(Error::Full { .. }) => refused.push((*key, *value)),
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    fn full(&self) -> Error {
        Error::Full { name: self.name.to_owned(), capacity: self.capacity }
    }
}

/// Whether a row that was to be removed or read was not there.
pub(super) fn is_absent(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound | MapError::ElementNotFound)
        || matches!(error, MapError::SyscallError(e) if e.io_error.raw_os_error() == Some(nix::libc::ENOENT))
}
