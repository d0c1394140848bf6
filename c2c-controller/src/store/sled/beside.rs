//! Two small files beside the database, which know what the database might forget: `store-id`, whose store it is, and
//! `acknowledged`, the last revision that anybody was told of.

use crate::domain::Revision;
use crate::store::StoreId;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The identity written beside the database, if there is one.
pub(super) fn read_id(directory: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(id_path(directory)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn write_id(directory: &Path, id: &StoreId) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    writeln!(file, "{id}")?;
    file.as_file().sync_all()?;
    file.persist(id_path(directory))?;
    Ok(())
}

fn id_path(directory: &Path) -> PathBuf {
    directory.join("store-id")
}

/// The last acknowledged revision. Written after every commit and not flushed, which costs a microsecond: it survives the
/// process, and after a power failure it is at worst too low.
#[derive(Debug)]
pub(super) struct Acknowledged {
    file: File,
}

impl Acknowledged {
    /// Opens the file and says what is in it; 0 when nothing is.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Revision)> {
        let path = directory.join("acknowledged");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = [0; 8];
        let revision = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Revision::new(u64::from_be_bytes(bytes)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Revision::ZERO,
            Err(error) => return Err(error),
        };
        Ok((Self { file }, revision))
    }

    pub(super) fn write(&self, revision: Revision) -> io::Result<()> {
        self.file.write_all_at(&revision.get().to_be_bytes(), 0)
    }
}
