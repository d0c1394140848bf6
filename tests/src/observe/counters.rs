//! Counters of the programs as `c2c-agent counters --json` shows them, and what became different between two looks.

use crate::lab::Lab;
use crate::wait;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Outcomes that are counted beside the one that decided the packet.
const BESIDE_A_DECISION: &[&str] =
    &["refusal_sent", "refusal_limited", "flow_not_stored", "rate_would_limit"];

/// Packets by hook and outcome, as `from_container/spoofed_source`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, u64>);

#[derive(Deserialize)]
struct Page {
    counters: Vec<Row>,
    maps: Vec<MapUse>,
}

#[derive(Deserialize)]
struct Row {
    hook: String,
    outcome: String,
    packets: u64,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MapUse {
    /// The map's name.
    pub name: String,
    /// Entries in it.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

impl Counters {
    /// What a cell has counted so far.
    pub fn of(lab: &Lab, cell: &str) -> Result<Self> {
        let rows = page(lab, cell)?.counters;
        Ok(Self(rows.into_iter().map(|row| (format!("{}/{}", row.hook, row.outcome), row.packets)).collect()))
    }

    /// Packets of one hook and outcome, as `from_container/spoofed_source`.
    #[must_use]
    pub fn packets(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Packets that a hook has decided: delivered or dropped, each once.
    #[must_use]
    pub fn decided(&self, hook: &str) -> u64 {
        let of_hook = self
            .0
            .iter()
            .filter_map(|(name, packets)| Some((name.strip_prefix(hook)?.strip_prefix('/')?, packets)));
        of_hook.filter(|(outcome, _)| !BESIDE_A_DECISION.contains(outcome)).map(|(_, packets)| packets).sum()
    }

    /// What was counted between an earlier look and this one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> BTreeMap<String, u64> {
        let moved = self
            .0
            .iter()
            .map(|(name, packets)| (name.clone(), packets.saturating_sub(earlier.packets(name))));
        moved.filter(|(_, packets)| *packets > 0).collect()
    }
}

/// Waits until a cell has counted this many packets more than before under one name, and checks that nothing else of
/// what `unmoved` covers has moved.
pub fn expect_only(
    lab: &Lab,
    cell: &str,
    before: &Counters,
    expected: (&str, u64),
    unmoved: impl Fn(&str) -> bool,
) -> Result<()> {
    let (name, packets) = expected;
    let after = wait::until(&format!("cell {cell} to count {packets} under {name}"), || {
        let now = Counters::of(lab, cell)?;
        Ok((now.packets(name) >= before.packets(name) + packets).then_some(now))
    })
    .with_context(|| match Counters::of(lab, cell) {
        Ok(now) => format!("it counted {:?}", now.since(before)),
        Err(error) => format!("it cannot be asked: {error:#}"),
    })?;
    let mut moved = after.since(before);
    let counted = moved.remove(name).unwrap_or(0);
    ensure!(counted == packets, "cell {cell} counted {counted} under {name} instead of {packets}");
    moved.retain(|name, _| unmoved(name));
    ensure!(moved.is_empty(), "cell {cell} also counted {moved:?}");
    Ok(())
}

/// Does a piece of work, and waits until the cell has counted exactly this many packets more under one name.
pub fn expect_more(
    lab: &Lab,
    cell: &str,
    expected: (&str, u64),
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = Counters::of(lab, cell)?;
    work()?;
    expect_only(lab, cell, &before, expected, |_| false)
}

/// How full a cell's maps are.
pub fn maps(lab: &Lab, cell: &str) -> Result<BTreeMap<String, MapUse>> {
    Ok(page(lab, cell)?.maps.into_iter().map(|map| (map.name.clone(), map)).collect())
}

fn page(lab: &Lab, cell: &str) -> Result<Page> {
    let page = lab.ask_agent(cell, "counters")?;
    serde_json::from_value(page.clone()).with_context(|| format!("counters are not as expected: {page}"))
}
