//! Application security groups: egress rules, and whom they apply to. The rules are kept in the words they were given;
//! what those mean is `c2c_proto::egress`'s business, and a rule that means nothing is no reason to lose the others.

use super::{GroupGuid, GroupName, Invalid, SpaceId};
use c2c_proto::egress::{SecurityRule, permissions};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Cloud Foundry's operators split groups of more than some hundred rules; ten thousand leave room for those who do not.
const MAX_RULES: usize = 10_000;
/// The texts of a group's rules, together. Twice what ten thousand usual rules take, and with what surrounds it in a
/// message still less than the 4 MB that gRPC takes in one.
const MAX_TEXT_BYTES: usize = 2 << 20;

/// For which containers a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Workload {
    /// Running apps and tasks.
    Running,
    /// Containers in which apps are built.
    Staging,
}

impl Workload {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Running, Self::Staging];

    /// Reads `running` or `staging`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(field: &'static str, text: &str) -> Result<Self, Invalid> {
        let workload = Self::ALL.into_iter().find(|workload| workload.as_str() == text);
        let problem = || format!("{text:?} is not a workload");
        workload.ok_or_else(|| Invalid { field, problem: problem(), expected: "running or staging" })
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Staging => "staging",
        }
    }
}

/// The containers that a group is bound to. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reach {
    /// Of which workload.
    pub workload: Workload,
    /// Of which space; nothing: of all.
    pub space: Option<SpaceId>,
}

impl Reach {
    /// Reads a reach as an operator writes it; an empty space means all.
    ///
    /// # Errors
    /// The first field that cannot be right.
    pub fn parse(workload: &str, space: &str) -> Result<Self, Invalid> {
        let workload = Workload::parse("workload", workload)?;
        let space = (!space.is_empty()).then(|| SpaceId::parse("space", space)).transpose()?;
        Ok(Self { workload, space })
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload = self.workload.as_str();
        match &self.space {
            Some(space) => write!(f, "space {space} for {workload}"),
            None => write!(f, "all spaces for {workload}"),
        }
    }
}

/// A group applies to these containers. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binding {
    /// Which group.
    pub group: GroupName,
    /// To whom.
    pub reach: Reach,
}

/// The rules of a group, in the order and the words they were given. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRules(Arc<[SecurityRule]>);

impl GroupRules {
    /// Takes rules that may be stored and sent; whether they mean something is not asked here.
    ///
    /// # Errors
    /// When they are too many or too long.
    pub fn parse(field: &'static str, rules: Vec<SecurityRule>) -> Result<Self, Invalid> {
        if rules.len() > MAX_RULES {
            let problem = format!("are {}", rules.len());
            return Err(Invalid { field, problem, expected: "at most 10000 in a group; split it" });
        }
        let bytes: usize = rules.iter().map(text_bytes).sum();
        if bytes > MAX_TEXT_BYTES {
            let problem = format!("hold {bytes} bytes of text");
            return Err(Invalid { field, problem, expected: "at most 2097152 in a group; split it" });
        }
        Ok(Self(rules.into()))
    }

    /// Rules that allow nothing.
    #[must_use]
    pub fn none() -> Self {
        Self([].into())
    }

    /// Each of them.
    #[must_use]
    pub fn as_slice(&self) -> &[SecurityRule] {
        &self.0
    }

    /// One line for each rule that allows nothing because it cannot be understood.
    #[must_use]
    pub fn skipped(&self) -> Vec<String> {
        let numbered = (1..).zip(self.as_slice());
        let skipped = numbered.filter_map(|(number, rule)| {
            permissions(rule).err().map(|error| format!("rule {number} is skipped: {error}"))
        });
        skipped.collect()
    }
}

fn text_bytes(rule: &SecurityRule) -> usize {
    let SecurityRule { protocol, destination, ports, description, .. } = rule;
    [protocol, destination, ports, description].into_iter().map(String::len).sum()
}

/// A group as somebody sees it: all of it, or as far as it concerns one cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityGroup {
    /// Its name, unique.
    pub name: GroupName,
    /// Cloud Controller's GUID of it; nothing for a group that an operator made here.
    pub guid: Option<GroupGuid>,
    /// What it allows.
    pub rules: GroupRules,
    /// Whom it applies to.
    pub reaches: BTreeSet<Reach>,
}

/// All groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups {
    held: BTreeMap<GroupName, Held>,
    /// The groups that are bound to a space, and under nothing those that are bound to all.
    by_space: BTreeMap<Option<SpaceId>, BTreeSet<GroupName>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    guid: Option<GroupGuid>,
    rules: GroupRules,
    reaches: BTreeSet<Reach>,
}

impl Groups {
    pub(super) fn names(&self) -> impl Iterator<Item = &GroupName> {
        self.held.keys()
    }

    pub(super) fn rules(&self, name: &GroupName) -> Option<&GroupRules> {
        self.held.get(name).map(|held| &held.rules)
    }

    pub(super) fn guid(&self, name: &GroupName) -> Option<&GroupGuid> {
        self.held.get(name)?.guid.as_ref()
    }

    pub(super) fn reaches(&self, name: &GroupName) -> impl Iterator<Item = &Reach> {
        self.held.get(name).into_iter().flat_map(|held| &held.reaches)
    }

    pub(super) fn is_bound(&self, binding: &Binding) -> bool {
        self.held.get(&binding.group).is_some_and(|held| held.reaches.contains(&binding.reach))
    }

    /// All of a group.
    pub(super) fn whole(&self, name: &GroupName) -> Option<SecurityGroup> {
        let Held { guid, rules, reaches } = self.held.get(name)?.clone();
        Some(SecurityGroup { name: name.clone(), guid, rules, reaches })
    }

    /// A group as far as it concerns the spaces; nothing when it does not. Costs what the spaces cost, however many
    /// others the group is bound to.
    pub(super) fn part(&self, name: &GroupName, spaces: &BTreeSet<SpaceId>) -> Option<SecurityGroup> {
        let held = self.held.get(name)?;
        let all = spaces.iter().cloned().map(Some).chain([None]);
        let reaches =
            all.flat_map(|space| Workload::ALL.map(|workload| Reach { workload, space: space.clone() }));
        let reaches: BTreeSet<Reach> = reaches.filter(|reach| held.reaches.contains(reach)).collect();
        let concerns = !reaches.is_empty();
        let Held { guid, rules, .. } = held;
        concerns.then(|| SecurityGroup {
            name: name.clone(),
            guid: guid.clone(),
            rules: rules.clone(),
            reaches,
        })
    }

    /// The groups bound to any of the spaces, or, for nothing, to all; each once, in order.
    pub(super) fn bound_to<'a>(
        &self,
        spaces: impl IntoIterator<Item = &'a Option<SpaceId>>,
    ) -> BTreeSet<&GroupName> {
        spaces.into_iter().filter_map(|space| self.by_space.get(space)).flatten().collect()
    }

    pub(super) fn set(&mut self, name: &GroupName, guid: Option<&GroupGuid>, rules: &GroupRules) {
        let held = self.held.entry(name.clone()).or_default();
        held.guid = guid.cloned();
        held.rules = rules.clone();
    }

    /// A group that is not there is not bound.
    pub(super) fn bind(&mut self, binding: &Binding) {
        let Binding { group, reach } = binding;
        let Some(held) = self.held.get_mut(group) else { return };
        held.reaches.insert(reach.clone());
        self.by_space.entry(reach.space.clone()).or_default().insert(group.clone());
    }

    pub(super) fn unbind(&mut self, binding: &Binding) {
        let Binding { group, reach } = binding;
        let Some(held) = self.held.get_mut(group) else { return };
        held.reaches.remove(reach);
        if held.reaches.iter().any(|other| other.space == reach.space) {
            return;
        }
        let Some(groups) = self.by_space.get_mut(&reach.space) else { return };
        groups.remove(group);
        if groups.is_empty() {
            self.by_space.remove(&reach.space);
        }
    }

    pub(super) fn remove(&mut self, name: &GroupName) {
        let reaches: Vec<Reach> = self.reaches(name).cloned().collect();
        for reach in reaches {
            self.unbind(&Binding { group: name.clone(), reach });
        }
        self.held.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(protocol: &str, destination: &str, ports: &str) -> SecurityRule {
        let [protocol, destination, ports] = [protocol, destination, ports].map(str::to_owned);
        SecurityRule { protocol, destination, ports, ..SecurityRule::default() }
    }

    #[test]
    fn a_reach_is_a_workload_of_a_space_or_of_all() {
        assert_eq!(Reach::parse("running", "s-1").unwrap().to_string(), "space s-1 for running");
        assert_eq!(Reach::parse("staging", "").unwrap().to_string(), "all spaces for staging");
        let cases = [
            ("Running", "s", "workload: \"Running\" is not a workload; expected running or staging"),
            ("", "s", "workload: \"\" is not a workload; expected running or staging"),
            ("running", "a b", "space: \"a b\" holds ' '; expected 1 to 255 characters of A-Z a-z 0-9 _ . -"),
        ];
        for (workload, space, message) in cases {
            assert_eq!(Reach::parse(workload, space).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn rules_are_limited_in_number_and_text_and_in_nothing_else() {
        let many = |count| GroupRules::parse("rules", vec![rule("tcp", "10.0.0.1", "80"); count]);
        assert_eq!(many(MAX_RULES).unwrap().as_slice().len(), MAX_RULES);
        let error = many(MAX_RULES + 1).unwrap_err().to_string();
        assert_eq!(error, "rules: are 10001; expected at most 10000 in a group; split it");
        let long = |bytes: usize| GroupRules::parse("rules", vec![rule("all", &"x".repeat(bytes - 3), "")]);
        assert_eq!(long(MAX_TEXT_BYTES).unwrap().skipped().len(), 1);
        let error = long(MAX_TEXT_BYTES + 1).unwrap_err().to_string();
        assert_eq!(error, "rules: hold 2097153 bytes of text; expected at most 2097152 in a group; split it");
    }

    #[test]
    fn a_rule_that_cannot_be_understood_is_kept_and_named() {
        let rules =
            vec![rule("tcp", "10.0.0.0/8", "80"), rule("tcp", "10.0.0.0/8", "0"), rule("sctp", "::", "\n")];
        let rules = GroupRules::parse("rules", rules).unwrap();
        assert_eq!(rules.as_slice().len(), 3);
        let skipped = rules.skipped();
        let [ports, protocol] = &skipped[..] else { panic!("{skipped:?}") };
        assert!(ports.starts_with("rule 2 is skipped: ports \"0\" "), "{ports}");
        assert!(protocol.starts_with("rule 3 is skipped: ") && !protocol.contains('\n'), "{protocol}");
    }
}
