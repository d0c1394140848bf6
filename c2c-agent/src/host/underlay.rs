//! What the agent must know about the interface that carries the tunnels. It only reads: the interface is the cell's.

use super::addresses::local;
use super::link::{find_message, observed};
use super::netlink::Netlink;
use super::{Error, Mac, route};
use ipnet::Ipv4Net;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use std::net::Ipv4Addr;

/// The interface that carries the tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Its index in its namespace.
    pub ifindex: u32,
    /// In bytes.
    pub mtu: u32,
    /// The address that was asked about, or its first IPv4 address.
    pub address: Ipv4Addr,
    /// The network of its neighbours, which packets reach without a router; `None` when there is none, or routes or rules
    /// except some of it.
    pub link: Option<Ipv4Net>,
    /// Its hardware address.
    pub mac: Mac,
}

/// Looks at the interface of that name in the calling thread's namespace, and at the network around `address`, or around
/// its first address.
pub fn underlay(name: &str, address: Option<Ipv4Addr>) -> Result<Underlay, Error> {
    let mut netlink = Netlink::open()?;
    let link = find_message(&mut netlink, name)?.as_ref().map(observed);
    let link = link.ok_or_else(|| Error::NoLink { name: name.to_owned() })?;
    let first = first_address(&mut netlink, link.ifindex)?;
    let first = first.ok_or_else(|| Error::Incomplete { name: name.to_owned(), what: "IPv4 address" })?;
    let address = address.unwrap_or(first);
    let neighbours = route::link(&mut netlink, link.ifindex, address)?;
    Ok(Underlay { ifindex: link.ifindex, mtu: link.mtu, address, link: neighbours, mac: link.mac })
}

fn first_address(netlink: &mut Netlink, ifindex: u32) -> Result<Option<Ipv4Addr>, Error> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let addresses = netlink.dump("list the addresses", request)?;
    Ok(addresses.iter().find_map(|message| local_of(message, ifindex)))
}

/// The message's address, if it is of that interface.
fn local_of(message: &RouteNetlinkMessage, ifindex: u32) -> Option<Ipv4Addr> {
    let RouteNetlinkMessage::NewAddress(found) = message else { return None };
    if found.header.index == ifindex { local(message) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{End, Pair, create_pair, testing};

    #[test]
    fn the_underlay_is_described() {
        let (host, other) = (testing::namespace(), testing::namespace());
        let mac = [2, 0, 0, 0, 0, 1];
        let pair = Pair {
            host_name: "under0".to_owned(),
            host_mac: mac,
            container_name: "far".to_owned(),
            container_mac: [2, 0, 0, 0, 0, 2],
            mtu: 1500,
            alias: "c2c test".to_owned(),
        };
        let end = End {
            name: "under0".to_owned(),
            mac,
            mtu: 1500,
            local: Ipv4Addr::new(10, 0, 16, 4),
            peer: Ipv4Addr::new(10, 0, 16, 5),
            peer_mac: [2, 0, 0, 0, 0, 2],
            default_route: false,
            limit: None,
        };
        let ifindex = host.run(|| create_pair(&pair, &other)).unwrap();
        let error = host.run(|| underlay("under0", None)).unwrap_err();
        assert!(matches!(error, Error::Incomplete { .. }), "{error:?}");
        host.run(|| end.configure()).unwrap();
        let found = host.run(|| underlay("under0", None)).unwrap();
        assert_eq!(found, Underlay { ifindex, mtu: 1500, address: end.local, link: None, mac });
        assert!(matches!(host.run(|| underlay("none0", None)), Err(Error::NoLink { .. })));
    }
}
