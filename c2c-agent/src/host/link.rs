//! Interfaces: what is there, and removing one that is ours.

use super::netlink::{Netlink, Step};
use super::{Error, Mac};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use rtnetlink::LinkUnspec;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// How often an interface that is being removed is looked for.
const LOOK_AGAIN: Duration = Duration::from_micros(100);

/// An interface as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address; zeros when it has none of six bytes.
    pub mac: Mac,
    /// In bytes.
    pub mtu: u32,
    /// What somebody noted on it, empty when nobody did. c2c marks its own here.
    pub alias: String,
    /// `veth`, `vxlan` and so on; empty for hardware.
    pub kind: String,
    /// Whether it is up.
    pub up: bool,
    /// Whether it does without ARP.
    pub noarp: bool,
}

/// All interfaces of the calling thread's namespace.
pub fn links() -> Result<Vec<Link>, Error> {
    let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let messages = Netlink::open()?.dump("list the interfaces", all)?;
    Ok(messages.iter().filter_map(as_link).map(observed).collect())
}

/// The interface of that name, if there is one.
pub fn find_link(name: &str) -> Result<Option<Link>, Error> {
    Ok(find_message(&mut Netlink::open()?, name)?.as_ref().map(observed))
}

/// Removes an interface of ours, and says whether there was one. It is out of sight when this returns. `alias` is the mark it must bear; without any mark it
/// must be the half-made veth of that hardware address, which is never up.
pub fn remove_link(name: &str, alias: &str, mac: &Mac) -> Result<bool, Error> {
    let mut netlink = Netlink::open()?;
    let Some(link) = find_message(&mut netlink, name)?.as_ref().map(observed) else { return Ok(false) };
    let half_made = link.alias.is_empty() && !link.up && link.kind == "veth" && link.mac == *mac;
    if link.alias != alias && !half_made {
        let reason = format!("its alias is {:?}, expected {alias:?}", link.alias);
        return Err(Error::Foreign { name: name.to_owned(), reason });
    }
    remove_from_sight(netlink, &link)
}

/// Removes the interface of that index, and waits for the kernel to be done; false when it was gone already.
pub(super) fn remove_index(netlink: &mut Netlink, name: &str, ifindex: u32) -> Result<bool, Error> {
    let gone = RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(ifindex).build());
    match netlink.apply(vec![Step::change(format!("remove the interface {name}"), gone)]) {
        Ok(()) => Ok(true),
        Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(Errno::ENODEV as i32) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Removes the interface of that index, and waits until neither it nor its peer is to be seen. That takes about half a
/// millisecond; the kernel then waits some 20 ms for RCU grace periods before it frees the memory and acknowledges
/// (Linux 6.18, `netdev_run_todo`), for which nobody has to wait.
fn remove_from_sight(mut netlink: Netlink, link: &Link) -> Result<bool, Error> {
    let (name, ifindex) = (link.name.clone(), link.ifindex);
    let (acknowledge, acknowledged) = mpsc::channel();
    let remove = move || _ = acknowledge.send(remove_index(&mut netlink, &name, ifindex));
    thread::Builder::new().name("unlink".to_owned()).spawn(remove).map_err(|source| Error::Refused {
        what: format!("start a thread to remove the interface {}", link.name),
        source,
    })?;
    loop {
        match acknowledged.recv_timeout(LOOK_AGAIN) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) if if_nametoindex(link.name.as_str()) == Ok(ifindex) => {}
            Err(RecvTimeoutError::Timeout) => return Ok(true),
            Err(RecvTimeoutError::Disconnected) => {
                let reason = "the thread that removed an interface ended without an answer".to_owned();
                return Err(Error::Job { netns: link.name.clone(), reason });
            }
        }
    }
}

/// What the kernel says about the interface of that name.
pub(super) fn find_message(netlink: &mut Netlink, name: &str) -> Result<Option<LinkMessage>, Error> {
    let request = RouteNetlinkMessage::GetLink(LinkUnspec::new_with_name(name).build());
    let answer = netlink.get(&format!("look for the interface {name}"), request)?;
    Ok(answer.as_ref().and_then(as_link).cloned())
}

fn as_link(message: &RouteNetlinkMessage) -> Option<&LinkMessage> {
    if let RouteNetlinkMessage::NewLink(link) = message { Some(link) } else { None }
}

/// The part of a message that concerns us.
pub(super) fn observed(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        ifindex: message.header.index,
        up: flags.contains(LinkFlags::Up),
        noarp: flags.contains(LinkFlags::Noarp),
        ..Link::default()
    };
    for attribute in &message.attributes {
        note(&mut link, attribute);
    }
    link
}

fn note(link: &mut Link, attribute: &LinkAttribute) {
    if let LinkAttribute::IfName(name) = attribute {
        link.name.clone_from(name);
    } else if let LinkAttribute::Address(bytes) = attribute {
        link.mac = Mac::try_from(bytes.as_slice()).unwrap_or_default();
    } else if let LinkAttribute::Mtu(mtu) = attribute {
        link.mtu = *mtu;
    } else if let LinkAttribute::IfAlias(alias) = attribute {
        link.alias.clone_from(alias);
    } else if let LinkAttribute::LinkInfo(infos) = attribute {
        link.kind = infos.iter().find_map(kind).unwrap_or_default();
    }
}

fn kind(info: &LinkInfo) -> Option<String> {
    if let LinkInfo::Kind(kind) = info { Some(kind.to_string()) } else { None }
}
