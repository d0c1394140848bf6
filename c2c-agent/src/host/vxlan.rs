//! The kernel VXLAN device beside our programs. In collect-metadata mode it opens the UDP socket that makes the kernel
//! merge tunnelled packets (GRO), and it takes the odd packets that the programs pass on.

use super::link::{find_message, observed, remove_index};
use super::netlink::{Netlink, Step};
use super::veth::index;
use super::{Error, sysctl};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{LinkUnspec, LinkVxlan};

/// What marks the device as ours.
const ALIAS: &str = "c2c";

/// Makes sure that the device is there and up, and returns its index in the calling thread's namespace. One of ours
/// with another port is replaced; one that is not ours is left alone and is an error. `port` is the tunnels' UDP port.
pub fn ensure_vxlan_device(name: &str, port: u16) -> Result<u32, Error> {
    let mut netlink = Netlink::open()?;
    if let Some(found) = find_message(&mut netlink, name)? {
        check_ours(name, &found, port)?;
        let ifindex = found.header.index;
        if is_shaped(&found, port) {
            return bring_up(&mut netlink, name, ifindex);
        }
        remove_index(&mut netlink, name, ifindex)?;
    }
    let message = RouteNetlinkMessage::NewLink(creation(name, port));
    let what =
        format!("make the VXLAN device {name} on UDP port {port} (does another VXLAN device use that port?)");
    netlink.apply(vec![Step::create(what, message)])?;
    let ifindex = index(name)?;
    sysctl::prepare(name)?;
    bring_up(&mut netlink, name, ifindex)
}

/// Removes the device if it is there and ours, and says whether it was.
pub fn remove_vxlan_device(name: &str) -> Result<bool, Error> {
    let mut netlink = Netlink::open()?;
    let Some(found) = find_message(&mut netlink, name)? else { return Ok(false) };
    check_marked(name, &found)?;
    remove_index(&mut netlink, name, found.header.index)
}

/// Ours bears our mark. A crash between making and marking leaves one of our very shape, down and without any mark.
fn check_ours(name: &str, found: &LinkMessage, port: u16) -> Result<(), Error> {
    let link = observed(found);
    let half_made = link.alias.is_empty() && !link.up && is_shaped(found, port);
    if half_made { Ok(()) } else { check_marked(name, found) }
}

fn check_marked(name: &str, found: &LinkMessage) -> Result<(), Error> {
    let alias = observed(found).alias;
    if alias == ALIAS {
        return Ok(());
    }
    Err(Error::Foreign {
        name: name.to_owned(),
        reason: format!("its alias is {alias:?}, expected {ALIAS:?}"),
    })
}

fn is_shaped(found: &LinkMessage, port: u16) -> bool {
    let has = |want: &InfoVxlan| vxlan_attributes(found).any(|attribute| attribute == want);
    has(&InfoVxlan::Port(port)) && has(&InfoVxlan::CollectMetadata(true)) && has(&InfoVxlan::Gbp)
}

fn vxlan_attributes(found: &LinkMessage) -> impl Iterator<Item = &InfoVxlan> {
    let infos = found.attributes.iter().filter_map(|attribute| {
        if let LinkAttribute::LinkInfo(infos) = attribute { Some(infos) } else { None }
    });
    let data = infos.flatten().filter_map(|info| {
        if let LinkInfo::Data(InfoData::Vxlan(attributes)) = info { Some(attributes) } else { None }
    });
    data.flatten()
}

fn creation(name: &str, port: u16) -> LinkMessage {
    LinkVxlan::new(name, 0)
        .collect_metadata(true)
        .learning(false)
        .append_info_data(InfoVxlan::Gbp)
        .port(port)
        .build()
}

/// The mark comes first: what is up is marked.
fn bring_up(netlink: &mut Netlink, name: &str, ifindex: u32) -> Result<u32, Error> {
    let marked = LinkUnspec::new_with_index(ifindex).alias(ALIAS).build();
    let up = LinkUnspec::new_with_index(ifindex).up().build();
    netlink.apply(vec![
        Step::change(format!("mark the interface {name} as c2c's"), RouteNetlinkMessage::SetLink(marked)),
        Step::change(format!("bring up the VXLAN device {name}"), RouteNetlinkMessage::SetLink(up)),
    ])?;
    Ok(ifindex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{find_link, testing};

    #[test]
    fn the_device_is_made_once_and_kept() {
        let cell = testing::namespace();
        let first = cell.run(|| ensure_vxlan_device("c2c-vxlan", 4789)).unwrap();
        let link = cell.run(|| find_link("c2c-vxlan")).unwrap().unwrap();
        assert_eq!(
            (link.ifindex, link.up, link.alias.as_str(), link.kind.as_str()),
            (first, true, "c2c", "vxlan")
        );
        assert_eq!(cell.run(|| ensure_vxlan_device("c2c-vxlan", 4789)).unwrap(), first);
        assert_ne!(
            cell.run(|| ensure_vxlan_device("c2c-vxlan", 4790)).unwrap(),
            first,
            "another port, another device"
        );
        assert!(cell.run(|| remove_vxlan_device("c2c-vxlan")).unwrap());
        assert!(!cell.run(|| remove_vxlan_device("c2c-vxlan")).unwrap());
    }

    #[test]
    fn a_foreign_device_is_left_alone() {
        let cell = testing::namespace();
        let foreign = || {
            let message = LinkVxlan::new("c2c-vxlan", 7).dev(LOOPBACK).port(4789).build();
            Netlink::open()?
                .apply(vec![Step::create("make a foreign device", RouteNetlinkMessage::NewLink(message))])
        };
        cell.run(foreign).unwrap();
        let before = cell.run(|| find_link("c2c-vxlan")).unwrap();
        assert!(matches!(cell.run(|| ensure_vxlan_device("c2c-vxlan", 4789)), Err(Error::Foreign { .. })));
        assert!(matches!(cell.run(|| remove_vxlan_device("c2c-vxlan")), Err(Error::Foreign { .. })));
        assert_eq!(cell.run(|| find_link("c2c-vxlan")).unwrap(), before);
    }

    const LOOPBACK: u32 = 1;
}
