//! Making a veth pair whose one end is born in the container's namespace.
//!
//! Names, hardware addresses and MTU are given at creation: no rename or move follows, and systemd-udevd leaves a
//! hardware address alone that was set then (`addr_assign_type` is `NET_ADDR_SET`).

use super::link::remove_index;
use super::netlink::{Netlink, Step};
use super::{Error, Mac, Netns};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use std::os::fd::{AsFd, AsRawFd};

/// A pair to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Name of the host's end.
    pub host_name: String,
    /// Hardware address of the host's end.
    pub host_mac: Mac,
    /// Name of the container's end.
    pub container_name: String,
    /// Hardware address of the container's end.
    pub container_mac: Mac,
    /// Of both ends, in bytes.
    pub mtu: u32,
    /// What marks the host's end as ours, at most 254 bytes.
    pub alias: String,
}

/// Makes the pair, down, and returns the index of the host's end in the calling thread's namespace. After an error
/// nothing of it is left.
pub fn create_pair(pair: &Pair, container: &Netns) -> Result<u32, Error> {
    let mut netlink = Netlink::open()?;
    let message = RouteNetlinkMessage::NewLink(creation(pair, container));
    let what = format!("make the veth pair {} and {}", pair.host_name, pair.container_name);
    netlink.apply(vec![Step::create(what, message)]).map_err(|error| which_exists(error, pair))?;
    let ifindex = index(&pair.host_name)?;
    mark(&mut netlink, pair, ifindex).inspect_err(|_| {
        _ = remove_index(&mut netlink, &pair.host_name, ifindex);
    })?;
    Ok(ifindex)
}

/// The index of an interface in the calling thread's namespace.
pub(super) fn index(name: &str) -> Result<u32, Error> {
    if_nametoindex(name).map_err(|_| Error::NoLink { name: name.to_owned() })
}

fn creation(pair: &Pair, container: &Netns) -> LinkMessage {
    let peer = end(LinkUnspec::new_with_name(&pair.container_name), pair.container_mac, pair.mtu);
    let peer = peer.setns_by_fd(container.as_fd().as_raw_fd()).build();
    let host = LinkVeth::new(&pair.host_name, &pair.container_name);
    end(host, pair.host_mac, pair.mtu).set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build()
}

/// One queue each way: a veth gains nothing from more without XDP, and each costs memory and a directory in sysfs.
fn end<T>(builder: LinkMessageBuilder<T>, mac: Mac, mtu: u32) -> LinkMessageBuilder<T> {
    builder
        .address(mac.to_vec())
        .mtu(mtu)
        .arp(false)
        .append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1))
}

/// The kernel takes no alias at creation, so it is set next, before the interface is ever up.
fn mark(netlink: &mut Netlink, pair: &Pair, ifindex: u32) -> Result<(), Error> {
    let message = LinkUnspec::new_with_index(ifindex).alias(&pair.alias).build();
    let what = format!("mark the interface {} as c2c's", pair.host_name);
    netlink.apply(vec![Step::change(what, RouteNetlinkMessage::SetLink(message))])
}

/// The kernel says "file exists" for either name.
fn which_exists(error: Error, pair: &Pair) -> Error {
    let Error::Refused { source, .. } = &error else { return error };
    if source.raw_os_error() != Some(Errno::EEXIST as i32) {
        return error;
    }
    if if_nametoindex(pair.host_name.as_str()).is_ok() {
        Error::Exists { name: pair.host_name.clone(), place: "on the cell" }
    } else {
        Error::Exists { name: pair.container_name.clone(), place: "in the container" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{find_link, remove_link, testing};

    fn pair() -> Pair {
        Pair {
            host_name: "s-010255001002".to_owned(),
            host_mac: [0xaa, 0xaa, 10, 255, 1, 2],
            container_name: "eth0".to_owned(),
            container_mac: [0xee, 0xee, 10, 255, 1, 2],
            mtu: 1450,
            alias: "c2c handle eth0 app".to_owned(),
        }
    }

    #[test]
    fn a_pair_is_born_where_it_belongs() {
        let (host, container) = (testing::namespace(), testing::namespace());
        let ifindex = host.run(|| create_pair(&pair(), &container)).unwrap();
        let near = host.run(|| find_link("s-010255001002")).unwrap().unwrap();
        let far = container.run(|| find_link("eth0")).unwrap().unwrap();
        assert_eq!((near.ifindex, near.mtu, near.up, near.noarp), (ifindex, 1450, false, true));
        assert_eq!((near.alias.as_str(), near.mac), ("c2c handle eth0 app", pair().host_mac));
        assert_eq!((far.mtu, far.up, far.noarp, far.mac), (1450, false, true, pair().container_mac));
    }

    #[test]
    fn a_name_that_is_taken_is_named_and_left_alone() {
        let (host, container) = (testing::namespace(), testing::namespace());
        host.run(|| create_pair(&pair(), &container)).unwrap();
        let error = host.run(|| create_pair(&pair(), &container)).unwrap_err();
        assert!(matches!(&error, Error::Exists { name, .. } if name == "s-010255001002"), "{error:?}");
        let other = Pair { host_name: "s-010255001003".to_owned(), ..pair() };
        let error = host.run(|| create_pair(&other, &container)).unwrap_err();
        assert!(matches!(&error, Error::Exists { name, .. } if name == "eth0"), "{error:?}");
        assert_eq!(host.run(|| find_link("s-010255001003")).unwrap(), None);
        assert!(host.run(|| find_link("s-010255001002")).unwrap().is_some());
    }

    #[test]
    fn only_what_is_ours_is_removed() {
        let (host, container) = (testing::namespace(), testing::namespace());
        host.run(|| create_pair(&pair(), &container)).unwrap();
        let error = host.run(|| remove_link("s-010255001002", "c2c other", &pair().host_mac)).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error:?}");
        assert!(host.run(|| remove_link("s-010255001002", &pair().alias, &pair().host_mac)).unwrap());
        assert!(!host.run(|| remove_link("s-010255001002", &pair().alias, &pair().host_mac)).unwrap());
        assert_eq!(container.run(|| find_link("eth0")).unwrap(), None);
    }
}
