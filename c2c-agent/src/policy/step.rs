//! A step of the world: what became different of it, and the rows of policies that follow from that, so that a change
//! costs what it changes and not what there is. Pure.
//!
//! A snapshot is no step, and neither is a container: what follows from those is compiled as a whole.

use super::compile::policy_rows;
use super::world::{Change, Policy, Rule, Tags, World};
use c2c_common::layout::PolicyKey;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    changes: Vec<Change>,
    /// The policies that became others, came or went, as they were.
    before: BTreeMap<Rule, Option<Tags>>,
    moves_leases: bool,
    moves_groups: bool,
}

impl Step {
    /// Adds a change that is about to be applied to `world`.
    pub fn add(&mut self, change: Change, world: &World) {
        if let Change::PolicyPut(Policy { rule, .. }) | Change::PolicyRemoved(rule) = &change {
            self.before.entry(rule.clone()).or_insert_with(|| world.policies.get(rule));
        }
        self.moves_leases |= matches!(change, Change::LeasePut(_) | Change::LeaseRemoved(_));
        self.moves_groups |= matches!(change, Change::GroupPut(..) | Change::GroupRemoved(_));
        self.changes.push(change);
    }

    /// The changes, in order.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether leases became others.
    #[must_use]
    pub fn moves_leases(&self) -> bool {
        self.moves_leases
    }

    /// Whether security groups became others. One that no space is left for applies to no container here.
    #[must_use]
    pub fn moves_groups(&self) -> bool {
        self.moves_groups
    }

    /// The apps that are named by policies of the step: those whose tags may be others.
    #[must_use]
    pub fn apps(&self) -> BTreeSet<&str> {
        self.before.keys().flat_map(|rule| [rule.source.as_str(), rule.destination.as_str()]).collect()
    }

    /// The rows of policies that may be others now, in a world in which these apps are hosted; 0: no row.
    #[must_use]
    pub fn rows(&self, world: &World, hosted: &BTreeSet<String>) -> BTreeMap<PolicyKey, u64> {
        let mut rows = BTreeMap::new();
        for (rule, before) in &self.before {
            let tags = [*before, world.policies.get(rule)].into_iter().flatten();
            rows.extend(tags.flat_map(|tags| policy_rows(rule, tags)).map(|(key, _)| (key, 0)));
        }
        // Policies of the same apps share rows.
        let pairs: BTreeSet<_> = self.before.keys().map(|rule| (&rule.source, &rule.destination)).collect();
        let theirs = pairs.into_iter().flat_map(|(from, to)| world.policies.between(from, to));
        for (rule, tags) in theirs.filter(|(rule, _)| rule.touches(hosted)) {
            for (key, bits) in policy_rows(rule, *tags) {
                rows.entry(key).and_modify(|row| *row |= bits);
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::fake::{CELL, grant, network};
    use crate::policy::compile::{self, Placed, Scene};
    use crate::policy::world::Protocol;
    use proptest::prelude::*;

    const APPS: [&str; 4] = ["a", "b", "c", "d"];

    /// A policy between some of few apps, so that policies meet; each app has its tag.
    fn policy() -> impl Strategy<Value = Policy> {
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
        (0..4usize, 0..4usize, protocol, 60..140u16, 0..80u16).prop_map(
            |(from, to, protocol, start, more)| {
                let rule = Rule {
                    source: APPS[from].into(),
                    destination: APPS[to].into(),
                    protocol,
                    port_start: start,
                    port_end: start + more,
                };
                let tag = |app| u16::try_from(app + 1).unwrap();
                Policy { rule, tags: Tags { source: tag(from), destination: tag(to) } }
            },
        )
    }

    fn change() -> impl Strategy<Value = Change> {
        (policy(), any::<bool>()).prop_map(|(policy, put)| {
            if put { Change::PolicyPut(policy) } else { Change::PolicyRemoved(policy.rule) }
        })
    }

    fn world(changes: &[Change]) -> World {
        let mut world = World::default();
        changes.iter().cloned().for_each(|change| world.apply(change));
        world
    }

    fn hosted(apps: usize) -> BTreeSet<String> {
        APPS[..apps].iter().map(|app| (*app).to_owned()).collect()
    }

    /// Where changes lead from a world, and as a step.
    fn stepped(was: &World, changes: Vec<Change>) -> (World, Step) {
        let (mut now, mut step) = (was.clone(), Step::default());
        for change in changes {
            step.add(change.clone(), &now);
            now.apply(change);
        }
        (now, step)
    }

    /// The whole, where these apps are hosted.
    fn rows(world: &World, hosted: &BTreeSet<String>) -> BTreeMap<PolicyKey, u64> {
        let place = |app: &String| Placed { app: app.clone(), ..Placed::default() };
        let placed = (2..).zip(hosted).map(|(n, app)| ([10, 255, 1, n].into(), place(app))).collect();
        let (grant, network, sets) = (grant(), network(), BTreeMap::new());
        let grant = Some(&grant);
        compile::rows(Scene { world, grant, cell: &CELL, network: &network, placed: &placed, sets: &sets })
            .policies
    }

    proptest! {
        #[test]
        fn a_step_leads_where_the_whole_does(
            before in proptest::collection::vec(policy(), 0..12),
            changes in proptest::collection::vec(change(), 0..6),
            removed in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
            stay in 0..3usize,
        ) {
            let old: Vec<_> = before.iter().cloned().map(Change::PolicyPut).collect();
            let gone = removed.iter().filter(|_| !before.is_empty());
            let gone = gone.map(|at| Change::PolicyRemoved(at.get(&before).rule.clone()));
            let changes: Vec<_> = changes.into_iter().chain(gone).collect();
            let was = world(&old);
            let after = stepped(&was, changes.clone()).0;
            // Of the two apps, these stay; with the others goes what touches none that stays.
            let stay = hosted(stay);
            let strange = after.policies.iter().map(|(rule, _)| rule).filter(|rule| !rule.touches(&stay));
            let changes = changes.into_iter().chain(strange.cloned().map(Change::PolicyRemoved));
            let (now, step) = stepped(&was, changes.collect());
            let mut there = rows(&was, &hosted(2));
            there.extend(step.rows(&now, &stay));
            there.retain(|_, bits| *bits != 0);
            prop_assert_eq!(there, rows(&now, &stay));
            for app in APPS.iter().filter(|app| !step.apps().contains(**app)) {
                prop_assert_eq!(was.policies.tag(app), now.policies.tag(app));
            }
        }
    }

    #[test]
    fn a_tag_that_is_another_now_moves_its_rows() {
        let rule = Rule {
            source: "a".into(),
            destination: "b".into(),
            protocol: Protocol::Tcp,
            port_start: 80,
            port_end: 80,
        };
        let put =
            |source| Change::PolicyPut(Policy { rule: rule.clone(), tags: Tags { source, destination: 2 } });
        let (now, step) = stepped(&world(&[put(1)]), vec![put(7)]);
        let rows = step.rows(&now, &hosted(1));
        let of = |tag| rows.iter().find(|(key, _)| key.source_tag == tag).map(|(_, bits)| *bits);
        assert_eq!((rows.len(), of(1), of(7)), (2, Some(0), Some(1 << (80 % 64))));
        assert_eq!(step.apps(), ["a", "b"].into());
    }
}
