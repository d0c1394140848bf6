//! What a change of the state writes under which key. Both databases keep the same records; how they keep a batch of them
//! together is theirs.

use super::keys;
use super::record::{
    self, BindingRecord, FreedRecord, GroupRecord, HeldRecord, LeaseRecord, PolicyRecord, StampRecord,
};
use crate::domain::Change;
use std::collections::BTreeMap;

/// Values by their keys; nothing for what is removed.
pub(super) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Adds what a change writes. A security group's rules are one record here, the first piece of them.
pub(super) fn add(writes: &mut Writes, change: &Change) -> Result<(), serde_json::Error> {
    let (key, value) = match change {
        Change::LeasePut(lease) => {
            (keys::lease(lease.underlay), Some(record::encode(&LeaseRecord::from(lease))?))
        }
        Change::LeaseRemoved(lease) => (keys::lease(lease.underlay), None),
        Change::PolicyPut(put) => {
            writes.insert(keys::freed_tag(put.source_tag), None);
            writes.insert(keys::freed_tag(put.destination_tag), None);
            (keys::policy(&put.policy), Some(record::encode(&PolicyRecord::from(put))?))
        }
        Change::PolicyRemoved(removed) => (keys::policy(&removed.policy), None),
        Change::TagFreed(freed) => {
            (keys::freed_tag(freed.tag), Some(record::encode(&FreedRecord::from(freed))?))
        }
        Change::TagHeld(held) => {
            writes.insert(keys::freed_tag(held.tag), None);
            (keys::held_tag(held.tag), Some(record::encode(&HeldRecord::from(held))?))
        }
        Change::Stamped(stamp) => (keys::STAMP.to_vec(), Some(record::encode(&StampRecord::from(*stamp))?)),
        Change::GroupSet { name, guid, rules } => {
            let record = GroupRecord::new(name, guid.as_ref(), rules);
            (keys::rules(name, 0), Some(record::encode(&record)?))
        }
        Change::GroupRemoved(name) => (keys::rules(name, 0), None),
        Change::GroupRulesChanged(_) => return Ok(()),
        Change::GroupBound(bound) => {
            (keys::binding(bound), Some(record::encode(&BindingRecord::from(bound))?))
        }
        Change::GroupUnbound(unbound) => (keys::binding(unbound), None),
    };
    writes.insert(key, value);
    Ok(())
}
