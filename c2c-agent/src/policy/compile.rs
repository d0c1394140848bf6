//! From the world to the rows of the maps: a pure function. It does not read a map, and does not decide in which order
//! rows are written (`fabric` does).

use super::group::Workload;
use super::world::{Rule, Tags, World};
use crate::config::Network;
use crate::datapath::MappedPort;
use crate::lease::{Grant, Lease};
use c2c_common::layout::{self, LeaseKey, PolicyKey, ServiceKey, config_flag, endpoint_flag};
use c2c_common::{addr, ports::Pair};
use c2c_proto::agent_api::{NetOutRule, PortMapping, Transport};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Fits 32 bits, as the interval of a rate of one per second must.
const NS_PER_SECOND: u32 = 1_000_000_000;

/// The cell itself, as its host shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Its address on the underlay.
    pub underlay: Ipv4Addr,
    /// Index of the underlay device.
    pub underlay_ifindex: u32,
    /// The network whose hosts are neighbours on the underlay device, if it is known.
    pub link: Option<Ipv4Net>,
    /// Index of the kernel's VXLAN device.
    pub vxlan_ifindex: u32,
    /// Largest packet in the overlay, in bytes.
    pub mtu: u32,
    /// Its own addresses, on all devices.
    pub locals: BTreeSet<Ipv4Addr>,
}

/// A container of the cell, as far as the maps are concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Its app.
    pub app: String,
    /// Its space; empty when no security group can apply to it.
    pub space: String,
    /// What it does.
    pub workload: Workload,
    /// Name of the host's end of its veth pair.
    pub host_name: String,
    /// Index of the same.
    pub ifindex: u32,
    /// MAC of the same.
    pub host_mac: [u8; 6],
    /// MAC of the container's end.
    pub container_mac: [u8; 6],
    /// What its runtime says it may reach outside.
    pub egress: Vec<NetOutRule>,
    /// Ports of the cell that lead into it.
    pub ports: Vec<PortMapping>,
    /// Whether what it gets is limited by its host device's queue.
    pub shaped: bool,
}

/// All that the rows follow from.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// What the controller said.
    pub world: &'a World,
    /// The lease, if one is held.
    pub grant: Option<&'a Grant>,
    /// What the host shows.
    pub cell: &'a Cell,
    /// What the operator says.
    pub network: &'a Network,
    /// The containers.
    pub placed: &'a BTreeMap<Ipv4Addr, Placed>,
    /// The containers' sets of egress rules; one that is not in here has none.
    pub sets: &'a BTreeMap<Ipv4Addr, u32>,
}

/// What the maps shall hold, but for the rows of egress rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// `CONFIG`; all zero without a lease.
    pub config: layout::Config,
    /// `LEASES`: every other cell's.
    pub leases: BTreeMap<LeaseKey, layout::Lease>,
    /// `POLICIES`: those that touch an app hosted here.
    pub policies: BTreeMap<PolicyKey, u64>,
    /// `ENDPOINTS`: the cell's containers.
    pub endpoints: BTreeMap<Ipv4Addr, layout::Endpoint>,
    /// `MAPPINGS` and `MAPPED`: where the cell's ports lead.
    pub mappings: BTreeMap<MappedPort, (Ipv4Addr, u16)>,
    /// `LOCALS`: the cell's own addresses.
    pub locals: BTreeSet<Ipv4Addr>,
    /// `HOST_SERVICES`: what containers may reach on the cell.
    pub host_services: BTreeSet<ServiceKey>,
}

/// What the maps shall hold. Without a lease nothing is ours: there are endpoints and what belongs to them, but no peers
/// and no policies.
#[must_use]
pub fn rows(scene: Scene<'_>) -> Rows {
    let Scene { world, cell, network, placed, sets, .. } = scene;
    let own = Rows {
        endpoints: endpoints(world, placed, sets),
        mappings: mappings(placed),
        locals: cell.locals.clone(),
        host_services: network.host_services(),
        ..Rows::default()
    };
    let Some(grant) = scene.grant else { return own };
    let hosted = placed.values().map(|place| place.app.clone()).collect();
    Rows {
        config: config(grant, cell, network),
        leases: leases(world, grant),
        policies: policies(world, &hosted),
        ..own
    }
}

/// Where the cell's ports lead.
#[must_use]
pub fn mappings(placed: &BTreeMap<Ipv4Addr, Placed>) -> BTreeMap<MappedPort, (Ipv4Addr, u16)> {
    let all = placed.iter().flat_map(|(address, place)| place.ports.iter().map(move |port| (*address, port)));
    all.flat_map(|(address, mapping)| {
        let protocols = mapping.protocol.map_or(vec![Transport::Tcp, Transport::Udp], |only| vec![only]);
        protocols.into_iter().map(move |protocol| {
            let port = MappedPort { protocol: protocol as u8, port: mapping.host_port };
            (port, (address, mapping.container_port))
        })
    })
    .collect()
}

/// The containers' rows.
pub fn endpoints(
    world: &World,
    placed: &BTreeMap<Ipv4Addr, Placed>,
    sets: &BTreeMap<Ipv4Addr, u32>,
) -> BTreeMap<Ipv4Addr, layout::Endpoint> {
    let row = |(address, place): (&Ipv4Addr, &Placed)| {
        let set = sets.get(address).copied().unwrap_or(0);
        (*address, endpoint_row(place, world.policies.tag(&place.app), set))
    };
    placed.iter().map(row).collect()
}

/// The map entry of a container whose app has this tag, and whose egress rules are this set.
#[must_use]
pub fn endpoint_row(place: &Placed, tag: u16, egress: u32) -> layout::Endpoint {
    layout::Endpoint {
        ifindex: place.ifindex,
        tag,
        macs: [place.container_mac, place.host_mac],
        flags: if place.shaped { endpoint_flag::SHAPED } else { 0 },
        pad: 0,
        egress,
    }
}

fn config(grant: &Grant, cell: &Cell, network: &Network) -> layout::Config {
    let limit = network.outbound.limit;
    let link = cell.link.map_or(layout::NO_LINK, |link| {
        (addr::from_ipv4(link.network()), addr::mask(u32::from(link.prefix_len())))
    });
    layout::Config {
        overlay_base: addr::from_ipv4(grant.overlay.network()),
        overlay_mask: addr::mask(u32::from(grant.overlay.prefix_len())),
        block_base: addr::from_ipv4(grant.lease.block.network()),
        block_mask: addr::mask(u32::from(grant.block_prefix)),
        block_prefix: u32::from(grant.block_prefix),
        underlay_addr: addr::from_ipv4(cell.underlay),
        underlay_ifindex: cell.underlay_ifindex,
        link_base: link.0,
        link_mask: link.1,
        vxlan_ifindex: cell.vxlan_ifindex,
        vni: grant.vni,
        udp_port: grant.udp_port.to_be(),
        ready: 1,
        mtu: cell.mtu,
        nat_first: *network.nat_ports.start(),
        nat_last: *network.nat_ports.end(),
        rate_interval_ns: limit.map_or(0, |rate| NS_PER_SECOND.checked_div(rate.per_second).unwrap_or(0)),
        rate_burst: limit.map_or(0, |rate| rate.burst),
        max_connections: network.outbound.max_connections,
        flags: if limit.is_some_and(|rate| rate.dry_run) { config_flag::RATE_DRY_RUN } else { 0 },
    }
}

/// Every other cell's lease that a packet can be sent to. A cell's own is never in it, under no name: or a forged outer
/// source of the cell's own address would pass the binding check.
pub fn leases(world: &World, grant: &Grant) -> BTreeMap<LeaseKey, layout::Lease> {
    others(world, grant).map(lease_row).collect()
}

/// The other cells' leases, as far as they can be right.
pub fn others<'a>(world: &'a World, grant: &'a Grant) -> impl Iterator<Item = &'a Lease> {
    world.leases.values().filter(|lease| !is_own(lease, &grant.lease) && is_routable(lease.block, grant))
}

fn is_own(lease: &Lease, own: &Lease) -> bool {
    let overlaps = lease.block.contains(&own.block) || own.block.contains(&lease.block);
    lease.cell == own.cell || lease.underlay == own.underlay || overlaps
}

/// A block of the common size, or one address out of the reserved first block, inside the overlay.
fn is_routable(block: Ipv4Net, grant: &Grant) -> bool {
    let sized = block.prefix_len() == grant.block_prefix || block.prefix_len() == 32;
    sized && grant.overlay.contains(&block)
}

fn lease_row(lease: &Lease) -> (LeaseKey, layout::Lease) {
    let base = addr::from_ipv4(lease.block.network());
    let key = LeaseKey { base, prefix: u32::from(lease.block.prefix_len()) };
    (key, layout::Lease { underlay_addr: addr::from_ipv4(lease.underlay), mac: lease.mac, pad: [0; 2] })
}

/// Rows of policies are a union: overlapping ranges of a pair share bitmaps.
fn policies(world: &World, hosted: &BTreeSet<String>) -> BTreeMap<PolicyKey, u64> {
    let mut rows = BTreeMap::new();
    for (rule, tags) in world.policies.iter().filter(|(rule, _)| rule.touches(hosted)) {
        for (key, bits) in policy_rows(rule, *tags) {
            *rows.entry(key).or_default() |= bits;
        }
    }
    rows
}

/// The rows of one policy.
pub(super) fn policy_rows(rule: &Rule, tags: Tags) -> impl Iterator<Item = (PolicyKey, u64)> {
    let pair =
        Pair { source_tag: tags.source, destination_tag: tags.destination, protocol: rule.protocol as u8 };
    pair.rows(rule.port_start, rule.port_end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Rate;
    use crate::fabric::fake::{CELL, grant, network};
    use crate::policy::world::{Change, Policy, Protocol};
    use c2c_common::ports;
    use proptest::prelude::*;

    fn lease(cell: &str, n: u8, block: &str) -> Lease {
        let block: Ipv4Net = block.parse().unwrap();
        let [a, b, c, d] = block.network().octets();
        Lease { cell: cell.into(), underlay: [192, 0, 2, n].into(), block, mac: [0xee, 0xee, a, b, c, d] }
    }

    fn place(app: &str) -> Placed {
        Placed {
            app: app.into(),
            host_name: "c2c-1".into(),
            ifindex: 20,
            host_mac: [2, 0, 0, 0, 0, 1],
            container_mac: [2, 0, 0, 0, 0, 2],
            ..Placed::default()
        }
    }

    fn rows_of(world: &World, grant: Option<&Grant>, placed: &BTreeMap<Ipv4Addr, Placed>) -> Rows {
        let sets = BTreeMap::new();
        rows(Scene { world, grant, cell: &CELL, network: &network(), placed, sets: &sets })
    }

    fn policy(source: &str, destination: &str, ports: (u16, u16)) -> Change {
        let number = |app: &str| u16::from(app.as_bytes()[0]);
        let rule = Rule {
            source: source.into(),
            destination: destination.into(),
            protocol: Protocol::Tcp,
            port_start: ports.0,
            port_end: ports.1,
        };
        Change::PolicyPut(Policy {
            rule,
            tags: Tags { source: number(source), destination: number(destination) },
        })
    }

    fn world(changes: impl IntoIterator<Item = Change>) -> World {
        let mut world = World::default();
        changes.into_iter().for_each(|change| world.apply(change));
        world
    }

    fn placed(apps: &[&str]) -> BTreeMap<Ipv4Addr, Placed> {
        (2..).zip(apps).map(|(n, app)| (Ipv4Addr::new(10, 255, 1, n), place(app))).collect()
    }

    #[test]
    fn own_and_unroutable_leases_have_no_row() {
        let world = world([
            Change::LeasePut(lease("a", 1, "10.255.1.0/24")),
            Change::LeasePut(lease("a", 7, "10.255.7.0/24")),
            Change::LeasePut(lease("x", 1, "10.255.8.0/24")),
            Change::LeasePut(lease("y", 5, "10.255.1.7/32")),
            Change::LeasePut(lease("z", 6, "10.254.6.0/24")),
            Change::LeasePut(lease("w", 6, "10.255.16.0/20")),
            Change::LeasePut(lease("b", 2, "10.255.2.0/24")),
            Change::LeasePut(lease("router", 3, "10.255.0.3/32")),
        ]);
        let rows = rows_of(&world, Some(&grant()), &BTreeMap::new());
        let key = |a: [u8; 4], prefix| LeaseKey { base: addr::from_ipv4(a.into()), prefix };
        let keys: BTreeSet<_> = rows.leases.keys().copied().collect();
        assert_eq!(keys, BTreeSet::from([key([10, 255, 2, 0], 24), key([10, 255, 0, 3], 32)]));
        let row = rows.leases.get(&key([10, 255, 2, 0], 24)).unwrap();
        assert_eq!(
            (addr::to_ipv4(row.underlay_addr), row.mac),
            ([192, 0, 2, 2].into(), [0xee, 0xee, 10, 255, 2, 0])
        );
    }

    #[test]
    fn config_is_in_the_programs_terms() {
        let config = rows_of(&World::default(), Some(&grant()), &BTreeMap::new()).config;
        assert_eq!(config.ready, 1);
        assert_eq!(config.udp_port.to_ne_bytes(), 4789u16.to_be_bytes());
        assert_eq!(config.block_mask.to_ne_bytes(), [255, 255, 255, 0]);
        assert_eq!((config.vni, config.mtu, config.underlay_ifindex, config.vxlan_ifindex), (1, 1450, 3, 9));
    }

    #[test]
    fn neighbours_are_in_the_programs_terms() {
        let host = |text: &str| addr::from_ipv4(text.parse().unwrap());
        let cell = Cell { link: Some("10.0.16.0/20".parse().unwrap()), ..CELL };
        let near = config(&grant(), &cell, &network());
        assert!(near.is_neighbour(host("10.0.31.255")) && !near.is_neighbour(host("10.0.32.0")));
        let none = config(&grant(), &CELL, &network());
        for stranger in ["0.0.0.0", "10.0.16.4", "255.255.255.255"] {
            assert!(!none.is_neighbour(host(stranger)), "{stranger}");
        }
    }

    #[test]
    fn limits_are_in_the_programs_terms() {
        let mut network = network();
        network.outbound.max_connections = 7;
        network.outbound.limit = Some(Rate { burst: 5, per_second: 100, dry_run: true });
        let config = config(&grant(), &CELL, &network);
        assert_eq!((config.rate_interval_ns, config.rate_burst, config.max_connections), (10_000_000, 5, 7));
        assert_eq!(config.flags, config_flag::RATE_DRY_RUN);
        network.outbound.limit = None;
        let config = super::config(&grant(), &CELL, &network);
        assert_eq!((config.rate_interval_ns, config.flags), (0, 0));
        assert_eq!((config.nat_first, config.nat_last), (16_384, 32_767));
    }

    #[test]
    fn a_mapping_without_a_transport_is_one_of_both() {
        let mut placed = placed(&["f", "g"]);
        let port = |host_port, protocol| PortMapping { host_port, container_port: 8080, protocol };
        let ports = [
            (2, vec![port(61_000, None)]),
            (3, vec![port(61_001, Some(Transport::Udp)), port(61_002, Some(Transport::Tcp))]),
        ];
        for (n, ports) in ports {
            placed.get_mut(&Ipv4Addr::new(10, 255, 1, n)).unwrap().ports = ports;
        }
        let (udp, tcp) =
            (MappedPort { protocol: 17, port: 61_001 }, MappedPort { protocol: 6, port: 61_002 });
        let both = [6, 17].map(|protocol| MappedPort { protocol, port: 61_000 });
        let [a, b] = [2, 3].map(|n| (Ipv4Addr::new(10, 255, 1, n), 8080));
        assert_eq!(mappings(&placed), [(both[0], a), (both[1], a), (udp, b), (tcp, b)].into());
    }

    #[test]
    fn an_endpoint_has_its_set_and_whether_it_is_shaped() {
        let place = Placed { shaped: true, ..place("f") };
        let row = endpoint_row(&place, 3, 77);
        assert_eq!((row.tag, row.egress, row.flags), (3, 77, endpoint_flag::SHAPED));
        assert_eq!(endpoint_row(&self::place("f"), 3, 0).flags, 0);
    }

    #[test]
    fn without_a_lease_nothing_is_ours() {
        let world = world([policy("f", "g", (1, 9)), Change::LeasePut(lease("b", 2, "10.255.2.0/24"))]);
        let rows = rows_of(&world, None, &placed(&["f"]));
        assert_eq!(rows.config, layout::Config::default());
        assert!(rows.leases.is_empty() && rows.policies.is_empty());
        assert_eq!(rows.endpoints.len(), 1);
    }

    #[test]
    fn an_app_has_the_tag_of_its_policies_and_0_without_any() {
        let world = world([policy("f", "g", (80, 80))]);
        let rows = rows_of(&world, Some(&grant()), &placed(&["f", "g", "h"]));
        let tags: Vec<_> = rows.endpoints.values().map(|endpoint| endpoint.tag).collect();
        assert_eq!(tags, [u16::from(b'f'), u16::from(b'g'), 0]);
    }

    #[test]
    fn a_policy_between_apps_of_other_cells_has_no_rows() {
        let world = world([policy("f", "g", (80, 80))]);
        assert!(rows_of(&world, Some(&grant()), &placed(&["h"])).policies.is_empty());
    }

    proptest! {
        #[test]
        fn rows_allow_what_a_list_of_policies_allows(
            policies in proptest::collection::vec((0usize..3, 0usize..3, 1u16.., 0u16..500), 0..12),
            probes in proptest::collection::vec((0usize..3, 0usize..3, any::<u16>()), 32),
        ) {
            const APPS: [&str; 3] = ["f", "g", "h"];
            let list: Vec<_> = policies.iter().map(|&(s, d, p, n)| (APPS[s], APPS[d], p, p.saturating_add(n))).collect();
            let world = world(list.iter().map(|&(s, d, from, to)| policy(s, d, (from, to))));
            let rows = rows_of(&world, Some(&grant()), &placed(&["f", "g"])).policies;
            let edges = policies.iter().flat_map(|&(s, d, p, n)| [(s, d, p), (s, d, p.saturating_add(n))]);
            for (s, d, port) in probes.into_iter().chain(edges) {
                let want = (s < 2 || d < 2)
                    && list.iter().any(|&(ls, ld, from, to)| ls == APPS[s] && ld == APPS[d] && (from..=to).contains(&port));
                let number = |app: &str| u16::from(app.as_bytes()[0]);
                let pair = Pair { source_tag: number(APPS[s]), destination_tag: number(APPS[d]), protocol: 6 };
                let got = ports::allowed(pair, port, |key| rows.get(key).copied().unwrap_or(0));
                prop_assert_eq!(got, want, "{} -> {} port {}", APPS[s], APPS[d], port);
            }
        }
    }
}
