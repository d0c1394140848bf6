//! Figures: for programs a list of rows, for people a table. What is claimed are ratios within one run.

use super::fabric::Fabric;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is measured, and its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
}

pub(super) const STREAM: Metric = Metric { name: "tcp stream", unit: "Gbit/s" };
pub(super) const ROUND_TRIP_P50: Metric = Metric { name: "tcp round trip p50", unit: "us" };
pub(super) const ROUND_TRIP_P99: Metric = Metric { name: "tcp round trip p99", unit: "us" };
pub(super) const CONNECTIONS: Metric = Metric { name: "tcp connections", unit: "1/s" };
pub(super) const DATAGRAMS: Metric = Metric { name: "udp datagrams of 64 B", unit: "1/s" };

/// One figure of one fabric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was done.
    pub scenario: String,
    /// With which fabric.
    pub fabric: Fabric,
    /// Containers on each cell.
    pub containers: u32,
    /// Policies beside those of the traffic.
    pub policies: u32,
    /// What was measured.
    pub metric: String,
    /// In what it was measured.
    pub unit: String,
    /// The middle one of the rounds.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The middle one of the rounds' ratios to the bare underlay in the same round; none where that has no such figure.
    pub ratio_to_bare: Option<f64>,
}

impl Row {
    /// A figure without another to compare it with, from all that was seen.
    pub(super) fn of(
        fabric: Fabric,
        scenario: &str,
        (containers, policies): (u32, u32),
        (metric, unit): (&str, &str),
        values: &[f64],
    ) -> Self {
        let (min, median, max) = spread(values);
        let (scenario, metric, unit) = (scenario.to_owned(), metric.to_owned(), unit.to_owned());
        Self { scenario, fabric, containers, policies, metric, unit, median, min, max, ratio_to_bare: None }
    }
}

/// What the rounds of one scenario showed.
#[derive(Debug, Default)]
pub(super) struct Rounds(BTreeMap<(Metric, Fabric), Vec<f64>>);

impl Rounds {
    /// Keeps what one round showed.
    pub(super) fn add(&mut self, metric: Metric, fabric: Fabric, value: f64) {
        self.0.entry((metric, fabric)).or_default().push(value);
    }

    /// Forgets a fabric that did not come to the end.
    pub(super) fn forget(&mut self, fabric: Fabric) {
        self.0.retain(|(_, other), _| *other != fabric);
    }

    /// A row for each metric and fabric.
    pub(super) fn rows(self, scenario: &str, containers: u32, policies: u32) -> Vec<Row> {
        let bare: BTreeMap<Metric, Vec<f64>> = self
            .0
            .iter()
            .filter(|((_, fabric), _)| *fabric == Fabric::Bare)
            .map(|((metric, _), values)| (*metric, values.clone()))
            .collect();
        let row = |((metric, fabric), values): ((Metric, Fabric), Vec<f64>)| {
            let row = Row::of(fabric, scenario, (containers, policies), (metric.name, metric.unit), &values);
            let ratio = bare.get(&metric).map(|bare| ratio(&values, bare)).filter(|ratio| ratio.is_finite());
            Row { ratio_to_bare: ratio, ..row }
        };
        self.0.into_iter().map(row).collect()
    }
}

/// The middle one of the rounds' ratios.
fn ratio(values: &[f64], bare: &[f64]) -> f64 {
    spread(&values.iter().zip(bare).map(|(value, bare)| value / bare).collect::<Vec<_>>()).1
}

/// Smallest, middle and largest; the middle of an even number is the mean of the two.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    let half = sorted.len() / 2;
    let median = if sorted.len().is_multiple_of(2) {
        f64::midpoint(at(half.saturating_sub(1)), at(half))
    } else {
        at(half)
    };
    (at(0), median, at(sorted.len().saturating_sub(1)))
}

/// The time, in microseconds, that so many of a hundred do not exceed (nearest rank).
pub(super) fn percentile(times: &mut [Duration], percent: usize) -> Option<f64> {
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).map(|time| time.as_secs_f64() * 1e6)
}

/// All rows as one table, a line for each metric of each scenario and a column for each fabric.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let fabrics = Fabric::ALL.map(|fabric| fabric.as_str().to_owned());
    table.set_header(
        ["scenario", "containers", "policies", "metric", "unit"]
            .map(str::to_owned)
            .into_iter()
            .chain(fabrics),
    );
    let mut lines: Vec<(Vec<String>, Vec<&Row>)> = Vec::new();
    for row in rows {
        let Row { scenario, containers, policies, metric, unit, .. } = row;
        let head = [scenario, &containers.to_string(), &policies.to_string(), metric, unit]
            .map(String::clone)
            .to_vec();
        match lines.iter_mut().find(|(other, _)| *other == head) {
            Some((_, cells)) => cells.push(row),
            None => lines.push((head, vec![row])),
        }
    }
    for (mut line, cells) in lines {
        line.extend(Fabric::ALL.map(|fabric| {
            cells.iter().find(|row| row.fabric == fabric).map_or_else(String::new, |row| cell(row))
        }));
        table.add_row(line);
    }
    table.trim_fmt()
}

/// The median, its ratio to bare, and the spread.
fn cell(row: &Row) -> String {
    let Row { median, min, max, ratio_to_bare, .. } = row;
    let ratio = match ratio_to_bare {
        Some(ratio) if row.fabric != Fabric::Bare => format!(" ×{ratio:.2}"),
        Some(_) | None => String::new(),
    };
    format!("{}{ratio} ({}–{})", short(*median), short(*min), short(*max))
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_median_the_spread_and_the_ratio_to_bare() {
        let mut rounds = Rounds::default();
        for (bare, ours) in [(10.0, 12.0), (30.0, 21.0), (20.0, 30.0)] {
            rounds.add(STREAM, Fabric::Bare, bare);
            rounds.add(STREAM, Fabric::C2c, ours);
        }
        rounds.add(DATAGRAMS, Fabric::C2c, 5.0);
        rounds.add(DATAGRAMS, Fabric::Silk, 5.0);
        rounds.forget(Fabric::Silk);
        let rows = rounds.rows("other-cell", 2, 0);
        let seen: Vec<_> =
            rows.iter().map(|row| (row.fabric, row.median, row.min, row.max, row.ratio_to_bare)).collect();
        assert_eq!(
            seen,
            [
                (Fabric::Bare, 20.0, 10.0, 30.0, Some(1.0)),
                (Fabric::C2c, 21.0, 12.0, 30.0, Some(1.2)),
                (Fabric::C2c, 5.0, 5.0, 5.0, None),
            ]
        );
        assert!(table(&rows).contains("21.0 ×1.20 (12.0–30.0)"), "{}", table(&rows));
    }

    #[test]
    fn a_percentile_is_a_time_that_was_seen() {
        let mut times: Vec<Duration> = (1..=200).rev().map(Duration::from_micros).collect();
        assert_eq!(percentile(&mut times, 50).map(f64::round), Some(100.0));
        assert_eq!(percentile(&mut times, 99).map(f64::round), Some(198.0));
        assert_eq!(percentile(&mut [], 50), None);
    }
}
