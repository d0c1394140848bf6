//! Which egress rules apply to a container: the security groups of its space, or else the static rules that its runtime
//! brought. Pure; what the rules become is [`super::egress`]'s, and who remembers it is the fabric's.
//!
//! As Silk has it: groups count for containers whose app and space are known and whose workload is running or staging;
//! rules only ever allow, so their order means nothing; denied networks come before all of them.

use super::compile::Placed;
use super::egress::Selection;
use super::group::{Group, Workload};
use super::world::World;
use crate::config::{DenyNetworks, Network, StaticEgress};
use c2c_proto::agent_api::NetOutRule;
use c2c_proto::egress::{Permission, RuleError, of_net_out, permissions};
use ipnet::Ipv4Net;
use std::collections::BTreeMap;

/// Where a container's rules come from. Containers with equal choices may reach the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Choice {
    /// What the container does: which networks are denied to it.
    pub workload: Workload,
    /// Whose rules apply.
    pub source: Source,
}

/// Whose rules apply.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Those of the security groups of these names.
    Groups(Vec<String>),
    /// The container's own, as its runtime brought them.
    Static(Vec<NetOutRule>),
    /// Nobody's: it may reach nothing outside.
    Nothing,
}

impl Choice {
    /// The choice for a container.
    #[must_use]
    pub fn of(place: &Placed, world: &World, policy: StaticEgress) -> Self {
        let applying = world.groups.iter().filter(|(_, group)| place.is_under(group));
        let groups: Vec<_> = applying.map(|(name, _)| name.clone()).collect();
        let source = if !groups.is_empty() {
            Source::Groups(groups)
        } else if place.egress.is_empty() || policy == StaticEgress::Ignore {
            Source::Nothing
        } else {
            Source::Static(place.egress.clone())
        };
        Self { workload: place.workload, source }
    }
}

impl Placed {
    fn is_under(&self, group: &Group) -> bool {
        !self.space.is_empty() && group.applies(self.workload, &self.space)
    }
}

/// What a choice comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// What is allowed, and what is denied before that.
    pub selection: Selection,
    /// One line for each rule that cannot be read; the others stand.
    pub skipped: Vec<String>,
}

/// Reads the rules of choices, each group's once.
#[derive(Debug)]
pub struct Reader<'a> {
    groups: &'a BTreeMap<String, Group>,
    deny: &'a DenyNetworks,
    read: BTreeMap<String, Rules>,
}

/// Rules that were read, and one line for each that could not be.
type Rules = (Vec<Permission>, Vec<String>);

impl<'a> Reader<'a> {
    /// A reader of the world's groups and the cell's denied networks.
    #[must_use]
    pub fn new(world: &'a World, network: &'a Network) -> Self {
        Self { groups: &world.groups, deny: &network.deny, read: BTreeMap::new() }
    }

    /// What a choice comes to. A group that is not known any more allows nothing.
    pub fn read(&mut self, choice: &Choice) -> Selected {
        let (permissions, skipped) = match &choice.source {
            Source::Groups(names) => self.read_groups(names),
            Source::Static(rules) => rules_of(rules.iter().map(of_net_out), "static rules"),
            Source::Nothing => Rules::default(),
        };
        let denied = denied(self.deny, choice.workload);
        Selected { selection: Selection { permissions, denied }, skipped }
    }

    fn read_groups(&mut self, names: &[String]) -> Rules {
        let (mut all, mut skipped) = Rules::default();
        for name in names {
            let rules = self.read_group(name);
            all.extend_from_slice(&rules.0);
            skipped.extend_from_slice(&rules.1);
        }
        (all, skipped)
    }

    fn read_group(&mut self, name: &str) -> &Rules {
        let groups = self.groups;
        self.read.entry(name.to_owned()).or_insert_with(|| {
            let rules = groups.get(name).map_or(&[][..], |group| &group.rules);
            rules_of(rules.iter().map(permissions), &format!("security group {name}"))
        })
    }
}

fn rules_of(rules: impl Iterator<Item = Result<Vec<Permission>, RuleError>>, whose: &str) -> Rules {
    let (mut all, mut skipped) = Rules::default();
    for rule in rules {
        match rule {
            Ok(allowed) => all.extend(allowed),
            Err(error) => skipped.push(format!("{whose}: {error}")),
        }
    }
    (all, skipped)
}

fn denied(deny: &DenyNetworks, workload: Workload) -> Vec<Ipv4Net> {
    let own: &[Ipv4Net] = match workload {
        Workload::Running => &deny.running,
        Workload::Staging => &deny.staging,
        Workload::Other => &[],
    };
    own.iter().chain(&deny.always).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use c2c_proto::egress::SecurityRule;

    fn rule(destination: &str) -> SecurityRule {
        SecurityRule { protocol: "all".into(), destination: destination.into(), ..SecurityRule::default() }
    }

    fn world() -> World {
        let default = Group {
            rules: vec![rule("192.0.2.1"), rule("nowhere")],
            running_default: true,
            ..Group::default()
        };
        let bound = Group {
            rules: vec![rule("192.0.2.2")],
            running_spaces: ["s".to_owned()].into(),
            staging_spaces: ["s".to_owned()].into(),
            ..Group::default()
        };
        World { groups: [("default".into(), default), ("bound".into(), bound)].into(), ..World::default() }
    }

    fn place(space: &str, workload: Workload, egress: &[NetOutRule]) -> Placed {
        Placed { space: space.into(), workload, egress: egress.to_vec(), ..Placed::default() }
    }

    fn names(choice: &Choice) -> Vec<&str> {
        let Source::Groups(names) = &choice.source else { return Vec::new() };
        names.iter().map(String::as_str).collect()
    }

    #[test]
    fn groups_apply_by_space_and_workload() {
        let choice =
            |space, workload| Choice::of(&place(space, workload, &[]), &world(), StaticEgress::Fallback);
        assert_eq!(names(&choice("s", Workload::Running)), ["bound", "default"]);
        assert_eq!(names(&choice("t", Workload::Running)), ["default"]);
        assert_eq!(names(&choice("s", Workload::Staging)), ["bound"]);
        for (space, workload) in [("s", Workload::Other), ("t", Workload::Staging), ("", Workload::Running)] {
            assert_eq!(choice(space, workload).source, Source::Nothing);
        }
    }

    #[test]
    fn static_rules_apply_when_no_group_does_unless_they_are_ignored() {
        let own = [NetOutRule::default()];
        let source = |workload, policy| Choice::of(&place("t", workload, &own), &world(), policy).source;
        assert_eq!(source(Workload::Staging, StaticEgress::Fallback), Source::Static(own.to_vec()));
        assert_eq!(source(Workload::Staging, StaticEgress::Ignore), Source::Nothing);
        assert_eq!(source(Workload::Running, StaticEgress::Fallback), Source::Groups(vec!["default".into()]));
    }

    #[test]
    fn a_bad_rule_is_told_and_the_others_stand() {
        let (world, network) = (world(), crate::fabric::fake::network());
        let choice = Choice::of(&place("s", Workload::Running, &[]), &world, StaticEgress::Fallback);
        let selected = Reader::new(&world, &network).read(&choice);
        let allowed: Vec<_> =
            selected.selection.permissions.iter().map(|one| one.first.octets()[3]).collect();
        assert_eq!(allowed, [2, 1]);
        assert_eq!(selected.skipped.len(), 1);
        assert!(
            selected.skipped[0].contains("security group default") && selected.skipped[0].contains("nowhere")
        );
    }

    #[test]
    fn denied_networks_are_those_of_the_workload_and_of_all() {
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let deny = DenyNetworks {
            always: vec![net("10.0.0.0/8")],
            running: vec![net("172.16.0.0/12")],
            staging: vec![net("192.168.0.0/16")],
        };
        assert_eq!(denied(&deny, Workload::Running), [net("172.16.0.0/12"), net("10.0.0.0/8")]);
        assert_eq!(denied(&deny, Workload::Staging), [net("192.168.0.0/16"), net("10.0.0.0/8")]);
        assert_eq!(denied(&deny, Workload::Other), [net("10.0.0.0/8")]);
    }
}
