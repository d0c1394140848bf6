//! Which addresses are neighbours: reached over an interface's link, without a router and without an exception. It only
//! reads.

use super::Error;
use super::netlink::Netlink;
use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use std::net::Ipv4Addr;

/// The tables of the rules that every Linux has (`fib_default_rules_init`): local, main and default, in this order.
const USUAL_TABLES: [u32; 3] = [255, RouteHeader::RT_TABLE_MAIN as u32, 253];

/// A route of the main table, as far as it is asked about here.
#[derive(Clone, Copy, Debug)]
struct Route {
    to: Ipv4Net,
    /// The interface that it leaves by, when it leads straight to its destination.
    straight_by: Option<u32>,
}

/// The network around `address` all of whose hosts are neighbours on the interface; `None` when there is no such network,
/// or when routes or rules except some of it.
pub(super) fn link(netlink: &mut Netlink, ifindex: u32, address: Ipv4Addr) -> Result<Option<Ipv4Net>, Error> {
    let mut request = RuleMessage::default();
    request.header.family = AddressFamily::Inet;
    let rules = netlink.dump("list the routing rules", RouteNetlinkMessage::GetRule(request))?;
    if !rules.iter().filter_map(table).eq(USUAL_TABLES) {
        return Ok(None);
    }
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    let routes = netlink.dump("list the routes", RouteNetlinkMessage::GetRoute(request))?;
    Ok(link_of(&routes.iter().filter_map(main_route).collect::<Vec<_>>(), ifindex, address))
}

/// The longest straight route to the address, unless another one leads to some of the same addresses.
fn link_of(routes: &[Route], ifindex: u32, address: Ipv4Addr) -> Option<Ipv4Net> {
    let around = routes.iter().filter(|route| route.to.contains(&address));
    let network = around.max_by_key(|route| route.to.prefix_len()).filter(|route| {
        // A straight default route would take every address of the world for a neighbour.
        route.straight_by == Some(ifindex) && route.to.prefix_len() > 0
    })?;
    let inside = routes.iter().filter(|route| network.to.contains(&route.to)).count();
    (inside == 1).then_some(network.to)
}

/// The table that a rule without any condition leads to; 0, which no table has, for any other rule.
fn table(message: &RouteNetlinkMessage) -> Option<u32> {
    let RouteNetlinkMessage::NewRule(rule) = message else { return None };
    let plain = rule.attributes.iter().all(|attribute| {
        use RuleAttribute::{Priority, Protocol, SuppressPrefixLen, Table};
        matches!(attribute, Priority(_) | Protocol(_) | Table(_) | SuppressPrefixLen(u32::MAX))
    });
    let table = rule
        .attributes
        .iter()
        .find_map(|attribute| if let RuleAttribute::Table(table) = attribute { Some(*table) } else { None });
    let unconditional = plain && rule.header.tos == 0 && rule.header.dst_len == 0 && rule.header.src_len == 0;
    Some(table.filter(|_| unconditional).unwrap_or(0))
}

fn main_route(message: &RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(route) = message else { return None };
    if route.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let to = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(RouteAddress::Inet(to)) = attribute { Some(*to) } else { None }
    });
    let to =
        Ipv4Net::new(to.unwrap_or(Ipv4Addr::UNSPECIFIED), route.header.destination_prefix_length).ok()?;
    Some(Route { to, straight_by: out_of(route).filter(|_| is_straight(route)) })
}

fn out_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Oif(ifindex) = attribute { Some(*ifindex) } else { None }
    })
}

/// Whether packets leave as they are, to their destination itself.
fn is_straight(route: &RouteMessage) -> bool {
    use RouteAttribute::{Encap, Gateway, MultiPath, NhId, Via};
    let is_detour = |attribute: &RouteAttribute| {
        matches!(attribute, Encap(_) | Gateway(_) | MultiPath(_) | NhId(_) | Via(_))
    };
    route.header.kind == RouteType::Unicast && !route.attributes.iter().any(is_detour)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{testing, underlay};
    use std::process::Command;

    const US: u32 = 7;

    fn found(routes: &[(&str, Option<u32>)]) -> Option<String> {
        let of = |&(to, straight_by): &(&str, Option<u32>)| Route { to: to.parse().unwrap(), straight_by };
        let routes: Vec<_> = routes.iter().map(of).collect();
        link_of(&routes, US, Ipv4Addr::new(10, 0, 16, 4)).map(|link| link.to_string())
    }

    #[test]
    fn neighbours_are_those_of_the_straight_route_around_the_own_address() {
        let link = Some("10.0.16.0/20".to_owned());
        assert_eq!(found(&[("0.0.0.0/0", None), ("10.0.16.0/20", Some(US))]), link);
        assert_eq!(
            found(&[("10.255.1.2/32", Some(9)), ("10.0.16.0/20", Some(US)), ("10.1.0.0/16", None)]),
            link
        );
        assert_eq!(
            found(&[("10.0.0.0/16", None), ("10.0.16.0/20", Some(US))]),
            link,
            "the longest route counts"
        );
        assert_eq!(
            found(&[("10.0.0.0/16", Some(US)), ("10.0.16.0/20", None)]),
            None,
            "the longest route counts"
        );
    }

    #[test]
    fn an_exception_makes_strangers_of_all() {
        assert_eq!(found(&[("10.0.16.0/20", Some(US)), ("10.0.17.0/24", None)]), None);
        assert_eq!(found(&[("10.0.16.0/20", Some(US)), ("10.0.17.9/32", Some(US))]), None);
        assert_eq!(found(&[("10.0.16.0/20", Some(US)), ("10.0.16.0/20", Some(9))]), None);
    }

    #[test]
    fn other_links_routers_and_links_to_everything_are_none() {
        for routes in [&[("10.0.16.0/20", Some(9))], &[("10.0.16.0/20", None)], &[("0.0.0.0/0", Some(US))]] {
            assert_eq!(found(routes), None, "{routes:?}");
        }
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn the_kernels_routes_and_rules_are_read() {
        let host = testing::namespace();
        let ip = |arguments: &str| {
            let run = || Ok(Command::new("ip").args(arguments.split(' ')).status().unwrap());
            assert!(host.run(run).unwrap().success(), "ip {arguments}");
        };
        ip("link add under0 type veth peer name far");
        ip("address add 10.0.16.4/20 dev under0");
        ip("link set under0 up");
        ip("route add default via 10.0.16.1");
        let found = || host.run(|| underlay("under0", None)).unwrap().link;
        assert_eq!(found(), Some("10.0.16.0/20".parse().unwrap()));
        ip("route add 10.0.17.0/24 via 10.0.16.9");
        assert_eq!(found(), None);
        ip("route del 10.0.17.0/24");
        assert!(found().is_some());
        ip("rule add to 10.0.17.0/24 lookup 99");
        assert_eq!(found(), None);
        ip("rule del to 10.0.17.0/24 lookup 99");
        assert!(found().is_some());
        ip("rule add fwmark 1 lookup main priority 5");
        assert_eq!(found(), None);
    }
}
