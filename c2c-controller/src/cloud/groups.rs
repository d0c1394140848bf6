//! Security groups in Cloud Controller's words become ours. A rule that cannot be read is kept, and skipped by the cells
//! like an operator's. A group's name is its own here if that can be a name and nobody else has it; else it is its GUID.

use super::controller::Guid;
use crate::domain::{GroupGuid, GroupName, GroupRules, Invalid, Reach, SecurityGroup, SpaceId, Workload};
use c2c_proto::egress::SecurityRule;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A security group as Cloud Controller lists it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Listed {
    guid: String,
    name: String,
    /// Looked at one by one, so that one strange rule does not hide the others.
    rules: Vec<Value>,
    globally_enabled: Enabled,
    relationships: Spaces,
}

#[derive(Clone, Debug, Deserialize)]
struct Enabled {
    running: bool,
    staging: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct Spaces {
    running_spaces: ToMany,
    staging_spaces: ToMany,
}

/// A relationship to several other things.
#[derive(Clone, Debug, Deserialize)]
struct ToMany {
    data: Vec<Guid>,
}

/// A list that cannot be one, as one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListError {
    /// Something in it is not what Cloud Controller has.
    #[error("a security group of Cloud Controller: {0}")]
    Invalid(#[from] Invalid),
    /// It changed between two pages.
    #[error("security group {0} of Cloud Controller is in the list twice")]
    Twice(GroupGuid),
}

/// All groups of a list. One whose rules are too many to be kept has those of `held`, until somebody splits it.
pub(crate) fn groups(listed: Vec<Listed>, held: &[SecurityGroup]) -> Result<Vec<SecurityGroup>, ListError> {
    let mut seen = BTreeSet::new();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for group in &listed {
        let guid = GroupGuid::parse("guid", &group.guid)?;
        if let Some(twice) = seen.replace(guid) {
            return Err(ListError::Twice(twice));
        }
        // A name that is another's GUID is taken, too.
        for name in BTreeSet::from([group.name.as_str(), group.guid.as_str()]) {
            *names.entry(name).or_default() += 1;
        }
    }
    let own = listed.iter().map(|group| names.get(group.name.as_str()) == Some(&1)).collect::<Vec<_>>();
    listed.into_iter().zip(own).filter_map(|(group, own)| group.known(own, held).transpose()).collect()
}

impl Listed {
    /// Nothing for a new group that cannot be kept.
    fn known(self, own_name: bool, held: &[SecurityGroup]) -> Result<Option<SecurityGroup>, ListError> {
        let guid = GroupGuid::parse("guid", &self.guid)?;
        let name = GroupName::parse("name", &self.name).ok().filter(|_| own_name);
        let name = name.map_or_else(|| GroupName::parse("name", &self.guid), Ok)?;
        let reaches = self.reaches()?;
        let rules = match GroupRules::parse("rules", self.rules.into_iter().map(rule).collect()) {
            Ok(rules) => rules,
            Err(error) => {
                tracing::error!(%name, %guid, %error, "a security group of Cloud Controller keeps the rules that it had here");
                let before = held.iter().find(|group| group.guid.as_ref() == Some(&guid));
                let Some(before) = before else { return Ok(None) };
                before.rules.clone()
            }
        };
        Ok(Some(SecurityGroup { name, guid: Some(guid), rules, reaches }))
    }

    fn reaches(&self) -> Result<BTreeSet<Reach>, Invalid> {
        let Enabled { running, staging } = self.globally_enabled;
        let Spaces { running_spaces, staging_spaces } = &self.relationships;
        let all =
            [(Workload::Running, running, running_spaces), (Workload::Staging, staging, staging_spaces)];
        let mut reaches = BTreeSet::new();
        for (workload, default, spaces) in all {
            reaches.extend(default.then_some(Reach { workload, space: None }));
            for Guid { guid } in &spaces.data {
                let space = Some(SpaceId::parse("space", guid)?);
                reaches.insert(Reach { workload, space });
            }
        }
        Ok(reaches)
    }
}

/// A rule of another shape is kept as its JSON, where the protocol should be: that allows nothing, and says what it is.
fn rule(json: Value) -> SecurityRule {
    let words = json.to_string();
    serde_json::from_value(json)
        .unwrap_or_else(|_| SecurityRule { protocol: words, ..SecurityRule::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn listed(guid: &str, name: &str, rules: Value) -> Listed {
        let to = |spaces: &[&str]| json!({"data": spaces.iter().map(|guid| json!({"guid": guid})).collect::<Vec<_>>()});
        serde_json::from_value(json!({
            "guid": guid, "name": name, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
            "globally_enabled": {"running": true, "staging": false}, "rules": rules,
            "relationships": {"running_spaces": to(&["s-1"]), "staging_spaces": to(&["s-1", "s-2"])}, "links": {},
        }))
        .unwrap()
    }

    fn names(pairs: &[(&str, &str)]) -> Vec<String> {
        let list = pairs.iter().map(|(guid, name)| listed(guid, name, json!([]))).collect();
        groups(list, &[]).unwrap().iter().map(|group| group.name.to_string()).collect()
    }

    #[test]
    fn a_group_keeps_its_words_bindings_and_guid() {
        let rules = json!([
            {"protocol": "tcp", "destination": "10.0.0.0/8", "ports": "80,443", "log": true, "description": "x"},
            {"protocol": "icmp", "destination": "0.0.0.0/0", "type": 0, "code": -1},
        ]);
        let all = groups(vec![listed("g-1", "Büro 1", rules)], &[]).unwrap();
        let [group] = &all[..] else { panic!("{all:?}") };
        assert_eq!((group.name.as_str(), group.guid.as_ref().unwrap().as_str()), ("Büro 1", "g-1"));
        assert_eq!((group.rules.as_slice().len(), group.rules.skipped()), (2, Vec::<String>::new()));
        let reaches: Vec<String> = group.reaches.iter().map(Reach::to_string).collect();
        assert_eq!(
            reaches,
            [
                "all spaces for running",
                "space s-1 for running",
                "space s-1 for staging",
                "space s-2 for staging"
            ]
        );
    }

    #[test]
    fn names_that_cannot_be_or_are_not_alone_are_guids() {
        assert_eq!(names(&[("g-1", "a"), ("g-2", "b")]), ["a", "b"]);
        assert_eq!(names(&[("g-1", "a"), ("g-2", "a"), ("g-3", "c")]), ["g-1", "g-2", "c"]);
        assert_eq!(names(&[("g-1", "a\tb"), ("g-2", "")]), ["g-1", "g-2"]);
        assert_eq!(names(&[("g-1", "g-2"), ("g-2", "b"), ("g-3", "g-3")]), ["g-1", "b", "g-3"]);
        let mut all = names(&[("g-1", "g-2"), ("g-2", "g-1")]);
        all.sort();
        assert_eq!(all, ["g-1", "g-2"], "never two of one name");
    }

    #[test]
    fn a_rule_that_cannot_be_read_is_kept_and_named() {
        let rules =
            json!([{"protocol": "tcp", "destination": "10.0.0.1", "ports": 80}, "x", {"protocol": "sctp"}]);
        let all = groups(vec![listed("g-1", "a", rules)], &[]).unwrap();
        let skipped = all[0].rules.skipped();
        assert_eq!(skipped.len(), 3, "{skipped:?}");
        assert!(skipped[0].contains(r#"\"ports\":80"#), "{skipped:?}");
    }

    #[test]
    fn a_group_that_is_too_large_keeps_its_rules_and_others_stand() {
        let small = json!([{"protocol": "all", "destination": "10.0.0.1"}]);
        let large = json!(vec![small[0].clone(); 10_001]);
        let held = groups(vec![listed("g-1", "a", small.clone())], &[]).unwrap();
        let list = vec![
            listed("g-1", "renamed", large.clone()),
            listed("g-2", "new", large),
            listed("g-3", "b", small),
        ];
        let all = groups(list, &held).unwrap();
        let shown: Vec<_> =
            all.iter().map(|group| (group.name.as_str(), group.rules.as_slice().len())).collect();
        assert_eq!(shown, [("renamed", 1), ("b", 1)]);
    }

    #[test]
    fn a_list_that_cannot_be_one_is_refused() {
        let twice = groups(vec![listed("g-1", "a", json!([])), listed("g-1", "b", json!([]))], &[]);
        assert_eq!(
            twice.unwrap_err().to_string(),
            "security group g-1 of Cloud Controller is in the list twice"
        );
        let error = groups(vec![listed("a b", "a", json!([]))], &[]).unwrap_err().to_string();
        assert!(
            error.starts_with("a security group of Cloud Controller: guid: \"a b\" holds ' '"),
            "{error}"
        );
    }
}
