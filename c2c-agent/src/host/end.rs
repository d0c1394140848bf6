//! One end of a wired pair: how it is addressed, whether it still is so, and putting it right.
//!
//! Both ends look the same, mirrored: a /32 with the other end's address as peer, no ARP, and a permanent neighbour for
//! the other end. The container's end also carries the default route and its namespace's loopback. The scheme is
//! Silk's, because apps and operators' tools know it.

use super::limit::{self, Limit};
use super::link::{Link, links};
use super::netlink::{Netlink, Step};
use super::veth::index;
use super::{Error, Mac, mac_text, sysctl};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, link::LinkMessage};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// The loopback's index, the same in every namespace (`LOOPBACK_IFINDEX` in Linux's `include/net/net_namespace.h`).
const LOOPBACK: u32 = 1;

/// One end of a pair as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// In bytes.
    pub mtu: u32,
    /// Its address, /32.
    pub local: Ipv4Addr,
    /// The other end's address.
    pub peer: Ipv4Addr,
    /// The other end's hardware address.
    pub peer_mac: Mac,
    /// Whether everything else goes to the other end too. True inside the container.
    pub default_route: bool,
    /// How fast it may send; `None`: as fast as it can.
    pub limit: Option<Limit>,
}

/// All that a namespace holds of what makes up an end: seen once, compared with many ends.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Its interfaces.
    pub links: Vec<Link>,
    addresses: Vec<Message>,
    neighbours: Vec<Message>,
    routes: Vec<Message>,
    qdiscs: Vec<Message>,
}

/// What is not as it should be at one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// The interface is gone.
    Link,
    /// It is down.
    Down,
    /// It does ARP.
    Arp,
    /// Its MTU was changed.
    Mtu(u32),
    /// Its hardware address was changed.
    Mac(Mac),
    /// Its address is missing.
    Address,
    /// The neighbour entry is missing or names another hardware address.
    Neighbour,
    /// The default route is missing.
    Route,
    /// It may send faster or slower than it should.
    Limit,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link => write!(f, "the interface is missing"),
            Self::Down => write!(f, "the interface is down"),
            Self::Arp => write!(f, "the interface does ARP"),
            Self::Mtu(found) => write!(f, "the MTU is {found}"),
            Self::Mac(found) => write!(f, "the hardware address is {}", mac_text(found)),
            Self::Address => write!(f, "the address is missing"),
            Self::Neighbour => write!(f, "the permanent neighbour is missing"),
            Self::Route => write!(f, "the default route is missing"),
            Self::Limit => write!(f, "the limit of its rate is missing"),
        }
    }
}

impl End {
    /// Gives the end its addresses and brings it up, in the calling thread's namespace. Whatever is right already
    /// stays.
    pub fn configure(&self) -> Result<(), Error> {
        self.apply(Vec::new())
    }

    /// Puts right what drifted. A missing interface is not made again.
    pub fn repair(&self, drift: &[Drift]) -> Result<(), Error> {
        let mut mac = Vec::new();
        if drift.iter().any(|drift| matches!(drift, Drift::Mac(_))) {
            let link = LinkUnspec::new_with_index(index(&self.name)?).address(self.mac.to_vec()).build();
            mac.push(Step::change(self.what("set the hardware address of"), Message::SetLink(link)));
        }
        self.apply(mac)
    }

    /// What is not as it should be in what was observed of the end's namespace.
    pub fn drift(&self, observed: &Observed) -> Vec<Drift> {
        let Some(link) = observed.links.iter().find(|link| link.name == self.name) else {
            return vec![Drift::Link];
        };
        let mut drift = self.link_drift(link);
        let missing = |messages: &[Message], wanted: &dyn Fn(&Message) -> bool| !messages.iter().any(wanted);
        if missing(&observed.addresses, &|message| self.is_address(message, link.ifindex)) {
            drift.push(Drift::Address);
        }
        if missing(&observed.neighbours, &|message| self.is_neighbour(message, link.ifindex)) {
            drift.push(Drift::Neighbour);
        }
        if self.default_route && missing(&observed.routes, &|message| self.is_route(message, link.ifindex)) {
            drift.push(Drift::Route);
        }
        if let Some(limit) = &self.limit
            && missing(&observed.qdiscs, &|message| limit.is(message, link.ifindex, self.mtu))
        {
            drift.push(Drift::Limit);
        }
        drift
    }

    fn apply(&self, mut steps: Vec<Step>) -> Result<(), Error> {
        let ifindex = index(&self.name)?;
        sysctl::prepare(&self.name)?;
        // Before the end is up: nothing is ever sent faster.
        steps.extend(self.limit.map(|limit| limit.step(&self.name, ifindex, self.mtu)));
        steps.push(Step::change(self.what("bring up"), Message::SetLink(self.link_message(ifindex))));
        steps.push(Step::put(self.what("give an address to"), Message::NewAddress(self.address(ifindex))));
        steps.push(Step::put(
            self.what("give a neighbour to"),
            Message::NewNeighbour(self.neighbour(ifindex)),
        ));
        if self.default_route {
            let loopback = LinkUnspec::new_with_index(LOOPBACK).up().build();
            steps.push(Step::change("bring up the loopback", Message::SetLink(loopback)));
            steps.push(Step::put(
                self.what("route everything through"),
                Message::NewRoute(self.route(ifindex)),
            ));
        }
        Netlink::open()?.apply(steps)
    }

    fn what(&self, verb: &str) -> String {
        format!("{verb} the interface {}", self.name)
    }

    fn link_message(&self, ifindex: u32) -> LinkMessage {
        LinkUnspec::new_with_index(ifindex).mtu(self.mtu).arp(false).up().build()
    }

    fn address(&self, ifindex: u32) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = 32;
        message.header.scope = AddressScope::Link;
        message.header.index = ifindex;
        message.attributes =
            vec![AddressAttribute::Local(self.local.into()), AddressAttribute::Address(self.peer.into())];
        message
    }

    fn neighbour(&self, ifindex: u32) -> NeighbourMessage {
        let mut message = ipv4_neighbour();
        message.header.ifindex = ifindex;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(self.peer)),
            NeighbourAttribute::LinkLayerAddress(self.peer_mac.to_vec()),
        ];
        message
    }

    fn route(&self, ifindex: u32) -> RouteMessage {
        RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(ifindex)
            .gateway(self.peer)
            .pref_source(self.local)
            .build()
    }

    fn link_drift(&self, link: &Link) -> Vec<Drift> {
        let mut drift = Vec::new();
        drift.extend((!link.up).then_some(Drift::Down));
        drift.extend((!link.noarp).then_some(Drift::Arp));
        drift.extend((link.mtu != self.mtu).then_some(Drift::Mtu(link.mtu)));
        drift.extend((link.mac != self.mac).then_some(Drift::Mac(link.mac)));
        drift
    }

    fn is_address(&self, message: &Message, ifindex: u32) -> bool {
        let Message::NewAddress(found) = message else { return false };
        let local = AddressAttribute::Local(IpAddr::V4(self.local));
        let peer = AddressAttribute::Address(IpAddr::V4(self.peer));
        found.header.index == ifindex && found.attributes.contains(&local) && found.attributes.contains(&peer)
    }

    fn is_neighbour(&self, message: &Message, ifindex: u32) -> bool {
        let Message::NewNeighbour(found) = message else { return false };
        let want = self.neighbour(ifindex);
        let permanent = found.header.state == NeighbourState::Permanent;
        permanent
            && found.header.ifindex == ifindex
            && want.attributes.iter().all(|attribute| found.attributes.contains(attribute))
    }

    fn is_route(&self, message: &Message, ifindex: u32) -> bool {
        let Message::NewRoute(found) = message else { return false };
        let want = [
            RouteAttribute::Oif(ifindex),
            RouteAttribute::Gateway(RouteAddress::Inet(self.peer)),
            RouteAttribute::PrefSource(RouteAddress::Inet(self.local)),
        ];
        found.header.destination_prefix_length == 0
            && want.iter().all(|attribute| found.attributes.contains(attribute))
    }
}

impl Observed {
    /// Looks at the calling thread's namespace.
    pub fn look() -> Result<Self, Error> {
        let links = links()?;
        let mut netlink = Netlink::open()?;
        let addresses = Message::GetAddress(AddressMessage::default());
        let routes = Message::GetRoute(RouteMessageBuilder::<Ipv4Addr>::new().build());
        Ok(Self {
            links,
            addresses: netlink.dump("list the addresses", addresses)?,
            neighbours: netlink.dump("list the neighbours", Message::GetNeighbour(ipv4_neighbour()))?,
            routes: netlink.dump("list the routes", routes)?,
            qdiscs: netlink.dump("list the qdiscs", limit::all())?,
        })
    }
}

fn ipv4_neighbour() -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Netns, Pair, create_pair, remove_link, testing};
    use std::process::Command;

    const NEAR: Mac = [0xaa, 0xaa, 10, 255, 1, 2];
    const FAR: Mac = [0xee, 0xee, 10, 255, 1, 2];

    fn ends() -> (End, End) {
        let (gateway, address) = (Ipv4Addr::new(169, 254, 0, 1), Ipv4Addr::new(10, 255, 1, 2));
        let near = End {
            name: "s-010255001002".to_owned(),
            mac: NEAR,
            mtu: 1450,
            local: gateway,
            peer: address,
            peer_mac: FAR,
            default_route: false,
            limit: None,
        };
        let far = End {
            name: "eth0".to_owned(),
            mac: FAR,
            local: address,
            peer: gateway,
            peer_mac: NEAR,
            default_route: true,
            ..near.clone()
        };
        (near, far)
    }

    /// A pair in two namespaces of its own, configured.
    fn wired() -> (Netns, Netns) {
        let (host, container) = (testing::namespace(), testing::namespace());
        let (near, far) = ends();
        let pair = Pair {
            host_name: near.name.clone(),
            host_mac: NEAR,
            container_name: far.name.clone(),
            container_mac: FAR,
            mtu: 1450,
            alias: "c2c test".to_owned(),
        };
        host.run(|| create_pair(&pair, &container)).unwrap();
        host.run(|| near.configure()).unwrap();
        container.run(|| far.configure()).unwrap();
        (host, container)
    }

    fn drift(netns: &Netns, end: &End) -> Vec<Drift> {
        netns.run(|| Ok(end.drift(&Observed::look()?))).unwrap()
    }

    /// iproute2 as an independent witness and vandal.
    fn ip(netns: &Netns, arguments: &str) -> String {
        let output =
            netns.run(|| Ok(Command::new("ip").args(arguments.split(' ')).output().unwrap())).unwrap();
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn both_ends_are_addressed_as_silk_does_it() {
        let (host, container) = wired();
        let near = ip(&host, "-4 addr show dev s-010255001002");
        assert!(
            near.contains("NOARP") && near.contains("inet 169.254.0.1 peer 10.255.1.2/32 scope link"),
            "{near}"
        );
        let far = ip(&container, "-4 addr show dev eth0");
        assert!(
            far.contains("NOARP") && far.contains("inet 10.255.1.2 peer 169.254.0.1/32 scope link"),
            "{far}"
        );
        assert!(
            ip(&host, "neigh").contains("10.255.1.2 dev s-010255001002 lladdr ee:ee:0a:ff:01:02 PERMANENT")
        );
        assert!(ip(&container, "neigh").contains("169.254.0.1 dev eth0 lladdr aa:aa:0a:ff:01:02 PERMANENT"));
        assert!(
            ip(&container, "route").contains("default via 169.254.0.1 dev eth0 proto static src 10.255.1.2")
        );
        assert!(ip(&container, "link show dev lo").contains("LOOPBACK,UP"));
        assert_eq!(ip(&container, "-6 addr show dev eth0"), "", "IPv6 is off");
        assert_eq!(ip(&host, "-6 addr show dev s-010255001002"), "", "IPv6 is off");
    }

    #[test]
    fn an_end_as_made_has_not_drifted_and_making_it_again_changes_nothing() {
        let (host, container) = wired();
        let (near, far) = ends();
        for _ in 0..2 {
            assert_eq!((drift(&host, &near), drift(&container, &far)), (vec![], vec![]));
            host.run(|| near.configure()).unwrap();
            container.run(|| far.configure()).unwrap();
        }
    }

    #[test]
    fn whatever_drifts_is_seen_and_put_back() {
        let (host, container) = wired();
        let (near, far) = ends();
        let (host_end, container_end) = ((&host, &near), (&container, &far));
        let cases = [
            (host_end, "link set s-010255001002 mtu 1400", vec![Drift::Mtu(1400)]),
            (
                host_end,
                "link set s-010255001002 address 02:00:00:00:00:07",
                vec![Drift::Mac([2, 0, 0, 0, 0, 7])],
            ),
            (host_end, "addr flush dev s-010255001002", vec![Drift::Address]),
            (host_end, "neigh flush dev s-010255001002 nud permanent", vec![Drift::Neighbour]),
            (host_end, "link set s-010255001002 arp on", vec![Drift::Arp, Drift::Neighbour]),
            (host_end, "link set s-010255001002 down", vec![Drift::Down]),
            (container_end, "route del default", vec![Drift::Route]),
            (container_end, "addr flush dev eth0", vec![Drift::Address, Drift::Route]),
            (container_end, "link set eth0 down", vec![Drift::Down, Drift::Route]),
        ];
        for ((netns, end), vandalism, expected) in cases {
            ip(netns, vandalism);
            let found = drift(netns, end);
            assert!(expected.iter().all(|drift| found.contains(drift)), "{vandalism}: {found:?}");
            netns.run(|| end.repair(&found)).unwrap();
            assert_eq!(drift(netns, end), [], "after {vandalism}");
        }
    }

    #[test]
    fn an_interface_that_is_gone_is_drift() {
        let (host, container) = wired();
        host.run(|| remove_link("s-010255001002", "c2c test", &NEAR)).unwrap();
        assert_eq!(drift(&host, &ends().0), [Drift::Link]);
        assert_eq!(drift(&container, &ends().1), [Drift::Link]);
    }
}
