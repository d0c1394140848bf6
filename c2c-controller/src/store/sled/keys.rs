//! The keys: one letter for the kind, then what sorts as it should, numbers big-endian.
//!
//! ```text
//! m/schema    m/store    m/revision    m/counts      about the store itself
//! l/<underlay address, 4 bytes>                      a lease
//! p/<source> 0 <destination> 0 <protocol, 1> <start, 2> <end, 2>
//! t/<tag, 2>                                         a freed tag
//! c/<revision, 8>                                    a commit
//! ```

use crate::domain::{Policy, Revision, Tag};
use std::net::Ipv4Addr;

pub(super) const SCHEMA: &[u8] = b"m/schema";
pub(super) const STORE: &[u8] = b"m/store";
pub(super) const REVISION: &[u8] = b"m/revision";
pub(super) const COUNTS: &[u8] = b"m/counts";

pub(super) const LEASES: &[u8] = b"l/";
pub(super) const POLICIES: &[u8] = b"p/";
pub(super) const FREED_TAGS: &[u8] = b"t/";
pub(super) const COMMITS: &[u8] = b"c/";

pub(super) fn lease(underlay: Ipv4Addr) -> Vec<u8> {
    [LEASES, &underlay.octets()].concat()
}

/// Names hold no zero byte, so no two policies share a key.
pub(super) fn policy(policy: &Policy) -> Vec<u8> {
    let Policy { source, destination, protocol, ports } = policy;
    let (start, end) = (ports.start().to_be_bytes(), ports.end().to_be_bytes());
    let (source, destination) = (source.as_str().as_bytes(), destination.as_str().as_bytes());
    [POLICIES, source, &[0], destination, &[0, protocol.number()], &start, &end].concat()
}

pub(super) fn freed_tag(tag: Tag) -> Vec<u8> {
    [FREED_TAGS, &tag.get().to_be_bytes()].concat()
}

pub(super) fn commit(revision: Revision) -> Vec<u8> {
    [COMMITS, &revision.get().to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_sort_by_revision() {
        let keys: Vec<_> = [0, 1, 255, 256, u64::MAX].map(|n| commit(Revision::new(n))).into();
        assert!(keys.is_sorted());
    }

    #[test]
    fn policies_that_differ_have_keys_that_differ() {
        let key = |source, destination, protocol, ports| {
            policy(&Policy::parse(source, destination, protocol, ports).unwrap())
        };
        let keys = [
            key("a", "bc", "tcp", "1"),
            key("ab", "c", "tcp", "1"),
            key("a", "bc", "udp", "1"),
            key("a", "bc", "tcp", "1-2"),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }
}
