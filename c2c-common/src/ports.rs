//! How a policy's ports become rows of the `POLICIES` map, and which rows decide a packet.
//!
//! Two levels of 64-bit bitmaps: a row of level 0 says which of 64 adjacent ports are allowed, a row of level 1 which
//! of 64 adjacent *blocks* of 64 ports. A range of any length is at most 18 rows, and a packet is decided by at most
//! two lookups, whether it is allowed by a port or by a range.

use crate::layout::PolicyKey;

/// Rows that a range can need at most: 16 pages of blocks and one page of ports at each end.
pub const MAX_ROWS: usize = 18;

const PORTS_PER_PAGE: u32 = 64;
const PORTS_PER_BLOCK_PAGE: u32 = 64 * 64;

/// The app pair and protocol that ports belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Tag of the app that opens the flow.
    pub source_tag: u16,
    /// Tag of the app that is reached.
    pub destination_tag: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl Pair {
    /// The row of level 0 that speaks of `port`, and the port's bit in it.
    #[inline(always)]
    #[must_use]
    pub const fn port_row(self, port: u16) -> (PolicyKey, u64) {
        (self.key(0, port / 64), 1 << (port % 64))
    }

    /// The row of level 1 that speaks of `port`'s block, and the block's bit in it.
    #[inline(always)]
    #[must_use]
    pub const fn block_row(self, port: u16) -> (PolicyKey, u64) {
        (self.key(1, port / 4096), 1 << ((port / 64) % 64))
    }

    const fn key(self, level: u8, page: u16) -> PolicyKey {
        PolicyKey {
            source_tag: self.source_tag,
            destination_tag: self.destination_tag,
            page,
            protocol: self.protocol,
            level,
        }
    }

    /// The rows that allow the ports `start..=end`, each key once. Empty when `start > end`.
    pub fn rows(self, start: u16, end: u16) -> impl Iterator<Item = (PolicyKey, u64)> {
        pages(start, end).map(move |page| (self.key(page.level, page.number), page.bits))
    }
}

/// One bitmap of a range: which ports, or which blocks of ports, of one page are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// 0: a bit is a port. 1: a bit is a block of 64 ports.
    pub level: u8,
    /// Which 64 ports or which 64 blocks.
    pub number: u16,
    /// The bits.
    pub bits: u64,
}

/// The bitmaps that say `start..=end`, at most [`MAX_ROWS`] and each page once. None when `start > end`.
pub fn pages(start: u16, end: u16) -> impl Iterator<Item = Page> {
    let (start, end) = (u32::from(start), u32::from(end));
    let mut next = start;
    core::iter::from_fn(move || {
        if next > end {
            return None;
        }
        let (page, following) = page_at(next, end);
        next = following;
        Some(page)
    })
}

/// The widest page that starts at `port` and allows nothing above `end`, and the first port after it.
fn page_at(port: u32, end: u32) -> (Page, u32) {
    let whole_block = port.is_multiple_of(PORTS_PER_PAGE) && end - port >= PORTS_PER_PAGE - 1;
    if whole_block {
        let page_end = (port | (PORTS_PER_BLOCK_PAGE - 1)).min(end);
        let blocks = (page_end + 1 - port) / PORTS_PER_PAGE;
        let bits = run(port / PORTS_PER_PAGE % 64, blocks);
        let number = page_number(port / PORTS_PER_BLOCK_PAGE);
        (Page { level: 1, number, bits }, port + blocks * PORTS_PER_PAGE)
    } else {
        let last = (port | (PORTS_PER_PAGE - 1)).min(end);
        let bits = run(port % 64, last + 1 - port);
        (Page { level: 0, number: page_number(port / PORTS_PER_PAGE), bits }, last + 1)
    }
}

/// `count` (1 to 64) adjacent bits from bit `first` on.
const fn run(first: u32, count: u32) -> u64 {
    (u64::MAX >> (64 - count)) << first
}

/// A page number fits: ports end at 65535, so pages end at 1023.
#[expect(clippy::cast_possible_truncation, reason = "page < 1024 by construction")]
const fn page_number(page: u32) -> u16 {
    page as u16
}

/// Whether `port` is allowed, given a reader of rows that answers 0 for a row that is not there.
#[inline(always)]
pub fn allowed(pair: Pair, port: u16, row: impl Fn(&PolicyKey) -> u64) -> bool {
    let (key, bit) = pair.port_row(port);
    if row(&key) & bit != 0 {
        return true;
    }
    let (key, bit) = pair.block_row(port);
    row(&key) & bit != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const PAIR: Pair = Pair { source_tag: 7, destination_tag: 9, protocol: 6 };

    fn table(ranges: &[(u16, u16)]) -> HashMap<PolicyKey, u64> {
        let mut rows = HashMap::new();
        for &(start, end) in ranges {
            for (key, bits) in PAIR.rows(start, end) {
                *rows.entry(key).or_default() |= bits;
            }
        }
        rows
    }

    fn allows(rows: &HashMap<PolicyKey, u64>, port: u16) -> bool {
        allowed(PAIR, port, |key| rows.get(key).copied().unwrap_or(0))
    }

    #[test]
    fn a_single_port_is_one_row() {
        assert_eq!(PAIR.rows(7000, 7000).collect::<Vec<_>>(), [PAIR.port_row(7000)]);
    }

    #[test]
    fn all_ports_are_sixteen_rows() {
        assert_eq!(PAIR.rows(0, 65535).count(), 16);
        assert!(PAIR.rows(0, 65535).all(|(key, bits)| key.level == 1 && bits == u64::MAX));
    }

    #[test]
    fn the_worst_range_is_eighteen_rows() {
        assert_eq!(PAIR.rows(1, 65534).count(), MAX_ROWS);
    }

    #[test]
    fn a_reversed_range_has_no_rows() {
        assert_eq!(PAIR.rows(9, 8).count(), 0);
    }

    #[test]
    fn another_pair_is_not_allowed() {
        let rows = table(&[(1, 65535)]);
        let other = Pair { destination_tag: 10, ..PAIR };
        assert!(!allowed(other, 80, |key| rows.get(key).copied().unwrap_or(0)));
    }

    proptest! {
        #[test]
        fn rows_allow_exactly_their_range(a: u16, b: u16, probes: [u16; 32]) {
            let (start, end) = (a.min(b), a.max(b));
            let rows = table(&[(start, end)]);
            prop_assert!(rows.len() <= MAX_ROWS);
            let edges = [start, end, start.wrapping_sub(1), end.wrapping_add(1), 0, u16::MAX];
            for port in probes.into_iter().chain(edges) {
                prop_assert_eq!(allows(&rows, port), (start..=end).contains(&port), "port {}", port);
            }
        }

        #[test]
        fn ranges_are_a_union(ranges in proptest::collection::vec((0u16.., 0u16..300), 1..6), probes: [u16; 32]) {
            let ranges: Vec<_> = ranges.into_iter().map(|(s, n)| (s, s.saturating_add(n))).collect();
            let rows = table(&ranges);
            for port in probes.into_iter().chain(ranges.iter().flat_map(|&(s, e)| [s, e])) {
                let want = ranges.iter().any(|&(s, e)| (s..=e).contains(&port));
                prop_assert_eq!(allows(&rows, port), want, "port {}", port);
            }
        }
    }
}
