//! The keys of records: one letter for the kind, then what sorts as it should, numbers big-endian.
//!
//! ```text
//! m/schema    m/store    m/revision    m/counts      about the store itself (sled)
//! l/<underlay address, 4 bytes>                      a lease
//! p/<source> 0 <destination> 0 <protocol, 1> <start, 2> <end, 2>
//! t/<tag, 2>                                         a freed tag
//! h/<tag, 2>                                         a tag that a router holds
//! s/policies                                         when policies last changed
//! g/<group> 0 <number, 2>                            a piece of a security group's rules
//! b/<group> 0 <workload, 1> <space, or nothing>      a binding of it
//! c/<revision, 8>                                    a commit (sled)
//! ```

use crate::domain::{Binding, GroupName, Policy, Revision, Tag, Workload};
use std::net::Ipv4Addr;

pub(super) const SCHEMA: &[u8] = b"m/schema";
pub(super) const STORE: &[u8] = b"m/store";
pub(super) const REVISION: &[u8] = b"m/revision";
pub(super) const COUNTS: &[u8] = b"m/counts";

pub(super) const LEASES: &[u8] = b"l/";
pub(super) const POLICIES: &[u8] = b"p/";
pub(super) const FREED_TAGS: &[u8] = b"t/";
pub(super) const HELD_TAGS: &[u8] = b"h/";
pub(super) const STAMPS: &[u8] = b"s/";
pub(super) const STAMP: &[u8] = b"s/policies";
pub(super) const GROUPS: &[u8] = b"g/";
pub(super) const BINDINGS: &[u8] = b"b/";
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

pub(super) fn held_tag(tag: Tag) -> Vec<u8> {
    [HELD_TAGS, &tag.get().to_be_bytes()].concat()
}

/// A group has at most as many pieces as there are numbers, by the limit of its rules' length.
pub(super) fn rules(name: &GroupName, number: u16) -> Vec<u8> {
    [&all_rules(name)[..], &number.to_be_bytes()].concat()
}

/// What the keys of all pieces of a group's rules begin with, and no other key.
pub(super) fn all_rules(name: &GroupName) -> Vec<u8> {
    [GROUPS, name.as_str().as_bytes(), &[0]].concat()
}

/// The part of a key of [`rules`] that all pieces share.
pub(super) fn without_piece(key: &[u8]) -> &[u8] {
    key.len().checked_sub(2).and_then(|end| key.get(..end)).unwrap_or(key)
}

/// Names hold no zero byte, so no two bindings share a key.
pub(super) fn binding(Binding { group, reach }: &Binding) -> Vec<u8> {
    let workload = match reach.workload {
        Workload::Running => b'r',
        Workload::Staging => b's',
    };
    let space = reach.space.as_ref().map_or("", |space| space.as_str());
    [BINDINGS, group.as_str().as_bytes(), &[0, workload], space.as_bytes()].concat()
}

pub(super) fn commit(revision: Revision) -> Vec<u8> {
    [COMMITS, &revision.get().to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Reach;

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

    #[test]
    fn bindings_that_differ_have_keys_that_differ() {
        let key = |group, workload, space| {
            let group = GroupName::parse("name", group).unwrap();
            binding(&Binding { group, reach: Reach::parse(workload, space).unwrap() })
        };
        let keys = [
            key("a", "running", "s"),
            key("a", "staging", "s"),
            key("a", "running", ""),
            key("a", "running", "rs"),
            key("ar", "running", "s"),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }
}
