//! A DEL that nobody could take is left as a file, and the agent does it when it is back.

use c2c_proto::agent_api::{Attachment, PendingDel};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Leaves a DEL in `dir`: written aside, forced to the disk, then renamed, so the agent never reads half of one. `now`
/// in Unix seconds.
pub(crate) fn leave(dir: &Path, attachment: &Attachment, now: u64) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let name = attachment.file_name();
    let draft = dir.join(format!(".{name}.{}", std::process::id()));
    let pending = PendingDel { attachment: attachment.clone(), requested_at: now };
    let written = write(&draft, &pending).and_then(|()| fs::rename(&draft, dir.join(name)));
    if written.is_err() {
        _ = fs::remove_file(&draft);
    }
    written?;
    File::open(dir)?.sync_all()
}

fn write(draft: &Path, pending: &PendingDel) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft)?;
    file.write_all(&serde_json::to_vec(pending)?)?;
    file.sync_all()
}
