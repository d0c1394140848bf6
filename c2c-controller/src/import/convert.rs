//! What the incumbents' rows mean here.

use super::{GroupRow, PolicyRow, Refused, Rows, Subnet, TagRow};
use crate::domain::{
    AppId, Binding, CellName, Change, Commit, GroupGuid, GroupName, GroupRules, Inconsistent, Lease, Parts,
    Policy, Ports, Protocol, Reach, Revision, SecurityGroup, SpaceId, State, Tag, TagHeld, TaggedPolicy,
    Timestamp, Workload,
};
use std::collections::{BTreeMap, BTreeSet};

/// What rows became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Of what could be taken.
    pub state: State,
    /// What could not.
    pub refused: Vec<Refused>,
}

/// Makes a state of the rows that can be taken.
///
/// # Errors
/// When rows that are right one by one contradict each other.
pub fn convert(rows: &Rows) -> Result<Imported, Inconsistent> {
    let mut refused = Vec::new();
    let leases = leases(&rows.subnets, &mut refused);
    let apps = apps(&rows.tags, &mut refused);
    let policies = policies(&rows.policies, &apps, &mut refused);
    let (groups, bindings) = groups(&rows.security_groups, &mut refused);
    let routers = rows.tags.iter().filter(|row| is_router(row)).filter_map(|row| apps.get(&row.id));
    let held = routers.map(|(tag, app)| TagHeld { tag: *tag, app: app.clone() }).collect();
    let parts =
        Parts { revision: Revision::FIRST, leases, policies, held, groups, bindings, ..Parts::default() };
    Ok(Imported { state: State::restore(parts)?, refused })
}

/// Why a row cannot be taken.
type Reason = String;

/// A value that has to be there.
fn present<T>(column: &str, value: Option<T>) -> Result<T, Reason> {
    value.ok_or_else(|| format!("{column} is null"))
}

/// Keeps what could be read, and notes what could not.
fn keep<T>(
    table: &'static str,
    id: i64,
    read: Result<T, Reason>,
    kept: &mut Vec<T>,
    refused: &mut Vec<Refused>,
) {
    match read {
        Ok(value) => kept.push(value),
        Err(reason) => refused.push(Refused { table, id, reason }),
    }
}

fn leases(rows: &[Subnet], refused: &mut Vec<Refused>) -> Vec<Lease> {
    let mut taken = State::default();
    let mut kept = Vec::new();
    for row in rows {
        let read = lease(row).and_then(|lease| match clash(&taken, &lease) {
            Some(other) => Err(format!("{} at {} cannot be beside {other}", lease.block, lease.underlay)),
            None => Ok(lease),
        });
        if let Ok(lease) = &read {
            let changes = vec![Change::LeasePut(lease.clone())];
            taken.apply(&Commit { revision: Revision::FIRST, changes });
        }
        keep("subnets", row.id, read, &mut kept, refused);
    }
    kept
}

fn clash<'a>(taken: &'a State, lease: &Lease) -> Option<&'a Lease> {
    taken.leases_overlapping(lease.block).next().or_else(|| taken.lease_at(lease.underlay))
}

fn lease(row: &Subnet) -> Result<Lease, Reason> {
    let underlay = present("underlay_ip", row.underlay.as_deref())?;
    let underlay =
        underlay.parse().map_err(|_| format!("underlay_ip {underlay:?} is not an IPv4 address"))?;
    let block = present("overlay_subnet", row.block.as_deref())?;
    let not_a_block = || format!("overlay_subnet {block:?} is not an IPv4 network");
    let block: ipnet::Ipv4Net = block.parse().map_err(|_| not_a_block())?;
    if block != block.trunc() {
        return Err(not_a_block());
    }
    let renewed = present("last_renewed_at", row.renewed)?;
    let renewed = u64::try_from(renewed).map_err(|_| format!("last_renewed_at is {renewed}"))?;
    let lease = Lease { cell: CellName::of_silk(underlay), underlay, block, renewed: Timestamp(renewed) };
    let (stored, expected) =
        (present("overlay_hwaddr", row.hardware_address.as_deref())?, lease.hardware_address());
    // Cells reckon it from the block, so that of another one would reach nobody.
    if !stored.eq_ignore_ascii_case(&expected) {
        return Err(format!("overlay_hwaddr {stored:?} is not that of {block}, which is {expected}"));
    }
    Ok(lease)
}

/// The apps and routers by their tags.
type Apps = BTreeMap<i64, (Tag, AppId)>;

fn apps(rows: &[TagRow], refused: &mut Vec<Refused>) -> Apps {
    let mut kept = Vec::new();
    for row in rows {
        keep("groups", row.id, tag(row), &mut kept, refused);
    }
    kept.into_iter().collect()
}

/// Whether it keeps its tag without a policy.
fn is_router(row: &TagRow) -> bool {
    row.kind.as_deref() == Some("router")
}

fn tag(row: &TagRow) -> Result<(i64, (Tag, AppId)), Reason> {
    let tag = u16::try_from(row.id).ok().and_then(Tag::new);
    let tag = tag.ok_or_else(|| format!("tag {} is not from 1 to 65535", row.id))?;
    let app = AppId::parse("guid", present("guid", row.guid.as_deref())?);
    Ok((row.id, (tag, app.map_err(|error| error.to_string())?)))
}

fn policies(rows: &[PolicyRow], apps: &Apps, refused: &mut Vec<Refused>) -> Vec<TaggedPolicy> {
    let mut kept = Vec::new();
    for row in rows {
        keep("policies", row.id, policy(row, apps), &mut kept, refused);
    }
    // The same policy may be there by a row of before there were ranges and by one with a range of one port.
    let mut seen = BTreeSet::new();
    kept.retain(|tagged| seen.insert(tagged.policy.clone()));
    kept
}

fn policy(row: &PolicyRow, apps: &Apps) -> Result<TaggedPolicy, Reason> {
    let side = |column: &str, group: Option<i64>| {
        let group = present(column, group)?;
        apps.get(&group).cloned().ok_or_else(|| format!("{column} {group} is no app that could be taken"))
    };
    let (source_tag, source) = side("group_id", row.source)?;
    let (destination_tag, destination) = side("the destination's group_id", row.destination)?;
    let protocol = Protocol::parse("protocol", present("protocol", row.protocol.as_deref())?);
    let protocol = protocol.map_err(|error| error.to_string())?;
    let policy = Policy { source, destination, protocol, ports: ports(row)? };
    Ok(TaggedPolicy { policy, source_tag, destination_tag })
}

fn ports(row: &PolicyRow) -> Result<Ports, Reason> {
    let given = |port: Option<i64>| port.filter(|port| *port != 0);
    let start = present("start_port", given(row.start).or(given(row.port)))?;
    let end = given(row.end).or(given(row.port)).unwrap_or(start);
    let port = |port: i64| u16::try_from(port).ok();
    let ports = port(start).zip(port(end)).and_then(|(start, end)| Ports::new(start, end));
    ports.ok_or_else(|| format!("{start}-{end} are no ports; expected some from 1 to 65535"))
}

fn groups(rows: &[GroupRow], refused: &mut Vec<Refused>) -> (Vec<SecurityGroup>, Vec<Binding>) {
    let mut kept: Vec<SecurityGroup> = Vec::new();
    let mut names = BTreeSet::new();
    for row in rows {
        let read = group(row).and_then(|group| match names.insert(group.name.clone()) {
            true => Ok(group),
            false => Err(format!("another security group has the name {:?}", group.name)),
        });
        keep("security_groups", row.id, read, &mut kept, refused);
    }
    let bindings = kept.iter().flat_map(|group| {
        group.reaches.iter().map(|reach| Binding { group: group.name.clone(), reach: reach.clone() })
    });
    let bindings = bindings.collect();
    (kept, bindings)
}

fn group(row: &GroupRow) -> Result<SecurityGroup, Reason> {
    let name = GroupName::parse("name", present("name", row.name.as_deref())?);
    let guid = GroupGuid::parse("guid", present("guid", row.guid.as_deref())?);
    let rules = present("rules", row.rules.as_deref())?;
    let rules =
        serde_json::from_str(rules).map_err(|error| format!("rules are no list of rules: {error}"))?;
    let rules = GroupRules::parse("rules", rules);
    let mut reaches = BTreeSet::new();
    let of_workload = row.defaults.iter().zip(&row.spaces);
    for (workload, (default, spaces)) in [Workload::Running, Workload::Staging].into_iter().zip(of_workload) {
        let all = default.unwrap_or(false).then_some(None);
        let spaces = self::spaces(spaces.as_deref())?.into_iter().map(Some);
        reaches.extend(all.into_iter().chain(spaces).map(|space| Reach { workload, space }));
    }
    let words = |error: crate::domain::Invalid| error.to_string();
    Ok(SecurityGroup {
        name: name.map_err(words)?,
        guid: Some(guid.map_err(words)?),
        rules: rules.map_err(words)?,
        reaches,
    })
}

/// The spaces of a JSON array; none when there is none.
fn spaces(json: Option<&str>) -> Result<Vec<SpaceId>, Reason> {
    let names: Option<Vec<String>> = serde_json::from_str(json.unwrap_or("null"))
        .map_err(|error| format!("spaces are no list of GUIDs: {error}"))?;
    let spaces = names.unwrap_or_default().into_iter().map(|name| SpaceId::parse("space", &name));
    spaces.collect::<Result<_, _>>().map_err(|error| error.to_string())
}
