//! What the maps hold, for people and metrics: flows, counters, and how full each map is.

use std::net::Ipv4Addr;
use std::sync::Arc;

use aya::maps::{MapData, PerCpuArray};
use aya::{Ebpf, Pod};
use c2c_common::addr::{Addr, from_ipv4, to_ipv4};
use c2c_common::counter::{Counter, Hook, Outcome, index};
use c2c_common::flow::{End, Flow, FlowKey, State, flag};
use c2c_common::layout::{self, Connections};
use c2c_common::outside::Translation;
use nix::time::{ClockId, clock_gettime};

use super::pod::Raw;
use super::{Cache, Datapath, Error, batch, load};

/// One flow, seen from the end that opened it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FlowRow {
    /// The opener's address.
    pub source: Ipv4Addr,
    /// Its port.
    pub source_port: u16,
    /// The other end's address.
    pub destination: Ipv4Addr,
    /// Its port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// `opening`, `established`, `closing`, `closed`, or `expired`.
    pub state: String,
    /// Who decides: `allowed` or `revoked` by this cell's policies, `elsewhere` for the other end's cell, `cell` for a
    /// flow that the cell itself opened.
    pub verdict: String,
    /// Since the last packet, to the second.
    pub idle_seconds: u64,
    /// Since the first.
    pub age_seconds: u64,
}

/// One flow with the outside, seen from the end that opened it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TranslationRow {
    /// The container's address.
    pub container: Ipv4Addr,
    /// Its port, or ICMP identifier.
    pub container_port: u16,
    /// What the outside sees in their place: the cell's address, or the container's own where nothing is masqueraded.
    pub cell: Ipv4Addr,
    /// Its port.
    pub cell_port: u16,
    /// The address outside.
    pub outside: Ipv4Addr,
    /// Its port.
    pub outside_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// `mapped`, opened from outside; `masqueraded` or `plain`, opened by the container.
    pub kind: String,
    /// As of [`FlowRow::state`], or `revoked` when no rule allows it any more.
    pub state: String,
    /// Since the last packet, to the second.
    pub idle_seconds: u64,
    /// Since the first.
    pub age_seconds: u64,
}

/// One counter, summed over all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterRow {
    /// Where.
    pub hook: Hook,
    /// What was done.
    pub outcome: Outcome,
    /// Packets, as the wire counts them.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MapUse {
    /// The map.
    pub name: String,
    /// Entries in it.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

/// Reads what the programs fill by themselves. There may be much of it, so this is done beside the datapath and not by it:
/// an ADD or a policy need not wait for a scrape.
pub struct Reader {
    counters: PerCpuArray<MapData, Raw<Counter>>,
    pub(super) flows: Cache<Raw<FlowKey>, Raw<Flow>>,
    refusals: Cache<Addr, u64>,
    pub(super) translations: Cache<Raw<FlowKey>, Raw<Translation>>,
    pub(super) connections: Cache<Addr, Raw<Connections>>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn open(programs: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            counters: load::per_cpu(programs, layout::COUNTERS)?,
            flows: load::reader(programs, layout::FLOWS)?,
            refusals: load::hash(programs, layout::REFUSALS)?,
            translations: load::reader(programs, layout::TRANSLATIONS)?,
            connections: load::reader(programs, layout::CONNECTIONS)?,
        })
    }

    /// The flow table. Flows that come or go while it is read may be in it or not.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn flows(&self) -> Result<Vec<FlowRow>, Error> {
        let now_ns = monotonic_ns();
        let rows = rows(layout::FLOWS, &self.flows)?.into_iter();
        Ok(rows.map(|(Raw(key), Raw(flow))| row(&key, &flow, now_ns)).collect())
    }

    /// The flows with the outside of a cell with this address on the underlay. As for [`Reader::flows`].
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn translations(&self, cell: Ipv4Addr) -> Result<Vec<TranslationRow>, Error> {
        let (now_ns, cell) = (monotonic_ns(), from_ipv4(cell));
        let rows = rows(layout::TRANSLATIONS, &self.translations)?.into_iter();
        let living = rows.map(|(Raw(key), Raw(t))| (key, Translation { flow: self.life(&key, &t), ..t }));
        Ok(living.map(|(key, t)| translation(&key, &t, cell, now_ns)).collect())
    }

    /// State and age of a flow with the outside. One through a mapped port of the container's own cell is also a flow between
    /// containers: it is that entry which its packets keep.
    pub(super) fn life(&self, key: &FlowKey, translation: &Translation) -> Flow {
        if !translation.is_mapped() {
            return translation.flow;
        }
        match self.flows.0.get(&Raw(*key), 0) {
            Ok(Raw(flow)) if flow.is(flag::MAPPED) => Flow { flags: translation.flow.flags, ..flow },
            _ => translation.flow,
        }
    }

    /// All counters that are not zero.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Vec<CounterRow>, Error> {
        let mut rows = Vec::new();
        for hook in Hook::ALL {
            for outcome in Outcome::ALL {
                let row = self.counter(hook, outcome)?;
                if row.packets != 0 {
                    rows.push(row);
                }
            }
        }
        Ok(rows)
    }

    fn counter(&self, hook: Hook, outcome: Outcome) -> Result<CounterRow, Error> {
        let cpus = self.counters.get(&index(hook, outcome), 0);
        let cpus = cpus.map_err(|source| Error::map(layout::COUNTERS, source))?;
        let zero = CounterRow { hook, outcome, packets: 0, bytes: 0 };
        Ok(cpus.iter().fold(zero, |sum, Raw(cpu)| CounterRow {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
            ..sum
        }))
    }

    /// Entries and capacity of the maps that the programs fill.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn caches(&self) -> Result<Vec<MapUse>, Error> {
        Ok(vec![
            cached(layout::FLOWS, &self.flows)?,
            cached(layout::REFUSALS, &self.refusals)?,
            cached(layout::TRANSLATIONS, &self.translations)?,
            cached(layout::CONNECTIONS, &self.connections)?,
        ])
    }
}

impl Datapath {
    /// What reads the maps that the programs fill.
    #[must_use]
    pub fn reader(&self) -> Arc<Reader> {
        Arc::clone(&self.reader)
    }

    /// Entries and capacity of the maps that the agent fills.
    #[must_use]
    pub fn tables(&self) -> Vec<MapUse> {
        vec![
            self.endpoints.used(),
            self.leases.used(),
            self.cells.used(),
            self.policies.used(),
            used(layout::MAPPINGS, self.mappings.len(), layout::MAPPINGS_CAPACITY),
            self.egress.used(),
            self.egress_ports.used(),
            self.locals.used(),
            self.host_services.used(),
        ]
    }
}

pub(super) fn used(name: &str, entries: usize, capacity: u32) -> MapUse {
    MapUse { name: name.to_owned(), entries: entries as u64, capacity: u64::from(capacity) }
}

fn cached<K: Pod, V: Pod>(name: &str, cache: &Cache<K, V>) -> Result<MapUse, Error> {
    Ok(used(name, rows(name, cache)?.len(), cache.1))
}

/// All rows of a map that the programs fill.
pub(super) fn rows<K: Pod, V: Pod>(name: &str, (map, _): &Cache<K, V>) -> Result<Vec<(K, V)>, Error> {
    batch::rows(map).map_err(|source| Error::map(name, source))
}

fn row(key: &FlowKey, flow: &Flow, now_ns: u64) -> FlowRow {
    let (opener, other) = if flow.is(flag::OPENED_BY_FIRST) { (0, 1) } else { (1, 0) };
    FlowRow {
        source: to_ipv4(key.addr[opener]),
        source_port: u16::from_be(key.port[opener]),
        destination: to_ipv4(key.addr[other]),
        destination_port: u16::from_be(key.port[other]),
        protocol: protocol(key),
        state: state(key, flow, now_ns).to_owned(),
        verdict: verdict(flow).to_owned(),
        idle_seconds: now_ns.saturating_sub(flow.seen_ns) / 1_000_000_000,
        age_seconds: now_ns.saturating_sub(flow.opened_ns) / 1_000_000_000,
    }
}

fn translation(key: &FlowKey, t: &Translation, cell: Addr, now_ns: u64) -> TranslationRow {
    let masqueraded = !t.is_mapped() && t.addr != key.addr[0] && t.addr != key.addr[1];
    // The key's end that is not outside: the cell's for a masqueraded flow, the container's otherwise.
    let inside_opened = !t.is_mapped();
    let inside = usize::from(t.flow.is(flag::OPENED_BY_FIRST) != inside_opened);
    let own = End { addr: key.addr[inside], port: key.port[inside] };
    let (container, seen) = if masqueraded { (t.end(), own) } else { (own, t.end()) };
    let outside = 1 - inside;
    let kind = if t.is_mapped() {
        "mapped"
    } else if seen.addr == cell {
        "masqueraded"
    } else {
        "plain"
    };
    let state = if t.flow.is(flag::REVOKED) { "revoked" } else { state(key, &t.flow, now_ns) };
    TranslationRow {
        container: to_ipv4(container.addr),
        container_port: u16::from_be(container.port),
        cell: to_ipv4(seen.addr),
        cell_port: u16::from_be(seen.port),
        outside: to_ipv4(key.addr[outside]),
        outside_port: u16::from_be(key.port[outside]),
        protocol: protocol(key),
        kind: kind.to_owned(),
        state: state.to_owned(),
        idle_seconds: now_ns.saturating_sub(t.flow.seen_ns) / 1_000_000_000,
        age_seconds: now_ns.saturating_sub(t.flow.opened_ns) / 1_000_000_000,
    }
}

/// A word that is no protocol number can only be another layout's; it is shown as 0.
fn protocol(key: &FlowKey) -> u8 {
    u8::try_from(key.protocol).unwrap_or(0)
}

fn state(key: &FlowKey, flow: &Flow, now_ns: u64) -> &'static str {
    if flow.expired(protocol(key), now_ns) { "expired" } else { State::from_raw(flow.state).as_str() }
}

fn verdict(flow: &Flow) -> &'static str {
    if flow.is(flag::BY_CELL) {
        "cell"
    } else if flow.is(flag::REVOKED) {
        "revoked"
    } else if flow.is(flag::ENFORCED) {
        "allowed"
    } else {
        "elsewhere"
    }
}

/// The clock that the programs stamp flows with. A clock that cannot be read is taken as 0: nothing then looks idle.
pub(super) fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |t| {
        u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec()).unwrap_or(0)
    })
}
