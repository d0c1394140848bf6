//! The maps (see `c2c_common::layout` for what each holds and why it is that large), and the only ways to touch them.
//!
//! Hashes that the agent writes are not preallocated: a value then is replaced as a whole under RCU, so a program sees
//! the old or the new one. The flow table is an LRU, which the kernel preallocates: an entry may be given to another
//! flow while it is read, which is why entries are copied out at once.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray},
};
use c2c_common::addr::Addr;
use c2c_common::counter::{COUNTERS_CAPACITY, Counter, Hook, Outcome, index};
use c2c_common::flow::{Flow, FlowKey};
use c2c_common::layout::{self, Config, Endpoint, Lease, LeaseKey, PolicyKey};
use c2c_common::refusal::Bucket;

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
    REFUSALS.get_ptr(source).map_or(Bucket::default(), |bucket| unsafe { *bucket })
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
