//! The text of `/metrics`, made anew for each scrape from what the observer sees, so that nothing can be forgotten to be
//! counted down. Names begin with `c2c_agent_`; units are in the names.

use crate::control_stream::StreamState;
use crate::datapath::{self, CounterRow, MapUse};
use crate::self_test::VERDICTS;
use crate::status::{Facts, Observer};
use c2c_common::layout;
use c2c_proto::pages::{self, by_state, counter, current, gauge, number};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::fmt;

/// The lease's states, each a series that is 1 or 0.
const LEASE_STATES: [&str; 5] = ["unleased", "requesting", "held", "grace", "lost"];

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub(super) enum PageError {
    #[error("cannot read the maps")]
    Kernel(#[from] datapath::Error),
    #[error("cannot write the page")]
    Format(#[from] fmt::Error),
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Path {
    hook: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Drop {
    hook: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Map {
    map: String,
}

/// The page.
pub(super) fn text(observer: &Observer) -> Result<String, PageError> {
    let (counters, maps) = observer.kernel()?;
    Ok(write(&observer.facts(), &counters, &maps)?)
}

fn write(facts: &Facts, counters: &[CounterRow], maps: &[MapUse]) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("c2c_agent");
    packets(&mut registry, counters);
    map_use(&mut registry, maps);
    policy(&mut registry, facts);
    outside(&mut registry, facts, maps);
    lease(&mut registry, facts);
    stream(&mut registry, facts);
    cell(&mut registry, facts);
    offload(&mut registry, facts);
    passes(&mut registry, facts);
    pages::text(&registry)
}

/// Packets by hook and outcome; drops once more under their reason, because that is what is alarmed on. Every reason is
/// there from the start, at 0: a series that appears with its first drop has no rate.
fn packets(registry: &mut Registry, counters: &[CounterRow]) {
    use c2c_common::counter::{Hook, Outcome};
    let (packets, bytes, drops) = (Family::default(), Family::default(), Family::default());
    for hook in Hook::ALL {
        for reason in Outcome::ALL.into_iter().filter(|outcome| outcome.is_drop()) {
            count(&drops, &Drop { hook: hook.as_str(), reason: reason.as_str() }, 0);
        }
    }
    for row in counters {
        let path = Path { hook: row.hook.as_str(), outcome: row.outcome.as_str() };
        count(&packets, &path, row.packets);
        count(&bytes, &path, row.bytes);
        if row.outcome.is_drop() {
            count(&drops, &Drop { hook: path.hook, reason: path.outcome }, row.packets);
        }
    }
    registry.register("packets", "Packets by program and what was done with them", packets);
    registry.register("bytes", "Bytes by program and what was done with them", bytes);
    registry.register("drops", "Packets that were dropped, by program and reason", drops);
}

fn map_use(registry: &mut Registry, maps: &[MapUse]) {
    let (entries, capacity) = (Family::<Map, Gauge>::default(), Family::<Map, Gauge>::default());
    for map in maps {
        entries.get_or_create(&Map { map: map.name.clone() }).set(number(map.entries));
        capacity.get_or_create(&Map { map: map.name.clone() }).set(number(map.capacity));
    }
    registry.register("map_entries", "Entries in each map", entries);
    registry.register("map_capacity", "Entries that each map can hold", capacity);
}

fn policy(registry: &mut Registry, facts: &Facts) {
    let known = facts.stream.known_revision.max(facts.fabric.applied.received);
    let enforced = facts.fabric.applied.enforced;
    gauge(registry, "policy_revision_known", "Newest revision that the controller spoke of", known);
    gauge(registry, "policy_revision_applied", "Revision that the maps hold", enforced);
    let behind = known.saturating_sub(enforced);
    gauge(registry, "policy_lag_revisions", "Revisions that are known and not applied", behind);
    gauge(
        registry,
        "policy_lag_seconds",
        "Since a newer revision is known than is applied",
        facts.lag().as_secs(),
    );
    let policies = facts.fabric.policies as u64;
    gauge(registry, "policies", "Policies that touch an app of this cell", policies);
    gauge(registry, "apps", "Apps on this cell", facts.fabric.apps.len() as u64);
}

fn outside(registry: &mut Registry, facts: &Facts, maps: &[MapUse]) {
    let fabric = &facts.fabric;
    gauge(registry, "security_groups", "Security groups that apply on this cell", fabric.groups as u64);
    gauge(
        registry,
        "egress_rules_skipped",
        "Egress rules that cannot be read; the others are enforced",
        fabric.skipped.len() as u64,
    );
    let ports = fabric.mapped_ports as u64;
    gauge(registry, "mapped_ports", "Ports of the cell that lead into containers, TCP and UDP each", ports);
    let translations = maps.iter().find(|map| map.name == layout::TRANSLATIONS).map_or(0, |map| map.entries);
    gauge(registry, "translations", "Flows with the outside", translations);
    counter(
        registry,
        "flow_log_lost",
        "Lines of the flow log that could not be written",
        facts.flow_log_lost,
    );
    gauge(
        registry,
        "connections_fullest",
        "Outbound TCP connections of the container that holds the most, at the last pass",
        facts.passes.swept.fullest,
    );
    gauge(
        registry,
        "connections_ceiling",
        "Outbound TCP connections that a container may hold; 0: any number",
        u64::from(fabric.max_connections),
    );
}

fn lease(registry: &mut Registry, facts: &Facts) {
    let state = current(LEASE_STATES, facts.stream.lease_state);
    by_state(registry, "lease_state", "State of the cell's lease", state);
    let (ago, left) = facts.tenure_seconds().unwrap_or_default();
    gauge(registry, "lease_renewed_seconds", "Since the lease was last confirmed; 0 without one", ago);
    gauge(registry, "lease_expires_seconds", "Until the lease expires; 0 without one", left);
    gauge(
        registry,
        "lease_alarm",
        "1 while the lease needs the operator",
        u64::from(facts.stream.alarm.is_some()),
    );
}

fn stream(registry: &mut Registry, facts: &Facts) {
    let names = StreamState::ALL.map(StreamState::as_str);
    let state = current(names, facts.stream.stream.as_str());
    by_state(registry, "stream_state", "State of the stream to the controller", state);
    counter(registry, "streams_opened", "Streams to the controller that were opened", facts.stream.opened);
}

fn cell(registry: &mut Registry, facts: &Facts) {
    gauge(registry, "endpoints", "Containers of this cell", facts.fabric.endpoints as u64);
    gauge(registry, "peers", "Other cells that hold a lease", facts.fabric.peers as u64);
    gauge(
        registry,
        "ready",
        "1 when an ADD can be served and all that is known is enforced",
        u64::from(facts.problems().is_empty()),
    );
    pages::build(registry, "The agent's version", env!("CARGO_PKG_VERSION"));
}

fn offload(registry: &mut Registry, facts: &Facts) {
    let state = current(VERDICTS, facts.self_test.verdict());
    by_state(registry, "offload_verdict", "What the self-test found the underlay device does", state);
    let off = facts.self_test.off.len() as u64;
    gauge(registry, "offloads_switched_off", "Features of the underlay device that c2c switched off", off);
}

fn passes(registry: &mut Registry, facts: &Facts) {
    let passes = &facts.passes;
    counter(registry, "reconcile_passes", "Passes over the kernel's state", passes.count);
    counter(
        registry,
        "reconcile_repaired",
        "Things that had drifted and were put back",
        passes.repaired_total,
    );
    counter(registry, "reconcile_failed", "Things that could not be put back", passes.failed_total);
    let age = passes.age().unwrap_or_default().as_secs();
    gauge(registry, "reconcile_age_seconds", "Since the last pass ended", age);
}

fn count<L>(family: &Family<L, Counter>, labels: &L, value: u64)
where
    L: Clone + std::hash::Hash + Eq,
{
    family.get_or_create(labels).inc_by(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::facts;
    use c2c_common::counter::{Hook, Outcome};

    #[test]
    fn the_page_says_what_is_so() {
        let counters = [
            CounterRow { hook: Hook::FromContainer, outcome: Outcome::ToCell, packets: 4, bytes: 400 },
            CounterRow { hook: Hook::FromUnderlay, outcome: Outcome::ForeignLease, packets: 2, bytes: 200 },
        ];
        let map = |name: &str, entries| MapUse { name: name.to_owned(), entries, capacity: 64 };
        let maps = [map("POLICIES", 12), map("TRANSLATIONS", 9)];
        let page = write(&facts(), &counters, &maps).unwrap();
        for line in [
            r#"c2c_agent_packets_total{hook="from_container",outcome="to_cell"} 4"#,
            r#"c2c_agent_bytes_total{hook="from_underlay",outcome="foreign_lease"} 200"#,
            r#"c2c_agent_drops_total{hook="from_underlay",reason="foreign_lease"} 2"#,
            r#"c2c_agent_drops_total{hook="from_container",reason="spoofed_source"} 0"#,
            r#"c2c_agent_map_entries{map="POLICIES"} 12"#,
            r#"c2c_agent_map_capacity{map="POLICIES"} 64"#,
            "c2c_agent_policy_revision_applied 5",
            "c2c_agent_policy_lag_revisions 4",
            "c2c_agent_policy_lag_seconds 12",
            r#"c2c_agent_lease_state{state="held"} 1"#,
            r#"c2c_agent_lease_state{state="lost"} 0"#,
            r#"c2c_agent_stream_state{state="live"} 1"#,
            "c2c_agent_endpoints 3",
            "c2c_agent_peers 2",
            "c2c_agent_security_groups 4",
            "c2c_agent_egress_rules_skipped 0",
            "c2c_agent_mapped_ports 6",
            "c2c_agent_translations 9",
            "c2c_agent_flow_log_lost_total 0",
            "c2c_agent_connections_fullest 0",
            "c2c_agent_connections_ceiling 0",
            r#"c2c_agent_offload_verdict{state="unknown"} 1"#,
            "c2c_agent_offloads_switched_off 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in:\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }
}
