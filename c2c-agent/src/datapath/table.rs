//! A map whose rows the agent owns: knows what the kernel holds, so that a wanted set of rows costs only its
//! difference, and never empties a map to fill it again.

use std::collections::HashMap as Rows;
use std::hash::Hash;

use aya::Pod;
use aya::maps::{HashMap, MapData, MapError};

use super::Error;
use super::error::is_full;

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

/// A kernel hash map and its rows as last written or read.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    name: &'static str,
    capacity: u32,
    map: HashMap<MapData, K, V>,
    rows: Rows<K, V>,
}

impl<K: Pod + Eq + Hash, V: Pod + Eq> Table<K, V> {
    /// Takes over a map with what is in it.
    pub(super) fn open(
        name: &'static str,
        map: HashMap<MapData, K, V>,
        capacity: u32,
    ) -> Result<Self, Error> {
        let mut table = Self { name, capacity, map, rows: Rows::new() };
        table.refresh()?;
        Ok(table)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter()
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Reads the kernel's rows. True when they differ from what was known.
    pub(super) fn refresh(&mut self) -> Result<bool, Error> {
        let rows: Result<Rows<K, V>, MapError> = self.map.iter().collect();
        let rows = rows.map_err(|source| Error::map(self.name, source))?;
        let differs = rows != self.rows;
        self.rows = rows;
        Ok(differs)
    }

    /// Adds or replaces a row and returns the one that was there.
    pub(super) fn put(&mut self, key: K, value: V) -> Result<Option<V>, Error> {
        if self.rows.get(&key) == Some(&value) {
            return Ok(Some(value));
        }
        match self.map.insert(key, value, 0) {
            Ok(()) => Ok(self.rows.insert(key, value)),
            Err(error) if is_full(&error) => Err(self.full()),
            Err(source) => Err(Error::map(self.name, source)),
        }
    }

    /// Removes a row; false when there was none.
    pub(super) fn remove(&mut self, key: &K) -> Result<bool, Error> {
        match self.map.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(self.rows.remove(key).is_some()),
            Err(source) if is_absent(&source) => Ok(self.rows.remove(key).is_some()),
            Err(source) => Err(Error::map(self.name, source)),
        }
    }

    /// Makes the rows these. What is new goes in before what is old goes out, so that a packet sees the old or the new
    /// rows and never neither; only rows that a full map refuses wait until the old ones made room.
    pub(super) fn set(&mut self, want: &Rows<K, V>) -> Result<Change, Error> {
        let old: Vec<K> = self.rows.keys().filter(|key| !want.contains_key(key)).copied().collect();
        let mut change = Change { removed: old.len(), ..Change::default() };
        let late = self.put_all(want.iter(), &mut change)?;
        for key in &old {
            self.remove(key)?;
        }
        let refused = self.put_all(late.iter().map(|(key, value)| (key, value)), &mut change)?;
        if refused.is_empty() { Ok(change) } else { Err(self.full()) }
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

fn is_absent(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(e) if e.io_error.raw_os_error() == Some(nix::libc::ENOENT))
}
