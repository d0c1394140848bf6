//! What an interface does for the kernel (its offloads), by ethtool's netlink family: which are on, and switching some.
//!
//! Requests are made here and not by a crate: two messages of a family that `netlink-packet-route` does not speak. The
//! names are the kernel's (net/ethtool/common.c), as `ethtool --show-features` prints them.

use super::Error;
use rtnetlink::packet_core::{DefaultNla, Emitable, NlasIterator, parse_string, parse_u16};
use rtnetlink::sys::constants::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};
use std::collections::BTreeSet;
use std::io;

/// Linux, include/uapi/linux/netlink.h.
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const NESTED: u16 = 1 << 15;
/// include/uapi/linux/genetlink.h.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// include/uapi/linux/ethtool_netlink.h.
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const HEADER_DEV_INDEX: u16 = 1;
const HEADER_FLAGS: u16 = 3;
/// ETHTOOL_FLAG_OMIT_REPLY: the acknowledgement is enough.
const OMIT_REPLY: u32 = 2;
const BITSET_BITS: u16 = 3;
const BITSET_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
/// Bytes of `struct nlmsghdr` and of `struct genlmsghdr` behind it.
const HEADER: usize = 16;
const HEADERS: usize = HEADER + 4;

/// Of these features, those that are on.
///
/// # Errors
/// When the kernel refuses, or has no ethtool netlink (before Linux 5.6).
pub fn active_features(ifindex: u32, of: &[&str]) -> Result<BTreeSet<String>, Error> {
    let what = "read the features of an interface";
    let read = || {
        let ethtool = Ethtool::open()?;
        let answer = ethtool.ask(ethtool.family, (FEATURES_GET, 0), &[device(ifindex, 0)])?;
        Ok(names_in(&answer, FEATURES_ACTIVE))
    };
    let mut active = read().map_err(|source| Error::Netlink { what: what.to_owned(), source })?;
    active.retain(|name| of.contains(&name.as_str()));
    Ok(active)
}

/// Switches features on or off. The kernel may leave one as it is that the interface cannot switch: look again.
///
/// # Errors
/// When the kernel refuses.
pub fn switch_features(ifindex: u32, names: &BTreeSet<String>, on: bool) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    let switch = || {
        let ethtool = Ethtool::open()?;
        let bits = names.iter().map(|name| bit(name, on)).collect::<Vec<_>>();
        let wanted = nest(FEATURES_WANTED, &[nest(BITSET_BITS, &bits)]);
        ethtool.ask(ethtool.family, (FEATURES_SET, NLM_F_ACK), &[device(ifindex, OMIT_REPLY), wanted])
    };
    let state = if on { "on" } else { "off" };
    let what =
        || format!("switch {state} {}", names.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
    switch().map(drop).map_err(|source| Error::Refused { what: what(), source })
}

/// A socket, and the number that the kernel gave the family.
struct Ethtool {
    socket: Socket,
    family: u16,
}

impl Ethtool {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let mut ethtool = Self { socket, family: GENL_ID_CTRL };
        let name = DefaultNla::new(CTRL_ATTR_FAMILY_NAME, b"ethtool\0".to_vec());
        let answer = ethtool.ask(GENL_ID_CTRL, (CTRL_CMD_GETFAMILY, 0), &[name])?;
        let id = attributes(&answer).find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID);
        let id = id.and_then(|(_, value)| parse_u16(&value).ok());
        ethtool.family = id.ok_or_else(|| io::Error::other("this kernel has no ethtool netlink"))?;
        Ok(ethtool)
    }

    /// Sends one request and gives the attributes of its answer.
    fn ask(&self, family: u16, (command, flags): (u8, u16), request: &[DefaultNla]) -> io::Result<Vec<u8>> {
        let body = emitted(request);
        let length = u32::try_from(HEADERS + body.len()).map_err(io::Error::other)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(family.to_ne_bytes());
        message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        // Sequence number and port: one request at a time on a socket of its own. Then the command and its version.
        message.extend([0; 8]);
        message.extend([command, 1, 0, 0]);
        message.extend(body);
        self.socket.send(&message, 0)?;
        let (answer, _) = self.socket.recv_from_full()?;
        answered(&answer)
    }
}

/// An error of 0 is an acknowledgement.
fn answered(answer: &[u8]) -> io::Result<Vec<u8>> {
    let kind = answer.get(4..6).and_then(|bytes| parse_u16(bytes).ok());
    if kind != Some(NLMSG_ERROR) {
        return Ok(answer.get(HEADERS..).unwrap_or_default().to_vec());
    }
    let code = answer.get(HEADER..).and_then(|rest| rest.first_chunk()).copied().map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(Vec::new()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn device(ifindex: u32, flags: u32) -> DefaultNla {
    let index = DefaultNla::new(HEADER_DEV_INDEX, ifindex.to_ne_bytes().to_vec());
    nest(FEATURES_HEADER, &[index, DefaultNla::new(HEADER_FLAGS, flags.to_ne_bytes().to_vec())])
}

/// A bit that is named and has no value is to be off.
fn bit(name: &str, on: bool) -> DefaultNla {
    let mut parts = vec![DefaultNla::new(BIT_NAME, [name.as_bytes(), &[0]].concat())];
    parts.extend(on.then(|| DefaultNla::new(BIT_VALUE, Vec::new())));
    nest(BITSET_BIT, &parts)
}

fn nest(kind: u16, inside: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind | NESTED, emitted(inside))
}

fn emitted(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// Kind and contents of each attribute; what cannot be read ends them.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    let readable = NlasIterator::new(bytes).map_while(Result::ok);
    readable.map(|nla| (nla.kind(), nla.value().to_vec()))
}

/// The names of the bits in a set that an answer has.
fn names_in(answer: &[u8], set: u16) -> BTreeSet<String> {
    let inside = |kind: u16, bytes: &[u8]| -> Vec<Vec<u8>> {
        attributes(bytes).filter(|(found, _)| *found == kind).map(|(_, value)| value).collect()
    };
    let sets = inside(set, answer).into_iter().flat_map(|set| inside(BITSET_BITS, &set));
    let bits = sets.flat_map(|bits| inside(BITSET_BIT, &bits));
    bits.flat_map(|bit| inside(BIT_NAME, &bit)).filter_map(|name| parse_string(&name).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing;
    use crate::host::{Pair, create_pair, find_link};

    const SEGMENTATION: &str = "tx-udp_tnl-segmentation";

    #[test]
    fn features_are_seen_and_switched() {
        let (host, other) = (testing::namespace(), testing::namespace());
        let pair = Pair {
            host_name: "near".to_owned(),
            host_mac: [2, 0, 0, 0, 0, 1],
            container_name: "far".to_owned(),
            container_mac: [2, 0, 0, 0, 0, 2],
            mtu: 1500,
            alias: "c2c test".to_owned(),
        };
        let index = host.run(|| create_pair(&pair, &other)).unwrap();
        assert_eq!(host.run(|| find_link("near")).unwrap().unwrap().ifindex, index);
        let names = [SEGMENTATION, "tx-checksum-ip-generic", "rx-gro-hw"];
        let active = || host.run(|| active_features(index, &names)).unwrap();
        let both: BTreeSet<_> = names[..2].iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(active(), both, "a veth cannot merge in hardware");
        let one: BTreeSet<_> = [SEGMENTATION.to_owned()].into();
        host.run(|| switch_features(index, &one, false)).unwrap();
        assert_eq!(active(), [names[1].to_owned()].into());
        host.run(|| switch_features(index, &one, true)).unwrap();
        assert_eq!(active(), both);
    }

    #[test]
    fn what_is_not_there_is_said() {
        let host = testing::namespace();
        let error = host.run(|| active_features(9, &[SEGMENTATION])).unwrap_err();
        assert!(matches!(error, Error::Netlink { .. }), "{error:?}");
        let none: BTreeSet<_> = ["tx-nonsense".to_owned()].into();
        let error = host.run(|| switch_features(1, &none, false)).unwrap_err();
        assert!(error.to_string().contains("switch off tx-nonsense"), "{error}");
    }
}
