//! The world as one cell knows it: all cells' leases, and the policies of the apps it hosts, at one revision.

use crate::lease::Lease;
use ipnet::Ipv4Net;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

/// Transport protocols that a policy can name; the numbers are IANA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// As the controller has it.
const MAX_APP_NAME: usize = 255;

/// Whether a policy could name the app. Containers of other apps are wired, and no policy speaks of them; the controller
/// would refuse to hear of them.
#[must_use]
pub fn is_app_name(app: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    !app.is_empty() && app.len() <= MAX_APP_NAME && app.chars().all(legal)
}

/// What a policy allows. Two policies with the same rule are the same policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// The app that opens the flow.
    pub source: String,
    /// The app that is reached.
    pub destination: String,
    /// Over this protocol.
    pub protocol: Protocol,
    /// First port, from 1 on.
    pub port_start: u16,
    /// Last port, not below the first.
    pub port_end: u16,
}

impl Rule {
    /// The ports.
    #[must_use]
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.port_start..=self.port_end
    }

    /// Whether the policy names one of `apps`.
    #[must_use]
    pub fn touches(&self, apps: &BTreeSet<String>) -> bool {
        apps.contains(&self.source) || apps.contains(&self.destination)
    }
}

/// The tags of a policy's two apps, 1 to 65535 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    /// Of the app that opens the flow.
    pub source: u16,
    /// Of the app that is reached.
    pub destination: u16,
}

/// A policy: a rule, and the tags it is enforced by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What it allows.
    #[serde(flatten)]
    pub rule: Rule,
    /// Tags of its apps.
    pub tags: Tags,
}

/// One difference between two revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A cell got this lease.
    LeasePut(Lease),
    /// A cell lost this lease.
    LeaseRemoved(Lease),
    /// A policy is new, or its tags are.
    PolicyPut(Policy),
    /// A policy is gone.
    PolicyRemoved(Rule),
}

/// The world at one revision of one store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// Identity of the controller's store; revisions of another one mean nothing.
    pub store_id: String,
    /// The store's revision.
    pub revision: u64,
    /// The apps whose policies are all in here.
    pub apps: BTreeSet<String>,
    /// Leases by block.
    #[serde(serialize_with = "values", deserialize_with = "by_block")]
    pub leases: BTreeMap<Ipv4Net, Lease>,
    /// Policies that touch [`World::apps`].
    #[serde(serialize_with = "as_policies", deserialize_with = "by_rule")]
    pub policies: BTreeMap<Rule, Tags>,
}

impl World {
    /// Applies one change. Removing what is not there is no error: the end is the same.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::LeasePut(lease) => {
                self.leases.insert(lease.block, lease);
            }
            Change::LeaseRemoved(lease) => self.remove_lease(&lease),
            Change::PolicyPut(policy) => {
                self.policies.insert(policy.rule, policy.tags);
            }
            Change::PolicyRemoved(rule) => {
                self.policies.remove(&rule);
            }
        }
    }

    /// Forgets what concerns none of `apps`.
    pub fn retain_apps(&mut self, apps: &BTreeSet<String>) {
        self.apps.retain(|app| apps.contains(app));
        self.policies.retain(|rule, _| rule.touches(apps));
    }

    /// Whether a policy names the app.
    #[must_use]
    pub fn names(&self, app: &str) -> bool {
        self.policies.keys().any(|rule| rule.source == app || rule.destination == app)
    }

    /// A block that was given to another cell in the meantime is not taken from it.
    fn remove_lease(&mut self, lease: &Lease) {
        if self.leases.get(&lease.block).is_some_and(|known| known.cell == lease.cell) {
            self.leases.remove(&lease.block);
        }
    }
}

fn values<S: Serializer>(leases: &BTreeMap<Ipv4Net, Lease>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(leases.values())
}

fn by_block<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<Ipv4Net, Lease>, D::Error> {
    let leases = Vec::<Lease>::deserialize(deserializer)?;
    Ok(leases.into_iter().map(|lease| (lease.block, lease)).collect())
}

fn as_policies<S: Serializer>(policies: &BTreeMap<Rule, Tags>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(policies.iter().map(|(rule, tags)| Policy { rule: rule.clone(), tags: *tags }))
}

fn by_rule<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<Rule, Tags>, D::Error> {
    let policies = Vec::<Policy>::deserialize(deserializer)?;
    Ok(policies.into_iter().map(|policy| (policy.rule, policy.tags)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(cell: &str) -> Lease {
        Lease {
            cell: cell.into(),
            underlay: [192, 0, 2, 1].into(),
            block: "10.255.1.0/24".parse().unwrap(),
            mac: [0xee, 0xee, 10, 255, 1, 0],
        }
    }

    #[test]
    fn a_late_removal_does_not_take_the_block_of_its_next_holder() {
        let mut world = World::default();
        world.apply(Change::LeasePut(lease("a")));
        world.apply(Change::LeasePut(lease("b")));
        world.apply(Change::LeaseRemoved(lease("a")));
        assert_eq!(world.leases.len(), 1);
        world.apply(Change::LeaseRemoved(lease("b")));
        assert!(world.leases.is_empty());
    }

    #[test]
    fn a_world_survives_json() {
        let mut world = World { store_id: "s".into(), revision: 9, ..World::default() };
        world.apps.insert("frontend".into());
        world.apply(Change::LeasePut(lease("a")));
        let rule = Rule {
            source: "frontend".into(),
            destination: "backend".into(),
            protocol: Protocol::Tcp,
            port_start: 7000,
            port_end: 7010,
        };
        world.apply(Change::PolicyPut(Policy { rule, tags: Tags { source: 1, destination: 2 } }));
        let json = serde_json::to_string(&world).unwrap();
        assert_eq!(serde_json::from_str::<World>(&json).unwrap(), world);
    }
}
