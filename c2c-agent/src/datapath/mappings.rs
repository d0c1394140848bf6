//! The mapped ports: an array of the whole port space that programs look at, and the way back.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use aya::maps::{Array, MapData};
use c2c_common::addr::from_ipv4;
use c2c_common::layout::{MAPPINGS, MAPPINGS_CAPACITY, MappedKey, Mapping, mapping_index};

use super::egress::MappedPort;
use super::pod::Raw;
use super::table::Table;
use super::{Change, Error};

/// Both maps.
pub(super) struct Mappings {
    array: Array<MapData, Raw<Mapping>>,
    /// What the array holds that is not zero, as last written or read, by index.
    rows: BTreeMap<u32, Mapping>,
    back: Table<Raw<MappedKey>, u32>,
}

impl Mappings {
    /// Takes over both maps with what is in them. All of the array is read once; 131,072 reads take some 40 ms.
    pub(super) fn open(
        array: Array<MapData, Raw<Mapping>>,
        back: Table<Raw<MappedKey>, u32>,
        adopted: bool,
    ) -> Result<Self, Error> {
        let mut mappings = Self { array, rows: BTreeMap::new(), back };
        if adopted {
            mappings.rows = mappings.read(0..MAPPINGS_CAPACITY)?;
        }
        Ok(mappings)
    }

    /// Reads the known rows and the way back anew. True when anything differed.
    pub(super) fn refresh(&mut self) -> Result<bool, Error> {
        let known: Vec<u32> = self.rows.keys().copied().collect();
        let rows = self.read(known.into_iter())?;
        let differs = rows != self.rows;
        self.rows = rows;
        Ok(self.back.refresh()? || differs)
    }

    /// Makes the mapped ports these. The way back is there before the way in.
    pub(super) fn set(&mut self, want: &BTreeMap<MappedPort, (Ipv4Addr, u16)>) -> Result<Change, Error> {
        let back = want.iter().map(|(port, to)| (Raw(back_key(port, to)), u32::from(port.port)));
        let change = self.back.set(&back.collect())?;
        let rows =
            want.iter().filter_map(|(port, to)| Some((mapping_index(port.protocol, port.port)?, row(to))));
        Ok(change.and(self.write(&rows.collect())?))
    }

    /// Mapped ports, each protocol of one counted.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    fn write(&mut self, want: &BTreeMap<u32, Mapping>) -> Result<Change, Error> {
        let mut change = Change::default();
        for (index, row) in want {
            match self.rows.get(index) {
                Some(old) if old == row => continue,
                Some(_) => change.changed += 1,
                None => change.added += 1,
            }
            self.put(*index, *row)?;
        }
        let old: Vec<u32> = self.rows.keys().filter(|index| !want.contains_key(index)).copied().collect();
        for index in &old {
            self.put(*index, Mapping::default())?;
        }
        Ok(Change { removed: old.len(), ..change })
    }

    fn put(&mut self, index: u32, row: Mapping) -> Result<(), Error> {
        self.array.set(index, Raw(row), 0).map_err(|source| Error::map(MAPPINGS, source))?;
        if row == Mapping::default() {
            self.rows.remove(&index);
        } else {
            self.rows.insert(index, row);
        }
        Ok(())
    }

    fn read(&self, indices: impl Iterator<Item = u32>) -> Result<BTreeMap<u32, Mapping>, Error> {
        let mut rows = BTreeMap::new();
        for index in indices {
            let Raw(row) = self.array.get(&index, 0).map_err(|source| Error::map(MAPPINGS, source))?;
            if row != Mapping::default() {
                rows.insert(index, row);
            }
        }
        Ok(rows)
    }
}

fn row((addr, port): &(Ipv4Addr, u16)) -> Mapping {
    Mapping { addr: from_ipv4(*addr), port: port.to_be(), pad: 0 }
}

fn back_key(port: &MappedPort, (addr, container_port): &(Ipv4Addr, u16)) -> MappedKey {
    MappedKey { addr: from_ipv4(*addr), port: container_port.to_be(), protocol: u16::from(port.protocol) }
}
