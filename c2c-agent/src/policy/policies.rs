//! The policies of a world, found by rule and by the apps that they name, so that a change of one app costs that app's
//! policies and not all of them.

use super::world::{Policy, Protocol, Rule, Tags};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// In the order of sources, then of destinations.
    rules: BTreeMap<Rule, Tags>,
    /// By destination, the sources that policies lead from to it, and how many of each.
    sources: BTreeMap<String, BTreeMap<String, usize>>,
}

impl Policies {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// All, in the order of their rules.
    pub fn iter(&self) -> impl Iterator<Item = (&Rule, &Tags)> {
        self.rules.iter()
    }

    /// The tags of the policy with this rule.
    #[must_use]
    pub fn get(&self, rule: &Rule) -> Option<Tags> {
        self.rules.get(rule).copied()
    }

    /// Adds a policy, in place of one with the same rule.
    pub fn insert(&mut self, Policy { rule, tags }: Policy) {
        let (source, destination) = (rule.source.clone(), rule.destination.clone());
        if self.rules.insert(rule, tags).is_none() {
            *self.sources.entry(destination).or_default().entry(source).or_default() += 1;
        }
    }

    /// Removes the policy with this rule; it may be gone.
    pub fn remove(&mut self, rule: &Rule) {
        if self.rules.remove(rule).is_none() {
            return;
        }
        let Some(sources) = self.sources.get_mut(&rule.destination) else { return };
        let left = sources.get_mut(&rule.source).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            sources.remove(&rule.source);
        }
        if sources.is_empty() {
            self.sources.remove(&rule.destination);
        }
    }

    /// Removes what `keep` refuses; looks at all.
    pub fn retain(&mut self, keep: impl Fn(&Rule) -> bool) {
        let gone: Vec<_> = self.rules.keys().filter(|rule| !keep(rule)).cloned().collect();
        gone.iter().for_each(|rule| self.remove(rule));
    }

    /// The policies from one app to another.
    pub fn between(&self, source: &str, destination: &str) -> impl Iterator<Item = (&Rule, &Tags)> {
        self.after(source, destination)
            .take_while(move |(rule, _)| rule.source == source && rule.destination == destination)
    }

    /// The policies that name an app.
    pub fn naming(&self, app: &str) -> impl Iterator<Item = (&Rule, &Tags)> {
        let from = self.after(app, "").take_while(move |(rule, _)| rule.source == app);
        let sources = self.sources.get(app).into_iter().flat_map(BTreeMap::keys);
        let others = sources.filter(move |source| *source != app);
        from.chain(others.flat_map(move |source| self.between(source, app)))
    }

    /// The policies that name one of `apps`.
    pub(super) fn naming_one_of(&self, apps: &BTreeSet<String>) -> BTreeMap<&Rule, Tags> {
        apps.iter().flat_map(|app| self.naming(app)).map(|(rule, tags)| (rule, *tags)).collect()
    }

    /// The tag of an app, 0 when no policy names it.
    #[must_use]
    pub fn tag(&self, app: &str) -> u16 {
        let tag =
            |(rule, tags): (&Rule, &Tags)| if rule.source == app { tags.source } else { tags.destination };
        self.naming(app).next().map_or(0, tag)
    }

    /// From the first policy that there could be from one app to another.
    fn after(&self, source: &str, destination: &str) -> impl Iterator<Item = (&Rule, &Tags)> {
        let first = Rule {
            source: source.to_owned(),
            destination: destination.to_owned(),
            protocol: Protocol::Tcp,
            port_start: 0,
            port_end: 0,
        };
        self.rules.range(first..)
    }
}

impl FromIterator<Policy> for Policies {
    fn from_iter<I: IntoIterator<Item = Policy>>(policies: I) -> Self {
        let mut all = Self::default();
        policies.into_iter().for_each(|policy| all.insert(policy));
        all
    }
}

impl Serialize for Policies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|(rule, tags)| Policy { rule: rule.clone(), tags: *tags }))
    }
}

impl<'de> Deserialize<'de> for Policies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<Policy>::deserialize(deserializer).map(Self::from_iter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const APPS: [&str; 4] = ["a", "b", "ba", "c"];

    fn policy() -> impl Strategy<Value = Policy> {
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
        (0..4usize, 0..4usize, protocol, 1..4u16).prop_map(|(from, to, protocol, port_start)| {
            let (source, destination) = (APPS[from].into(), APPS[to].into());
            let tag = |app| u16::try_from(app + 1).unwrap();
            Policy {
                rule: Rule { source, destination, protocol, port_start, port_end: port_start },
                tags: Tags { source: tag(from), destination: tag(to) },
            }
        })
    }

    proptest! {
        /// Against all that there are, looked at one by one.
        #[test]
        fn what_names_an_app_is_found(changes in proptest::collection::vec((policy(), any::<bool>()), 0..60)) {
            let mut policies = Policies::default();
            let mut all = BTreeMap::new();
            for (policy, put) in changes {
                if put {
                    all.insert(policy.rule.clone(), policy.tags);
                    policies.insert(policy);
                } else {
                    all.remove(&policy.rule);
                    policies.remove(&policy.rule);
                }
            }
            let again: Policies = all.iter().map(|(rule, tags)| Policy { rule: rule.clone(), tags: *tags }).collect();
            prop_assert_eq!(&policies, &again, "nothing is left of what was removed");
            for (tag, app) in (1..).zip(APPS) {
                let naming: BTreeMap<_, _> = policies.naming(app).collect();
                prop_assert_eq!(policies.naming(app).count(), naming.len(), "none comes twice");
                prop_assert_eq!(naming, all.iter().filter(|(rule, _)| rule.names(app)).collect());
                let named = all.keys().any(|rule| rule.names(app));
                prop_assert_eq!(policies.tag(app), if named { tag } else { 0 });
                for other in APPS {
                    let between: Vec<_> = policies.between(app, other).collect();
                    let want = all.iter().filter(|(rule, _)| rule.source == app && rule.destination == other);
                    prop_assert_eq!(between, want.collect::<Vec<_>>());
                }
            }
        }
    }
}
