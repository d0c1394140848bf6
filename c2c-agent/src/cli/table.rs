//! Answers as tables for people.

use crate::datapath::{FlowRow, MapUse, TranslationRow};
use crate::status::{CountersPage, EgressRow, EndpointRow, FlowsPage, PolicyRow, PortRow, StatusPage};
use comfy_table::{CellAlignment, Table, presets};
use std::collections::BTreeSet;
use std::fmt::Display;

pub(super) fn status(page: &StatusPage) -> String {
    let mut table = plain();
    for (name, value) in lines(page) {
        table.add_row([name.to_owned(), value]);
    }
    let mut text = trimmed(&table);
    for problem in &page.problems {
        text += &format!("problem: {problem}\n");
    }
    for warning in &page.warnings {
        text += &format!("warning: {warning}\n");
    }
    text
}

fn lines(page: &StatusPage) -> Vec<(&'static str, String)> {
    vec![
        ("cell", format!("{} ({})", page.cell, page.lease.underlay)),
        ("ready", if page.ready { "yes" } else { "no" }.to_owned()),
        ("lease", lease(page)),
        ("stream", stream(page)),
        ("revision", revision(page)),
        ("policies", format!("{} that touch this cell's apps", page.policy.policies)),
        ("egress", format!("{} security groups that apply here", page.policy.security_groups)),
        ("endpoints", page.endpoints.to_string()),
        ("other cells", page.policy.peers.to_string()),
        ("datapath", datapath(page)),
        ("offload", offload(page)),
        ("reconcile", reconcile(page)),
        ("agent", format!("{}, up for {}", page.version, span(page.uptime_seconds))),
    ]
}

fn lease(page: &StatusPage) -> String {
    let lease = &page.lease;
    let mut text = lease.block.map_or_else(|| "none".to_owned(), |block| block.to_string());
    if let Some(overlay) = lease.overlay {
        text += &format!(" of {overlay}");
    }
    text += &format!(", {}", lease.state);
    if let (Some(ago), Some(left)) = (lease.renewed_seconds_ago, lease.expires_in_seconds) {
        text += &format!(", renewed {} ago, expires in {}", span(ago), span(left));
    }
    text
}

fn stream(page: &StatusPage) -> String {
    let since = page.stream.live_seconds.map(|seconds| format!(" for {}", span(seconds))).unwrap_or_default();
    format!("{}{since}, {}", page.stream.state, page.stream.controller)
}

fn revision(page: &StatusPage) -> String {
    let (known, enforced) = (page.policy.known_revision, page.policy.enforced_revision);
    if known > enforced {
        return format!("{enforced}, {} behind for {}", known - enforced, span(page.policy.lag_seconds));
    }
    format!("{enforced}, the newest known")
}

fn datapath(page: &StatusPage) -> String {
    let origin = if page.datapath.adopted { "adopted at start" } else { "made at start" };
    let full = page.datapath.maps.iter().max_by_key(|map| permille(map));
    let full = full.map(|map| format!(", fullest map {} {}/{}", map.name, map.entries, map.capacity));
    format!("{origin}{}", full.unwrap_or_default())
}

fn offload(page: &StatusPage) -> String {
    let offload = &page.offload;
    let mut text = match (offload.verdict.as_str(), offload.self_test.as_str()) {
        ("unknown", "off") => "not tested".to_owned(),
        ("unknown", _) => "not known yet: no other cell has answered".to_owned(),
        ("sound", _) => format!("tunnelled packets leave {} whole", offload.device),
        (verdict, _) => verdict.replace('_', " "),
    };
    if let Some(undo) = &offload.undo {
        text += &format!(", {} switched off (undo: {undo})", offload.switched_off.join(" and "));
    }
    offload.failure.as_ref().map_or(text.clone(), |failure| format!("{text}; {failure}"))
}

fn reconcile(page: &StatusPage) -> String {
    let reconcile = &page.reconcile;
    let last =
        reconcile.last_seconds_ago.map(|ago| format!(", the last {} ago", span(ago))).unwrap_or_default();
    let mut text = format!("{} passes{last}, {} things put back", reconcile.passes, reconcile.repaired_total);
    if let Some(what) = reconcile.last_repaired.first() {
        text += &format!(" (last: {what})");
    }
    text
}

pub(super) fn endpoints(rows: &Vec<EndpointRow>) -> String {
    let mut table = headed(["CONTAINER", "ADDRESS", "APP", "TAG", "DEVICE", "STATE"]);
    for row in rows {
        let tag = if row.tag == 0 { "-".to_owned() } else { row.tag.to_string() };
        table.add_row([
            format!("{}/{}", row.container_id, row.ifname),
            row.address.to_string(),
            row.app.clone(),
            tag,
            row.device.clone(),
            row.state.clone(),
        ]);
    }
    trimmed(&table)
}

pub(super) fn policies(rows: &Vec<PolicyRow>) -> String {
    let mut table = headed(["SOURCE", "TAG", "DESTINATION", "TAG", "PROTOCOL", "PORTS"]);
    for row in rows {
        table.add_row([
            row.source.clone(),
            row.source_tag.to_string(),
            row.destination.clone(),
            row.destination_tag.to_string(),
            row.protocol.clone(),
            row.ports.clone(),
        ]);
    }
    trimmed(&table)
}

pub(super) fn flows(page: &FlowsPage) -> String {
    trimmed(&between(&page.flows)) + "\n" + &trimmed(&outside(&page.translations))
}

fn between(rows: &[FlowRow]) -> Table {
    let mut table = headed(["PROTOCOL", "SOURCE", "DESTINATION", "STATE", "VERDICT", "IDLE", "AGE"]);
    for row in rows {
        table.add_row([
            protocol(row.protocol),
            format!("{}:{}", row.source, row.source_port),
            format!("{}:{}", row.destination, row.destination_port),
            row.state.clone(),
            row.verdict.clone(),
            span(row.idle_seconds),
            span(row.age_seconds),
        ]);
    }
    table
}

fn outside(rows: &[TranslationRow]) -> Table {
    let mut table = headed(["PROTOCOL", "CONTAINER", "AS", "OUTSIDE", "KIND", "STATE", "IDLE", "AGE"]);
    for row in rows {
        table.add_row([
            protocol(row.protocol),
            format!("{}:{}", row.container, row.container_port),
            format!("{}:{}", row.cell, row.cell_port),
            format!("{}:{}", row.outside, row.outside_port),
            row.kind.clone(),
            row.state.clone(),
            span(row.idle_seconds),
            span(row.age_seconds),
        ]);
    }
    table
}

pub(super) fn egress(rows: &Vec<EgressRow>) -> String {
    let mut table = headed(["CONTAINER", "ADDRESS", "SPACE", "WORKLOAD", "RULES", "DENIED", "ALLOWED"]);
    for row in rows {
        let rules = if row.groups.is_empty() { row.rules.clone() } else { row.groups.join(", ") };
        let denied: Vec<_> = row.denied.iter().map(ToString::to_string).collect();
        table.add_row([
            row.container_id.clone(),
            row.address.to_string(),
            or_dash(&row.space),
            row.workload.clone(),
            rules,
            or_dash(&denied.join(", ")),
            allowed(&row.allowed),
        ]);
    }
    let skipped: BTreeSet<_> = rows.iter().flat_map(|row| &row.skipped).collect();
    skipped.into_iter().fold(trimmed(&table), |text, rule| text + "skipped: " + rule + "\n")
}

/// The first few; a container may have a thousand.
fn allowed(rules: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = or_dash(&rules.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", "));
    if rules.len() > SHOWN {
        text += &format!(", and {} more (--json)", rules.len() - SHOWN);
    }
    text
}

pub(super) fn ports(rows: &Vec<PortRow>) -> String {
    let mut table = headed(["PORT", "PROTOCOL", "LEADS TO", "CONTAINER"]);
    for row in rows {
        table.add_row([
            row.host_port.to_string(),
            row.protocol.clone(),
            format!("{}:{}", row.address, row.container_port),
            row.container_id.clone(),
        ]);
    }
    trimmed(&table)
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

pub(super) fn counters(page: &CountersPage) -> String {
    let mut packets = headed(["PROGRAM", "OUTCOME", "", "PACKETS", "BYTES"]);
    for row in &page.counters {
        let drop = if row.drop { "drop" } else { "" };
        packets.add_row([&row.hook, &row.outcome, drop, &row.packets.to_string(), &row.bytes.to_string()]);
    }
    align_right(&mut packets, &[3, 4]);
    let mut maps = headed(["MAP", "ENTRIES", "CAPACITY"]);
    for map in &page.maps {
        maps.add_row([&map.name, &map.entries.to_string(), &map.capacity.to_string()]);
    }
    align_right(&mut maps, &[1, 2]);
    trimmed(&packets) + "\n" + &trimmed(&maps)
}

/// IANA's name, or its number.
fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        other => other.to_string(),
    }
}

fn permille(map: &MapUse) -> u64 {
    map.entries.saturating_mul(1000).checked_div(map.capacity).unwrap_or(0)
}

/// The two largest units: `3d 4h`, `12m 5s`, `7s`.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        (_, _, _) => format!("{days}d {hours}h"),
    }
}

pub(super) fn plain() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

fn headed<const N: usize>(names: [&str; N]) -> Table {
    let mut table = plain();
    table.set_header(names);
    table
}

fn align_right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Without the blanks that fill the last column, and that the preset puts in front.
pub(super) fn trimmed(table: &impl Display) -> String {
    let text = table.to_string();
    let lines = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end());
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        assert_eq!([0, 59, 61, 3_661, 90_000].map(span), ["0s", "59s", "1m 1s", "1h 1m", "1d 1h"]);
    }

    #[test]
    fn a_table_has_a_head_and_no_blanks_at_the_ends() {
        let row = PolicyRow {
            source: "frontend".into(),
            source_tag: 1,
            destination: "backend".into(),
            destination_tag: 2,
            protocol: "tcp".into(),
            ports: "7000".into(),
        };
        let text = policies(&vec![row]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("SOURCE") && lines[0].ends_with("PORTS"));
        assert!(lines[1].starts_with("frontend") && lines[1].ends_with("7000"));
    }

    #[test]
    fn what_a_container_may_reach_is_shown_in_short_and_what_is_skipped_below() {
        let row = EgressRow {
            container_id: "h".into(),
            address: [10, 255, 1, 2].into(),
            space: String::new(),
            workload: "running".into(),
            rules: "groups".into(),
            groups: vec!["dns".into(), "public".into()],
            set: 7,
            allowed: (1..=6).map(|n| format!("all 192.0.2.{n}")).collect(),
            denied: Vec::new(),
            skipped: vec!["security group dns: bad".into()],
        };
        let text = egress(&vec![row.clone(), row]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines.len(), lines[3]), (4, "skipped: security group dns: bad"));
        assert!(
            lines[1].contains("dns, public") && lines[1].ends_with("192.0.2.4, and 2 more (--json)"),
            "{text}"
        );
    }
}
