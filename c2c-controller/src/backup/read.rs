//! Reading a backup: all of it is checked before anything is made of it.

use super::{Counts, End, FIRST_VERSION, FORMAT, Header, Line, VERSION, hex};
use crate::domain::{Inconsistent, Parts, Stamp, State};
use crate::store::record::Illegal;
use ring::digest::{Context, SHA256};
use serde::Deserialize;
use std::io::{self, BufRead};

/// The longest line, in bytes: the largest security group, every character of it escaped.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// A backup that was read and is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// What it is of.
    pub header: Header,
    /// What was in the store.
    pub state: State,
}

/// Why a backup is of no use. Each is one line.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The system does not let us.
    #[error("the backup cannot be read")]
    Read(#[from] io::Error),
    /// Something else.
    #[error("the first line is not that of a backup; expected a file that `c2c-controller backup` wrote")]
    NotABackup,
    /// Of a later controller.
    #[error("the backup has format version {found}; this controller reads versions up to {VERSION}")]
    Version {
        /// The version.
        found: u32,
    },
    /// A line that cannot be one.
    #[error("line {number} of the backup is damaged: {problem}; take another copy or backup")]
    Line {
        /// Which, from 1.
        number: usize,
        /// What is wrong.
        problem: String,
    },
    /// The end is missing.
    #[error("the backup ends after {lines} lines and lacks its last one; take another copy or backup")]
    CutOff {
        /// How many whole lines there are.
        lines: usize,
    },
    /// Not what was written.
    #[error("the backup was altered: {problem}; take another copy or backup")]
    Altered {
        /// What gave it away.
        problem: &'static str,
    },
    /// No sequence of commands could have made it.
    #[error("the backup makes no state")]
    Inconsistent(#[from] Inconsistent),
}

/// Reads and checks a backup to its last byte.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn read(input: impl BufRead) -> Result<Backup, BackupError> {
    let mut lines = Lines { input, line: Vec::new(), number: 0, digest: Context::new(&SHA256) };
    lines.advance()?;
    let header = header(&lines.line)?;
    let mut parts =
        Parts { revision: header.revision(), stamp: Stamp(header.policies_changed), ..Parts::default() };
    let end = loop {
        lines.take();
        lines.advance()?;
        let added = add(&mut parts, lines.parse()?);
        if let Some(end) = added.map_err(|Illegal| lines.wrong("it says what cannot be"))? {
            break end;
        }
    };
    lines.finish(&end)?;
    let read = Counts::of(&parts);
    let state = State::restore(parts)?;
    // Of the state, too, so that no record is there twice.
    if [read, Counts::of(&state.parts())].into_iter().any(|counts| counts != header.counts) {
        return Err(BackupError::Altered { problem: "it does not hold as much as it says" });
    }
    Ok(Backup { header, state })
}

fn header(line: &[u8]) -> Result<Header, BackupError> {
    /// What every version has.
    #[derive(Deserialize)]
    struct Kind {
        format: String,
        version: u32,
    }
    let kind = serde_json::from_slice(line).ok().filter(|kind: &Kind| kind.format == FORMAT);
    let Kind { version, .. } = kind.ok_or(BackupError::NotABackup)?;
    if !(FIRST_VERSION..=VERSION).contains(&version) {
        return Err(BackupError::Version { found: version });
    }
    serde_json::from_slice(line).map_err(|error| BackupError::Line { number: 1, problem: error.to_string() })
}

/// Adds a record; gives the end when that is what the line is.
fn add(parts: &mut Parts, line: Line) -> Result<Option<End>, Illegal> {
    match line {
        Line::Lease(lease) => parts.leases.push(lease.try_into()?),
        Line::Policy(policy) => parts.policies.push(policy.try_into()?),
        Line::FreedTag(freed) => parts.freed.push(freed.try_into()?),
        Line::HeldTag(held) => parts.held.push(held.try_into()?),
        Line::SecurityGroup(group) => parts.groups.push(group.try_into()?),
        Line::Binding(binding) => parts.bindings.push(binding.try_into()?),
        Line::End(end) => return Ok(Some(end)),
    }
    Ok(None)
}

struct Lines<R> {
    input: R,
    /// The last one that was read.
    line: Vec<u8>,
    number: usize,
    /// Of those that were taken.
    digest: Context,
}

impl<R: BufRead> Lines<R> {
    /// Reads the next line, which must be whole.
    fn advance(&mut self) -> Result<(), BackupError> {
        self.line.clear();
        let mut limited = io::Read::take(&mut self.input, MAX_LINE_BYTES);
        limited.read_until(b'\n', &mut self.line)?;
        if self.line.last() != Some(&b'\n') {
            return Err(match self.number {
                0 => BackupError::NotABackup,
                lines => BackupError::CutOff { lines },
            });
        }
        self.number = self.number.saturating_add(1);
        Ok(())
    }

    /// The last line is one of those that the checksum is of.
    fn take(&mut self) {
        self.digest.update(&self.line);
    }

    fn parse(&self) -> Result<Line, BackupError> {
        serde_json::from_slice(&self.line).map_err(|error| self.wrong(&error.to_string()))
    }

    fn wrong(&self, problem: &str) -> BackupError {
        BackupError::Line { number: self.number, problem: problem.to_owned() }
    }

    /// The checksum is that of all lines before, and nothing follows.
    fn finish(&mut self, end: &End) -> Result<(), BackupError> {
        if hex(self.digest.clone().finish().as_ref()) != end.sha256 {
            return Err(BackupError::Altered { problem: "its checksum is another one" });
        }
        match self.input.fill_buf()? {
            [] => Ok(()),
            _ => Err(BackupError::Altered { problem: "something follows its end" }),
        }
    }
}
