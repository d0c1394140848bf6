//! The rows of a hash map, thousands by one system call (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6), which aya does not offer.
//! By one key after the other it takes two calls for each row, and a row that goes meanwhile makes the walk start over;
//! by whole buckets of the table each row that stays is read once.
#![expect(unsafe_code, reason = "the one door to a command of bpf(2) that aya does not offer")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::Pod;
use aya::maps::{HashMap, IterableMap, MapData, MapError};
use nix::errno::Errno;
use nix::libc;

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd` (linux/bpf.h).
const LOOKUP_BATCH: libc::c_long = 24;
/// Rows asked for at once. More than any bucket of ours has: the kernel gives out whole buckets only.
const ROWS: u32 = 4_096;

/// The member `batch` of `union bpf_attr` (linux/bpf.h).
#[derive(Default)]
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const _: () = assert!(size_of::<Batch>() == 56);

/// All rows. What programs add or remove meanwhile may be among them or not.
pub(super) fn rows<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>) -> Result<Vec<(K, V)>, MapError> {
    let mut rows = Vec::new();
    let mut place = None;
    loop {
        place = more(map.map().fd().as_fd(), place, &mut rows)?;
        if place.is_none() {
            return Ok(rows);
        }
    }
}

/// Reads from a place in the table on, and answers where to go on; `None`: nowhere.
fn more<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    place: Option<u32>,
    rows: &mut Vec<(K, V)>,
) -> Result<Option<u32>, MapError> {
    let mut keys = vec![MaybeUninit::<K>::uninit(); ROWS as usize];
    let mut values = vec![MaybeUninit::<V>::uninit(); ROWS as usize];
    let mut next = 0_u32;
    let mut batch = Batch {
        in_batch: place.as_ref().map_or(0, |place| std::ptr::from_ref(place) as u64),
        out_batch: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: ROWS,
        map_fd: u32::try_from(map.as_raw_fd()).unwrap_or(u32::MAX),
        ..Batch::default()
    };
    // SAFETY: the kernel reads `batch` and the place, and writes no more than `count` keys and values, of the sizes that
    // aya compared with the map's when it was opened; all of it outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
    let failed = Errno::result(result).err();
    if let Some(error) = failed.filter(|error| *error != Errno::ENOENT) {
        return Err(MapError::IoError(io::Error::from(error)));
    }
    let read = keys.into_iter().zip(values).take(batch.count as usize);
    // SAFETY: the kernel wrote the first `count` of both, and every bit pattern is a value of a `Pod`.
    rows.extend(read.map(|(key, value)| unsafe { (key.assume_init(), value.assume_init()) }));
    // ENOENT is the end of the table.
    Ok(if failed.is_none() { Some(next) } else { None })
}
