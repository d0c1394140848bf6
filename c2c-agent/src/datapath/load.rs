//! Loading the object onto pinned maps. Maps live in a directory of the layout's version: an agent of another layout
//! makes its own beside them and takes the links over only when its maps are filled.

use std::fs;
use std::hash::Hash;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray, RingBuf};
use aya::{Ebpf, EbpfLoader, Pod};
use c2c_common::bucket::Bucket;
use c2c_common::counter::Counter;
use c2c_common::flow::{Flow, FlowKey};
use c2c_common::layout::{self, VERSION};
use c2c_common::outside::Translation;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::egress::EgressRange;
use super::pod::Raw;
use super::table::{Table, Trie};
use super::{Cache, Error, Settings, trace};

/// The programs that this agent was built with: the bytes that ship, and that the tests load.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/c2c.o"));

const PROGRAMS: [&str; 4] = ["from_container", "from_underlay", "to_container", SELF_TEST];
const SHIELD: &str = "xdp_underlay";
/// What the agent's own packets of the offload self-test pass.
pub(super) const SELF_TEST: &str = "self_test";
/// Every map that is pinned, with the sizes of its key and value in bytes.
const MAPS: [(&str, usize, usize); 21] = [
    (layout::CONFIG, 4, size_of::<layout::Config>()),
    (layout::EPOCH, 4, 4),
    (layout::ENDPOINTS, 4, size_of::<layout::Endpoint>()),
    (layout::LEASES, size_of::<layout::LeaseKey>(), size_of::<layout::Lease>()),
    (layout::CELLS, 4, 4),
    (layout::POLICIES, size_of::<layout::PolicyKey>(), 8),
    (layout::FLOWS, size_of::<FlowKey>(), size_of::<Flow>()),
    (layout::REFUSALS, 4, size_of::<Bucket>()),
    (layout::COUNTERS, 4, size_of::<Counter>()),
    (layout::MAPPINGS, 4, size_of::<layout::Mapping>()),
    (layout::MAPPED, size_of::<layout::MappedKey>(), 4),
    // A trie's key begins with the length of the prefix.
    (layout::EGRESS, 4 + size_of::<layout::EgressAddress>(), size_of::<layout::EgressClass>()),
    (layout::EGRESS_PORTS, size_of::<layout::EgressPortsKey>(), size_of::<layout::EgressPorts>()),
    (layout::TRANSLATIONS, size_of::<FlowKey>(), size_of::<Translation>()),
    (layout::CONNECTIONS, 4, size_of::<layout::Connections>()),
    (layout::ENDED_UNSEEN, 4, 8),
    (layout::RATES, size_of::<layout::RateKey>(), size_of::<Bucket>()),
    (layout::LOCALS, 4, 4),
    (layout::HOST_SERVICES, size_of::<layout::ServiceKey>(), 4),
    (layout::FRAGMENTS, size_of::<layout::FragmentKey>(), size_of::<layout::FragmentPorts>()),
    // A ring has neither.
    (layout::EVENTS, 0, 0),
];
/// Name of the directory of a layout's maps, before its version.
const MAPS_DIR: &str = "maps-v";
/// Where a bpffs is by convention.
const BPFFS: &str = "/sys/fs/bpf";

/// Makes the directories for pins, mounting a bpffs at the conventional place if it is asked for there and none is.
/// True when maps of this layout are pinned already.
pub(super) fn prepare(settings: &Settings) -> Result<bool, Error> {
    let wrong = |source| Error::PinDirectory { path: settings.pin_dir.clone(), source };
    if settings.pin_dir.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS)) {
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
            .map_err(|e| wrong(e.into()))?;
    }
    fs::create_dir_all(&settings.pin_dir).map_err(wrong)?;
    if !is_bpffs(&settings.pin_dir) {
        return Err(wrong(std::io::Error::other("not a bpffs")));
    }
    fs::set_permissions(&settings.pin_dir, fs::Permissions::from_mode(0o700)).map_err(wrong)?;
    for directory in [maps_dir(settings), links_dir(settings)] {
        fs::create_dir_all(directory).map_err(wrong)?;
    }
    MAPS.iter().try_for_each(|map| check_pinned(settings, map))?;
    Ok(maps_dir(settings).join(layout::CONFIG).exists())
}

/// A pinned map of another shape is somebody else's, or a build's that forgot to raise the layout's version: the
/// verifier would refuse our programs on it, in words that help nobody.
fn check_pinned(settings: &Settings, &(name, key, value): &(&str, usize, usize)) -> Result<(), Error> {
    let path = maps_dir(settings).join(name);
    if !path.exists() {
        return Ok(());
    }
    let info = MapInfo::from_pin(&path).map_err(|source| Error::map(name, source))?;
    let found = (info.key_size() as usize, info.value_size() as usize);
    if found == (key, value) {
        return Ok(());
    }
    let shape = |(key, value): (usize, usize)| format!("keys of {key} and values of {value} bytes");
    Err(Error::Layout { name: name.to_owned(), found: shape(found), wanted: shape((key, value)), path })
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

fn maps_dir(settings: &Settings) -> PathBuf {
    settings.pin_dir.join(format!("{MAPS_DIR}{VERSION}"))
}

pub(super) fn links_dir(settings: &Settings) -> PathBuf {
    settings.pin_dir.join("links")
}

/// Loads the object and all its programs, on pinned maps where there are any.
pub(super) fn programs(settings: &Settings) -> Result<Ebpf, Error> {
    let level = trace::level(settings.trace);
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &level, true);
    for (name, entries) in &settings.capacities {
        loader.map_max_entries(name, *entries);
    }
    for (name, ..) in MAPS {
        loader.map_pin_path(name, maps_dir(settings).join(name));
    }
    let mut programs = loader.load(OBJECT).map_err(|source| Error::Object(Box::new(source)))?;
    for name in PROGRAMS {
        classifier(&mut programs, name)?.load().map_err(|source| Error::program(name, "load", source))?;
    }
    shield(&mut programs)?.load().map_err(|source| Error::program(SHIELD, "load", source))?;
    Ok(programs)
}

/// A TC program of the object.
pub(super) fn classifier<'a>(
    programs: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut aya::programs::SchedClassifier, Error> {
    let missing = || Error::Missing(format!("TC program {name}"));
    programs.program_mut(name).ok_or_else(missing)?.try_into().map_err(|_| missing())
}

/// The XDP program of the object.
pub(super) fn shield(programs: &mut Ebpf) -> Result<&mut aya::programs::Xdp, Error> {
    let missing = || Error::Missing(format!("XDP program {SHIELD}"));
    programs.program_mut(SHIELD).ok_or_else(missing)?.try_into().map_err(|_| missing())
}

fn take(programs: &mut Ebpf, name: &str) -> Result<Map, Error> {
    programs.take_map(name).ok_or_else(|| Error::Missing(format!("map {name}")))
}

/// A map whose rows this agent owns.
pub(super) fn table<K: Pod + Eq + Hash, V: Pod + Eq>(
    programs: &mut Ebpf,
    name: &'static str,
) -> Result<Table<K, V>, Error> {
    let (map, capacity) = hash(programs, name)?;
    Table::open(name, map, capacity)
}

/// The trie of egress ranges.
pub(super) fn trie(
    programs: &mut Ebpf,
    name: &'static str,
) -> Result<Table<EgressRange, Raw<layout::EgressClass>, Trie>, Error> {
    let map = take(programs, name)?;
    let Map::LpmTrie(data) = &map else { return Err(Error::Missing(format!("trie {name}"))) };
    let capacity = data.info().map_err(|source| Error::map(name, source))?.max_entries();
    let trie = Trie::try_from(map).map_err(|source| Error::map(name, source))?;
    Table::open(name, trie, capacity)
}

/// A second handle of a hash, by which it is read while the first one writes.
pub(super) fn reader<K: Pod, V: Pod>(programs: &Ebpf, name: &str) -> Result<Cache<K, V>, Error> {
    let Some(Map::HashMap(data) | Map::LruHashMap(data)) = programs.map(name) else {
        return Err(Error::Missing(format!("hash map {name}")));
    };
    let again = data.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError).and_then(MapData::from_fd);
    cache(name, Map::HashMap(again.map_err(|source| Error::map(name, source))?))
}

/// A hash map, plain or LRU, and the entries it can hold: a pinned map keeps the size it was made with.
pub(super) fn hash<K: Pod, V: Pod>(programs: &mut Ebpf, name: &str) -> Result<Cache<K, V>, Error> {
    cache(name, take(programs, name)?)
}

fn cache<K: Pod, V: Pod>(name: &str, map: Map) -> Result<Cache<K, V>, Error> {
    let (Map::HashMap(data) | Map::LruHashMap(data)) = &map else {
        return Err(Error::Missing(format!("hash map {name}")));
    };
    let capacity = data.info().map_err(|source| Error::map(name, source))?.max_entries();
    HashMap::try_from(map).map(|map| (map, capacity)).map_err(|source| Error::map(name, source))
}

/// An array.
pub(super) fn array<V: Pod>(programs: &mut Ebpf, name: &str) -> Result<Array<MapData, V>, Error> {
    Array::try_from(take(programs, name)?).map_err(|source| Error::map(name, source))
}

/// A per-CPU array.
pub(super) fn per_cpu<V: Pod>(programs: &mut Ebpf, name: &str) -> Result<PerCpuArray<MapData, V>, Error> {
    PerCpuArray::try_from(take(programs, name)?).map_err(|source| Error::map(name, source))
}

/// A ring buffer. Pinned like all maps, so that an agent with other programs reads what the ones before it wrote.
pub(super) fn ring(programs: &mut Ebpf, name: &str) -> Result<RingBuf<MapData>, Error> {
    RingBuf::try_from(take(programs, name)?).map_err(|source| Error::map(name, source))
}

/// Removes the pins of maps of other layouts. Every map under a directory of such a name is an earlier agent's.
pub(super) fn unpin_other_layouts(settings: &Settings) -> Result<(), Error> {
    let entries = fs::read_dir(&settings.pin_dir).into_iter().flatten().flatten();
    let of_maps = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(MAPS_DIR));
    let mut result = Ok(());
    for directory in of_maps.map(|entry| entry.path()).filter(|path| *path != maps_dir(settings)) {
        for pin in fs::read_dir(&directory).into_iter().flatten().flatten() {
            result = result.and(remove_pin(&pin.path()));
        }
        // Not empty means that a pin could not be removed, which is told.
        let _ = fs::remove_dir(directory);
    }
    result
}

/// Removes all map pins and the directories, if they are empty then.
pub(super) fn unpin(settings: &Settings) -> Result<(), Error> {
    let mut result = unpin_other_layouts(settings);
    for (name, ..) in MAPS {
        result = result.and(remove_pin(&maps_dir(settings).join(name)));
    }
    for directory in [maps_dir(settings), links_dir(settings), settings.pin_dir.clone()] {
        // Not empty means that somebody else keeps something there, which is not ours to remove.
        let _ = fs::remove_dir(directory);
    }
    result
}

/// Removes a pin; nothing is wrong when there is none.
pub(super) fn remove_pin(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Pin { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
