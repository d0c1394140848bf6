//! What a container may send outside: how a class of addresses answers for a port. Which class an address has is the
//! longest prefix's to say (`EGRESS`); how rules become classes is the agent's.

use crate::layout::{EgressClass, EgressPorts, EgressPortsKey, egress_flag};
use crate::ports::{self, Page};
use crate::wire::{ICMP, TCP, UDP};

/// The answer to a question for the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No rule allows it.
    Denied,
    /// A rule allows it.
    Allowed,
    /// A rule allows it and asks for a record of it.
    Logged,
}

/// What ICMP has for a port in [`EgressPortsKey`].
#[inline(always)]
#[must_use]
pub const fn icmp_port(icmp_type: u8, code: u8) -> u16 {
    u16::from_be_bytes([icmp_type, code])
}

/// The keys and bits of a class that say `first..=last` of a protocol, each key once. None when `first > last`.
pub fn rows(class: u32, protocol: u8, first: u16, last: u16) -> impl Iterator<Item = (EgressPortsKey, u64)> {
    ports::pages(first, last).map(move |Page { level, number, bits }| {
        (EgressPortsKey { class, page: number, protocol, level }, bits)
    })
}

/// Whether a packet of `protocol` to `port` (host order; for ICMP [`icmp_port`]) may go to an address of this class,
/// given a reader of rows that answers zeros for a row that is not there. At most two lookups.
#[inline(always)]
pub fn decide(
    class: Option<EgressClass>,
    protocol: u8,
    port: u16,
    row: impl Fn(&EgressPortsKey) -> EgressPorts,
) -> Answer {
    let Some(EgressClass { class, flags }) = class else { return Answer::Denied };
    if flags & egress_flag::ALL_LOGGED != 0 {
        return Answer::Logged;
    }
    let by_rows = if class != 0 && matches!(protocol, TCP | UDP | ICMP) {
        by_rows(class, protocol, port, row)
    } else {
        Answer::Denied
    };
    match by_rows {
        Answer::Denied if flags & egress_flag::ALL != 0 => Answer::Allowed,
        Answer::Denied | Answer::Allowed | Answer::Logged => by_rows,
    }
}

#[inline(always)]
fn by_rows(class: u32, protocol: u8, port: u16, row: impl Fn(&EgressPortsKey) -> EgressPorts) -> Answer {
    let ports = row(&EgressPortsKey { class, page: port / 64, protocol, level: 0 });
    let blocks = row(&EgressPortsKey { class, page: port / 4096, protocol, level: 1 });
    let (port_bit, block_bit) = (1u64 << (port % 64), 1u64 << ((port / 64) % 64));
    if ports.logged & port_bit | blocks.logged & block_bit != 0 {
        Answer::Logged
    } else if ports.allowed & port_bit | blocks.allowed & block_bit != 0 {
        Answer::Allowed
    } else {
        Answer::Denied
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const CLASS: EgressClass = EgressClass { class: 7, flags: 0 };

    fn answer(
        class: Option<EgressClass>,
        ranges: &[(u8, u16, u16, bool)],
        protocol: u8,
        port: u16,
    ) -> Answer {
        let mut table: HashMap<EgressPortsKey, EgressPorts> = HashMap::new();
        for &(protocol, first, last, log) in ranges {
            for (key, bits) in rows(7, protocol, first, last) {
                let row = table.entry(key).or_default();
                row.allowed |= bits;
                row.logged |= if log { bits } else { 0 };
            }
        }
        decide(class, protocol, port, |key| table.get(key).copied().unwrap_or_default())
    }

    #[test]
    fn an_address_without_a_class_is_denied() {
        assert_eq!(answer(None, &[(TCP, 0, 65_535, false)], TCP, 80), Answer::Denied);
        assert_eq!(answer(Some(EgressClass::default()), &[], TCP, 80), Answer::Denied);
    }

    #[test]
    fn ports_decide_for_their_protocol_only() {
        let ranges = [(TCP, 80, 90, false), (TCP, 443, 443, true), (UDP, 0, 65_535, false)];
        let rows = [
            (TCP, 79, Answer::Denied),
            (TCP, 80, Answer::Allowed),
            (TCP, 90, Answer::Allowed),
            (TCP, 443, Answer::Logged),
            (UDP, 1, Answer::Allowed),
            (ICMP, icmp_port(8, 0), Answer::Denied),
            (47, 0, Answer::Denied),
        ];
        for (protocol, port, want) in rows {
            assert_eq!(answer(Some(CLASS), &ranges, protocol, port), want, "{protocol} {port}");
        }
    }

    #[test]
    fn icmp_types_are_pages_and_codes_their_ports() {
        let any_code = [(ICMP, icmp_port(8, 0), icmp_port(8, 255), false)];
        assert_eq!(answer(Some(CLASS), &any_code, ICMP, icmp_port(8, 3)), Answer::Allowed);
        assert_eq!(answer(Some(CLASS), &any_code, ICMP, icmp_port(9, 0)), Answer::Denied);
    }

    #[test]
    fn all_is_every_protocol() {
        let all = EgressClass { class: 0, flags: egress_flag::ALL };
        assert_eq!(answer(Some(all), &[], 47, 0), Answer::Allowed);
        let logged = EgressClass { class: 0, flags: egress_flag::ALL | egress_flag::ALL_LOGGED };
        assert_eq!(answer(Some(logged), &[], TCP, 1), Answer::Logged);
        let some_logged = EgressClass { class: 7, flags: egress_flag::ALL };
        let ranges = [(TCP, 443, 443, true)];
        assert_eq!(answer(Some(some_logged), &ranges, TCP, 443), Answer::Logged);
        assert_eq!(answer(Some(some_logged), &ranges, TCP, 444), Answer::Allowed);
    }
}
