//! How results and errors look: one sentence, a table, or JSON; errors are one line.

use crate::backup::Counts;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::error::Error;
use std::io::{self, Write};

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// What clap says first, in one line and without its own "error:".
pub(super) fn first_paragraph(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line} (see --help)")
}

/// Writes a result: as JSON when that was asked for, else as people read it.
pub(super) fn print(json: bool, value: &impl Serialize, human: impl FnOnce() -> String) {
    let text = match json {
        true => {
            serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
        }
        false => human(),
    };
    // A reader that went away, as `| head` does, wants no more.
    let _ = writeln!(io::stdout(), "{text}");
}

/// A table with a header and no frames, so that it can be cut and grepped.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.to_vec());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// What there is of each kind, as a table.
pub(super) fn counts(counts: &Counts) -> String {
    table(&["", "count"], rows(counts).map(|(kind, count)| vec![kind.to_owned(), count.to_string()]))
}

/// What there is of each kind, with people's words for it.
pub(super) fn rows(counts: &Counts) -> [(&'static str, usize); 6] {
    let Counts { leases, policies, freed_tags, held_tags, security_groups, bindings } = *counts;
    [
        ("leases", leases),
        ("policies", policies),
        ("freed tags", freed_tags),
        ("routers' tags", held_tags),
        ("security groups", security_groups),
        ("their bindings", bindings),
    ]
}

/// A duration as people say it: the largest unit that has at least two of it, or seconds.
pub(super) fn duration(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "min")];
    let unit = units.into_iter().find(|(length, _)| seconds >= 2 * length);
    unit.map_or_else(|| format!("{seconds} s"), |(length, name)| format!("{} {name}", seconds / length))
}

/// How many cells enforce a change, of those that it concerns; `nobody` says why none is concerned.
pub(super) fn enforcement(cells: [u32; 2], elapsed_microseconds: u64, nobody: &str) -> String {
    let [enforcing, concerned] = cells;
    let milliseconds = elapsed_microseconds.div_ceil(1000);
    match concerned {
        0 => nobody.to_owned(),
        1 => format!("enforced by {enforcing} of 1 cell in {milliseconds} ms"),
        _ => format!("enforced by {enforcing} of {concerned} cells in {milliseconds} ms"),
    }
}

/// A text that somebody else wrote, on one line: what steers a terminal is spelled out, and what is too long is cut.
pub(super) fn shown(text: &str, longest: usize) -> String {
    let spelled = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let mut shown: String = text.chars().take(longest).map(spelled).collect();
    if text.chars().count() > longest {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (seconds, text) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (604_800, "7 d")]
        {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn what_clap_says_becomes_one_line() {
        let text =
            "error: the following required arguments were not provided:\n  --port <PORT>\n\nUsage: c2c";
        let line = "the following required arguments were not provided: --port <PORT> (see --help)";
        assert_eq!(first_paragraph(text), line);
    }

    #[test]
    fn texts_of_others_stay_on_their_line() {
        assert_eq!(shown("a\nb\u{1b}[2J é", 20), "a\\nb\\u{1b}[2J é");
        assert_eq!(shown("éééé", 4), "éééé");
        assert_eq!(shown("ééééé", 4), "éééé…");
    }

    #[test]
    fn enforcement_counts_cells() {
        let said = |cells| enforcement(cells, 1_500, "nobody");
        assert_eq!(said([0, 0]), "nobody");
        assert_eq!(said([1, 1]), "enforced by 1 of 1 cell in 2 ms");
        assert_eq!(said([1, 2]), "enforced by 1 of 2 cells in 2 ms");
    }

    #[test]
    fn tables_have_no_trailing_blanks() {
        let table = table(&["cell", "block"], [vec!["a".into(), "10.255.1.0/24".into()]]);
        assert_eq!(table, "cell  block\na     10.255.1.0/24");
    }
}
