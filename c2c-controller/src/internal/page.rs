//! Pages of security groups. policy-server-internal orders them by the row that its database gave them; here each has a number
//! made of its name, which is the same for all controllers and stays the same when other groups come and go between two pages.

use crate::domain::{GroupName, SecurityGroup};
use ring::digest::{SHA256, digest};

/// The groups from this row on, at most so many; and the row of the first one after them, or 0.
pub(super) fn cut(
    mut groups: Vec<SecurityGroup>,
    from: Option<u64>,
    limit: Option<usize>,
) -> (Vec<SecurityGroup>, u64) {
    groups.retain(|group| from.is_none_or(|from| row(&group.name) >= from));
    groups.sort_by_cached_key(|group| row(&group.name));
    let mut after = groups.split_off(limit.unwrap_or(groups.len()).min(groups.len())).into_iter();
    (groups, after.next().map_or(0, |next| row(&next.name)))
}

/// From 1 to the greatest that Go's `int` holds. That two of some thousand groups have the same is one in 10^12.
fn row(name: &GroupName) -> u64 {
    let digest = digest(&SHA256, name.as_str().as_bytes());
    let first = digest.as_ref().first_chunk().copied().map_or(0, u64::from_be_bytes);
    (first >> 1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::GroupRules;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn group(number: usize) -> SecurityGroup {
        let name = GroupName::parse("name", &format!("group-{number}")).unwrap();
        SecurityGroup { name, guid: None, rules: GroupRules::none(), reaches: BTreeSet::new() }
    }

    proptest! {
        #[test]
        fn all_groups_are_on_one_page_each_whatever_else_goes_meanwhile(
            numbers in prop::collection::btree_set(0..100_usize, 0..30),
            limit in 1..9_usize,
            gone in 0..100_usize,
        ) {
            let mut all: Vec<_> = numbers.iter().copied().map(group).collect();
            let gone = group(gone);
            let (mut seen, mut from) = (Vec::new(), None);
            loop {
                let (page, next) = cut(all.clone(), from, Some(limit));
                prop_assert!(page.len() == limit || next == 0);
                seen.extend(page.into_iter().map(|group| group.name));
                all.retain(|group| group.name != gone.name);
                from = Some(next);
                if next == 0 {
                    break;
                }
            }
            let distinct: BTreeSet<_> = seen.iter().cloned().collect();
            prop_assert_eq!(distinct.len(), seen.len());
            prop_assert!(all.iter().all(|group| distinct.contains(&group.name)));
        }
    }

    #[test]
    fn without_a_limit_there_is_one_page() {
        let (page, next) = cut((0..50).map(group).collect(), None, None);
        assert_eq!((page.len(), next), (50, 0));
        assert_eq!(cut(Vec::new(), Some(1), Some(1)), (Vec::new(), 0));
    }
}
