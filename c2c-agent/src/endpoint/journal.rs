//! The records on disk: one JSON file each, replaced whole, so a reader sees the old one or the new one.
//!
//! The record of an ADD that begins is forced to the disk before anything is made. Later states are not: a killed agent
//! loses nothing that the kernel took, and when the machine itself goes down so do the interfaces, and an older state
//! only means that there is nothing left to undo. (An fsync costs about 4 ms on a cloud disk, of an ADD's 15.)

use super::failure::chain;
use super::record::Record;
use c2c_proto::agent_api::Attachment;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tempfile::NamedTempFile;

/// Where the address handed out last is noted, so that a restart does not reuse it at once. Beside the directory of
/// records, which is empty when no container is there.
pub(crate) const LAST_ADDRESS: &str = "last-address";
/// The same for the port handed out last.
pub(crate) const LAST_PORT: &str = "last-port";
/// Files being written begin so; a crash leaves them behind.
const UNFINISHED: &str = ".writing-";

/// Why the records cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be made or read.
    #[error("cannot read the endpoint records in {}: the directory must be root's and writable", .dir.display())]
    Directory {
        /// Which one.
        dir: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A record cannot be written or removed.
    #[error("cannot write the endpoint record {}", .file.display())]
    Write {
        /// Which file.
        file: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The agent's own network namespace cannot be opened.
    #[error("cannot open the agent's own network namespace")]
    Home(#[from] crate::host::Error),
}

/// How soon a record must be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// Before anything else happens.
    Forced,
    /// When the kernel gets to it.
    Lazy,
}

/// What the directory held.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) records: Vec<Record>,
    pub(super) last_address: Option<Ipv4Addr>,
    pub(super) last_port: Option<u16>,
}

/// The directory of records.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
}

impl Journal {
    /// Opens the directory, makes it if needed, and reads it. A damaged file is told about and set aside as
    /// `*.damaged`; the rest goes on.
    pub(super) fn open(dir: PathBuf) -> Result<(Self, Loaded), Error> {
        let journal = Self { dir };
        let loaded =
            journal.load().map_err(|source| Error::Directory { dir: journal.dir.clone(), source })?;
        Ok((journal, loaded))
    }

    /// Writes a record in place of the one before it.
    pub(super) fn write(&self, record: &Record, durability: Durability) -> Result<(), Error> {
        let name = record.attachment.file_name();
        let text = serde_json::to_vec_pretty(record).map_err(io::Error::from);
        let written = text.and_then(|text| self.replace(&name, &text, durability));
        written.map_err(|source| Error::Write { file: self.dir.join(name), source })
    }

    /// Notes which address was handed out last. Only a hint, so it is written in place, and failing to fails nothing.
    pub(super) fn write_last_address(&self, address: Ipv4Addr) {
        self.write_hint(LAST_ADDRESS, &format!("{address:<15}\n"));
    }

    /// Notes which port of the cell was handed out last; a hint as well.
    pub(super) fn write_last_port(&self, port: u16) {
        self.write_hint(LAST_PORT, &format!("{port:<5}\n"));
    }

    /// `text` has always the same length, because what was there is not cut off.
    fn write_hint(&self, name: &str, text: &str) {
        let file = File::options().write(true).create(true).truncate(false).open(self.hint(name));
        if let Err(error) = file.and_then(|mut file| file.write_all(text.as_bytes())) {
            tracing::warn!(%error, name, "cannot note what was handed out last");
        }
    }

    fn read_hint<T: FromStr>(&self, name: &str) -> Option<T> {
        fs::read_to_string(self.hint(name)).ok()?.trim().parse().ok()
    }

    fn hint(&self, name: &str) -> PathBuf {
        self.dir.with_file_name(name)
    }

    /// Removes a record; it may be gone already.
    pub(super) fn remove(&self, attachment: &Attachment) -> Result<(), Error> {
        let file = self.dir.join(attachment.file_name());
        match fs::remove_file(&file) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Write { file, source }),
            _ => Ok(()),
        }
    }

    fn replace(&self, name: &str, text: &[u8], durability: Durability) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.dir)?;
        file.write_all(text)?;
        if durability == Durability::Forced {
            file.as_file().sync_data()?;
        }
        NamedTempFile::persist(file, self.dir.join(name)).map(drop).map_err(io::Error::from)
    }

    fn load(&self) -> io::Result<Loaded> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let mut loaded = Loaded {
            last_address: self.read_hint(LAST_ADDRESS),
            last_port: self.read_hint(LAST_PORT),
            ..Loaded::default()
        };
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            self.load_file(&path, &mut loaded)?;
        }
        loaded.records.sort_by(|a, b| a.attachment.cmp(&b.attachment));
        Ok(loaded)
    }

    fn load_file(&self, path: &Path, loaded: &mut Loaded) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(UNFINISHED) {
            return fs::remove_file(path);
        }
        if name.ends_with(".json") {
            match read_record(path, &name) {
                Ok(record) => loaded.records.push(record),
                Err(error) => self.set_aside(&name, &chain(&error))?,
            }
        }
        Ok(())
    }

    /// Keeps a record that cannot be used under another name, and says so.
    pub(super) fn set_aside(&self, name: &str, reason: &str) -> io::Result<()> {
        let file = self.dir.join(name);
        let copy = self.dir.join(format!("{name}.damaged"));
        tracing::error!(file = %file.display(), copy = %copy.display(), reason,
            "an endpoint record is damaged; it was set aside, and the container is looked for in the kernel");
        fs::rename(&file, &copy)
    }
}

fn read_record(path: &Path, name: &str) -> io::Result<Record> {
    let record: Record = serde_json::from_reader(io::BufReader::new(File::open(path)?))?;
    if record.attachment.file_name() != name {
        return Err(io::Error::other(format!("it holds the record of {}", record.attachment.file_name())));
    }
    Ok(record)
}
