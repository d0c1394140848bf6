//! The fewest prefixes for a map from addresses to classes, when the longest prefix decides: the optimal routing table
//! construction of Draves, King, Venkatachary and Zill (INFOCOM 1999). "Everything but the private networks" is five
//! prefixes this way, and some sixty when each range is cut into networks.

/// From this address until the next piece, everything is of this class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its first address.
    pub(super) first: u32,
    /// A number that means something to the caller; 0 is what an address without a prefix has.
    pub(super) class: usize,
}

/// A row of the longest-prefix table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    /// Its first address.
    pub(super) first: u32,
    /// In bits.
    pub(super) length: u8,
    /// Of all its addresses that no longer prefix has.
    pub(super) class: usize,
}

/// The prefixes of pieces that begin with address 0 and are in order, shorter ones before those in them. Which of several
/// equally small tables it is follows from the pieces alone.
pub(super) fn cover(pieces: &[Piece]) -> Vec<Prefix> {
    let mut found = Vec::new();
    choose(&Tree::of(pieces, 0, 0), Prefix { first: 0, length: 0, class: 0 }, &mut found);
    found
}

/// The space under a prefix.
enum Tree {
    /// One class.
    Whole(usize),
    /// Several: the two halves, and the classes of which each makes the fewest rows if the prefix has it, in order.
    Halves(Box<[Tree; 2]>, Vec<usize>),
}

impl Tree {
    /// `pieces` are those that reach into the prefix.
    fn of(pieces: &[Piece], first: u32, length: u8) -> Self {
        match pieces {
            [] => Self::Whole(0),
            [one] => Self::Whole(one.class),
            [..] => {
                let middle = upper_half(first, length);
                let below = pieces.partition_point(|piece| piece.first < middle);
                let cut = pieces.get(below).is_none_or(|piece| piece.first > middle);
                let (lower, _) = pieces.split_at(below);
                let (_, upper) = pieces.split_at(below - usize::from(cut && below > 0));
                let halves = [Self::of(lower, first, length + 1), Self::of(upper, middle, length + 1)];
                let best = both_or_either(halves[0].best(), halves[1].best());
                Self::Halves(Box::new(halves), best)
            }
        }
    }

    fn best(&self) -> &[usize] {
        match self {
            Self::Whole(class) => std::slice::from_ref(class),
            Self::Halves(_, best) => best,
        }
    }
}

fn upper_half(first: u32, length: u8) -> u32 {
    first | (1 << 31u32.saturating_sub(length.into()))
}

/// What two ordered lists have in common, or if that is nothing, all of both.
fn both_or_either(a: &[usize], b: &[usize]) -> Vec<usize> {
    let both: Vec<usize> = a.iter().copied().filter(|class| b.binary_search(class).is_ok()).collect();
    if !both.is_empty() {
        return both;
    }
    let mut either = [a, b].concat();
    either.sort_unstable();
    either
}

/// Adds the rows of a tree. `at` is where it stands, and the class that it has without a row of its own.
fn choose(tree: &Tree, at: Prefix, found: &mut Vec<Prefix>) {
    let mut class = at.class;
    if !tree.best().contains(&class) {
        class = tree.best().first().copied().unwrap_or(0);
        found.push(Prefix { class, ..at });
    }
    if let Tree::Halves(halves, _) = tree {
        let [lower, upper] = halves.as_ref();
        let length = at.length + 1;
        choose(lower, Prefix { first: at.first, length, class }, found);
        choose(upper, Prefix { first: upper_half(at.first, at.length), length, class }, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn pieces(of: &[(&str, usize)]) -> Vec<Piece> {
        let first = |text: &str| text.parse::<Ipv4Addr>().unwrap().to_bits();
        of.iter().map(|&(text, class)| Piece { first: first(text), class }).collect()
    }

    fn shown(of: &[(&str, usize)]) -> Vec<String> {
        let rows = cover(&pieces(of));
        rows.iter().map(|p| format!("{}/{} {}", Ipv4Addr::from_bits(p.first), p.length, p.class)).collect()
    }

    #[test]
    fn nothing_anywhere_is_no_row() {
        assert!(shown(&[("0.0.0.0", 0)]).is_empty());
        assert_eq!(shown(&[("0.0.0.0", 1)]), ["0.0.0.0/0 1"]);
    }

    #[test]
    fn a_hole_is_a_row_and_what_is_like_its_parent_is_none() {
        let with_hole = [("0.0.0.0", 0), ("10.0.0.0", 1), ("10.0.5.0", 0), ("10.0.6.0", 1), ("11.0.0.0", 0)];
        assert_eq!(shown(&with_hole), ["10.0.0.0/8 1", "10.0.5.0/24 0"]);
    }

    #[test]
    fn the_public_networks_are_five_rows() {
        let public = [
            ("0.0.0.0", 1),
            ("10.0.0.0", 0),
            ("11.0.0.0", 1),
            ("169.254.0.0", 0),
            ("169.255.0.0", 1),
            ("172.16.0.0", 0),
            ("172.32.0.0", 1),
            ("192.168.0.0", 0),
            ("192.169.0.0", 1),
        ];
        let want = ["0.0.0.0/0 1", "10.0.0.0/8 0", "169.254.0.0/16 0", "172.16.0.0/12 0", "192.168.0.0/16 0"];
        assert_eq!(shown(&public), want);
    }

    #[test]
    fn the_last_address_has_its_own() {
        assert_eq!(shown(&[("0.0.0.0", 0), ("255.255.255.255", 2)]), ["255.255.255.255/32 2"]);
    }

    fn longest(rows: &[Prefix], address: u32) -> usize {
        let fits =
            |row: &&Prefix| row.length == 0 || (row.first ^ address) >> (32 - u32::from(row.length)) == 0;
        rows.iter().filter(fits).max_by_key(|row| row.length).map_or(0, |row| row.class)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn every_address_has_the_class_of_its_piece(
            cuts in proptest::collection::btree_map(prop_oneof![0u32..64, any::<u32>(), 0xffff_ffc0u32..], 0usize..4, 0..12),
            zero in 0usize..4,
            probes: [u32; 8],
        ) {
            let mut of = cuts;
            of.insert(0, zero);
            let list: Vec<_> = of.iter().map(|(&first, &class)| Piece { first, class }).collect();
            let rows = cover(&list);
            let edges = of.keys().flat_map(|&first| [first, first.wrapping_sub(1)]);
            for address in edges.chain(probes) {
                let want = *of.range(..=address).next_back().unwrap().1;
                prop_assert_eq!(longest(&rows, address), want, "{:#x} {:?}", address, rows);
            }
        }
    }
}
