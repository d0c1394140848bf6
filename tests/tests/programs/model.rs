//! The programs against a naive reading of what they are to do: lists that are searched from the front, and sets of
//! flows. 100,000 random packets, by the object that ships, over the rows that the agent compiles from the words of
//! policies and rules. The world changes under way, and with it what is allowed of the flows that exist.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use c2c_agent::policy::egress::{Compiler, Selection};
use c2c_common::counter::{Hook, Outcome};
use c2c_common::layout::{Config, Endpoint};
use c2c_proto::egress::{SecurityRule, permissions};

use crate::machine::{BACKEND_TAG, DEVICE, FRONTEND_TAG, Machine, NEXT, REDIRECT, config};
use crate::packets::*;

const CASES: u32 = 100_000;
/// Packets between two changes of the world.
const CASES_PER_WORLD: u32 = 500;
const OUT: Hook = Hook::FromContainer;
const IN: Hook = Hook::FromUnderlay;
const CONTAINERS: [(Ipv4Addr, u16); 2] = [(FRONTEND, FRONTEND_TAG), (BACKEND, BACKEND_TAG)];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
/// Few, so that flows meet: destinations outside, their ports, and the ports of containers.
const OUTSIDE_ADDRS: [[u8; 4]; 5] =
    [[198, 51, 100, 1], [198, 51, 100, 2], [198, 51, 100, 129], [203, 0, 113, 9], [8, 8, 8, 8]];
const SERVER_PORTS: [u16; 4] = [53, 80, 443, 8080];
/// A mapped port and the container's port behind it.
const MAPPED: [(u16, Ipv4Addr, u16); 2] = [(61_000, FRONTEND, 3_000), (61_001, BACKEND, 3_001)];

/// SplitMix64: the same packets in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn of<T: Copy>(&mut self, things: &[T]) -> T {
        things[usize::try_from(self.roll(things.len() as u64)).unwrap()]
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}

/// An egress rule, as its reader understands it.
#[derive(Clone, Debug)]
struct Rule {
    first: u32,
    last: u32,
    /// Protocol (0: all) and the ports, or ICMP type and code, of it.
    protocol: u8,
    ports: (u16, u16),
}

impl Rule {
    fn random(dice: &mut Dice) -> (Self, SecurityRule) {
        let at = u32::from(Ipv4Addr::from(dice.of(&OUTSIDE_ADDRS)));
        let (first, last, destination) = match dice.roll(3) {
            0 => (at, at, Ipv4Addr::from(at).to_string()),
            1 => {
                let prefix = u32::try_from(dice.roll(33)).unwrap();
                let size = u32::MAX.checked_shr(prefix).unwrap_or(0);
                (at & !size, at | size, format!("{}/{prefix}", Ipv4Addr::from(at & !size)))
            }
            _ => {
                let last = at.saturating_add(u32::try_from(dice.roll(300)).unwrap());
                (at, last, format!(" {} - {} ", Ipv4Addr::from(at), Ipv4Addr::from(last)))
            }
        };
        let protocol = dice.of(&[0, TCP, TCP, UDP, ICMP]);
        let (low, span) = (dice.of(&SERVER_PORTS), u16::try_from(dice.roll(500)).unwrap());
        let ports = if protocol == ICMP { (0x0800, 0x08ff) } else { (low, low + span) };
        let with_ports = matches!(protocol, TCP | UDP);
        let said = SecurityRule {
            protocol: match protocol {
                TCP => "tcp",
                UDP => "udp",
                ICMP => "icmp",
                _ => "all",
            }
            .to_owned(),
            destination,
            ports: if with_ports { format!("{} - {}, {low}", ports.0, ports.1) } else { String::new() },
            icmp_type: (protocol == ICMP).then_some(8),
            code: (protocol == ICMP).then_some(-1),
            log: false,
            description: String::new(),
        };
        (Self { first, last, protocol, ports }, said)
    }

    fn allows(&self, addr: Ipv4Addr, protocol: u8, port: u16) -> bool {
        let in_range = (self.first..=self.last).contains(&u32::from(addr));
        let speaks = self.protocol == protocol && (self.ports.0..=self.ports.1).contains(&port);
        in_range && (self.protocol == 0 || speaks)
    }
}

/// What is allowed at one time.
#[derive(Default)]
struct World {
    /// Source tag, destination tag, protocol, ports.
    policies: Vec<(u16, u16, u8, u16, u16)>,
    rules: HashMap<Ipv4Addr, Vec<Rule>>,
    denied: Vec<ipnet::Ipv4Net>,
}

impl World {
    fn policy(&self, from: u16, to: u16, protocol: u8, port: u16) -> bool {
        self.policies.iter().any(|&(s, d, p, first, last)| {
            (s, d, p) == (from, to, protocol) && (first..=last).contains(&port)
        })
    }

    fn egress(&self, container: Ipv4Addr, addr: Ipv4Addr, protocol: u8, port: u16) -> bool {
        !self.denied.iter().any(|network| network.contains(&addr))
            && self.rules[&container].iter().any(|rule| rule.allows(addr, protocol, port))
    }
}

/// What exists.
#[derive(Default)]
struct Flows {
    /// Between containers, by protocol and opener's end.
    inside: BTreeMap<(u8, End, End), ()>,
    /// Masqueraded: protocol, container's end, outside's end, to the port that the outside sees.
    masqueraded: BTreeMap<(u8, End, End), u16>,
    /// Mapped: protocol, caller, to the container's end and the cell's port.
    mapped: BTreeMap<(u8, End), (End, u16)>,
}

/// Machine and model, side by side.
struct Bench {
    m: Machine,
    compiler: Compiler,
    world: World,
    flows: Flows,
    dice: Dice,
    pool: (u16, u16),
}

#[test]
fn a_hundred_thousand_packets_are_decided_as_a_naive_reader_decides_them() {
    let mut bench = Bench {
        m: Machine::new(),
        compiler: Compiler::default(),
        world: World::default(),
        flows: Flows::default(),
        dice: Dice(7),
        pool: (0, 0),
    };
    for (port, container, behind) in MAPPED {
        bench.m.map_port(TCP, port, (container, behind));
        bench.m.map_port(UDP, port, (container, behind));
    }
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for case in 0..CASES {
        if case % CASES_PER_WORLD == 0 {
            bench.change_world();
        }
        let kind = bench.packet(case);
        *seen.entry(kind).or_default() += 1;
    }
    for kind in
        ["sent", "egress denied", "revoked", "exhausted", "answered", "mapped", "delivered", "refused", "own"]
    {
        assert!(seen.get(kind).copied().unwrap_or(0) > 200, "{kind} hardly happened: {seen:?}");
    }
}

impl Bench {
    /// Other rules and policies, now and then another pool; flows stay unless the pool changes.
    fn change_world(&mut self) {
        let rules = CONTAINERS.map(|(container, _)| {
            let count = self.dice.roll(6);
            (container, (0..count).map(|_| Rule::random(&mut self.dice)).collect::<Vec<_>>())
        });
        self.world.denied =
            if self.dice.one_in(3) { vec!["198.51.100.128/25".parse().unwrap()] } else { vec![] };
        let selections = rules.each_ref().map(|(_, rules)| Selection {
            permissions: rules.iter().flat_map(|(_, said)| permissions(said).unwrap()).collect(),
            denied: self.world.denied.clone(),
        });
        let compiled = self.compiler.compile(&selections, &[]);
        self.m.put_egress(&compiled.rows);
        for ((container, tag), set) in CONTAINERS.into_iter().zip(compiled.ids) {
            let endpoint = Endpoint { ifindex: DEVICE, tag, egress: set, ..Endpoint::default() };
            self.m.put_endpoint(container, &endpoint);
        }
        self.world.rules =
            rules.map(|(c, rules)| (c, rules.into_iter().map(|(rule, _)| rule).collect())).into();
        self.change_policies();
        if self.dice.one_in(4) || self.pool == (0, 0) {
            self.pool = self.dice.of(&[(20_000, 20_999), (20_000, 20_005)]);
            self.m.configure(&Config { nat_first: self.pool.0, nat_last: self.pool.1, ..config() });
            self.m.forget_translations();
            (self.flows.masqueraded, self.flows.mapped) = (BTreeMap::new(), BTreeMap::new());
        }
    }

    /// Flows between containers are judged once for each epoch; the model knows only fresh ones.
    fn change_policies(&mut self) {
        self.m.forbid_everything();
        self.m.forget_flows();
        self.flows.inside.clear();
        self.world.policies.clear();
        for _ in 0..self.dice.roll(4) {
            let (from, to) = self.dice.of(&[(FRONTEND_TAG, BACKEND_TAG), (BACKEND_TAG, FRONTEND_TAG)]);
            let (protocol, first) = (self.dice.of(&[TCP, UDP]), self.dice.of(&[80, 3_000, 8_000]));
            let last = first + u16::try_from(self.dice.roll(200)).unwrap();
            self.m.allow_between(from, to, protocol, (first, last));
            self.world.policies.push((from, to, protocol, first, last));
        }
    }

    /// One packet; answers with the name of what became of it.
    fn packet(&mut self, case: u32) -> &'static str {
        match self.dice.roll(10) {
            0..=3 => self.call_outside(case),
            4 | 5 => self.answer_from_outside(case),
            6 => self.call_mapped(case),
            7 => self.answer_of_mapped(case),
            _ => self.between_containers(case),
        }
    }

    fn container(&mut self) -> (Ipv4Addr, u16) {
        self.dice.of(&CONTAINERS)
    }

    fn call_outside(&mut self, case: u32) -> &'static str {
        let (container, _) = self.container();
        let protocol = self.dice.of(&[TCP, UDP, ICMP]);
        let own = (container, 40_000 + u16::try_from(self.dice.roll(8)).unwrap());
        let port = if protocol == ICMP { 0 } else { self.dice.of(&SERVER_PORTS) };
        let server = (Ipv4Addr::from(self.dice.of(&OUTSIDE_ADDRS)), port);
        let asked = if protocol == ICMP { 0x0800 } else { port };
        let key = (protocol, own, server);
        let known = self.flows.masqueraded.get(&key).copied();
        let allowed = self.world.egress(container, server.0, protocol, asked);
        let used = self.flows.masqueraded.keys().filter(|(p, _, s)| (*p, *s) == (protocol, server)).count();
        let run = self.m.quick(OUT, &packet(protocol, own, server, "S"));
        let what = format!("case {case}: {key:?} known as {known:?}");
        if !allowed {
            let reason = if known.is_some() { Outcome::EgressRevoked } else { Outcome::EgressDenied };
            assert!(self.m.moved(OUT, reason), "{what}: {reason:?}");
            return if known.is_some() { "revoked" } else { "egress denied" };
        }
        if known.is_none() && used > usize::from(self.pool.1 - self.pool.0) {
            assert!(self.m.moved(OUT, Outcome::NatExhausted), "{what}: exhausted");
            return "exhausted";
        }
        assert!(run.action == REDIRECT && self.m.moved(OUT, Outcome::ToOutside), "{what}: sent");
        let (source, destination) = ends(&run.packet);
        assert_eq!((source.0, destination), (HERE, server), "{what}");
        assert!((self.pool.0..=self.pool.1).contains(&source.1), "{what}");
        assert!(known.is_none_or(|port| port == source.1), "{what} came from {}", source.1);
        let doubly = self
            .flows
            .masqueraded
            .iter()
            .any(|(k, port)| (k.0, k.2) == (protocol, server) && *k != key && *port == source.1);
        assert!(!doubly, "{what}: two flows look alike");
        self.flows.masqueraded.insert(key, source.1);
        "sent"
    }

    fn answer_from_outside(&mut self, case: u32) -> &'static str {
        let protocol = self.dice.of(&[TCP, UDP, ICMP]);
        let port =
            self.pool.0 + u16::try_from(self.dice.roll(u64::from(self.pool.1 - self.pool.0) + 1)).unwrap();
        let random = (Ipv4Addr::from(self.dice.of(&OUTSIDE_ADDRS)), self.dice.of(&SERVER_PORTS));
        let flows: Vec<_> = self.flows.masqueraded.iter().map(|(k, p)| (*k, *p)).collect();
        let (protocol, server, port, container) = if flows.is_empty() || self.dice.one_in(5) {
            let server = if protocol == ICMP { (random.0, 0) } else { random };
            let found = flows.iter().find(|((p, _, s), own)| (*p, *s, *own) == (protocol, server, port));
            (protocol, server, port, found.map(|((_, own, _), _)| *own))
        } else {
            let ((protocol, own, server), port) = self.dice.of(&flows);
            (protocol, server, port, Some(own))
        };
        let run = self.m.quick(IN, &packet(protocol, server, (HERE, port), "A"));
        let what = format!("case {case}: answer {protocol} {server:?} to port {port}, of {container:?}");
        let Some(own) = container else {
            assert_eq!((run.action, self.m.moved(IN, Outcome::ToEndpoint)), (NEXT, false), "{what}");
            return "own";
        };
        let asked = if protocol == ICMP { 0x0800 } else { server.1 };
        if !self.world.egress(own.0, server.0, protocol, asked) {
            assert!(self.m.moved(IN, Outcome::EgressRevoked), "{what}");
            return "revoked";
        }
        assert!(self.m.moved(IN, Outcome::ToEndpoint), "{what}");
        assert_eq!(ends(&run.packet), (server, own), "{what}");
        "answered"
    }

    fn call_mapped(&mut self, case: u32) -> &'static str {
        let protocol = self.dice.of(&[TCP, UDP]);
        let caller = (
            Ipv4Addr::from(self.dice.of(&OUTSIDE_ADDRS)),
            50_000 + u16::try_from(self.dice.roll(8)).unwrap(),
        );
        let port = 61_000 + u16::try_from(self.dice.roll(3)).unwrap();
        let run = self.m.quick(IN, &packet(protocol, caller, (HERE, port), "S"));
        let Some((_, container, behind)) = MAPPED.into_iter().find(|mapped| mapped.0 == port) else {
            assert_eq!(run.action, NEXT, "case {case}");
            return "own";
        };
        assert!(self.m.moved(IN, Outcome::ToEndpoint), "case {case}");
        assert_eq!(ends(&run.packet), (caller, (container, behind)), "case {case}");
        self.flows.mapped.insert((protocol, caller), ((container, behind), port));
        "mapped"
    }

    fn answer_of_mapped(&mut self, case: u32) -> &'static str {
        let flows: Vec<_> = self.flows.mapped.iter().map(|(k, v)| (*k, *v)).collect();
        if flows.is_empty() {
            return "nothing";
        }
        let ((protocol, caller), (own, port)) = self.dice.of(&flows);
        // Only the latest call by this caller of this container is told apart; the other container's has its own entry.
        let run = self.m.quick(OUT, &packet(protocol, own, caller, "A"));
        assert!(self.m.moved(OUT, Outcome::ToOutside), "case {case}: {own:?} to {caller:?}");
        assert_eq!(ends(&run.packet), ((HERE, port), caller), "case {case}");
        "answered"
    }

    /// A connection or datagram from one container to the other, directly or by a mapped port of the cell.
    fn between_containers(&mut self, case: u32) -> &'static str {
        let (from, from_tag) = self.container();
        let (to, to_tag) = if from == FRONTEND { CONTAINERS[1] } else { CONTAINERS[0] };
        let protocol = self.dice.of(&[TCP, UDP]);
        let by_mapped = self.dice.one_in(2);
        let own = (from, if by_mapped { 52_000 } else { 51_000 } + u16::try_from(self.dice.roll(4)).unwrap());
        let server = if by_mapped {
            let (_, container, behind) = if to == FRONTEND { MAPPED[0] } else { MAPPED[1] };
            (container, behind)
        } else {
            (to, self.dice.of(&[80, 3_000, 8_080]))
        };
        let called = if by_mapped { (HERE, if to == FRONTEND { 61_000 } else { 61_001 }) } else { server };
        let allowed = self.flows.inside.contains_key(&(protocol, own, server))
            || self.world.policy(from_tag, to_tag, protocol, server.1);
        let run = self.m.quick(OUT, &packet(protocol, own, called, "S"));
        let what = format!("case {case}: {protocol} {own:?} to {called:?}");
        if !allowed {
            assert!(self.m.moved(OUT, Outcome::PolicyDenied), "{what}");
            return "refused";
        }
        assert!(self.m.moved(OUT, Outcome::ToEndpoint), "{what}");
        assert_eq!(ends(&run.packet), (own, server), "{what}");
        self.flows.inside.insert((protocol, own, server), ());
        let back = self.m.quick(OUT, &packet(protocol, server, own, "SA"));
        assert!(self.m.moved(OUT, Outcome::ToEndpoint), "{what}: the answer");
        assert_eq!(ends(&back.packet), (called, own), "{what}: the answer");
        "delivered"
    }
}

/// A packet of a protocol; for ICMP the port that is not 0 is the identifier.
fn packet(protocol: u8, from: End, to: End, flags: &str) -> Vec<u8> {
    match protocol {
        TCP => tcp(from, to, flags),
        UDP => udp(from, to),
        _ if to.1 == 0 => echo(from.0, to.0, from.1),
        _ => pong(from.0, to.0, to.1),
    }
}
