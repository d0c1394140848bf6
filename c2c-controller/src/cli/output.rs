//! How results and errors look: one sentence, a table, or JSON; errors are one line.

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

/// A duration as people say it: the largest unit that has at least two of it, or seconds.
pub(super) fn duration(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "min")];
    let unit = units.into_iter().find(|(length, _)| seconds >= 2 * length);
    unit.map_or_else(|| format!("{seconds} s"), |(length, name)| format!("{} {name}", seconds / length))
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
    fn tables_have_no_trailing_blanks() {
        let table = table(&["cell", "block"], [vec!["a".into(), "10.255.1.0/24".into()]]);
        assert_eq!(table, "cell  block\na     10.255.1.0/24");
    }
}
