//! Writing a backup.

use super::{End, Header, Line, hex};
use crate::domain::Parts;
use ring::digest::{Context, SHA256};
use serde::Serialize;
use std::io::{self, Write};

/// Writes a backup of these parts, which the header is of.
///
/// # Errors
/// When it cannot be written.
pub fn write(out: &mut impl Write, header: &Header, parts: &Parts) -> io::Result<()> {
    // The header says when policies changed.
    let Parts { revision: _, stamp: _, leases, policies, freed, held, groups, bindings } = parts;
    let mut lines = Lines { out, digest: Context::new(&SHA256) };
    lines.write(header)?;
    leases.iter().try_for_each(|lease| lines.write(&Line::Lease(lease.into())))?;
    policies.iter().try_for_each(|policy| lines.write(&Line::Policy(policy.into())))?;
    freed.iter().try_for_each(|freed| lines.write(&Line::FreedTag(freed.into())))?;
    held.iter().try_for_each(|held| lines.write(&Line::HeldTag(held.into())))?;
    groups.iter().try_for_each(|group| lines.write(&Line::SecurityGroup(group.into())))?;
    bindings.iter().try_for_each(|binding| lines.write(&Line::Binding(binding.into())))?;
    let sha256 = hex(lines.digest.clone().finish().as_ref());
    lines.write(&Line::End(End { sha256 }))?;
    out.flush()
}

struct Lines<'a, W> {
    out: &'a mut W,
    digest: Context,
}

impl<W: Write> Lines<'_, W> {
    fn write(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.digest.update(&bytes);
        self.out.write_all(&bytes)
    }
}
