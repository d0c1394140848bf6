//! Which address a new container gets. Pure: the block comes from the lease, and what is in use from the records.
//!
//! Addresses are handed out round robin, so one that was just freed is the last to be used again: a peer's flow or
//! cache that still speaks of the old container does not hit the new one.

use ipnet::Ipv4Net;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The addresses in use, and where the search goes on.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool {
    used: BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
}

impl Pool {
    /// A pool that knows what is in use and which address was handed out last.
    pub(super) fn new(used: impl IntoIterator<Item = Ipv4Addr>, last: Option<Ipv4Addr>) -> Self {
        Self { used: used.into_iter().collect(), last }
    }

    /// Takes the next free address of the block, if there is one.
    pub(super) fn take(&mut self, block: Ipv4Net) -> Option<Ipv4Addr> {
        let (first, end) = usable(block)?;
        let start = self
            .last
            .map(u32::from)
            .filter(|last| (first..end).contains(last))
            .map_or(first, |last| last + 1);
        let mut candidates = (start..=end).chain(first..start).map(Ipv4Addr::from);
        let found = candidates.find(|address| !self.used.contains(address))?;
        self.used.insert(found);
        self.last = Some(found);
        Some(found)
    }

    /// Notes an address that is in use. False when it was already.
    pub(super) fn claim(&mut self, address: Ipv4Addr) -> bool {
        self.used.insert(address)
    }

    /// Gives an address back.
    pub(super) fn release(&mut self, address: Ipv4Addr) {
        self.used.remove(&address);
    }

    /// How many addresses of the block are free.
    pub(super) fn free(&self, block: Ipv4Net) -> u32 {
        let Some((first, end)) = usable(block) else { return 0 };
        let used = self.used.range(Ipv4Addr::from(first)..=Ipv4Addr::from(end)).count();
        (end - first + 1).saturating_sub(u32::try_from(used).unwrap_or(u32::MAX))
    }
}

/// First and last address that a container may have. The base is the cell's own (a Silk cell's VTEP answers there), the
/// one after it is skipped as the customary gateway, and the last as the customary broadcast, all as Silk does it.
fn usable(block: Ipv4Net) -> Option<(u32, u32)> {
    let first = u32::from(block.network()).checked_add(2)?;
    let end = u32::from(block.broadcast()).checked_sub(1)?;
    (first <= end).then_some((first, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn a_block_of_24_bits_serves_253_containers() {
        let mut pool = Pool::default();
        let block = net("10.255.3.0/24");
        assert_eq!(pool.free(block), 253);
        let taken: Vec<_> = std::iter::from_fn(|| pool.take(block)).collect();
        assert_eq!((taken.len(), pool.free(block)), (253, 0));
        assert_eq!(
            (taken.first(), taken.last()),
            (Some(&address("10.255.3.2")), Some(&address("10.255.3.254")))
        );
    }

    #[test]
    fn an_address_is_not_used_again_at_once() {
        let mut pool = Pool::default();
        let block = net("10.255.3.0/29");
        for expected in ["10.255.3.2", "10.255.3.3", "10.255.3.4", "10.255.3.5", "10.255.3.6", "10.255.3.2"] {
            let taken = pool.take(block).unwrap();
            assert_eq!(taken, address(expected));
            pool.release(taken);
        }
    }

    #[test]
    fn the_search_goes_on_after_a_restart() {
        let mut pool = Pool::new([address("10.255.3.4")], Some(address("10.255.3.3")));
        assert_eq!(pool.take(net("10.255.3.0/24")), Some(address("10.255.3.5")));
    }

    #[test]
    fn another_lease_starts_at_its_own_beginning() {
        let mut pool = Pool::new([], Some(address("10.255.9.77")));
        assert_eq!(pool.take(net("10.255.3.0/24")), Some(address("10.255.3.2")));
    }

    #[test]
    fn tiny_blocks_serve_few_or_none() {
        for (block, expected) in
            [("10.0.0.0/30", 1), ("10.0.0.0/31", 0), ("10.0.0.7/32", 0), ("255.255.255.252/30", 1)]
        {
            let mut pool = Pool::default();
            assert_eq!(pool.free(net(block)), expected, "{block}");
            assert_eq!(std::iter::from_fn(|| pool.take(net(block))).count(), expected as usize, "{block}");
        }
    }

    proptest! {
        /// Whatever comes and goes, restarts included: never two equal, never a skipped one, and an address is only
        /// used again when every other free one was used since.
        #[test]
        fn addresses_in_use_are_unique(
            prefix in 24_u8..=30,
            steps in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>(), any::<bool>()), 1..400),
        ) {
            let block = Ipv4Net::new(Ipv4Addr::new(10, 255, 3, 0), prefix).unwrap();
            let skipped = [block.network(), address("10.255.3.1"), block.broadcast()];
            let mut pool = Pool::default();
            let (mut live, mut last) = (Vec::<Ipv4Addr>::new(), None);
            for (come, which, restart) in steps {
                if restart {
                    pool = Pool::new(live.iter().copied(), last);
                }
                if come {
                    let before = pool.free(block);
                    match pool.take(block) {
                        None => prop_assert_eq!(before, 0),
                        Some(taken) => {
                            prop_assert!(block.contains(&taken) && !skipped.contains(&taken), "{} is skipped", taken);
                            prop_assert!(!live.contains(&taken), "{} is used twice", taken);
                            prop_assert!(before == 1 || last != Some(taken), "{} is used again at once", taken);
                            live.push(taken);
                            last = Some(taken);
                        }
                    }
                } else if !live.is_empty() {
                    pool.release(live.swap_remove(which.index(live.len())));
                }
            }
        }
    }
}
