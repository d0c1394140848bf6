//! How values are written: one version byte, then JSON. A later version adds a byte and a way to read it; what was
//! written before stays readable.

use crate::domain::{
    AppId, Binding, CellName, Change, Commit, GroupGuid, GroupName, GroupRules, Lease, Policy, Ports,
    Protocol, Reach, Revision, SecurityGroup, SpaceId, Stamp, Tag, TagFreed, TagHeld, TaggedPolicy,
    Timestamp, Workload,
};
use c2c_proto::egress::SecurityRule;
use ipnet::Ipv4Net;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

const VERSION: u8 = 1;

/// A lease as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LeaseRecord {
    cell: String,
    underlay: Ipv4Addr,
    block: Ipv4Net,
    renewed: u64,
}

/// A policy as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PolicyRecord {
    source: String,
    destination: String,
    protocol: u8,
    start: u16,
    end: u16,
    source_tag: u16,
    destination_tag: u16,
}

/// A freed tag as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FreedRecord {
    tag: u16,
    app: String,
    at: u64,
}

/// A tag that a router holds, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HeldRecord {
    tag: u16,
    app: String,
}

/// When policies last changed, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StampRecord {
    policies: u64,
}

/// A security group as it is stored: its rules in Cloud Controller's JSON, its bindings for themselves.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    name: String,
    /// Not in records of before there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guid: Option<String>,
    rules: Vec<SecurityRule>,
}

impl GroupRecord {
    /// All of a group but its bindings.
    pub(super) fn new(name: &GroupName, guid: Option<&GroupGuid>, rules: &GroupRules) -> Self {
        let guid = guid.map(|guid| guid.as_str().to_owned());
        Self { name: name.as_str().to_owned(), guid, rules: rules.as_slice().to_vec() }
    }
}

/// A security group's binding as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BindingRecord {
    group: String,
    workload: String,
    /// Nothing: all spaces.
    space: Option<String>,
}

/// A commit as it is stored, which is as watchers are told of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CommitRecord {
    revision: u64,
    changes: Vec<ChangeRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChangeRecord {
    LeasePut(LeaseRecord),
    LeaseRemoved(LeaseRecord),
    PolicyPut(PolicyRecord),
    PolicyRemoved(PolicyRecord),
    TagFreed(FreedRecord),
    TagHeld(HeldRecord),
    Stamped(StampRecord),
    GroupRulesChanged(String),
    GroupBound(BindingRecord),
    GroupUnbound(BindingRecord),
    GroupRemoved(String),
}

/// Bytes to store.
pub(super) fn encode(record: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, record)?;
    Ok(bytes)
}

/// What stored bytes mean; nothing when they are not what [`encode`] wrote.
pub(super) fn decode<R: DeserializeOwned + TryInto<T>, T>(bytes: &[u8]) -> Option<T> {
    let (version, json) = bytes.split_first()?;
    let record: R = (*version == VERSION).then(|| serde_json::from_slice(json).ok())??;
    record.try_into().ok()
}

/// A record that says what cannot be.
#[derive(Debug)]
pub(crate) struct Illegal;

impl From<&Lease> for LeaseRecord {
    fn from(lease: &Lease) -> Self {
        Self {
            cell: lease.cell.as_str().to_owned(),
            underlay: lease.underlay,
            block: lease.block,
            renewed: lease.renewed.0,
        }
    }
}

impl TryFrom<LeaseRecord> for Lease {
    type Error = Illegal;

    fn try_from(record: LeaseRecord) -> Result<Self, Illegal> {
        let cell = CellName::parse("cell", &record.cell).map_err(|_| Illegal)?;
        let renewed = Timestamp(record.renewed);
        Ok(Self { cell, underlay: record.underlay, block: record.block, renewed })
    }
}

impl From<&TaggedPolicy> for PolicyRecord {
    fn from(tagged: &TaggedPolicy) -> Self {
        let Policy { source, destination, protocol, ports } = &tagged.policy;
        Self {
            source: source.as_str().to_owned(),
            destination: destination.as_str().to_owned(),
            protocol: protocol.number(),
            start: ports.start(),
            end: ports.end(),
            source_tag: tagged.source_tag.get(),
            destination_tag: tagged.destination_tag.get(),
        }
    }
}

impl TryFrom<PolicyRecord> for TaggedPolicy {
    type Error = Illegal;

    fn try_from(record: PolicyRecord) -> Result<Self, Illegal> {
        let policy = Policy {
            source: AppId::parse("source", &record.source).map_err(|_| Illegal)?,
            destination: AppId::parse("destination", &record.destination).map_err(|_| Illegal)?,
            protocol: Protocol::from_number(record.protocol).ok_or(Illegal)?,
            ports: Ports::new(record.start, record.end).ok_or(Illegal)?,
        };
        let source_tag = Tag::new(record.source_tag).ok_or(Illegal)?;
        let destination_tag = Tag::new(record.destination_tag).ok_or(Illegal)?;
        Ok(Self { policy, source_tag, destination_tag })
    }
}

impl From<&TagFreed> for FreedRecord {
    fn from(freed: &TagFreed) -> Self {
        Self { tag: freed.tag.get(), app: freed.app.as_str().to_owned(), at: freed.at.0 }
    }
}

impl TryFrom<FreedRecord> for TagFreed {
    type Error = Illegal;

    fn try_from(record: FreedRecord) -> Result<Self, Illegal> {
        let tag = Tag::new(record.tag).ok_or(Illegal)?;
        let app = AppId::parse("app", &record.app).map_err(|_| Illegal)?;
        Ok(Self { tag, app, at: Timestamp(record.at) })
    }
}

impl From<&TagHeld> for HeldRecord {
    fn from(held: &TagHeld) -> Self {
        Self { tag: held.tag.get(), app: held.app.as_str().to_owned() }
    }
}

impl TryFrom<HeldRecord> for TagHeld {
    type Error = Illegal;

    fn try_from(record: HeldRecord) -> Result<Self, Illegal> {
        let tag = Tag::new(record.tag).ok_or(Illegal)?;
        Ok(Self { tag, app: AppId::parse("app", &record.app).map_err(|_| Illegal)? })
    }
}

impl From<Stamp> for StampRecord {
    fn from(stamp: Stamp) -> Self {
        Self { policies: stamp.0 }
    }
}

impl From<StampRecord> for Stamp {
    fn from(record: StampRecord) -> Self {
        Self(record.policies)
    }
}

impl From<&SecurityGroup> for GroupRecord {
    fn from(SecurityGroup { name, guid, rules, .. }: &SecurityGroup) -> Self {
        Self::new(name, guid.as_ref(), rules)
    }
}

impl TryFrom<GroupRecord> for SecurityGroup {
    type Error = Illegal;

    fn try_from(record: GroupRecord) -> Result<Self, Illegal> {
        let name = GroupName::parse("name", &record.name).map_err(|_| Illegal)?;
        let guid = record.guid.map(|guid| GroupGuid::parse("guid", &guid)).transpose();
        let rules = GroupRules::parse("rules", record.rules).map_err(|_| Illegal)?;
        Ok(Self { name, guid: guid.map_err(|_| Illegal)?, rules, reaches: BTreeSet::new() })
    }
}

impl From<&Binding> for BindingRecord {
    fn from(Binding { group, reach }: &Binding) -> Self {
        Self {
            group: group.as_str().to_owned(),
            workload: reach.workload.as_str().to_owned(),
            space: reach.space.as_ref().map(|space| space.as_str().to_owned()),
        }
    }
}

impl TryFrom<BindingRecord> for Binding {
    type Error = Illegal;

    fn try_from(record: BindingRecord) -> Result<Self, Illegal> {
        let group = GroupName::parse("group", &record.group).map_err(|_| Illegal)?;
        let workload = Workload::parse("workload", &record.workload).map_err(|_| Illegal)?;
        let space = record.space.map(|space| SpaceId::parse("space", &space)).transpose();
        Ok(Self { group, reach: Reach { workload, space: space.map_err(|_| Illegal)? } })
    }
}

impl From<&Change> for ChangeRecord {
    fn from(change: &Change) -> Self {
        match change {
            Change::LeasePut(lease) => Self::LeasePut(lease.into()),
            Change::LeaseRemoved(lease) => Self::LeaseRemoved(lease.into()),
            Change::PolicyPut(policy) => Self::PolicyPut(policy.into()),
            Change::PolicyRemoved(policy) => Self::PolicyRemoved(policy.into()),
            Change::TagFreed(freed) => Self::TagFreed(freed.into()),
            Change::TagHeld(held) => Self::TagHeld(held.into()),
            Change::Stamped(stamp) => Self::Stamped((*stamp).into()),
            // As watchers are told of it.
            Change::GroupSet { name, .. } | Change::GroupRulesChanged(name) => {
                Self::GroupRulesChanged(name.as_str().to_owned())
            }
            Change::GroupBound(binding) => Self::GroupBound(binding.into()),
            Change::GroupUnbound(binding) => Self::GroupUnbound(binding.into()),
            Change::GroupRemoved(name) => Self::GroupRemoved(name.as_str().to_owned()),
        }
    }
}

impl TryFrom<ChangeRecord> for Change {
    type Error = Illegal;

    fn try_from(record: ChangeRecord) -> Result<Self, Illegal> {
        Ok(match record {
            ChangeRecord::LeasePut(lease) => Self::LeasePut(lease.try_into()?),
            ChangeRecord::LeaseRemoved(lease) => Self::LeaseRemoved(lease.try_into()?),
            ChangeRecord::PolicyPut(policy) => Self::PolicyPut(policy.try_into()?),
            ChangeRecord::PolicyRemoved(policy) => Self::PolicyRemoved(policy.try_into()?),
            ChangeRecord::TagFreed(freed) => Self::TagFreed(freed.try_into()?),
            ChangeRecord::TagHeld(held) => Self::TagHeld(held.try_into()?),
            ChangeRecord::Stamped(stamp) => Self::Stamped(stamp.into()),
            ChangeRecord::GroupRulesChanged(name) => {
                Self::GroupRulesChanged(GroupName::parse("name", &name).map_err(|_| Illegal)?)
            }
            ChangeRecord::GroupBound(binding) => Self::GroupBound(binding.try_into()?),
            ChangeRecord::GroupUnbound(binding) => Self::GroupUnbound(binding.try_into()?),
            ChangeRecord::GroupRemoved(name) => {
                Self::GroupRemoved(GroupName::parse("name", &name).map_err(|_| Illegal)?)
            }
        })
    }
}

impl From<&Commit> for CommitRecord {
    fn from(commit: &Commit) -> Self {
        Self { revision: commit.revision.get(), changes: commit.changes.iter().map(Into::into).collect() }
    }
}

impl TryFrom<CommitRecord> for Commit {
    type Error = Illegal;

    fn try_from(record: CommitRecord) -> Result<Self, Illegal> {
        let changes: Result<_, _> = record.changes.into_iter().map(TryInto::try_into).collect();
        Ok(Self { revision: Revision::new(record.revision), changes: changes? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_reads_back_as_it_was_written() {
        let policy = TaggedPolicy {
            policy: Policy::parse("a", "b", "udp", "7000-7010").unwrap(),
            source_tag: Tag::new(1).unwrap(),
            destination_tag: Tag::new(65_535).unwrap(),
        };
        let lease = Lease {
            cell: CellName::parse("cell", "cell/1").unwrap(),
            underlay: Ipv4Addr::new(192, 0, 2, 1),
            block: "10.255.7.0/24".parse().unwrap(),
            renewed: Timestamp(17),
        };
        let freed = TagFreed { tag: policy.source_tag, app: policy.policy.source.clone(), at: Timestamp(9) };
        let changes = vec![
            Change::LeasePut(lease.clone()),
            Change::LeaseRemoved(lease),
            Change::PolicyPut(policy.clone()),
            Change::PolicyRemoved(policy),
            Change::TagFreed(freed),
            Change::TagHeld(TagHeld {
                tag: Tag::new(7).unwrap(),
                app: AppId::parse("app", "router").unwrap(),
            }),
            Change::Stamped(Stamp(u64::MAX)),
        ];
        reads_back(changes);
    }

    #[test]
    fn security_groups_read_back_in_the_words_they_were_given() {
        let words = r#"[
            {"protocol": "ICMP ", "destination": "10.0.0.0 - 10.0.0.9,", "type": 8, "code": -1, "ports": null},
            {"protocol": "tcp", "ports": "80, 443", "log": true, "description": "\u0000 é"},
            {}
        ]"#;
        let rules = GroupRules::parse("rules", serde_json::from_str(words).unwrap()).unwrap();
        let name = GroupName::parse("name", "web").unwrap();
        let binding =
            |workload, space| Binding { group: name.clone(), reach: Reach::parse(workload, space).unwrap() };
        for guid in [None, Some(GroupGuid::parse("guid", "g-1").unwrap())] {
            let bytes = encode(&GroupRecord::new(&name, guid.as_ref(), &rules)).unwrap();
            let (name, rules, reaches) = (name.clone(), rules.clone(), BTreeSet::new());
            let group = SecurityGroup { name, guid, rules, reaches };
            assert_eq!(decode::<GroupRecord, SecurityGroup>(&bytes), Some(group));
        }
        let before = b"\x01{\"name\":\"web\",\"rules\":[]}";
        let before = decode::<GroupRecord, SecurityGroup>(before).unwrap();
        assert_eq!((before.name, before.guid), (name.clone(), None), "written by an earlier version");
        reads_back(vec![
            Change::GroupSet { name: name.clone(), guid: None, rules },
            Change::GroupBound(binding("running", "s")),
            Change::GroupUnbound(binding("staging", "")),
            Change::GroupRemoved(name.clone()),
        ]);
    }

    fn reads_back(changes: Vec<Change>) {
        let commit = Commit { revision: Revision::new(u64::MAX), changes };
        let bytes = encode(&CommitRecord::from(&commit)).unwrap();
        assert_eq!(decode::<CommitRecord, Commit>(&bytes), Some(commit.told()));
    }

    #[test]
    fn what_was_not_written_by_us_is_not_read() {
        let legal = encode(&FreedRecord { tag: 1, app: "a".into(), at: 0 }).unwrap();
        let other_version = [&[VERSION + 1], &legal[1..]].concat();
        let tag_zero = encode(&FreedRecord { tag: 0, app: "a".into(), at: 0 }).unwrap();
        let no_app = encode(&FreedRecord { tag: 1, app: String::new(), at: 0 }).unwrap();
        let cut = &legal[..legal.len() - 1];
        for bytes in [&other_version, &tag_zero, &no_app, cut, &[], &[VERSION], b"\x01null"] {
            assert_eq!(decode::<FreedRecord, TagFreed>(bytes), None, "{bytes:?}");
        }
    }
}
