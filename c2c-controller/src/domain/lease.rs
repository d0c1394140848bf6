//! A cell's piece of the overlay network.

use super::{CellName, Timestamp};
use ipnet::Ipv4Net;
use std::fmt;
use std::net::Ipv4Addr;

/// A block of the overlay network, held by one cell at one underlay address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it.
    pub cell: CellName,
    /// Where the cell's tunnel packets come from and go to.
    pub underlay: Ipv4Addr,
    /// Its containers' addresses.
    pub block: Ipv4Net,
    /// When the cell last said that it is alive.
    pub renewed: Timestamp,
}

impl Lease {
    /// `ee:ee` and the block's base address: Silk's `overlay_hardware_addr`.
    #[must_use]
    pub fn hardware_address(&self) -> String {
        hardware_address(self.block)
    }

    /// Whether its time is over by the time of day. [`super::Now::is_expired`] says whether it may be given away.
    #[must_use]
    pub fn is_expired(&self, lease_seconds: u64, now: Timestamp) -> bool {
        self.renewed.seconds_until(now) >= lease_seconds
    }
}

/// What Silk calls the hardware address of a block.
#[must_use]
pub fn hardware_address(block: Ipv4Net) -> String {
    let [a, b, c, d] = block.network().octets();
    format!("ee:ee:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of cell {} at {}", self.block, self.cell, self.underlay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hardware_address_is_silks() {
        let lease = Lease {
            cell: CellName::parse("cell", "a").unwrap(),
            underlay: Ipv4Addr::new(10, 0, 3, 1),
            block: "10.255.90.0/24".parse().unwrap(),
            renewed: Timestamp(100),
        };
        assert_eq!(lease.hardware_address(), "ee:ee:0a:ff:5a:00");
        assert!(!lease.is_expired(10, Timestamp(109)));
        assert!(lease.is_expired(10, Timestamp(110)));
        assert!(!lease.is_expired(10, Timestamp(5)), "a clock that was set back expires nothing");
    }
}
