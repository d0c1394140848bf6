//! What may be sent to an address, in the form of the maps. Two classes are equal when and only when they answer every
//! packet alike, however their rules were written.

use super::ids::{self, Digest};
use c2c_common::egress::{icmp_port, rows};
use c2c_common::layout::{EgressPortsKey, egress_flag};
use c2c_common::wire::ICMP;
use c2c_proto::egress::{Permission, Traffic};
use std::collections::BTreeMap;

/// A permission without its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    /// IP protocol number; 0: every protocol, and the ports mean nothing.
    protocol: u8,
    /// First port, or ICMP type and code as [`icmp_port`] has them.
    first: u16,
    /// Last port, not below the first.
    last: u16,
    /// Whether new connections are logged.
    log: bool,
}

impl Item {
    pub(super) fn of(permission: &Permission) -> Self {
        let (protocol, first, last) = match permission.traffic {
            Traffic::All => (0, 0, 0),
            Traffic::Ports { protocol, first, last } => (protocol as u8, first, last),
            Traffic::Icmp { kind: None, .. } => (ICMP, 0, u16::MAX),
            Traffic::Icmp { kind: Some(kind), code } => {
                (ICMP, icmp_port(kind, code.unwrap_or(0)), icmp_port(kind, code.unwrap_or(u8::MAX)))
            }
        };
        Self { protocol, first, last, log: permission.log }
    }
}

/// What may be sent to an address. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    /// Of [`egress_flag`].
    pub(super) flags: u32,
    /// Rows by key, allowed and logged ports of each; the keys' class is 0 until it has an id.
    pub(super) ports: Vec<(EgressPortsKey, (u64, u64))>,
}

impl Class {
    /// What these items allow together. They are in their own order.
    pub(super) fn of(items: &[Item]) -> Self {
        let all = |log: bool| items.iter().any(|item| item.protocol == 0 && (item.log || !log));
        if all(true) {
            return Self { flags: egress_flag::ALL | egress_flag::ALL_LOGGED, ports: Vec::new() };
        }
        let logged = merged(items.iter().filter(|item| item.log));
        if all(false) {
            // Rows are only for what is logged, everything else is allowed anyway.
            return Self { flags: egress_flag::ALL, ports: port_rows(&[], &logged) };
        }
        Self { flags: 0, ports: port_rows(&merged(items.iter()), &logged) }
    }

    /// What the id of the ports follows from; `None` without ports.
    pub(super) fn digest(&self) -> Option<Digest> {
        let mut content = Vec::new();
        self.write_ports(&mut content);
        (!content.is_empty()).then(|| ids::digest(&content))
    }

    /// Writes everything that the class is, so that no two write the same.
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.flags.to_be_bytes());
        to.extend(self.ports.len().to_be_bytes());
        self.write_ports(to);
    }

    fn write_ports(&self, to: &mut Vec<u8>) {
        for (key, (allowed, logged)) in &self.ports {
            to.extend([key.protocol, key.level]);
            to.extend(key.page.to_be_bytes());
            to.extend(allowed.to_be_bytes());
            to.extend(logged.to_be_bytes());
        }
    }
}

/// Ports of a protocol, from the first to the last.
type Span = (u8, u16, u16);

/// The spans of items in order, as few as can be. Items for every protocol have none.
fn merged<'a>(items: impl Iterator<Item = &'a Item>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for item in items.filter(|item| item.protocol != 0) {
        match spans.last_mut() {
            Some((protocol, _, last))
                if *protocol == item.protocol && item.first <= last.saturating_add(1) =>
            {
                *last = item.last.max(*last);
            }
            Some(_) | None => spans.push((item.protocol, item.first, item.last)),
        }
    }
    spans
}

fn port_rows(allowed: &[Span], logged: &[Span]) -> Vec<(EgressPortsKey, (u64, u64))> {
    let mut found: BTreeMap<EgressPortsKey, (u64, u64)> = BTreeMap::new();
    let of = |&(protocol, first, last): &Span| rows(0, protocol, first, last);
    for (key, bits) in allowed.iter().flat_map(of) {
        found.entry(key).or_default().0 |= bits;
    }
    for (key, bits) in logged.iter().flat_map(of) {
        let row = found.entry(key).or_default();
        *row = (row.0 | bits, row.1 | bits);
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use c2c_common::wire::{TCP, UDP};

    fn item(protocol: u8, first: u16, last: u16, log: bool) -> Item {
        Item { protocol, first, last, log }
    }

    fn class(items: &[Item]) -> Class {
        let mut items = items.to_vec();
        items.sort();
        Class::of(&items)
    }

    #[test]
    fn however_ports_are_written_they_are_one_class() {
        let whole = class(&[item(TCP, 0, 127, false)]);
        assert_eq!(class(&[item(TCP, 0, 63, false), item(TCP, 64, 127, false)]), whole);
        assert_eq!(
            class(&[item(TCP, 20, 127, false), item(TCP, 0, 90, false), item(TCP, 5, 5, false)]),
            whole
        );
        assert_ne!(class(&[item(UDP, 0, 127, false)]), whole);
        assert_ne!(class(&[item(TCP, 0, 127, true)]), whole);
        let everything = class(&[item(TCP, 0, 65_535, false), item(UDP, 0, 65_535, false)]);
        assert_eq!(everything.ports.len(), 32);
    }

    #[test]
    fn what_is_allowed_anyway_has_no_rows() {
        let all = item(0, 0, 0, false);
        assert_eq!(class(&[all, item(TCP, 80, 80, false)]), class(&[all]));
        assert!(class(&[all]).digest().is_none());
        let some_logged = class(&[all, item(TCP, 80, 80, true), item(UDP, 1, 9, false)]);
        assert_eq!((some_logged.flags, some_logged.ports.len()), (egress_flag::ALL, 1));
        let all_logged = class(&[all, item(0, 0, 0, true), item(TCP, 80, 80, true)]);
        assert_eq!(all_logged.flags, egress_flag::ALL | egress_flag::ALL_LOGGED);
        assert!(all_logged.ports.is_empty());
    }

    #[test]
    fn a_logged_port_of_an_allowed_block_is_a_row_of_its_own() {
        let both = class(&[item(TCP, 0, 4095, false), item(TCP, 80, 80, true)]);
        let rows: Vec<_> = both.ports.iter().map(|(key, row)| (key.level, key.page, *row)).collect();
        let bit = 1 << 16;
        assert_eq!(rows, [(1, 0, (u64::MAX, 0)), (0, 1, (bit, bit))]);
    }

    #[test]
    fn icmp_types_and_codes_are_spans() {
        let icmp = |kind, code| {
            let any = std::net::Ipv4Addr::UNSPECIFIED;
            let traffic = Traffic::Icmp { kind, code };
            Item::of(&Permission { first: any, last: any, traffic, log: false })
        };
        assert_eq!(icmp(None, None), item(ICMP, 0, 65_535, false));
        assert_eq!(icmp(Some(8), None), item(ICMP, 0x0800, 0x08ff, false));
        assert_eq!(icmp(Some(8), Some(3)), item(ICMP, 0x0803, 0x0803, false));
    }
}
