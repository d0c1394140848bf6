//! The overlay network, cut into blocks of one size. The first block is reserved, as Silk reserves it.

use ipnet::Ipv4Net;

/// More blocks than any foundation has cells; more would only make the search for a free one slow.
const MAX_BLOCK_BITS: u8 = 16;
/// A smaller block has no room for a container beside its base, gateway and broadcast addresses.
const MAX_BLOCK_PREFIX: u8 = 29;

/// Where leases come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    network: Ipv4Net,
    block_prefix: u8,
}

/// What a lease is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseSize {
    /// A block: for a cell with containers.
    Block,
    /// A single address, out of the first block: for a machine that only takes part in the network.
    Single,
}

/// A network and a block size that make no pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Not even one block fits.
    #[error("overlay_network: {network} is smaller than a block of /{block_prefix}; expected a network of /{} or larger, or longer block prefixes", block_prefix.saturating_sub(1))]
    TooSmall {
        /// The overlay network.
        network: Ipv4Net,
        /// The blocks' prefix length.
        block_prefix: u8,
    },
    /// One block fits, and it is the reserved one.
    #[error("overlay_network: {network} holds only the one block of /{block_prefix} that is reserved; expected a network of /{} or larger", block_prefix.saturating_sub(1))]
    OnlyReserved {
        /// The overlay network.
        network: Ipv4Net,
        /// The blocks' prefix length.
        block_prefix: u8,
    },
    /// Too many blocks.
    #[error("block_prefix_length: {network} holds more than 65536 blocks of /{block_prefix}; expected /{} or shorter", network.prefix_len() + MAX_BLOCK_BITS)]
    TooMany {
        /// The overlay network.
        network: Ipv4Net,
        /// The blocks' prefix length.
        block_prefix: u8,
    },
    /// A block without room for containers.
    #[error(
        "block_prefix_length: a block of /{block_prefix} has no room for containers; expected /{MAX_BLOCK_PREFIX} or shorter"
    )]
    BlockTooSmall {
        /// The blocks' prefix length.
        block_prefix: u8,
    },
    /// An address where a network was expected.
    #[error("overlay_network: {network} has address bits set after its prefix; expected {}", network.trunc())]
    NotANetwork {
        /// What was given.
        network: Ipv4Net,
    },
}

impl Pool {
    /// Cuts a network into blocks.
    ///
    /// # Errors
    /// When there would be no block to lease, or far too many.
    pub fn new(network: Ipv4Net, block_prefix: u8) -> Result<Self, PoolError> {
        if network != network.trunc() {
            return Err(PoolError::NotANetwork { network });
        }
        if block_prefix > MAX_BLOCK_PREFIX {
            return Err(PoolError::BlockTooSmall { block_prefix });
        }
        match block_prefix.checked_sub(network.prefix_len()) {
            None => Err(PoolError::TooSmall { network, block_prefix }),
            Some(0) => Err(PoolError::OnlyReserved { network, block_prefix }),
            Some(bits) if bits > MAX_BLOCK_BITS => Err(PoolError::TooMany { network, block_prefix }),
            Some(_) => Ok(Self { network, block_prefix }),
        }
    }

    /// The whole overlay network.
    #[must_use]
    pub fn network(&self) -> Ipv4Net {
        self.network
    }

    /// The prefix length of every block.
    #[must_use]
    pub fn block_prefix(&self) -> u8 {
        self.block_prefix
    }

    /// Whether a lease may be of this block.
    #[must_use]
    pub fn contains(&self, block: Ipv4Net) -> bool {
        block == block.trunc()
            && block.prefix_len() == self.block_prefix
            && self.network.contains(&block)
            && block.network() != self.network.network()
    }

    /// Whether a lease may be of this single address: one of the first block, but its base.
    #[must_use]
    pub fn contains_single(&self, block: Ipv4Net) -> bool {
        let base = self.network.network();
        let first = Ipv4Net::new(base, self.block_prefix).ok();
        block.prefix_len() == 32
            && block.network() != base
            && first.is_some_and(|first| first.contains(&block))
    }

    /// What may be leased, lowest first.
    pub fn leases(&self, size: LeaseSize) -> Box<dyn Iterator<Item = Ipv4Net>> {
        match size {
            LeaseSize::Block => Box::new(self.blocks()),
            LeaseSize::Single => Box::new(self.singles()),
        }
    }

    /// Whether a lease of this size may be this.
    #[must_use]
    pub fn leases_as(&self, size: LeaseSize, block: Ipv4Net) -> bool {
        match size {
            LeaseSize::Block => self.contains(block),
            LeaseSize::Single => self.contains_single(block),
        }
    }

    /// The addresses that may be leased one by one, lowest first.
    pub fn singles(&self) -> impl Iterator<Item = Ipv4Net> + use<> {
        let first = Ipv4Net::new(self.network.network(), self.block_prefix).ok();
        first.and_then(|first| first.subnets(32).ok()).into_iter().flatten().skip(1)
    }

    /// The blocks that may be leased, lowest first.
    pub fn blocks(&self) -> impl Iterator<Item = Ipv4Net> + use<> {
        // The prefix was checked to be one of this network's when the pool was made.
        self.network.subnets(self.block_prefix).into_iter().flatten().skip(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(network: &str, block_prefix: u8) -> Result<Pool, PoolError> {
        Pool::new(network.parse().unwrap(), block_prefix)
    }

    #[test]
    fn silks_default_has_255_blocks_and_not_the_first() {
        let pool = pool("10.255.0.0/16", 24).unwrap();
        let blocks: Vec<String> = pool.blocks().map(|block| block.to_string()).collect();
        assert_eq!(blocks.len(), 255);
        assert_eq!((blocks[0].as_str(), blocks[254].as_str()), ("10.255.1.0/24", "10.255.255.0/24"));
        assert!(pool.blocks().all(|block| pool.contains(block)));
    }

    #[test]
    fn the_first_block_is_255_single_addresses() {
        let pool = pool("10.255.0.0/16", 24).unwrap();
        let singles: Vec<String> = pool.singles().map(|single| single.to_string()).collect();
        assert_eq!(singles.len(), 255);
        assert_eq!((singles[0].as_str(), singles[254].as_str()), ("10.255.0.1/32", "10.255.0.255/32"));
        assert!(pool.singles().all(|single| pool.contains_single(single) && !pool.contains(single)));
        assert!(pool.blocks().all(|block| !pool.contains_single(block)));
        for no in ["10.255.0.0/32", "10.255.1.1/32", "10.255.0.1/31", "10.254.0.1/32"] {
            assert!(!pool.contains_single(no.parse().unwrap()), "{no}");
        }
    }

    #[test]
    fn what_is_no_block_of_the_pool() {
        let pool = pool("10.255.0.0/16", 24).unwrap();
        for block in ["10.255.0.0/24", "10.254.1.0/24", "10.255.2.0/25", "10.255.2.0/23", "10.255.2.1/24"] {
            assert!(!pool.contains(block.parse().unwrap()), "{block}");
        }
    }

    #[test]
    fn a_pool_that_cannot_be_is_refused_with_one_line_that_names_the_key() {
        let cases = [
            ("10.255.0.0/28", 24, "overlay_network: 10.255.0.0/28 is smaller than a block of /24; expected"),
            ("10.255.1.0/24", 24, "overlay_network: 10.255.1.0/24 holds only the one block of /24"),
            ("10.255.0.1/16", 24, "has address bits set after its prefix; expected 10.255.0.0/16"),
            ("10.0.0.0/8", 25, "block_prefix_length: 10.0.0.0/8 holds more than 65536 blocks"),
            ("10.255.0.0/16", 30, "block_prefix_length: a block of /30 has no room for containers"),
        ];
        for (network, block_prefix, message) in cases {
            let error = pool(network, block_prefix).unwrap_err().to_string();
            assert!(error.contains(message) && !error.contains('\n'), "{error}");
        }
    }
}
