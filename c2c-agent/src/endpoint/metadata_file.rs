//! The containers of the cell in a file for other programs of it (loggers, drain scripts): Silk's `store.json`.
//!
//! `FILE` holds `{"HANDLE": {"handle", "ip", "metadata"}}`, `FILE_version` a number that every change raises (readers keep
//! what they read while it stays), and who reads or writes holds `FILE_lock`. Unlike Silk's, a file is replaced whole.
//! Others write too: what they changed of a container's metadata stays as long as the container does.

use super::record::{Record, State};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// A reader parses the file under its lock, which takes milliseconds. Nobody's ADD waits longer than 50 times this.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
const LOCK_ATTEMPTS: u32 = 50;
/// Of files that are new; those that exist keep theirs.
const MODE: u32 = 0o600;
/// What a reader takes for the version of a file that has none.
const FIRST_VERSION: u64 = 1;

/// The file, and its two companions.
#[derive(Debug)]
pub(super) struct MetadataFile {
    path: PathBuf,
}

/// A container as the file tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    handle: String,
    ip: Ipv4Addr,
    metadata: BTreeMap<String, Value>,
}

impl MetadataFile {
    /// The file at `path`; nothing is touched yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file tell of all wired containers and no other, and answers whether it did not before. `records` is
    /// called under the lock.
    pub(super) fn tell(&self, records: impl FnOnce() -> Vec<Record>) -> io::Result<bool> {
        let owner = self.owner()?;
        let _lock = self.lock(&owner)?;
        let found = self.read();
        let told: BTreeMap<_, _> = records().into_iter().filter_map(|record| tell(record, &found)).collect();
        if found.as_ref() == Some(&told) {
            return Ok(false);
        }
        self.replace("", &serde_json::to_vec(&told)?, &owner)?;
        self.replace("_version", self.next_version().to_string().as_bytes(), &owner)?;
        Ok(true)
    }

    /// Whose the files are: the file's owner, or before there is one its directory's.
    fn owner(&self) -> io::Result<Metadata> {
        fs::metadata(&self.path).or_else(|_| fs::metadata(self.path.parent().unwrap_or(Path::new("/"))))
    }

    fn companion(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// A reader that never lets go must not keep containers from coming and going.
    fn lock(&self, owner: &Metadata) -> io::Result<Flock<File>> {
        let path = self.companion("_lock");
        let open =
            |create| OpenOptions::new().read(true).write(true).create_new(create).mode(MODE).open(&path);
        let mut file = match open(false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = open(true)?;
                fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
                file
            }
            opened => opened?,
        };
        for _ in 0..LOCK_ATTEMPTS {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((back, Errno::EWOULDBLOCK)) => file = back,
                Err((_, errno)) => return Err(errno.into()),
            }
            thread::sleep(LOCK_PAUSE);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("{} is held by somebody else", path.display())))
    }

    /// What the file tells now; a file that cannot be read tells nothing.
    fn read(&self) -> Option<BTreeMap<String, Told>> {
        serde_json::from_slice(&fs::read(&self.path).ok()?).ok()
    }

    fn next_version(&self) -> u64 {
        let found = fs::read_to_string(self.companion("_version")).ok();
        found.and_then(|text| text.trim().parse().ok()).unwrap_or(FIRST_VERSION).saturating_add(1)
    }

    /// Not forced to the disk: a machine that goes down takes its containers with it.
    fn replace(&self, suffix: &str, bytes: &[u8], owner: &Metadata) -> io::Result<()> {
        let (place, draft) = (self.companion(suffix), self.companion(".c2c"));
        let mode = fs::metadata(&place).map_or(MODE, |found| found.mode() & 0o777);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&draft)?;
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        fs::rename(draft, place)
    }
}

/// What the file shall tell of a container: what it tells already, when that is about this very container.
fn tell(record: Record, found: &Option<BTreeMap<String, Told>>) -> Option<(String, Told)> {
    if record.state != State::Wired {
        return None;
    }
    let handle = record.attachment.container_id;
    let there = found.as_ref().and_then(|found| found.get(&handle)).filter(|told| told.ip == record.address);
    let fresh = || Told { handle: handle.clone(), ip: record.address, metadata: record.metadata };
    let told = there.cloned().unwrap_or_else(fresh);
    Some((handle, told))
}
