//! The door to the controller: generated types out there, our own in here. What cannot be right is refused here with
//! the field's name, so that nothing behind this door has to doubt.

use crate::lease::{Grant, Lease, Refusal};
use crate::policy::group::Group;
use crate::policy::mirror::{Announcement, Opening, Update};
use crate::policy::world::{Change, Policy, Protocol, Rule, Tags};
use c2c_proto::v1;
use c2c_proto::v1::agent_message::Message as ToController;
use c2c_proto::v1::controller_message::Message as FromController;
use ipnet::Ipv4Net;
use std::fmt::Display;
use std::net::Ipv4Addr;

/// Of the protocol in `fabric.proto`.
const PROTOCOL: u32 = 2;
/// A VXLAN network identifier has 24 bits (RFC 7348, section 5).
const MAX_VNI: u32 = (1 << 24) - 1;

/// What the controller can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A lease.
    Granted(Grant),
    /// No lease; the controller's words.
    Refused(Refusal, String),
    /// Something about the world.
    Update(Update),
    /// An answer to a heartbeat, and the store's revision.
    Ack(u64),
}

/// A message that cannot be right.
#[derive(Debug, thiserror::Error)]
#[error("the controller sent {field} = {found}, expected {expected}")]
pub struct BadMessage {
    field: &'static str,
    found: String,
    expected: &'static str,
}

fn bad(field: &'static str, found: impl Display, expected: &'static str) -> BadMessage {
    BadMessage { field, found: found.to_string(), expected }
}

/// What the controller said.
///
/// # Errors
/// When a field cannot be right; nothing of the message may be used then.
pub fn heard(message: v1::ControllerMessage) -> Result<Heard, BadMessage> {
    match message.message.ok_or_else(|| bad("message", "nothing", "one of the known messages"))? {
        FromController::LeaseGrant(grant) => Ok(Heard::Granted(self::grant(grant)?)),
        FromController::LeaseRefused(refused) => Ok(Heard::Refused(reason(refused.reason), refused.message)),
        FromController::Snapshot(snapshot) => Ok(Heard::Update(self::snapshot(snapshot)?)),
        FromController::Delta(delta) => Ok(Heard::Update(self::delta(delta)?)),
        FromController::AppsView(view) => Ok(Heard::Update(self::view(view)?)),
        FromController::HeartbeatAck(ack) => Ok(Heard::Ack(ack.revision)),
    }
}

fn grant(grant: v1::LeaseGrant) -> Result<Grant, BadMessage> {
    let lease = lease(grant.lease.ok_or_else(|| bad("lease_grant.lease", "nothing", "a lease"))?)?;
    let overlay = network("lease_grant.overlay_network", &grant.overlay_network)?;
    let block_prefix = u8::try_from(grant.block_prefix_length)
        .ok()
        .filter(|length| (overlay.prefix_len()..=30).contains(length))
        .ok_or_else(|| {
            bad("lease_grant.block_prefix_length", grant.block_prefix_length, "the overlay's to 30")
        })?;
    if !overlay.contains(&lease.block) || lease.block.prefix_len() != block_prefix {
        return Err(bad("lease_grant.lease.overlay_block", lease.block, "a block of the overlay network"));
    }
    Ok(Grant {
        lease,
        overlay,
        block_prefix,
        vni: Some(grant.vni)
            .filter(|vni| *vni <= MAX_VNI)
            .ok_or_else(|| bad("lease_grant.vni", grant.vni, "24 bits"))?,
        udp_port: port("lease_grant.udp_port", grant.udp_port)?,
        lease_seconds: grant.lease_seconds,
        heartbeat_seconds: positive("lease_grant.heartbeat_seconds", grant.heartbeat_seconds)?,
        store_id: not_empty("lease_grant.store_id", grant.store_id)?,
    })
}

/// A reason that this agent does not know yet is one that it cannot mend.
fn reason(reason: i32) -> Refusal {
    use v1::lease_refused::Reason;
    match Reason::try_from(reason) {
        Ok(Reason::PoolExhausted) => Refusal::PoolExhausted,
        Ok(Reason::Contradiction) => Refusal::Contradiction,
        Ok(Reason::NotYou) => Refusal::NotYou,
        Ok(Reason::Invalid | Reason::Unspecified) | Err(_) => Refusal::Invalid,
    }
}

fn snapshot(snapshot: v1::Snapshot) -> Result<Update, BadMessage> {
    Ok(Update::Snapshot {
        revision: snapshot.revision,
        leases: snapshot.leases.into_iter().map(lease).collect::<Result<_, _>>()?,
        policies: snapshot.policies.into_iter().map(policy).collect::<Result<_, _>>()?,
        groups: snapshot.groups.into_iter().map(group).collect::<Result<_, _>>()?,
    })
}

fn delta(delta: v1::Delta) -> Result<Update, BadMessage> {
    let changes = delta.changes.into_iter().map(change).collect::<Result<_, _>>()?;
    Ok(Update::Delta { from: delta.from_revision, to: delta.to_revision, changes })
}

fn view(view: v1::AppsView) -> Result<Update, BadMessage> {
    let policies = view.policies.into_iter().map(policy).collect::<Result<_, _>>()?;
    let groups = view.groups.into_iter().map(group).collect::<Result<_, _>>()?;
    Ok(Update::AppsView { serial: view.serial, revision: view.revision, policies, groups })
}

fn change(change: v1::Change) -> Result<Change, BadMessage> {
    use v1::change::Change as Changed;
    Ok(match change.change.ok_or_else(|| bad("change", "nothing", "one of the known changes"))? {
        Changed::LeasePut(put) => Change::LeasePut(lease(put)?),
        Changed::LeaseRemoved(removed) => Change::LeaseRemoved(lease(removed)?),
        Changed::PolicyPut(put) => Change::PolicyPut(policy(put)?),
        Changed::PolicyRemoved(removed) => Change::PolicyRemoved(rule(removed)?.0),
        Changed::GroupPut(put) => {
            let (name, group) = group(put)?;
            Change::GroupPut(name, group)
        }
        Changed::GroupRemoved(name) => Change::GroupRemoved(not_empty("group_removed", name)?),
    })
}

/// Rules are taken as they are: a bad one is skipped when they are read, and the others stand.
fn group(group: v1::SecurityGroup) -> Result<(String, Group), BadMessage> {
    let name = not_empty("group.name", group.name)?;
    let group = Group {
        rules: group.rules.into_iter().map(Into::into).collect(),
        running_default: group.running_default,
        staging_default: group.staging_default,
        running_spaces: group.running_spaces.into_iter().collect(),
        staging_spaces: group.staging_spaces.into_iter().collect(),
    };
    Ok((name, group))
}

fn lease(lease: v1::Lease) -> Result<Lease, BadMessage> {
    Ok(Lease {
        cell: not_empty("lease.cell", lease.cell)?,
        underlay: address("lease.underlay_address", &lease.underlay_address)?,
        block: network("lease.overlay_block", &lease.overlay_block)?,
        mac: mac("lease.hardware_address", &lease.hardware_address)?,
    })
}

fn policy(policy: v1::Policy) -> Result<Policy, BadMessage> {
    let (rule, [source, destination]) = rule(policy)?;
    let tag = |field, tag: u32| {
        u16::try_from(tag).ok().filter(|tag| *tag > 0).ok_or_else(|| bad(field, tag, "1 to 65535"))
    };
    let tags = Tags {
        source: tag("policy.source_tag", source)?,
        destination: tag("policy.destination_tag", destination)?,
    };
    Ok(Policy { rule, tags })
}

/// The rule, and the tags as they came: a removed policy's mean nothing.
fn rule(policy: v1::Policy) -> Result<(Rule, [u32; 2]), BadMessage> {
    let protocol = match v1::Protocol::try_from(policy.protocol) {
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Ok(v1::Protocol::Udp) => Protocol::Udp,
        Ok(v1::Protocol::Unspecified) | Err(_) => {
            return Err(bad("policy.protocol", policy.protocol, "6 or 17"));
        }
    };
    let rule = Rule {
        source: not_empty("policy.source_app", policy.source_app)?,
        destination: not_empty("policy.destination_app", policy.destination_app)?,
        protocol,
        port_start: port("policy.port_start", policy.port_start)?,
        port_end: port("policy.port_end", policy.port_end)?,
    };
    if rule.port_start > rule.port_end {
        return Err(bad("policy.port_end", rule.port_end, "no port below port_start"));
    }
    Ok((rule, [policy.source_tag, policy.destination_tag]))
}

fn port(field: &'static str, port: u32) -> Result<u16, BadMessage> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| bad(field, port, "1 to 65535"))
}

fn positive(field: &'static str, number: u64) -> Result<u64, BadMessage> {
    if number == 0 { Err(bad(field, number, "1 or more")) } else { Ok(number) }
}

fn not_empty(field: &'static str, text: String) -> Result<String, BadMessage> {
    if text.is_empty() { Err(bad(field, "\"\"", "a text that is not empty")) } else { Ok(text) }
}

fn address(field: &'static str, text: &str) -> Result<Ipv4Addr, BadMessage> {
    text.parse().map_err(|_| bad(field, format_args!("{text:?}"), "an IPv4 address"))
}

fn network(field: &'static str, text: &str) -> Result<Ipv4Net, BadMessage> {
    let network: Ipv4Net =
        text.parse().map_err(|_| bad(field, format_args!("{text:?}"), "an IPv4 network"))?;
    if network.addr() != network.network() {
        return Err(bad(field, network, "a network whose host bits are zero"));
    }
    Ok(network)
}

fn mac(field: &'static str, text: &str) -> Result<[u8; 6], BadMessage> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| bad(field, format_args!("{text:?}"), "six hex bytes"))
}

/// The first message on a stream.
#[must_use]
pub fn hello(cell: &str, underlay: Ipv4Addr, held: Option<&Lease>, opening: Opening) -> v1::AgentMessage {
    say(ToController::Hello(v1::Hello {
        cell: cell.to_owned(),
        underlay_address: underlay.to_string(),
        held: held.map(lease_out),
        apps: opening.hosted.apps.into_iter().collect(),
        store_id: opening.store_id,
        resume_revision: opening.resume,
        protocol: PROTOCOL,
        spaces: opening.hosted.spaces.into_iter().collect(),
    }))
}

/// Apps and spaces came or left.
#[must_use]
pub fn apps_changed(said: Announcement) -> v1::AgentMessage {
    say(ToController::AppsChanged(v1::AppsChanged {
        serial: said.serial,
        added: said.added.apps.into_iter().collect(),
        removed: said.removed.apps.into_iter().collect(),
        spaces_added: said.added.spaces.into_iter().collect(),
        spaces_removed: said.removed.spaces.into_iter().collect(),
    }))
}

/// The agent lives, and enforces this revision.
#[must_use]
pub fn heartbeat(applied_revision: u64) -> v1::AgentMessage {
    say(ToController::Heartbeat(v1::Heartbeat { applied_revision }))
}

/// The maps hold this revision.
#[must_use]
pub fn applied(revision: u64) -> v1::AgentMessage {
    say(ToController::Applied(v1::Applied { revision }))
}

fn say(message: ToController) -> v1::AgentMessage {
    v1::AgentMessage { message: Some(message) }
}

fn lease_out(lease: &Lease) -> v1::Lease {
    let [a, b, c, d, e, f] = lease.mac;
    v1::Lease {
        cell: lease.cell.clone(),
        underlay_address: lease.underlay.to_string(),
        overlay_block: lease.block.to_string(),
        hardware_address: format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_lease() -> v1::Lease {
        v1::Lease {
            cell: "a".into(),
            underlay_address: "192.0.2.1".into(),
            overlay_block: "10.255.1.0/24".into(),
            hardware_address: "ee:ee:0a:ff:01:00".into(),
        }
    }

    fn a_grant() -> v1::LeaseGrant {
        v1::LeaseGrant {
            lease: Some(a_lease()),
            overlay_network: "10.255.0.0/16".into(),
            block_prefix_length: 24,
            vni: 1,
            udp_port: 4789,
            lease_seconds: 60,
            heartbeat_seconds: 30,
            store_id: "s".into(),
        }
    }

    fn a_policy() -> v1::Policy {
        v1::Policy {
            source_app: "f".into(),
            destination_app: "g".into(),
            protocol: 6,
            port_start: 7000,
            port_end: 7010,
            source_tag: 1,
            destination_tag: 2,
        }
    }

    fn hear(message: FromController) -> Result<Heard, String> {
        heard(v1::ControllerMessage { message: Some(message) }).map_err(|error| error.to_string())
    }

    fn put(policy: v1::Policy) -> Result<Heard, String> {
        let change = v1::Change { change: Some(v1::change::Change::PolicyPut(policy)) };
        hear(FromController::Delta(v1::Delta { from_revision: 1, to_revision: 2, changes: vec![change] }))
    }

    #[test]
    fn a_lease_goes_out_as_it_came_in() {
        let Ok(Heard::Granted(grant)) = hear(FromController::LeaseGrant(a_grant())) else {
            panic!("not granted")
        };
        assert_eq!(lease_out(&grant.lease), a_lease());
    }

    #[test]
    fn a_good_policy_is_taken() {
        assert!(put(a_policy()).is_ok());
    }

    #[test]
    fn every_bad_field_is_named() {
        let policies: [(&str, v1::Policy); 8] = [
            ("policy.port_start", v1::Policy { port_start: 0, ..a_policy() }),
            ("policy.port_end", v1::Policy { port_end: 70_000, ..a_policy() }),
            ("policy.port_end", v1::Policy { port_end: 6_999, ..a_policy() }),
            ("policy.protocol", v1::Policy { protocol: 1, ..a_policy() }),
            ("policy.source_tag", v1::Policy { source_tag: 0, ..a_policy() }),
            ("policy.destination_tag", v1::Policy { destination_tag: 65_536, ..a_policy() }),
            ("policy.source_app", v1::Policy { source_app: String::new(), ..a_policy() }),
            ("policy.destination_app", v1::Policy { destination_app: String::new(), ..a_policy() }),
        ];
        for (field, policy) in policies {
            let error = put(policy).unwrap_err();
            assert!(error.contains(field), "{field}: {error}");
        }
        let lease = |block: &str, mac: &str| {
            Some(v1::Lease { overlay_block: block.into(), hardware_address: mac.into(), ..a_lease() })
        };
        let good_mac = "ee:ee:0a:ff:01:00";
        let grants: [(&str, v1::LeaseGrant); 10] = [
            ("lease_grant.lease", v1::LeaseGrant { lease: None, ..a_grant() }),
            ("lease.overlay_block", v1::LeaseGrant { lease: lease("10.255.1.7/24", good_mac), ..a_grant() }),
            (
                "lease_grant.lease.overlay_block",
                v1::LeaseGrant { lease: lease("10.254.1.0/24", good_mac), ..a_grant() },
            ),
            (
                "lease.hardware_address",
                v1::LeaseGrant { lease: lease("10.255.1.0/24", "ee:ee"), ..a_grant() },
            ),
            (
                "lease_grant.overlay_network",
                v1::LeaseGrant { overlay_network: "overlay".into(), ..a_grant() },
            ),
            ("lease_grant.block_prefix_length", v1::LeaseGrant { block_prefix_length: 15, ..a_grant() }),
            ("lease_grant.vni", v1::LeaseGrant { vni: 1 << 24, ..a_grant() }),
            ("lease_grant.udp_port", v1::LeaseGrant { udp_port: 0, ..a_grant() }),
            ("lease_grant.heartbeat_seconds", v1::LeaseGrant { heartbeat_seconds: 0, ..a_grant() }),
            ("lease_grant.store_id", v1::LeaseGrant { store_id: String::new(), ..a_grant() }),
        ];
        for (field, grant) in grants {
            let error = hear(FromController::LeaseGrant(grant)).unwrap_err();
            assert!(error.contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn an_empty_message_is_refused() {
        assert!(heard(v1::ControllerMessage { message: None }).is_err());
    }

    #[test]
    fn a_removed_policy_needs_no_tags() {
        let removed = v1::Policy { source_tag: 0, destination_tag: 0, ..a_policy() };
        let change = v1::Change { change: Some(v1::change::Change::PolicyRemoved(removed)) };
        let delta = v1::Delta { from_revision: 1, to_revision: 2, changes: vec![change] };
        assert!(hear(FromController::Delta(delta)).is_ok());
    }

    #[test]
    fn a_group_is_taken_as_it_is_and_needs_a_name() {
        let rule =
            v1::SecurityRule { protocol: "nonsense".into(), r#type: Some(-1), ..v1::SecurityRule::default() };
        let group = v1::SecurityGroup {
            name: "dns".into(),
            rules: vec![rule],
            running_spaces: vec!["s".into(), "s".into()],
            ..v1::SecurityGroup::default()
        };
        let put = |group| v1::Change { change: Some(v1::change::Change::GroupPut(group)) };
        let taken = change(put(group.clone())).unwrap();
        let Change::GroupPut(name, taken) = taken else { panic!("{taken:?}") };
        assert_eq!((name.as_str(), taken.rules.len(), taken.running_spaces.len()), ("dns", 1, 1));
        assert_eq!(taken.rules[0].icmp_type, Some(-1));
        let error = change(put(v1::SecurityGroup { name: String::new(), ..group })).unwrap_err();
        assert!(error.to_string().contains("group.name"), "{error}");
    }
}
