//! What the programs cost when they were last accepted, by release of the kernel: a committed file. The verifier's instructions
//! must be the same; nanoseconds are the machine's, and are only told.

use super::figures::Row;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Figures by metric, by release of the kernel.
type File = BTreeMap<String, BTreeMap<String, f64>>;

/// The scenario whose figures are kept.
const SCENARIO: &str = "programs";
/// The unit of what must be the same.
const EXACT: &str = "instructions";

/// What differs from the committed figures where nothing may, one line each; and, as the second, how everything else
/// compares. None when there are no figures of this kernel.
pub type Comparison = Option<(Vec<String>, Vec<String>)>;

/// Compares rows with what is committed for this kernel.
///
/// # Errors
/// When the file cannot be read.
pub fn compare(rows: &[Row]) -> Result<Comparison> {
    let committed = read()?.remove(&kernel()?);
    Ok(committed.map(|committed| differences(rows, &committed)))
}

/// Makes rows what is committed for this kernel; gives the file's name.
///
/// # Errors
/// When the file cannot be read or written.
pub fn accept(rows: &[Row]) -> Result<PathBuf> {
    let mut file = read()?;
    ensure!(kept(rows).next().is_some(), "nothing of the scenario {SCENARIO} was measured");
    let figures = kept(rows).map(|row| (row.metric.clone(), row.median.round())).collect();
    file.insert(kernel()?, figures);
    let text = serde_json::to_string_pretty(&file).context("cannot write the baseline as JSON")? + "\n";
    std::fs::write(path(), text).with_context(|| format!("cannot write {}", path().display()))?;
    Ok(path())
}

fn differences(rows: &[Row], committed: &BTreeMap<String, f64>) -> (Vec<String>, Vec<String>) {
    let line = |row: &Row| {
        let Row { metric, unit, median, .. } = row;
        let before = committed.get(metric).map_or_else(|| "none".to_owned(), |value| format!("{value:.0}"));
        format!("{metric}: {median:.0} {unit}, committed {before}")
    };
    let (exact, loose): (Vec<&Row>, Vec<&Row>) = kept(rows).partition(|row| row.unit == EXACT);
    let same = |row: &&&Row| committed.get(&row.metric).is_some_and(|value| (value - row.median).abs() < 0.5);
    let different = exact.iter().filter(|row| !same(row)).map(|row| line(row)).collect();
    (different, loose.into_iter().map(line).collect())
}

fn kept(rows: &[Row]) -> impl Iterator<Item = &Row> {
    rows.iter().filter(|row| row.scenario == SCENARIO)
}

fn read() -> Result<File> {
    let path = path();
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not a baseline", path.display()))
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline/programs.json")
}

fn kernel() -> Result<String> {
    let release =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    Ok(release.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::fabric::Fabric;
    use super::*;

    #[test]
    fn instructions_must_be_the_same_and_nanoseconds_need_not() {
        let row = |metric, unit, value| Row::of(Fabric::C2c, SCENARIO, (2, 0), (metric, unit), &[value]);
        let rows = [row("a", "instructions", 10.0), row("b", "instructions", 21.0), row("c", "ns", 500.0)];
        let committed =
            [("a", 10.0), ("b", 20.0), ("c", 600.0)].map(|(name, value)| (name.to_owned(), value)).into();
        let (different, told) = differences(&rows, &committed);
        assert_eq!(different, ["b: 21 instructions, committed 20"]);
        assert_eq!(told, ["c: 500 ns, committed 600"]);
        let (unknown, _) = differences(&rows, &BTreeMap::new());
        assert_eq!(unknown.len(), 2);
    }
}
