//! The maps (see `c2c_common::layout` for what each holds and why it is that large), and the only ways to touch them.
//!
//! Hashes that the agent writes are not preallocated: a value then is replaced as a whole under RCU, so a program sees
//! the old or the new one. The flow table is an LRU, which the kernel preallocates: an entry may be given to another
//! flow while it is read, which is why entries are copied out at once.

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    macros::map,
    maps::lpm_trie::{Key, LpmTrie},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use c2c_common::addr::Addr;
use c2c_common::bucket::Bucket;
use c2c_common::counter::{COUNTERS_CAPACITY, Counter, Hook, Outcome, index};
use c2c_common::flow::{Flow, FlowKey};
use c2c_common::layout::{
    self, Config, Connections, EGRESS_SET_BITS, EgressAddress, EgressClass, EgressPorts, EgressPortsKey,
    Endpoint, Event, FragmentKey, FragmentPorts, Lease, LeaseKey, MappedKey, Mapping, NO_MASQUERADE,
    PolicyKey, RateKey, ServiceKey,
};
use c2c_common::outside::Translation;

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
static EPOCH: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static ENDPOINTS: HashMap<Addr, Endpoint> =
    HashMap::with_max_entries(layout::ENDPOINTS_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
static LEASES: HashMap<LeaseKey, Lease> =
    HashMap::with_max_entries(layout::LEASES_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
static CELLS: HashMap<Addr, u32> = HashMap::with_max_entries(layout::CELLS_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
static POLICIES: HashMap<PolicyKey, u64> =
    HashMap::with_max_entries(layout::POLICIES_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(layout::FLOWS_CAPACITY, 0);
#[map]
static REFUSALS: LruHashMap<Addr, Bucket> = LruHashMap::with_max_entries(layout::REFUSALS_CAPACITY, 0);
#[map]
static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTERS_CAPACITY, 0);
#[map]
static MAPPINGS: Array<u64> = Array::with_max_entries(layout::MAPPINGS_CAPACITY, 0);
#[map]
static MAPPED: HashMap<MappedKey, u32> =
    HashMap::with_max_entries(layout::MAPPED_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
static EGRESS: LpmTrie<EgressAddress, EgressClass> =
    LpmTrie::with_max_entries(layout::EGRESS_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
static EGRESS_PORTS: HashMap<EgressPortsKey, EgressPorts> =
    HashMap::with_max_entries(layout::EGRESS_PORTS_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
static TRANSLATIONS: LruHashMap<FlowKey, Translation> =
    LruHashMap::with_max_entries(layout::TRANSLATIONS_CAPACITY, 0);
#[map]
static CONNECTIONS: HashMap<Addr, Connections> =
    HashMap::with_max_entries(layout::ENDPOINTS_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
static ENDED_UNSEEN: HashMap<Addr, u64> =
    HashMap::with_max_entries(layout::ENDPOINTS_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
static RATES: LruHashMap<RateKey, Bucket> = LruHashMap::with_max_entries(layout::RATES_CAPACITY, 0);
#[map]
static LOCALS: HashMap<Addr, u32> = HashMap::with_max_entries(layout::LOCALS_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
static HOST_SERVICES: HashMap<ServiceKey, u32> =
    HashMap::with_max_entries(layout::HOST_SERVICES_CAPACITY, BPF_F_NO_PREALLOC);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(layout::FRAGMENTS_CAPACITY, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(layout::EVENTS_BYTES, 0);

/// What the cell is, once the agent has said so.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0).filter(|config| config.ready != 0)
}

/// The policy epoch.
#[inline(always)]
pub fn epoch() -> u32 {
    // SAFETY: the array has one entry and lives as long as the program; a u32 is read in one piece. Volatile, because
    // the read must come before the reads of policy rows that it dates.
    EPOCH.get_ptr(0).map_or(0, |epoch| unsafe { epoch.read_volatile() })
}

/// The endpoint of this cell at `addr`.
#[inline(always)]
pub fn endpoint(addr: Addr) -> Option<&'static Endpoint> {
    // SAFETY: the map is not preallocated, so the value stays as it is until an RCU grace period after the program.
    unsafe { ENDPOINTS.get(addr) }
}

/// The lease of another cell that `addr` lies in: by the cells' common block, or, in the overlay's reserved first
/// block, by single address.
#[inline(always)]
pub fn lease(config: &Config, addr: Addr) -> Option<&'static Lease> {
    let base = addr & config.block_mask;
    let key = if base == config.overlay_base {
        LeaseKey { base: addr, prefix: 32 }
    } else {
        LeaseKey { base, prefix: config.block_prefix }
    };
    // SAFETY: as for `endpoint`.
    unsafe { LEASES.get(key) }
}

/// Whether any other cell has this underlay address.
#[inline(always)]
pub fn is_cell(underlay: Addr) -> bool {
    CELLS.get_ptr(underlay).is_some()
}

/// The bitmap of a policy row; 0 when there is none.
#[inline(always)]
pub fn policy(key: &PolicyKey) -> u64 {
    // SAFETY: as for `endpoint`; a u64 is read in one piece.
    unsafe { POLICIES.get(key) }.copied().unwrap_or(0)
}

/// A place in the flow table.
pub struct FlowSlot(Option<*mut Flow>);

/// Looks a flow up.
#[inline(always)]
pub fn flow(key: &FlowKey) -> (FlowSlot, Option<Flow>) {
    let slot = FLOWS.get_ptr_mut(key);
    // SAFETY: a pointer the kernel returned stays valid memory of a flow's size until the program ends.
    (FlowSlot(slot), slot.map(|flow| unsafe { *flow }))
}

/// Writes a flow: in place where there was one, else as a new entry. False when the table did not take it.
#[inline(always)]
pub fn store_flow(key: &FlowKey, slot: FlowSlot, flow: &Flow) -> bool {
    match slot.0 {
        Some(old) => {
            // SAFETY: as in `flow`. Another CPU may write at the same time; both write what a packet of this flow made
            // of it, and the last one stands.
            unsafe { *old = *flow };
            true
        }
        None => FLOWS.insert(key, flow, 0).is_ok(),
    }
}

/// The refusal bucket of a source address; an unknown source has a full one.
#[inline(always)]
pub fn bucket(source: Addr) -> Bucket {
    // SAFETY: a u64 in memory that stays valid until the program ends.
    REFUSALS.get_ptr(source).map_or(Bucket { due_ns: 0 }, |bucket| unsafe { *bucket })
}

/// Writes it. When the map does not take it the source's limit is forgotten, which costs nothing but an answer.
#[inline(always)]
pub fn store_bucket(source: Addr, bucket: &Bucket) {
    let _ = REFUSALS.insert(source, bucket, 0);
}

/// Counts packets and bytes under what was done with them.
#[inline(always)]
pub fn count(hook: Hook, outcome: Outcome, packets: u64, bytes: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index(hook, outcome)) {
        // SAFETY: the entry is this CPU's own and programs are not preempted by programs of the same hook.
        unsafe {
            (*counter).packets += packets;
            (*counter).bytes += bytes;
        }
    }
}

/// Where a port (host order) of the cell leads.
#[inline(always)]
pub fn mapping(protocol: u8, port: u16) -> Option<Mapping> {
    let row = MAPPINGS.get_ptr(layout::mapping_index(protocol, port)?)?;
    // SAFETY: an array's value stays valid memory; eight aligned bytes are read in one piece, and the agent's write of
    // eight aligned bytes is one too (`bpf_long_memcpy`).
    let [a, b, c, d, e, f, _, _] = unsafe { row.read_volatile() }.to_ne_bytes();
    let mapping =
        Mapping { addr: Addr::from_ne_bytes([a, b, c, d]), port: u16::from_ne_bytes([e, f]), pad: 0 };
    (mapping.port != 0).then_some(mapping)
}

/// The cell's port (host order) that leads to a container's.
#[inline(always)]
pub fn mapped(key: &MappedKey) -> Option<u16> {
    // SAFETY: as for `endpoint`; a u32 is read in one piece.
    unsafe { MAPPED.get(key) }.map(|port| *port as u16)
}

/// What the rules of a set say of an address.
#[inline(always)]
pub fn egress(set: u32, addr: Addr) -> Option<EgressClass> {
    EGRESS.get(Key::new(EGRESS_SET_BITS + 32, EgressAddress { set, addr })).copied()
}

/// Whether flows to an address keep the container's own.
#[inline(always)]
pub fn is_not_masqueraded(addr: Addr) -> bool {
    egress(NO_MASQUERADE, addr).is_some()
}

/// The ports of a class; none when there is no such row.
#[inline(always)]
pub fn egress_ports(key: &EgressPortsKey) -> EgressPorts {
    // SAFETY: as for `endpoint`.
    unsafe { EGRESS_PORTS.get(key) }.copied().unwrap_or(EgressPorts { allowed: 0, logged: 0 })
}

/// A place in the table of flows with the outside that is taken.
pub struct TranslationSlot(*mut Translation);

impl TranslationSlot {
    /// Writes the flow in its place.
    #[inline(always)]
    pub fn write(&self, translation: &Translation) {
        // SAFETY: as in `store_flow`.
        unsafe { *self.0 = *translation };
    }
}

/// Looks a flow with the outside up.
#[inline(always)]
pub fn translation(key: &FlowKey) -> Option<(TranslationSlot, Translation)> {
    let slot = TRANSLATIONS.get_ptr_mut(key)?;
    // SAFETY: as for `flow`.
    Some((TranslationSlot(slot), unsafe { *slot }))
}

/// Adds a flow with the outside, unless another CPU was faster. False when the table did not take it.
#[inline(always)]
pub fn add_translation(key: &FlowKey, translation: &Translation) -> bool {
    TRANSLATIONS.insert(key, translation, BPF_NOEXIST as u64).is_ok()
}

/// Counts one more open connection of a container, unless that makes more than `ceiling` (0: none). Exact on any number
/// of CPUs: who goes over it takes its own step back.
#[inline(always)]
pub fn open_connection(container: Addr, ceiling: u32) -> bool {
    let Some(counters) = connections(container) else { return false };
    // SAFETY: as for `endpoint`; a u64 is read in one piece.
    let unseen = unsafe { ENDED_UNSEEN.get(container) }.copied().unwrap_or(0);
    let opened = counters.opened.add_one();
    let open = opened.wrapping_sub(counters.closed.read()).wrapping_sub(unseen) as i64;
    if ceiling == 0 || open < ceiling as i64 {
        return true;
    }
    counters.closed.add_one();
    false
}

/// Counts the end of a container's connection. One that was never counted has no counters, and gets none.
#[inline(always)]
pub fn close_connection(container: Addr) {
    if let Some(counters) = counters(container) {
        counters.closed.add_one();
    }
}

struct Counters {
    opened: Shared,
    closed: Shared,
}

/// A container's counters, made when there are none.
#[inline(always)]
fn connections(container: Addr) -> Option<Counters> {
    if CONNECTIONS.get_ptr(container).is_none() {
        // Another CPU may be faster, and then there are some all the same.
        let _ = CONNECTIONS.insert(container, Connections { opened: 0, closed: 0 }, BPF_NOEXIST as u64);
    }
    counters(container)
}

#[inline(always)]
fn counters(container: Addr) -> Option<Counters> {
    let counters = CONNECTIONS.get_ptr_mut(container)?;
    // SAFETY: the value lives until a grace period after the program, and both fields lie inside it.
    let (opened, closed) = unsafe { (&raw mut (*counters).opened, &raw mut (*counters).closed) };
    Some(Counters { opened: Shared(opened), closed: Shared(closed) })
}

/// A number that several CPUs add to. core's atomics cannot add on this target, though its machine can (Linux 5.12).
struct Shared(*mut u64);

impl Shared {
    /// Adds one and answers what was there before.
    #[inline(always)]
    fn add_one(&self) -> u64 {
        let mut value = 1u64;
        // SAFETY: the pointer is to eight aligned bytes of a map's value (see `counters`).
        unsafe {
            asm!("{v} = atomic_fetch_add((u64 *)({p} + 0), {v})", v = inout(reg) value, p = in(reg) self.0)
        };
        value
    }

    #[inline(always)]
    fn read(&self) -> u64 {
        // SAFETY: as in `add_one`; a u64 is read in one piece.
        unsafe { self.0.read_volatile() }
    }
}

/// The bucket of a container's connections to a destination; an unknown one is full.
#[inline(always)]
pub fn rate(key: &RateKey) -> Bucket {
    // SAFETY: as for `bucket`.
    RATES.get_ptr(key).map_or(Bucket { due_ns: 0 }, |bucket| unsafe { *bucket })
}

/// Writes it. A map that does not take it forgets the limit of this destination; it is an LRU, and takes it.
#[inline(always)]
pub fn store_rate(key: &RateKey, bucket: &Bucket) {
    let _ = RATES.insert(key, bucket, 0);
}

/// Whether an address is the cell's own, on whichever device.
#[inline(always)]
pub fn is_local(addr: Addr) -> bool {
    LOCALS.get_ptr(addr).is_some()
}

/// Whether containers may reach a service of the cell.
#[inline(always)]
pub fn is_host_service(key: &ServiceKey) -> bool {
    HOST_SERVICES.get_ptr(key).is_some()
        || HOST_SERVICES.get_ptr(ServiceKey { addr: key.addr, port: 0, protocol: 0 }).is_some()
}

/// The ports of the packet that a fragment belongs to.
#[inline(always)]
pub fn fragment(key: &FragmentKey) -> Option<FragmentPorts> {
    // SAFETY: four bytes in memory that stays valid until the program ends; an LRU may hand it to another packet
    // meanwhile, whose ports are then taken: its fragments go where that packet's go, or are refused.
    FRAGMENTS.get_ptr(key).map(|ports| unsafe { *ports })
}

/// Remembers them. When the map does not take them the later fragments are dropped and counted.
#[inline(always)]
pub fn store_fragment(key: &FragmentKey, ports: &FragmentPorts) {
    let _ = FRAGMENTS.insert(key, ports, 0);
}

/// Tells of an event. When nobody reads and the ring is full, it is lost.
#[inline(always)]
pub fn tell(event: &Event) {
    let _ = EVENTS.output::<Event>(event, 0);
}
