//! The only room that knows eBPF: loads the programs, pins maps and links, attaches, and writes the maps' rows.
//!
//! Everything here is pinned, so it outlives the agent. A new agent *adopts*: it opens the pinned maps, loads its own
//! programs on them and swaps each link's program atomically (`BPF_LINK_UPDATE`), so that no packet is lost. It does not
//! know what the rows mean or why they are wanted; that is the fabric's.

mod batch;
mod egress;
mod error;
mod events;
mod links;
mod load;
mod mappings;
mod orphans;
mod people;
mod pod;
mod sweep;
mod table;
mod trace;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::{Array, MapData, RingBuf};
use aya::programs::TcAttachType;
use c2c_common::addr::{Addr, from_ipv4, to_ipv4};
use c2c_common::flow::{Flow, FlowKey};
use c2c_common::layout::{
    self, Config, Connections, EgressClass, EgressPorts, EgressPortsKey, Endpoint, Lease, LeaseKey,
    PolicyKey, ServiceKey,
};
use c2c_common::outside::Translation;

pub use egress::{EgressRange, EgressRows, MappedPort};
pub use error::Error;
pub use load::OBJECT;
pub use people::{CounterRow, FlowRow, MapUse, Reader, TranslationRow};
pub use sweep::{Found, Swept};
pub use table::Change;

use links::Links;
use mappings::Mappings;
use orphans::Tenancy;
use pod::Raw;
use table::{Table, Trie};

/// How programs are attached to TC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// TCX links on the underlay where the kernel has them (6.6), clsact filters on endpoints and elsewhere.
    #[default]
    Auto,
    /// TCX links everywhere.
    Tcx,
    /// clsact filters everywhere.
    Clsact,
}

/// Whether the XDP shield is attached to the underlay device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shield {
    /// No. The default: on a veth, native XDP costs three quarters of the throughput (measured 18.2 to 4.9 Gbit/s).
    #[default]
    Off,
    /// In the driver. For physical NICs.
    Native,
    /// In the stack, for devices whose driver cannot.
    Generic,
}

/// How much the programs tell of each packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trace {
    /// Nothing; the code for it is not even loaded.
    #[default]
    Off,
    /// Every drop.
    Drops,
    /// Every packet.
    Packets,
}

/// What the datapath is opened with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory on a bpffs for all pins. Made when missing.
    pub pin_dir: PathBuf,
    /// Name of the underlay device.
    pub underlay: String,
    /// How to attach.
    pub attach: Attach,
    /// The XDP shield.
    pub shield: Shield,
    /// Tracing.
    pub trace: Trace,
    /// Entries of maps, by the map's name, where they differ from `c2c_common::layout`. A map that is already pinned
    /// keeps the size it has.
    pub capacities: BTreeMap<String, u32>,
}

/// A map that the programs fill by themselves, and the entries it can hold.
type Cache<K, V> = (aya::maps::HashMap<MapData, K, V>, u32);

/// The programs and maps of this cell.
pub struct Datapath {
    settings: Settings,
    adopted: bool,
    programs: Ebpf,
    links: Links,
    trace: Option<trace::Reader>,
    reader: Arc<Reader>,
    config: Array<MapData, Raw<Config>>,
    epoch: Array<MapData, u32>,
    endpoints: Table<Addr, Raw<Endpoint>>,
    leases: Table<Raw<LeaseKey>, Raw<Lease>>,
    cells: Table<Addr, u32>,
    policies: Table<Raw<PolicyKey>, u64>,
    mappings: Mappings,
    egress: Table<EgressRange, Raw<EgressClass>, Trie>,
    egress_ports: Table<Raw<EgressPortsKey>, Raw<EgressPorts>>,
    flows: Cache<Raw<FlowKey>, Raw<Flow>>,
    tenancy: Tenancy,
    translations: Cache<Raw<FlowKey>, Raw<Translation>>,
    connections: Cache<Addr, Raw<Connections>>,
    ended_unseen: Cache<Addr, u64>,
    locals: Table<Addr, u32>,
    host_services: Table<Raw<ServiceKey>, u32>,
    /// The ring of events, until somebody reads it.
    ring: Option<RingBuf<MapData>>,
    events: Option<events::Reader>,
}

impl std::fmt::Debug for Datapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datapath").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Datapath {
    /// Loads the programs, or adopts what an earlier agent left: maps are kept, programs are replaced under way. Maps that
    /// were never filled, an earlier layout's or a first start's, are not adopted: programs that are attached stay
    /// attached, with the maps they have, until `attach_*` replaces them.
    ///
    /// # Errors
    /// When the kernel has no TCX and it is asked for, the pin directory is not on a bpffs, a pinned map is not of this
    /// layout, or the kernel refuses a program.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        let links = Links::open(settings)?;
        let existed = load::prepare(settings)?;
        let mut programs = load::programs(settings)?;
        let trace = trace::Reader::start(&mut programs, settings.trace)?;
        let reader = Arc::new(Reader::open(&mut programs)?);
        let mut datapath = Self {
            reader,
            config: load::array(&mut programs, layout::CONFIG)?,
            epoch: load::array(&mut programs, layout::EPOCH)?,
            endpoints: load::table(&mut programs, layout::ENDPOINTS)?,
            leases: load::table(&mut programs, layout::LEASES)?,
            cells: load::table(&mut programs, layout::CELLS)?,
            policies: load::table(&mut programs, layout::POLICIES)?,
            mappings: Mappings::open(
                load::array(&mut programs, layout::MAPPINGS)?,
                load::table(&mut programs, layout::MAPPED)?,
                existed,
            )?,
            egress: load::trie(&mut programs, layout::EGRESS)?,
            egress_ports: load::table(&mut programs, layout::EGRESS_PORTS)?,
            flows: load::hash(&mut programs, layout::FLOWS)?,
            tenancy: Tenancy::default(),
            translations: load::hash(&mut programs, layout::TRANSLATIONS)?,
            connections: load::hash(&mut programs, layout::CONNECTIONS)?,
            ended_unseen: load::hash(&mut programs, layout::ENDED_UNSEEN)?,
            locals: load::table(&mut programs, layout::LOCALS)?,
            host_services: load::table(&mut programs, layout::HOST_SERVICES)?,
            ring: Some(load::ring(&mut programs, layout::EVENTS)?),
            events: None,
            links,
            settings: settings.clone(),
            adopted: false,
            programs,
            trace,
        };
        datapath.adopted = existed && datapath.is_configured()?;
        if datapath.adopted {
            datapath.links.adopt_all(&mut datapath.programs)?;
        }
        Ok(datapath)
    }

    /// Whether an earlier agent had told the programs what the cell is, which it does last.
    fn is_configured(&self) -> Result<bool, Error> {
        let config = self.config.get(&0, 0).map_err(|source| Error::map(layout::CONFIG, source))?;
        Ok(config.0.ready != 0)
    }

    /// Removes the maps of other layouts, which programs that were replaced had.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn forget_other_layouts(&mut self) -> Result<(), Error> {
        load::unpin_other_layouts(&self.settings)
    }

    /// Whether filled maps were found, that is, whether an earlier agent's world is in force.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Tells the programs what the cell is. From then on they take packets for their own.
    ///
    /// # Errors
    /// When the kernel refuses the write.
    pub fn configure(&mut self, config: &Config) -> Result<(), Error> {
        self.config.set(0, Raw(*config), 0).map_err(|source| Error::map(layout::CONFIG, source))
    }

    /// Attaches `from_underlay`, and the shield where settings ask for it, to the underlay device.
    ///
    /// # Errors
    /// When the device is gone or the kernel refuses.
    pub fn attach_underlay(&mut self, ifindex: u32) -> Result<(), Error> {
        self.attach_alone("underlay", ifindex)?;
        self.links.shield(&mut self.programs, ifindex, self.settings.shield)
    }

    /// Attaches `from_underlay` to the kernel's VXLAN device, for what the kernel had to reassemble.
    ///
    /// # Errors
    /// When the device is gone or the kernel refuses.
    pub fn attach_vxlan(&mut self, ifindex: u32) -> Result<(), Error> {
        self.attach_alone("vxlan", ifindex)
    }

    /// Attaches `from_underlay` to a device, and then takes it off any other that had the same part: the underlay may be
    /// another device than it was.
    fn attach_alone(&mut self, part: &str, ifindex: u32) -> Result<(), Error> {
        let pin = format!("{part}-{ifindex}");
        self.attach("from_underlay", &pin, ifindex, TcAttachType::Ingress)?;
        self.links.detach_others(part, &pin)
    }

    /// Attaches `from_container` and `to_container` to an endpoint's host device of this name.
    ///
    /// # Errors
    /// When the device is gone or the kernel refuses; then neither is attached, but for what was before.
    pub fn attach_endpoint(&mut self, name: &str, ifindex: u32) -> Result<(), Error> {
        let was_attached = self.links.is_attached(&format!("{name}-in"));
        let both =
            self.attach("from_container", &format!("{name}-in"), ifindex, TcAttachType::Ingress).and_then(
                |()| self.attach("to_container", &format!("{name}-out"), ifindex, TcAttachType::Egress),
            );
        if both.is_err() && !was_attached {
            self.detach_endpoint(name)?;
        }
        both
    }

    /// Attaches `self_test` to a device of the agent's own, with which it goes.
    ///
    /// # Errors
    /// When the device is gone or the kernel refuses.
    pub fn attach_self_test(&mut self, ifindex: u32) -> Result<(), Error> {
        links::attach_self_test(&mut self.programs, ifindex)
    }

    fn attach(&mut self, program: &str, pin: &str, ifindex: u32, hook: TcAttachType) -> Result<(), Error> {
        self.links.attach(&mut self.programs, &links::Place { program, pin, ifindex, hook })
    }

    /// Takes an endpoint's programs off. Nothing is wrong when they are gone already, as they are with their device.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn detach_endpoint(&mut self, name: &str) -> Result<(), Error> {
        self.links.detach(&format!("{name}-in"))?;
        self.links.detach(&format!("{name}-out"))
    }

    /// Names of the endpoint devices that have pins.
    #[must_use]
    pub fn attached_endpoints(&self) -> Vec<String> {
        self.links.pins().iter().filter_map(|pin| pin.strip_suffix("-in")).map(str::to_owned).collect()
    }

    /// Adds or replaces an endpoint. A changed tag makes flows ask the policy again.
    ///
    /// # Errors
    /// When the map is full or the kernel refuses.
    pub fn put_endpoint(&mut self, addr: Ipv4Addr, endpoint: &Endpoint) -> Result<(), Error> {
        let old = self.endpoints.put(from_ipv4(addr), Raw(*endpoint))?;
        if old.is_none() {
            self.tenancy.came(from_ipv4(addr));
        }
        if old.is_some_and(|old| old.0.tag != endpoint.tag) {
            self.raise_epoch()?;
        }
        Ok(())
    }

    /// Removes an endpoint; its flows are not believed any more. Nothing is wrong when it is not there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_endpoint(&mut self, addr: Ipv4Addr) -> Result<(), Error> {
        let known = self.endpoints.remove(&from_ipv4(addr))?;
        self.tenancy.left(from_ipv4(addr));
        self.forget_connections(from_ipv4(addr))?;
        if known { self.raise_epoch() } else { Ok(()) }
    }

    /// The endpoints that the kernel holds, as this agent last wrote or read them.
    ///
    /// # Errors
    /// None at present; the signature leaves room for a read of the kernel's own copy.
    pub fn endpoints(&self) -> Result<BTreeMap<Ipv4Addr, Endpoint>, Error> {
        Ok(self.endpoints.rows().map(|(addr, endpoint)| (to_ipv4(*addr), endpoint.0)).collect())
    }

    /// Makes the other cells' leases these: adds and replaces first, removes then. The own lease must not be among
    /// them (see `c2c_common::layout::LEASES`).
    ///
    /// # Errors
    /// When a map is full (everything that found room is in force) or the kernel refuses.
    pub fn set_leases(&mut self, want: &BTreeMap<LeaseKey, Lease>) -> Result<Change, Error> {
        let cells = want.values().map(|lease| (lease.underlay_addr, 1)).collect();
        let rows = want.iter().map(|(key, lease)| (Raw(*key), Raw(*lease))).collect();
        self.cells.set(&cells)?;
        self.leases.set(&rows)
    }

    /// Makes the policy rows these: adds and replaces first, removes then, and raises the policy epoch last if anything
    /// was taken away, so that flows which a removed row had allowed ask again.
    ///
    /// # Errors
    /// When the map is full (everything that found room is in force) or the kernel refuses.
    pub fn set_policies(&mut self, want: &BTreeMap<PolicyKey, u64>) -> Result<Change, Error> {
        let takes_away =
            self.policies.rows().any(|(key, old)| old & !want.get(&key.0).copied().unwrap_or(0) != 0);
        let rows = want.iter().map(|(key, ports)| (Raw(*key), *ports)).collect();
        let change = self.policies.set(&rows);
        if takes_away {
            self.raise_epoch()?;
        }
        change
    }

    /// Makes some of the policy rows these, 0: none, and leaves the others. Otherwise as [`Datapath::set_policies`].
    ///
    /// # Errors
    /// As [`Datapath::set_policies`].
    pub fn change_policies(&mut self, rows: &BTreeMap<PolicyKey, u64>) -> Result<Change, Error> {
        let old = |key: &PolicyKey| self.policies.get(&Raw(*key)).copied().unwrap_or(0);
        let takes_away = rows.iter().any(|(key, bits)| old(key) & !bits != 0);
        let (gone, kept): (Vec<_>, Vec<_>) =
            rows.iter().map(|(key, bits)| (Raw(*key), *bits)).partition(|(_, bits)| *bits == 0);
        let gone: Vec<_> = gone.into_iter().map(|(key, _)| key).collect();
        let change = self.policies.replace(&gone, &kept.into_iter().collect());
        if takes_away {
            self.raise_epoch()?;
        }
        change
    }

    /// Raises the policy epoch: every flow asks the policy again with its next packet.
    fn raise_epoch(&mut self) -> Result<(), Error> {
        let name = layout::EPOCH;
        let epoch = self.epoch.get(&0, 0).map_err(|source| Error::map(name, source))?;
        self.epoch.set(0, epoch.wrapping_add(1), 0).map_err(|source| Error::map(name, source))
    }

    /// Reads the kernel's rows anew, so that the next `set_*` also mends what somebody else changed. True when anything
    /// differed.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn refresh(&mut self) -> Result<bool, Error> {
        let tables = [
            self.endpoints.refresh()?,
            self.leases.refresh()?,
            self.cells.refresh()?,
            self.policies.refresh()?,
            self.mappings.refresh()?,
            self.egress.refresh()?,
            self.egress_ports.refresh()?,
            self.locals.refresh()?,
            self.host_services.refresh()?,
        ];
        Ok(tables.contains(&true))
    }

    /// Gives what rules ask to be logged to `take`, on a thread of its own. Events that come while nobody reads wait in
    /// a ring of some 8,000 and are lost beyond that.
    ///
    /// # Errors
    /// When the thread cannot be started. Asked a second time it does nothing.
    pub fn events(&mut self, take: impl FnMut(layout::Event) + Send + 'static) -> Result<(), Error> {
        if let Some(ring) = self.ring.take() {
            self.events = Some(events::Reader::start(ring, take)?);
        }
        Ok(())
    }

    /// Changes what the programs tell: loads them anew with another level and swaps them under the links.
    ///
    /// # Errors
    /// When the kernel refuses; the old programs then stay.
    pub fn set_trace(&mut self, trace: Trace) -> Result<(), Error> {
        if trace == self.settings.trace {
            return Ok(());
        }
        let settings = Settings { trace, ..self.settings.clone() };
        let mut programs = load::programs(&settings)?;
        let reader = trace::Reader::start(&mut programs, trace)?;
        self.links.adopt_all(&mut programs)?;
        (self.settings, self.programs, self.trace) = (settings, programs, reader);
        Ok(())
    }

    /// Devices of the host on which a clsact qdisc was made for us; to be removed after [`Datapath::uninstall`].
    #[must_use]
    pub fn made_qdiscs(&self) -> Vec<String> {
        self.links.made_qdiscs()
    }

    /// Takes off and unpins everything of ours. The programs end with this value.
    ///
    /// # Errors
    /// When a pin cannot be removed; the rest is removed all the same.
    pub fn uninstall(&mut self) -> Result<(), Error> {
        let links = self.links.detach_all();
        let pins = load::unpin(&self.settings);
        links.and(pins)
    }
}
