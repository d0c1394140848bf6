//! Loads the object onto maps of its own and runs single packets through single programs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use c2c_agent::datapath::EgressRows;
use c2c_common::addr::{from_ipv4, mask, to_ipv4};
use c2c_common::bucket::Bucket;
use c2c_common::counter::{Counter, Hook, Outcome, index};
use c2c_common::flow::{Flow, FlowKey};
use c2c_common::layout::{
    self, Config, Connections, EGRESS_SET_BITS, EgressAddress, EgressClass, EgressPorts, EgressPortsKey,
    Endpoint, Lease, LeaseKey, MappedKey, Mapping, PolicyKey, ServiceKey, egress_flag, mapping_index,
};
use c2c_common::outside::Translation;
use c2c_common::ports::Pair;

use crate::packets::{BACKEND, BACKEND_MAC, FRONTEND, FRONTEND_MAC, GATEWAY_MAC, HERE, THERE};

/// What TC programs answer.
pub(crate) const NEXT: u32 = (-1i32).cast_unsigned();
pub(crate) const DROP: u32 = 2;
pub(crate) const REDIRECT: u32 = 7;
/// What XDP programs answer.
pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;

/// The program of the offload self-test, which has no hook of its own to count under.
const SELF_TEST: &str = "self_test";

/// The mark of a refused packet on its way to its answer.
pub(crate) const REFUSED_MARK: u32 = 0xc2c0_0000;

/// The device that test packets come in by: the loopback device, whose index is 1 in every namespace.
pub(crate) const DEVICE: u32 = 1;
/// The device of a container that is gone.
const GONE: u32 = 99;
pub(crate) const FRONTEND_TAG: u16 = 11;
pub(crate) const BACKEND_TAG: u16 = 22;
pub(crate) const VNI: u32 = 1;
pub(crate) const PORT: u16 = 4789;

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Raw<T>(T);

// SAFETY: the layout types are repr(C) integers without padding, as c2c-common asserts.
unsafe impl<T: Copy + 'static> aya::Pod for Raw<T> {}

/// Programs and maps of one test.
pub(crate) struct Machine {
    ebpf: Ebpf,
    /// Counters as [`Machine::moved`] last read them.
    last: BTreeMap<(Hook, Outcome), u64>,
}

/// What a program made of a packet.
pub(crate) struct Run {
    pub(crate) action: u32,
    pub(crate) packet: Vec<u8>,
    pub(crate) mark: u32,
    /// Counters that moved, by how many packets.
    pub(crate) counted: BTreeMap<(Hook, Outcome), u64>,
}

impl Run {
    /// Asserts the answer and that exactly these counters moved, each by one packet.
    pub(crate) fn expect(self, action: u32, counted: &[(Hook, Outcome)]) -> Self {
        let want: BTreeMap<_, _> = counted.iter().map(|&c| (c, 1)).collect();
        assert_eq!((self.action, &self.counted), (action, &want));
        self
    }
}

impl Machine {
    /// A cell, 10.255.1.0/24, that knows one other, 10.255.2.0/24. The frontend's container is here, on the device that
    /// packets come in by; the backend has one here and one on the other cell.
    pub(crate) fn new() -> Self {
        Self::load(c2c_agent::datapath::OBJECT, 1_024, 4_096)
    }

    /// The same cell with tables of flows that hold one each and then refuse, which the kernel's LRUs do only while what
    /// they would change is locked: they are plain hashes.
    pub(crate) fn with_full_tables() -> Self {
        let mut object = c2c_agent::datapath::OBJECT.to_vec();
        make_plain_hash::<Flow>(&mut object, layout::FLOWS_CAPACITY);
        make_plain_hash::<Translation>(&mut object, layout::TRANSLATIONS_CAPACITY);
        Self::load(&object, 1, 1)
    }

    fn load(object: &[u8], flows: u32, translations: u32) -> Self {
        let mut loader = EbpfLoader::new();
        loader.override_global("AYA_LOG_LEVEL", &0u8, true);
        loader.map_max_entries(layout::FLOWS, flows);
        loader.map_max_entries(layout::TRANSLATIONS, translations);
        let mut ebpf = loader.load(object).expect("the object loads");
        for name in ["from_container", "from_underlay", "to_container", "self_test"] {
            let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let shield: &mut Xdp = ebpf.program_mut("xdp_underlay").unwrap().try_into().unwrap();
        shield.load().expect("xdp_underlay");
        let mut machine = Self { ebpf, last: BTreeMap::new() };
        machine.configure(&config());
        machine.endpoint(FRONTEND, DEVICE, FRONTEND_TAG, FRONTEND_MAC);
        machine.endpoint(BACKEND, 7, BACKEND_TAG, BACKEND_MAC);
        machine.lease(Ipv4Addr::new(10, 255, 2, 0), 24, THERE);
        machine
    }

    pub(crate) fn configure(&mut self, config: &Config) {
        let mut map: Array<_, Raw<Config>> = self.map(layout::CONFIG);
        map.set(0, Raw(*config), 0).unwrap();
    }

    pub(crate) fn endpoint(&mut self, addr: Ipv4Addr, ifindex: u32, tag: u16, mac: [u8; 6]) {
        self.put_endpoint(addr, &Endpoint { ifindex, tag, macs: [mac, GATEWAY_MAC], ..Endpoint::default() });
    }

    /// The frontend with a set of egress rules, and flags of its endpoint.
    pub(crate) fn frontend_with(&mut self, egress: u32, flags: u8) {
        let endpoint = Endpoint {
            ifindex: DEVICE,
            tag: FRONTEND_TAG,
            macs: [FRONTEND_MAC, GATEWAY_MAC],
            flags,
            pad: 0,
            egress,
        };
        self.put_endpoint(FRONTEND, &endpoint);
    }

    pub(crate) fn put_endpoint(&mut self, addr: Ipv4Addr, endpoint: &Endpoint) {
        let mut map: HashMap<_, u32, Raw<Endpoint>> = self.map(layout::ENDPOINTS);
        map.insert(from_ipv4(addr), Raw(*endpoint), 0).unwrap();
    }

    /// Runs a TC program over a packet without reading all counters; [`Machine::moved`] then reads one.
    pub(crate) fn quick(&mut self, hook: Hook, packet: &[u8]) -> Run {
        self.run(hook.as_str(), packet)
    }

    fn run(&mut self, program: &str, packet: &[u8]) -> Run {
        let mut out = vec![0; packet.len() + 256];
        let bytes = Context::default().bytes();
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&bytes),
            ..TestRunOptions::new()
        };
        let program: &SchedClassifier = self.ebpf.program(program).unwrap().try_into().unwrap();
        let result = program.test_run(options).expect("BPF_PROG_TEST_RUN");
        out.truncate(result.data_size_out as usize);
        Run { action: result.return_value, packet: out, mark: 0, counted: BTreeMap::new() }
    }

    /// Runs the self-test's program, which counts nothing.
    pub(crate) fn self_test(&mut self, packet: &[u8]) -> Run {
        self.run(SELF_TEST, packet)
    }

    /// Whether a counter moved since it was last asked for, by this function.
    pub(crate) fn moved(&mut self, hook: Hook, outcome: Outcome) -> bool {
        let map: PerCpuArray<_, Raw<Counter>> = self.map(layout::COUNTERS);
        let now = map.get(&index(hook, outcome), 0).unwrap().iter().map(|cpu| cpu.0.packets).sum();
        self.last.insert((hook, outcome), now).unwrap_or(0) != now
    }

    /// Adds what the agent compiled.
    pub(crate) fn put_egress(&mut self, rows: &EgressRows) {
        let mut map: HashMap<_, Raw<EgressPortsKey>, Raw<EgressPorts>> = self.map(layout::EGRESS_PORTS);
        for (key, ports) in &rows.ports {
            map.insert(Raw(*key), Raw(*ports), 0).unwrap();
        }
        for (range, class) in &rows.ranges {
            self.range(range.set, to_ipv4(range.addr), u32::from(range.prefix), *class);
        }
    }

    /// Everything may be sent to these addresses by who has this set.
    pub(crate) fn allow_all(&mut self, set: u32, network: Ipv4Addr, prefix: u32, flags: u32) {
        self.range(set, network, prefix, EgressClass { class: 0, flags: egress_flag::ALL | flags });
    }

    /// These ports (for ICMP type and code) of these addresses may be reached by who has this set.
    pub(crate) fn allow_outside(
        &mut self,
        set: u32,
        network: Ipv4Addr,
        prefix: u32,
        protocol: u8,
        ports: (u16, u16),
    ) {
        let class = set.wrapping_mul(1_000) + u32::from(protocol);
        self.range(set, network, prefix, EgressClass { class, flags: 0 });
        let mut map: HashMap<_, Raw<EgressPortsKey>, Raw<EgressPorts>> = self.map(layout::EGRESS_PORTS);
        for (key, bits) in c2c_common::egress::rows(class, protocol, ports.0, ports.1) {
            map.insert(Raw(key), Raw(EgressPorts { allowed: bits, logged: 0 }), 0).unwrap();
        }
    }

    pub(crate) fn range(&mut self, set: u32, network: Ipv4Addr, prefix: u32, class: EgressClass) {
        let mut map: LpmTrie<_, Raw<EgressAddress>, Raw<EgressClass>> = self.map(layout::EGRESS);
        let address = EgressAddress { set, addr: from_ipv4(network) };
        map.insert(&Key::new(EGRESS_SET_BITS + prefix, Raw(address)), Raw(class), 0).unwrap();
    }

    /// Leads a port of the cell into a container.
    pub(crate) fn map_port(&mut self, protocol: u8, port: u16, to: (Ipv4Addr, u16)) {
        let row = Mapping { addr: from_ipv4(to.0), port: to.1.to_be(), pad: 0 };
        let mut map: Array<_, Raw<Mapping>> = self.map(layout::MAPPINGS);
        map.set(mapping_index(protocol, port).unwrap(), Raw(row), 0).unwrap();
        let key = MappedKey { addr: row.addr, port: row.port, protocol: u16::from(protocol) };
        let mut map: HashMap<_, Raw<MappedKey>, u32> = self.map(layout::MAPPED);
        map.insert(Raw(key), u32::from(port), 0).unwrap();
    }

    pub(crate) fn open_service(&mut self, addr: Ipv4Addr, port: u16, protocol: u8) {
        let key = ServiceKey { addr: from_ipv4(addr), port: port.to_be(), protocol: u16::from(protocol) };
        let mut map: HashMap<_, Raw<ServiceKey>, u32> = self.map(layout::HOST_SERVICES);
        map.insert(Raw(key), 1, 0).unwrap();
    }

    pub(crate) fn local(&mut self, addr: Ipv4Addr) {
        let mut map: HashMap<_, u32, u32> = self.map(layout::LOCALS);
        map.insert(from_ipv4(addr), 1, 0).unwrap();
    }

    pub(crate) fn connections(&mut self, addr: Ipv4Addr) -> Connections {
        let map: HashMap<_, u32, Raw<Connections>> = self.map(layout::CONNECTIONS);
        map.get(&from_ipv4(addr), 0).map_or(Connections::default(), |row| row.0)
    }

    pub(crate) fn translations(&mut self) -> BTreeMap<FlowKey, Translation> {
        let map: HashMap<_, Raw<FlowKey>, Raw<Translation>> = self.map(layout::TRANSLATIONS);
        map.iter().map(|row| row.map(|(k, v)| (k.0, v.0)).unwrap()).collect()
    }

    pub(crate) fn forget_translations(&mut self) {
        let keys: Vec<_> = self.translations().into_keys().collect();
        let mut map: HashMap<_, Raw<FlowKey>, Raw<Translation>> = self.map(layout::TRANSLATIONS);
        for key in keys {
            map.remove(&Raw(key)).unwrap();
        }
    }

    /// Makes all flows with the outside those of a container that had its address before.
    pub(crate) fn bequeath_translations(&mut self) {
        let flows = self.translations();
        let mut map: HashMap<_, Raw<FlowKey>, Raw<Translation>> = self.map(layout::TRANSLATIONS);
        for (key, flow) in flows {
            map.insert(Raw(key), Raw(Translation { ifindex: GONE, ..flow }), 0).unwrap();
        }
    }

    /// Lets time pass for all flows with the outside.
    pub(crate) fn age_translations(&mut self, seconds: u64) {
        let flows = self.translations();
        let mut map: HashMap<_, Raw<FlowKey>, Raw<Translation>> = self.map(layout::TRANSLATIONS);
        for (key, mut flow) in flows {
            flow.flow.seen_ns = flow.flow.seen_ns.saturating_sub(seconds * 1_000_000_000);
            map.insert(Raw(key), Raw(flow), 0).unwrap();
        }
    }

    pub(crate) fn lease(&mut self, base: Ipv4Addr, prefix: u32, underlay: Ipv4Addr) {
        let [a, b, c, d] = base.octets();
        let lease = Lease { underlay_addr: from_ipv4(underlay), mac: [0xee, 0xee, a, b, c, d], pad: [0; 2] };
        let mut map: HashMap<_, Raw<LeaseKey>, Raw<Lease>> = self.map(layout::LEASES);
        map.insert(Raw(LeaseKey { base: from_ipv4(base), prefix }), Raw(lease), 0).unwrap();
        let mut map: HashMap<_, u32, u32> = self.map(layout::CELLS);
        map.insert(from_ipv4(underlay), 1, 0).unwrap();
    }

    /// The frontend may reach the backend.
    pub(crate) fn allow(&mut self, protocol: u8, start: u16, end: u16) {
        self.allow_between(FRONTEND_TAG, BACKEND_TAG, protocol, (start, end));
    }

    /// The backend may reach the frontend.
    pub(crate) fn allow_back(&mut self, protocol: u8, start: u16, end: u16) {
        self.allow_between(BACKEND_TAG, FRONTEND_TAG, protocol, (start, end));
    }

    /// One app may reach another.
    pub(crate) fn allow_between(
        &mut self,
        source_tag: u16,
        destination_tag: u16,
        protocol: u8,
        ports: (u16, u16),
    ) {
        let pair = Pair { source_tag, destination_tag, protocol };
        let mut map: HashMap<_, Raw<PolicyKey>, u64> = self.map(layout::POLICIES);
        for (key, bits) in pair.rows(ports.0, ports.1) {
            let before = map.get(&Raw(key), 0).unwrap_or(0);
            map.insert(Raw(key), before | bits, 0).unwrap();
        }
    }

    /// Takes all policies away and raises the epoch, as the agent does it.
    pub(crate) fn forbid_everything(&mut self) {
        let mut map: HashMap<_, Raw<PolicyKey>, u64> = self.map(layout::POLICIES);
        let keys: Vec<_> = map.keys().collect::<Result<_, _>>().unwrap();
        for key in keys {
            map.remove(&key).unwrap();
        }
        let mut epoch: Array<_, u32> = self.map(layout::EPOCH);
        let now = epoch.get(&0, 0).unwrap();
        epoch.set(0, now + 1, 0).unwrap();
    }

    pub(crate) fn flows(&mut self) -> BTreeMap<FlowKey, Flow> {
        let map: HashMap<_, Raw<FlowKey>, Raw<Flow>> = self.map(layout::FLOWS);
        map.iter().map(|row| row.map(|(k, v)| (k.0, v.0)).unwrap()).collect()
    }

    pub(crate) fn forget_flows(&mut self) {
        let keys: Vec<_> = self.flows().into_keys().collect();
        let mut map: HashMap<_, Raw<FlowKey>, Raw<Flow>> = self.map(layout::FLOWS);
        for key in keys {
            map.remove(&Raw(key)).unwrap();
        }
    }

    /// Leaves no refusal to this source address for as long as a test may take.
    pub(crate) fn spend_refusals(&mut self, source: Ipv4Addr) {
        let mut map: HashMap<_, u32, Raw<Bucket>> = self.map(layout::REFUSALS);
        map.insert(from_ipv4(source), Raw(Bucket { due_ns: u64::MAX / 2 }), 0).unwrap();
    }

    /// Runs a TC program over a packet that came in by [`DEVICE`].
    pub(crate) fn tc(&mut self, hook: Hook, packet: &[u8]) -> Run {
        self.tc_with(hook, packet, Context::default())
    }

    pub(crate) fn tc_with(&mut self, hook: Hook, packet: &[u8], context: Context) -> Run {
        let before = self.counters();
        let mut out = vec![0; packet.len() + 256];
        let bytes = context.bytes();
        let mut after = bytes.clone();
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&bytes),
            ctx_out: Some(&mut after),
            ..TestRunOptions::new()
        };
        let program: &SchedClassifier = self.ebpf.program(hook.as_str()).unwrap().try_into().unwrap();
        let result = program.test_run(options).expect("BPF_PROG_TEST_RUN");
        out.truncate(result.data_size_out as usize);
        let mark = u32::from_ne_bytes(after[8..12].try_into().unwrap());
        Run { action: result.return_value, packet: out, mark, counted: self.moved_since(&before) }
    }

    pub(crate) fn xdp(&mut self, packet: &[u8]) -> Run {
        let before = self.counters();
        let options = TestRunOptions { data_in: Some(packet), ..TestRunOptions::new() };
        let program: &Xdp = self.ebpf.program("xdp_underlay").unwrap().try_into().unwrap();
        let result = program.test_run(options).expect("BPF_PROG_TEST_RUN");
        let counted = self.moved_since(&before);
        Run { action: result.return_value, packet: packet.to_vec(), mark: 0, counted }
    }

    fn counters(&mut self) -> BTreeMap<(Hook, Outcome), u64> {
        let map: PerCpuArray<_, Raw<Counter>> = self.map(layout::COUNTERS);
        let pairs = Hook::ALL.iter().flat_map(|&h| Outcome::ALL.iter().map(move |&o| (h, o)));
        pairs
            .map(|(h, o)| {
                let cpus = map.get(&index(h, o), 0).unwrap();
                ((h, o), cpus.iter().map(|cpu| cpu.0.packets).sum())
            })
            .collect()
    }

    fn moved_since(&mut self, before: &BTreeMap<(Hook, Outcome), u64>) -> BTreeMap<(Hook, Outcome), u64> {
        let now = self.counters();
        now.into_iter().map(|(k, n)| (k, n - before[&k])).filter(|(_, n)| *n > 0).collect()
    }

    fn map<'a, M: TryFrom<&'a mut aya::maps::Map>>(&'a mut self, name: &str) -> M
    where
        M::Error: std::fmt::Debug,
    {
        self.ebpf.map_mut(name).unwrap().try_into().unwrap()
    }
}

/// Makes the LRU of flows with this value, in the object, a plain hash. Its definition there is what aya-ebpf writes:
/// type, sizes of key and value, capacity.
fn make_plain_hash<V>(object: &mut [u8], capacity: u32) {
    const HASH: u32 = 1;
    const LRU_HASH: u32 = 9;
    let size = |bytes: usize| u32::try_from(bytes).unwrap();
    let definition = [LRU_HASH, size(size_of::<FlowKey>()), size(size_of::<V>()), capacity];
    let wanted: Vec<u8> = definition.into_iter().flat_map(u32::to_le_bytes).collect();
    let places: Vec<_> =
        (0..object.len() - wanted.len()).filter(|&at| object[at..].starts_with(&wanted)).collect();
    let [at] = places[..] else { panic!("the definition is {} times in the object", places.len()) };
    object[at..at + 4].copy_from_slice(&HASH.to_le_bytes());
}

/// What the kernel is told of the packet besides its bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Context {
    /// The device by which the packet came into the cell; 0: the cell made it.
    pub(crate) ingress_ifindex: u32,
    /// The packet's mark.
    pub(crate) mark: u32,
    /// Segments of an aggregate, and the size of each.
    pub(crate) gso: Option<(u32, u32)>,
}

impl Context {
    /// `struct __sk_buff`, of which the kernel takes only these fields.
    fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![0u8; 192];
        let mut put =
            |offset: usize, value: u32| bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        put(8, self.mark);
        put(36, self.ingress_ifindex);
        put(40, DEVICE);
        if let Some((segments, size)) = self.gso {
            put(164, segments);
            put(176, size);
        }
        bytes
    }
}

pub(crate) fn config() -> Config {
    Config {
        overlay_base: from_ipv4(Ipv4Addr::new(10, 255, 0, 0)),
        overlay_mask: mask(16),
        block_base: from_ipv4(Ipv4Addr::new(10, 255, 1, 0)),
        block_mask: mask(24),
        block_prefix: 24,
        underlay_addr: from_ipv4(HERE),
        underlay_ifindex: 77,
        link_base: from_ipv4(Ipv4Addr::new(192, 0, 2, 0)),
        link_mask: mask(24),
        vxlan_ifindex: 78,
        vni: VNI,
        udp_port: PORT.to_be(),
        ready: 1,
        mtu: 1450,
        nat_first: 20_000,
        nat_last: 20_999,
        ..Config::default()
    }
}
