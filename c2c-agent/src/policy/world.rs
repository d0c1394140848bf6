//! The world as one cell knows it: all cells' leases, the policies of the apps it hosts, and the security groups of its
//! spaces, at one revision.

use super::group::Group;
use super::policies::Policies;
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
const MAX_NAME: usize = 255;

/// Whether the controller could speak of an app or a space of that name. Containers of others are wired, and no policy
/// or group speaks of them; the controller would refuse to hear of them.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(legal)
}

/// Apps and spaces: those that a cell hosts, or some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosted {
    /// Apps; policies come with these.
    pub apps: BTreeSet<String>,
    /// Spaces; security groups come with these.
    #[serde(default)]
    pub spaces: BTreeSet<String>,
}

impl Hosted {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.apps.is_empty() && self.spaces.is_empty()
    }

    /// Whether all of `others` are among these.
    #[must_use]
    pub fn covers(&self, others: &Self) -> bool {
        self.apps.is_superset(&others.apps) && self.spaces.is_superset(&others.spaces)
    }

    /// These without `others`.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        Self { apps: &self.apps - &others.apps, spaces: &self.spaces - &others.spaces }
    }

    /// Adds `others`.
    pub fn extend(&mut self, others: Self) {
        self.apps.extend(others.apps);
        self.spaces.extend(others.spaces);
    }

    /// Forgets all but `others`.
    pub fn retain(&mut self, others: &Self) {
        self.apps.retain(|app| others.apps.contains(app));
        self.spaces.retain(|space| others.spaces.contains(space));
    }
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

    /// Whether the policy names the app.
    #[must_use]
    pub fn names(&self, app: &str) -> bool {
        self.source == app || self.destination == app
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

/// One difference between two worlds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A cell got this lease.
    LeasePut(Lease),
    /// A cell lost this lease.
    LeaseRemoved(Lease),
    /// A policy is new, or its tags are.
    PolicyPut(Policy),
    /// A policy is gone.
    PolicyRemoved(Rule),
    /// The security group of this name is new, or another than before.
    GroupPut(String, Group),
    /// The security group of this name is gone, or applies to nothing here any more.
    GroupRemoved(String),
    /// All that concerns these apps and spaces is known from now on.
    Came(Hosted),
    /// These are hosted no more. Policies that touch no other app that is hosted are removed by changes of their own.
    Left(Hosted),
}

/// The world at one revision of one store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// Identity of the controller's store; revisions of another one mean nothing.
    pub store_id: String,
    /// The store's revision.
    pub revision: u64,
    /// The apps whose policies are all in here, and the spaces whose security groups are.
    #[serde(flatten)]
    pub complete: Hosted,
    /// Whether security groups are known at all. Not so in a world that an agent saved which did not know of them yet.
    #[serde(default)]
    pub with_groups: bool,
    /// Leases by block.
    #[serde(serialize_with = "values", deserialize_with = "by_block")]
    pub leases: BTreeMap<Ipv4Net, Lease>,
    /// Policies that touch [`Hosted::apps`].
    pub policies: Policies,
    /// Security groups by name: those that apply by default, and those bound to one of [`Hosted::spaces`].
    #[serde(default)]
    pub groups: BTreeMap<String, Group>,
}

impl World {
    /// Applies one change. Removing what is not there is no error: the end is the same.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::LeasePut(lease) => {
                self.leases.insert(lease.block, lease);
            }
            Change::LeaseRemoved(lease) => self.remove_lease(&lease),
            Change::PolicyPut(policy) => self.policies.insert(policy),
            Change::PolicyRemoved(rule) => self.policies.remove(&rule),
            Change::GroupPut(name, group) => {
                self.groups.insert(name, group);
            }
            Change::GroupRemoved(name) => {
                self.groups.remove(&name);
            }
            Change::Came(these) => self.complete.extend(these),
            Change::Left(these) => {
                self.complete = self.complete.without(&these);
                self.groups.retain(|_, group| group.keep_spaces(|space| !these.spaces.contains(space)));
            }
        }
    }

    /// Whether a change would change nothing.
    pub(super) fn holds(&self, change: &Change) -> bool {
        match change {
            Change::LeasePut(lease) => self.leases.get(&lease.block) == Some(lease),
            Change::LeaseRemoved(lease) => !self.is_of(lease),
            Change::PolicyPut(policy) => self.policies.get(&policy.rule) == Some(policy.tags),
            Change::PolicyRemoved(rule) => self.policies.get(rule).is_none(),
            Change::GroupPut(name, group) => self.groups.get(name) == Some(group),
            Change::GroupRemoved(name) => !self.groups.contains_key(name),
            Change::Came(these) => self.complete.covers(these),
            Change::Left(these) => these.is_empty(),
        }
    }

    /// What makes all that is known of `asked` this.
    pub(super) fn corrections(
        &self,
        asked: Hosted,
        policies: Vec<Policy>,
        groups: BTreeMap<String, Group>,
    ) -> Vec<Change> {
        let said: BTreeSet<_> = policies.iter().map(|policy| &policy.rule).collect();
        let known = self.policies.naming_one_of(&asked.apps).into_keys();
        let gone = known.filter(|rule| !said.contains(rule)).cloned().map(Change::PolicyRemoved);
        let bound = self.groups.iter().filter(|(_, group)| group.is_bound_to(&asked.spaces));
        let unbound = bound.filter(|(name, _)| !groups.contains_key(*name)).map(|(name, group)| {
            let mut group = group.clone();
            group.keep_spaces(|space| !asked.spaces.contains(space));
            Change::GroupPut(name.clone(), group)
        });
        let mut changes: Vec<_> = gone.chain(unbound).collect();
        changes.extend(policies.into_iter().map(Change::PolicyPut));
        changes.extend(groups.into_iter().map(|(name, group)| Change::GroupPut(name, group)));
        changes.push(Change::Came(asked));
        changes
    }

    /// Forgets what concerns none of `hosted`.
    pub fn retain(&mut self, hosted: &Hosted) {
        self.complete.retain(hosted);
        self.policies.retain(|rule| rule.touches(&hosted.apps));
        self.groups.retain(|_, group| group.keep_spaces(|space| hosted.spaces.contains(space)));
    }

    /// Whether the lease is the one known of its block.
    fn is_of(&self, lease: &Lease) -> bool {
        self.leases.get(&lease.block).is_some_and(|known| known.cell == lease.cell)
    }

    /// A block that was given to another cell in the meantime is not taken from it.
    fn remove_lease(&mut self, lease: &Lease) {
        if self.is_of(lease) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use c2c_proto::egress::SecurityRule;

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
        let mut world = World { store_id: "s".into(), revision: 9, with_groups: true, ..World::default() };
        world.complete.apps.insert("frontend".into());
        world.complete.spaces.insert("space".into());
        world.apply(Change::LeasePut(lease("a")));
        let rule = Rule {
            source: "frontend".into(),
            destination: "backend".into(),
            protocol: Protocol::Tcp,
            port_start: 7000,
            port_end: 7010,
        };
        world.apply(Change::PolicyPut(Policy { rule, tags: Tags { source: 1, destination: 2 } }));
        let rule = SecurityRule {
            protocol: "icmp".into(),
            destination: "10.0.0.0/8".into(),
            icmp_type: Some(8),
            ..SecurityRule::default()
        };
        let group =
            Group { rules: vec![rule], running_spaces: ["space".to_owned()].into(), ..Group::default() };
        world.apply(Change::GroupPut("dns".into(), group));
        let json = serde_json::to_string(&world).unwrap();
        assert_eq!(serde_json::from_str::<World>(&json).unwrap(), world);
    }

    #[test]
    fn a_world_that_was_saved_before_there_were_groups_is_read() {
        let json = r#"{"store_id":"s","revision":9,"apps":["frontend"],"leases":[],"policies":[]}"#;
        let world: World = serde_json::from_str(json).unwrap();
        assert_eq!((world.revision, world.with_groups), (9, false));
        assert_eq!(world.complete.apps, ["frontend".to_owned()].into());
    }
}
