//! All security groups made equal to a list, as an importer has it, with the fewest changes: a group that is there as it
//! should be is not touched, and of another only what differs.

use super::group::Groups;
use super::{Binding, Change, GroupName, Reach, SecurityGroup};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn replace(held: &Groups, wanted: &[SecurityGroup]) -> Vec<Change> {
    let wanted: BTreeMap<&GroupName, &SecurityGroup> =
        wanted.iter().map(|group| (&group.name, group)).collect();
    let gone = held.names().filter(|name| !wanted.contains_key(name)).flat_map(|name| remove(held, name));
    let put = wanted.values().flat_map(|group| put(held, group));
    gone.chain(put).collect()
}

fn remove(held: &Groups, name: &GroupName) -> Vec<Change> {
    let reaches = held.reaches(name);
    reaches.map(|reach| unbound(name, reach)).chain([Change::GroupRemoved(name.clone())]).collect()
}

fn put(held: &Groups, group: &SecurityGroup) -> Vec<Change> {
    let SecurityGroup { name, guid, rules, reaches } = group;
    let known = held.rules(name) == Some(rules) && held.guid(name) == guid.as_ref();
    let set = || Change::GroupSet { name: name.clone(), guid: guid.clone(), rules: rules.clone() };
    let before: BTreeSet<&Reach> = held.reaches(name).collect();
    let more = reaches.iter().filter(|reach| !before.contains(reach));
    let less = before.iter().filter(|reach| !reaches.contains(reach));
    let bound = more.map(|reach| Change::GroupBound(Binding { group: name.clone(), reach: reach.clone() }));
    (!known).then(set).into_iter().chain(bound).chain(less.map(|reach| unbound(name, reach))).collect()
}

fn unbound(group: &GroupName, reach: &Reach) -> Change {
    Change::GroupUnbound(Binding { group: group.clone(), reach: reach.clone() })
}
