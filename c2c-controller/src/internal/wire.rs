//! The JSON of the internal policy API, as Go's encoder writes it and its decoder takes it.

use crate::domain::{self, Reach, TaggedPolicy, Workload};
use c2c_proto::egress::SecurityRule;
use serde::ser::Error;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

#[derive(Debug, Serialize)]
pub(super) struct Policies<'a> {
    total_policies: usize,
    policies: Vec<Policy<'a>>,
}

#[derive(Debug, Serialize)]
struct Policy<'a> {
    source: Source<'a>,
    destination: Destination<'a>,
}

#[derive(Debug, Serialize)]
struct Source<'a> {
    id: &'a str,
    tag: String,
}

#[derive(Debug, Serialize)]
struct Destination<'a> {
    id: &'a str,
    tag: String,
    protocol: String,
    ports: Ports,
}

#[derive(Debug, Serialize)]
struct Ports {
    start: u16,
    end: u16,
}

impl<'a> From<&'a [TaggedPolicy]> for Policies<'a> {
    fn from(policies: &'a [TaggedPolicy]) -> Self {
        Self { total_policies: policies.len(), policies: policies.iter().map(Into::into).collect() }
    }
}

impl<'a> From<&'a TaggedPolicy> for Policy<'a> {
    fn from(TaggedPolicy { policy, source_tag, destination_tag }: &'a TaggedPolicy) -> Self {
        Self {
            source: Source { id: policy.source.as_str(), tag: source_tag.hex() },
            destination: Destination {
                id: policy.destination.as_str(),
                tag: destination_tag.hex(),
                protocol: policy.protocol.to_string(),
                ports: Ports { start: policy.ports.start(), end: policy.ports.end() },
            },
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct SecurityGroups<'a> {
    pub(super) next: u64,
    pub(super) security_groups: Vec<SecurityGroup<'a>>,
}

/// A group as policy-server's database has it.
#[derive(Debug, Serialize)]
pub(super) struct SecurityGroup<'a> {
    guid: &'a str,
    name: &'a str,
    #[serde(serialize_with = "in_a_string")]
    rules: Vec<Rule<'a>>,
    staging_default: bool,
    running_default: bool,
    staging_space_guids: Vec<&'a str>,
    running_space_guids: Vec<&'a str>,
}

impl<'a> From<&'a domain::SecurityGroup> for SecurityGroup<'a> {
    fn from(group: &'a domain::SecurityGroup) -> Self {
        let name = group.name.as_str();
        let [running, staging] = [Workload::Running, Workload::Staging]
            .map(|workload| group.reaches.iter().filter(move |reach| reach.workload == workload));
        let is_default = |reach: &Reach| reach.space.is_none();
        let space = |reach: &'a Reach| reach.space.as_ref().map(domain::SpaceId::as_str);
        Self {
            // Agents tell groups apart by it, and a group that an operator made here has none.
            guid: group.guid.as_ref().map_or(name, |guid| guid.as_str()),
            name,
            rules: group.rules.as_slice().iter().map(Into::into).collect(),
            staging_default: staging.clone().any(is_default),
            running_default: running.clone().any(is_default),
            staging_space_guids: staging.filter_map(space).collect(),
            running_space_guids: running.filter_map(space).collect(),
        }
    }
}

fn in_a_string<S: Serializer>(rules: &[Rule<'_>], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&serde_json::to_string(rules).map_err(S::Error::custom)?)
}

/// A rule with all fields, as Cloud Foundry's syncer stores it.
#[derive(Debug, Serialize)]
struct Rule<'a> {
    protocol: &'a str,
    destination: &'a str,
    ports: &'a str,
    r#type: i32,
    code: i32,
    description: &'a str,
    log: bool,
}

impl<'a> From<&'a SecurityRule> for Rule<'a> {
    fn from(rule: &'a SecurityRule) -> Self {
        let SecurityRule { protocol, destination, ports, icmp_type, code, log, description } = rule;
        // To Silk's agents what is not there would be ICMP's type 0, and here it is any.
        let otherwise = if protocol.trim().eq_ignore_ascii_case("icmp") { -1 } else { 0 };
        let (r#type, code) = (icmp_type.unwrap_or(otherwise), code.unwrap_or(otherwise));
        Self { protocol, destination, ports, r#type, code, description, log: *log }
    }
}

/// A request for a tag.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WantedTag {
    /// Who wants it.
    pub(crate) id: String,
    /// `router` or `app`.
    pub(crate) r#type: String,
}

impl WantedTag {
    /// Reads it as Go's decoder does, to which the case of keys is all the same: vxlan-policy-agent sends `ID` and `Type`.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let fields: Option<Map<String, Value>> = serde_json::from_slice(body).ok()?;
        let fields = fields.unwrap_or_default();
        let text = |key: &str| {
            let field = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
            match field.map(|(_, value)| value) {
                None | Some(Value::Null) => Some(String::new()),
                Some(value) => value.as_str().map(str::to_owned),
            }
        };
        Some(Self { id: text("id")?, r#type: text("type")? })
    }
}

/// A tag, and whose it is.
#[derive(Debug, Serialize)]
pub(super) struct Tag {
    pub(super) id: String,
    pub(super) tag: String,
    pub(super) r#type: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{GroupName, GroupRules};

    #[test]
    fn requests_for_tags_as_go_reads_them() {
        let wanted = |id: &str, kind: &str| Some(WantedTag { id: id.to_owned(), r#type: kind.to_owned() });
        for (body, expected) in [
            (r#"{"ID":"INGRESS_ROUTER","Type":"router"}"#, wanted("INGRESS_ROUTER", "router")),
            (r#"{"id":"a","type":"app","more":[1]}"#, wanted("a", "app")),
            (r#"{"id":null}"#, wanted("", "")),
            ("null", wanted("", "")),
            (r#"{"id":1,"type":"app"}"#, None),
            ("[]", None),
            ("", None),
        ] {
            assert_eq!(WantedTag::parse(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn a_rule_has_all_fields_and_what_is_not_said_of_icmp_is_any() {
        let rules = r#"[
            {"protocol": "tcp", "destination": "10.0.0.0/8", "ports": "80,443"},
            {"protocol": "icmp", "destination": "10.0.0.1", "code": 3, "log": true, "description": "a \"b\""}
        ]"#;
        let group = domain::SecurityGroup {
            name: GroupName::parse("name", "web").unwrap(),
            guid: None,
            rules: GroupRules::parse("rules", serde_json::from_str(rules).unwrap()).unwrap(),
            reaches: [("running", "s"), ("running", "t"), ("staging", "")]
                .map(|(workload, space)| Reach::parse(workload, space).unwrap())
                .into(),
        };
        let written = serde_json::to_value(SecurityGroup::from(&group)).unwrap();
        let expected = concat!(
            r#"[{"protocol":"tcp","destination":"10.0.0.0/8","ports":"80,443","type":0,"code":0,"description":"","log":false},"#,
            r#"{"protocol":"icmp","destination":"10.0.0.1","ports":"","type":-1,"code":3,"description":"a \"b\"","log":true}]"#
        );
        assert_eq!(written["rules"], expected);
        assert_eq!((&written["guid"], &written["staging_default"]), (&"web".into(), &true.into()));
        assert_eq!(written["running_space_guids"], serde_json::json!(["s", "t"]));
    }
}
