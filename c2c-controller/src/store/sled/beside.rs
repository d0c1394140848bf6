//! Small files beside the database, which know what the database might forget: `store-id`, whose store it is, and
//! `acknowledged`, the last revision that anybody was told of. While the database becomes another store there is also
//! `next-store-id`, so that neither identity is taken for damage when that is interrupted.

use crate::domain::Revision;
use crate::store::StoreId;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

const ID: &str = "store-id";
const NEXT_ID: &str = "next-store-id";

/// The identities written beside the database.
#[derive(Debug, Default)]
pub(super) struct Identities {
    /// The store's; nothing when it is new.
    pub(super) known: Option<String>,
    /// The one that it was about to get.
    pub(super) next: Option<String>,
}

impl Identities {
    pub(super) fn read(directory: &Path) -> io::Result<Self> {
        Ok(Self { known: read(&directory.join(ID))?, next: read(&directory.join(NEXT_ID))? })
    }

    /// Whether this may be the database's.
    pub(super) fn allow(&self, stored: &str) -> bool {
        self.known.is_none() || [&self.known, &self.next].into_iter().flatten().any(|id| id == stored)
    }
}

/// Notes the identity that the database has.
pub(super) fn write_id(directory: &Path, id: &StoreId) -> io::Result<()> {
    write(directory, ID, id)
}

/// Notes the identity that the database is about to get.
pub(super) fn write_next_id(directory: &Path, id: &StoreId) -> io::Result<()> {
    write(directory, NEXT_ID, id)
}

/// Forgets it again.
pub(super) fn remove_next_id(directory: &Path) -> io::Result<()> {
    std::fs::remove_file(directory.join(NEXT_ID))
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(directory: &Path, name: &str, id: &StoreId) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    writeln!(file, "{id}")?;
    file.as_file().sync_all()?;
    file.persist(directory.join(name))?;
    File::open(directory)?.sync_all()
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

    /// Of another store now: no later one of the store before may come back after a power failure.
    pub(super) fn restart(&self, revision: Revision) -> io::Result<()> {
        self.write(revision)?;
        self.file.sync_all()
    }
}
