//! The addresses of a namespace, of all its interfaces.

use super::Error;
use super::netlink::Netlink;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// The IPv4 addresses of all interfaces of the calling thread's namespace.
pub fn addresses() -> Result<BTreeSet<Ipv4Addr>, Error> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let messages = Netlink::open()?.dump("list the addresses", request)?;
    Ok(messages.iter().filter_map(local).collect())
}

/// An interface's own address. A message without one (IPv6, or a peer alone) is passed over.
pub(super) fn local(message: &RouteNetlinkMessage) -> Option<Ipv4Addr> {
    let RouteNetlinkMessage::NewAddress(found) = message else { return None };
    found.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Local(IpAddr::V4(address)) = attribute { Some(*address) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{End, Pair, create_pair, testing};

    #[test]
    fn the_addresses_of_all_interfaces_are_listed() {
        let (host, other) = (testing::namespace(), testing::namespace());
        assert_eq!(host.run(addresses).unwrap(), BTreeSet::new());
        let mac = [2, 0, 0, 0, 0, 1];
        let pair = Pair {
            host_name: "near0".to_owned(),
            host_mac: mac,
            container_name: "far".to_owned(),
            container_mac: [2, 0, 0, 0, 0, 2],
            mtu: 1500,
            alias: "c2c test".to_owned(),
        };
        let end = End {
            name: "near0".to_owned(),
            mac,
            mtu: 1500,
            local: Ipv4Addr::new(169, 254, 0, 1),
            peer: Ipv4Addr::new(10, 0, 16, 5),
            peer_mac: [2, 0, 0, 0, 0, 2],
            default_route: false,
            limit: None,
        };
        host.run(|| create_pair(&pair, &other)).unwrap();
        host.run(|| end.configure()).unwrap();
        assert_eq!(host.run(addresses).unwrap(), [end.local].into());
    }
}
