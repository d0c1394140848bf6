//! Loads the object onto maps of its own and runs single packets through single programs.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use aya::maps::{Array, HashMap, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use c2c_common::addr::{from_ipv4, mask};
use c2c_common::counter::{Counter, Hook, Outcome, index};
use c2c_common::flow::{Flow, FlowKey};
use c2c_common::layout::{self, Config, Endpoint, Lease, LeaseKey, PolicyKey};
use c2c_common::ports::Pair;
use c2c_common::refusal::Bucket;

use crate::packets::{BACKEND, BACKEND_MAC, FRONTEND, FRONTEND_MAC, GATEWAY_MAC, HERE, THERE};

/// What TC programs answer.
pub(crate) const NEXT: u32 = (-1i32).cast_unsigned();
pub(crate) const DROP: u32 = 2;
pub(crate) const REDIRECT: u32 = 7;
/// What XDP programs answer.
pub(crate) const XDP_DROP: u32 = 1;
pub(crate) const XDP_PASS: u32 = 2;

/// The mark of a refused packet on its way to its answer.
pub(crate) const REFUSED_MARK: u32 = 0xc2c0_0000;

/// The device that test packets come in by: the loopback device, whose index is 1 in every namespace.
pub(crate) const DEVICE: u32 = 1;
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
        let mut loader = EbpfLoader::new();
        loader.override_global("AYA_LOG_LEVEL", &0u8, true);
        loader.map_max_entries(layout::FLOWS, 1_024);
        let mut ebpf = loader.load(c2c_agent::datapath::OBJECT).expect("the object loads");
        for name in ["from_container", "from_underlay", "to_container"] {
            let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let shield: &mut Xdp = ebpf.program_mut("xdp_underlay").unwrap().try_into().unwrap();
        shield.load().expect("xdp_underlay");
        let mut machine = Self { ebpf };
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
        let endpoint = Endpoint { ifindex, tag, mac, gateway_mac: GATEWAY_MAC, pad: [0; 2] };
        let mut map: HashMap<_, u32, Raw<Endpoint>> = self.map(layout::ENDPOINTS);
        map.insert(from_ipv4(addr), Raw(endpoint), 0).unwrap();
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
        let pair = Pair { source_tag: FRONTEND_TAG, destination_tag: BACKEND_TAG, protocol };
        let mut map: HashMap<_, Raw<PolicyKey>, u64> = self.map(layout::POLICIES);
        for (key, bits) in pair.rows(start, end) {
            map.insert(Raw(key), bits, 0).unwrap();
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
        vxlan_ifindex: 78,
        vni: VNI,
        udp_port: PORT.to_be(),
        ready: 1,
        mtu: 1450,
    }
}
