//! A step of the world: what deltas changed when they named policies only, which is what almost all of them do. What
//! follows from it is worked out for the rows concerned, so that it costs what was changed and not what there is. Pure.
//!
//! Everything else (leases, security groups, snapshots, containers that come and go) is compiled as a whole.

use super::compile::{policy_rows, tag, tag_in};
use super::mirror::Update;
use super::world::{Change, Rule, Tags, World};
use c2c_common::layout::PolicyKey;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Debug, Default)]
pub struct Step {
    changes: Vec<Change>,
    /// The policies named, as they were.
    before: BTreeMap<Rule, Tags>,
}

impl Step {
    /// With what an update will change of the world; `None` when that is more than policies.
    #[must_use]
    pub fn with(mut self, update: &Update, world: &World) -> Option<Self> {
        let Update::Delta { changes, .. } = update else { return None };
        for change in changes {
            let rule = rule(change)?;
            let known = world.policies.get(rule).map(|tags| (rule.clone(), *tags));
            self.before.extend(known.filter(|_| !self.before.contains_key(rule)));
        }
        self.changes.extend(changes.iter().cloned());
        Some(self)
    }

    /// The changes, in order.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The rows of policies that may be others now, in a world in which these apps are hosted; 0: no row.
    #[must_use]
    pub fn rows(&self, world: &World, hosted: &BTreeSet<String>) -> BTreeMap<PolicyKey, u64> {
        let known = |rule| world.policies.get_key_value(rule);
        let now = self.rules().filter_map(known).chain(&self.before);
        let keys = now.flat_map(|(rule, tags)| policy_rows(rule, *tags));
        let mut rows: BTreeMap<_, _> = keys.map(|(key, _)| (key, 0)).collect();
        // Policies of the same apps share rows.
        let pairs: BTreeSet<_> =
            self.rules().map(|rule| (&rule.source, &rule.destination, rule.protocol)).collect();
        let theirs = pairs.into_iter().flat_map(|(from, to, protocol)| world.between(from, to, protocol));
        for (rule, tags) in theirs.filter(|(rule, _)| rule.touches(hosted)) {
            for (key, bits) in policy_rows(rule, *tags) {
                rows.entry(key).and_modify(|row| *row |= bits);
            }
        }
        rows
    }

    /// The tag of an app whose tag was this; `None` when no policy of the step names the app.
    #[must_use]
    pub fn tag(&self, app: &str, was: u16, world: &World) -> Option<u16> {
        let mut naming = self.rules().filter(|rule| rule.names(app)).peekable();
        naming.peek()?;
        let mut tags = naming.filter_map(|rule| tag_in(rule, *world.policies.get(rule)?, app));
        // What is there and says the same as before saves the look at all policies.
        Some(if tags.any(|tag| tag == was) { was } else { tag(world, app) })
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.changes.iter().filter_map(rule)
    }
}

fn rule(change: &Change) -> Option<&Rule> {
    match change {
        Change::PolicyPut(policy) => Some(&policy.rule),
        Change::PolicyRemoved(rule) => Some(rule),
        Change::LeasePut(_) | Change::LeaseRemoved(_) | Change::GroupPut(..) | Change::GroupRemoved(_) => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::fake::{CELL, grant, network};
    use crate::policy::compile::{self, Placed, Scene};
    use crate::policy::world::{Policy, Protocol};
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

    /// The whole, where the first two apps are hosted.
    fn rows(world: &World) -> compile::Rows {
        let place = |app: &str| Placed { app: app.into(), ..Placed::default() };
        let placed = (2..).zip(&APPS[..2]).map(|(n, app)| ([10, 255, 1, n].into(), place(app))).collect();
        let (grant, network, sets) = (grant(), network(), BTreeMap::new());
        compile::rows(Scene {
            world,
            grant: Some(&grant),
            cell: &CELL,
            network: &network,
            placed: &placed,
            sets: &sets,
        })
    }

    proptest! {
        #[test]
        fn a_step_leads_where_the_whole_does(
            before in proptest::collection::vec(policy(), 0..12),
            changes in proptest::collection::vec(change(), 1..6),
            removed in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let old: Vec<_> = before.iter().cloned().map(Change::PolicyPut).collect();
            let gone = removed.iter().filter(|_| !before.is_empty());
            let gone = gone.map(|at| Change::PolicyRemoved(at.get(&before).rule.clone()));
            let changes: Vec<_> = changes.into_iter().chain(gone).collect();
            let (was, now) = (world(&old), world(&[old, changes.clone()].concat()));
            let mut step = Step::default();
            let mut at = was.clone();
            for change in changes {
                let update = Update::Delta { from: 1, to: 2, changes: vec![change.clone()] };
                step = step.with(&update, &at).unwrap();
                at.apply(change);
            }
            let mut stepped = rows(&was).policies;
            stepped.extend(step.rows(&now, &APPS[..2].iter().map(|app| (*app).to_owned()).collect()));
            stepped.retain(|_, bits| *bits != 0);
            prop_assert_eq!(stepped, rows(&now).policies);
            for app in APPS {
                let was = tag(&was, app);
                prop_assert_eq!(step.tag(app, was, &now).unwrap_or(was), tag(&now, app));
            }
        }
    }

    #[test]
    fn more_than_policies_is_no_step() {
        let world = World::default();
        let group = Change::GroupRemoved("g".into());
        let more = Update::Delta { from: 1, to: 2, changes: vec![group] };
        assert!(Step::default().with(&more, &world).is_none());
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
        let (was, now) = (world(&[put(1)]), world(&[put(7)]));
        let update = Update::Delta { from: 1, to: 2, changes: vec![put(7)] };
        let step = Step::default().with(&update, &was).unwrap();
        let rows = step.rows(&now, &["a".to_owned()].into());
        let of = |tag| rows.iter().find(|(key, _)| key.source_tag == tag).map(|(_, bits)| *bits);
        assert_eq!((rows.len(), of(1), of(7)), (2, Some(0), Some(1 << (80 % 64))));
        assert_eq!(step.tag("a", 1, &now), Some(7));
        assert_eq!(step.tag("c", 0, &now), None);
    }
}
