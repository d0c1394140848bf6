//! What the agent remembers over a restart: its lease, the world it last saw, and the offloads it switched off. Files of
//! their own, because the lease is written with every heartbeat and the world can be megabytes.
//!
//! A file is one header line (`c2c-agent <kind> <version> <crc32> <bytes>`) and a JSON document. It is replaced
//! atomically, and read back whole or not at all: a damaged one is kept aside as `<name>.damaged`, and what was in it is
//! asked of the controller again.
//!
//! Steps of the world are put behind it in a file of their own, whose first line is the header of the world that they
//! start from; each has a header line and a JSON document. What follows the last whole one was never enforced.

use super::step::Step;
use super::world::{Change, World};
use crate::lease::Grant;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of both documents.
const VERSION: u32 = 1;
const LEASE: &str = "lease";
const WORLD: &str = "world";
const OFFLOADS: &str = "offloads";
const STEPS: &str = "steps";
const STEP: &str = "step";

/// The lease, and when it was last good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLease {
    /// What was granted.
    pub grant: Grant,
    /// When the controller last confirmed it, since the Unix epoch.
    pub renewed: Duration,
}

/// A step as it is saved.
#[derive(Debug, Serialize, Deserialize)]
struct SavedStep {
    /// The revision after it.
    to: u64,
    /// What changed.
    changes: Vec<Change>,
}

/// Features of an interface that the offload self-test switched off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offloads {
    /// The interface's name.
    pub device: String,
    /// The features, by their names in the kernel.
    pub off: BTreeSet<String>,
}

/// Why something could not be remembered, or is not.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The file cannot be written.
    #[error("cannot write {}; free space or mend the permissions of its directory", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("{} is damaged ({why}): a copy is kept as {}.damaged, the controller is asked for everything again", path.display(), path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Where the agent remembers.
#[derive(Clone, Debug)]
pub struct Saved {
    dir: PathBuf,
}

impl Saved {
    /// Remembers in `dir`, the state directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The lease, if one was saved.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged; a damaged one is moved aside, so that the next call finds none.
    pub fn lease(&self) -> Result<Option<SavedLease>, SavedError> {
        self.read(LEASE)
    }

    /// The world, if one was saved, after all steps that were.
    ///
    /// # Errors
    /// As [`Saved::lease`].
    pub fn world(&self) -> Result<Option<World>, SavedError> {
        let Some(bytes) = self.contents(WORLD)? else { return Ok(None) };
        let mut world = parse(WORLD, &bytes).map_err(|why| set_aside(self.dir.join(WORLD), why))?;
        let steps = self.contents(STEPS)?.unwrap_or_default();
        if let Some(steps) = steps.strip_prefix(first_line(&bytes)) {
            take_steps(&mut world, steps);
        }
        Ok(Some(world))
    }

    /// Remembers the lease.
    ///
    /// # Errors
    /// When the file cannot be written; the old one is then still whole.
    pub fn put_lease(&self, lease: &SavedLease) -> Result<(), SavedError> {
        self.write(LEASE, lease)
    }

    /// Remembers the world, so that it outlives this process; [`Saved::sync_world`] makes it outlive the machine. The
    /// two are apart because this is done before every change is enforced, and a sync takes milliseconds: what only a
    /// power cut can lose, a power cut takes from the kernel too.
    ///
    /// Answers how many bytes that took.
    ///
    /// # Errors
    /// As [`Saved::put_lease`].
    pub fn put_world(&self, world: &World) -> Result<u64, SavedError> {
        let (path, steps) = (self.dir.join(WORLD), self.dir.join(STEPS));
        let bytes =
            document(WORLD, world).map_err(|source| SavedError::Write { path: path.clone(), source })?;
        // Steps of the world before are not this one's: their first line is another.
        [(path, &bytes[..]), (steps, first_line(&bytes))].into_iter().try_for_each(|(path, bytes)| {
            replace(&self.dir, &path, bytes, |_| Ok(())).map_err(|source| SavedError::Write { path, source })
        })?;
        Ok(bytes.len() as u64)
    }

    /// Remembers a step after the world and the steps that were remembered before; answers how many bytes that took. A
    /// step that was not written as a whole is one that was not written, and must be followed by [`Saved::put_world`].
    ///
    /// # Errors
    /// As [`Saved::put_lease`].
    pub fn add_step(&self, step: &Step, to: u64) -> Result<u64, SavedError> {
        let path = self.dir.join(STEPS);
        let saved = SavedStep { to, changes: step.changes().to_vec() };
        let added = document(STEP, &saved).and_then(|bytes| {
            fs::OpenOptions::new().append(true).open(&path)?.write_all(&bytes)?;
            Ok(bytes.len() as u64)
        });
        added.map_err(|source| SavedError::Write { path, source })
    }

    /// Has the disk hold the world that was remembered last.
    ///
    /// # Errors
    /// As [`Saved::put_lease`].
    pub fn sync_world(&self) -> Result<(), SavedError> {
        self.sync(WORLD)?;
        match self.sync(STEPS) {
            // An earlier version's agent wrote the world.
            Err(SavedError::Write { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced,
        }
    }

    /// The offloads that are switched off, if any were.
    ///
    /// # Errors
    /// As [`Saved::lease`].
    pub fn offloads(&self) -> Result<Option<Offloads>, SavedError> {
        self.read(OFFLOADS)
    }

    /// Remembers them.
    ///
    /// # Errors
    /// As [`Saved::put_lease`].
    pub fn put_offloads(&self, offloads: &Offloads) -> Result<(), SavedError> {
        self.write(OFFLOADS, offloads)
    }

    /// Forgets them. Nothing saved is no error.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget_offloads(&self) -> Result<(), SavedError> {
        self.forget(OFFLOADS)
    }

    /// Forgets the lease. Nothing saved is no error.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget_lease(&self) -> Result<(), SavedError> {
        self.forget(LEASE)
    }

    /// Forgets everything, also what was kept as damaged.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn forget_all(&self) -> Result<(), SavedError> {
        [LEASE, WORLD, STEPS, OFFLOADS]
            .into_iter()
            .try_for_each(|kind| self.forget(kind).and_then(|()| self.forget(&format!("{kind}.damaged"))))
    }

    fn sync(&self, kind: &str) -> Result<(), SavedError> {
        let path = self.dir.join(kind);
        let synced =
            fs::File::open(&path).and_then(|file| file.sync_all()).and_then(|()| sync_dir(&self.dir));
        synced.map_err(|source| SavedError::Write { path, source })
    }

    fn forget(&self, kind: &str) -> Result<(), SavedError> {
        let path = self.dir.join(kind);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(SavedError::Write { path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn write<T: Serialize>(&self, kind: &str, value: &T) -> Result<(), SavedError> {
        let path = self.dir.join(kind);
        let written = document(kind, value)
            .and_then(|bytes| replace(&self.dir, &path, &bytes, fs::File::sync_all))
            .and_then(|()| sync_dir(&self.dir));
        written.map_err(|source| SavedError::Write { path, source })
    }

    fn read<T: DeserializeOwned>(&self, kind: &str) -> Result<Option<T>, SavedError> {
        let Some(bytes) = self.contents(kind)? else { return Ok(None) };
        parse(kind, &bytes).map(Some).map_err(|why| set_aside(self.dir.join(kind), why))
    }

    fn contents(&self, kind: &str) -> Result<Option<Vec<u8>>, SavedError> {
        let path = self.dir.join(kind);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SavedError::Read { path, source }),
        }
    }
}

fn document<T: Serialize>(kind: &str, value: &T) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(value)?;
    let mut bytes = header(kind, &body).into_bytes();
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

fn header(kind: &str, body: &[u8]) -> String {
    format!("c2c-agent {kind} {VERSION} {:08x} {}\n", crc32fast::hash(body), body.len())
}

fn replace(
    dir: &Path,
    path: &Path,
    bytes: &[u8],
    settle: impl Fn(&fs::File) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".saving-").tempfile_in(dir)?;
    file.write_all(bytes)?;
    settle(file.as_file())?;
    file.persist(path)?;
    Ok(())
}

/// Without it a rename may not outlive a power cut.
fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// With its end.
fn first_line(bytes: &[u8]) -> &[u8] {
    bytes.split_inclusive(|&byte| byte == b'\n').next().unwrap_or_default()
}

/// Takes steps until one is not whole.
fn take_steps(world: &mut World, mut steps: &[u8]) {
    while let Some((step, rest)) = next_step(steps) {
        step.changes.into_iter().for_each(|change| world.apply(change));
        world.revision = step.to;
        steps = rest;
    }
    if !steps.is_empty() {
        tracing::warn!(
            revision = world.revision,
            "the last steps were not saved whole; the controller is asked for them"
        );
    }
}

/// The first step, and what follows it.
fn next_step(steps: &[u8]) -> Option<(SavedStep, &[u8])> {
    let header = first_line(steps);
    let length: usize = std::str::from_utf8(header).ok()?.trim_end().rsplit(' ').next()?.parse().ok()?;
    let (step, rest) = steps.split_at_checked(header.len().checked_add(length)?)?;
    Some((parse(STEP, step).ok()?, rest))
}

fn parse<T: DeserializeOwned>(kind: &str, bytes: &[u8]) -> Result<T, String> {
    let end = bytes.iter().position(|&byte| byte == b'\n').ok_or("it has no header line")?;
    let (found, body) = bytes.split_at(end + 1);
    let wanted = header(kind, body);
    if found != wanted.as_bytes() {
        let found = String::from_utf8_lossy(found);
        return Err(format!(
            "its header is {:?}, its content asks for {:?}",
            found.trim_end(),
            wanted.trim_end()
        ));
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

/// A rename keeps the copy whole and the name free. When even that fails the file stays, and is replaced by the next
/// write; the reader is told the same.
fn set_aside(path: PathBuf, why: String) -> SavedError {
    let mut aside = path.clone().into_os_string();
    aside.push(".damaged");
    match fs::rename(&path, aside) {
        Ok(()) => SavedError::Damaged { path, why },
        Err(source) => SavedError::Read { path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::world::{Hosted, Policy, Protocol, Rule, Tags};
    use proptest::prelude::*;

    fn world() -> World {
        let complete = Hosted { apps: ["frontend".to_owned()].into(), ..Hosted::default() };
        World { store_id: "s".into(), revision: 7, complete, ..World::default() }
    }

    #[test]
    fn what_was_saved_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let saved = Saved::new(dir.path());
        assert_eq!(saved.world().unwrap(), None);
        saved.put_world(&world()).unwrap();
        saved.put_world(&World { revision: 8, ..world() }).unwrap();
        assert_eq!(saved.world().unwrap(), Some(World { revision: 8, ..world() }));
        saved.forget_all().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_file_cut_short_or_changed_is_noticed_and_kept(cut in any::<prop::sample::Index>(), flip: bool) {
            let dir = tempfile::tempdir().unwrap();
            let saved = Saved::new(dir.path());
            saved.put_world(&world()).unwrap();
            let path = dir.path().join(WORLD);
            let mut bytes = fs::read(&path).unwrap();
            let at = cut.index(bytes.len());
            if flip { bytes[at] ^= 1 } else { bytes.truncate(at) }
            fs::write(&path, &bytes).unwrap();
            let found = saved.world();
            prop_assert!(matches!(found, Err(SavedError::Damaged { .. })), "{:?}", found);
            prop_assert_eq!(fs::read(dir.path().join("world.damaged")).unwrap(), bytes);
            prop_assert!(saved.world().unwrap().is_none());
        }
    }

    fn policy(port: u16) -> Policy {
        let rule = Rule {
            source: "frontend".into(),
            destination: "backend".into(),
            protocol: Protocol::Tcp,
            port_start: port,
            port_end: port,
        };
        Policy { rule, tags: Tags { source: 1, destination: 2 } }
    }

    /// Remembers policies for these ports one after the other, and answers the worlds after each.
    fn stepped(saved: &Saved, ports: &[u16]) -> Vec<World> {
        let mut worlds = vec![world()];
        saved.put_world(&world()).unwrap();
        for port in ports {
            let mut next = worlds.last().unwrap().clone();
            let to = next.revision + 3;
            let change = Change::PolicyPut(policy(*port));
            let mut step = Step::default();
            step.add(change.clone(), &next);
            saved.add_step(&step, to).unwrap();
            next.apply(change);
            next.revision = to;
            worlds.push(next);
        }
        worlds
    }

    #[test]
    fn steps_of_another_world_are_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let saved = Saved::new(dir.path());
        let worlds = stepped(&saved, &[80, 81]);
        assert_eq!(saved.world().unwrap().as_ref(), worlds.last());
        let steps = fs::read(dir.path().join(STEPS)).unwrap();
        saved.put_world(&World { revision: 8, ..world() }).unwrap();
        fs::write(dir.path().join(STEPS), steps).unwrap();
        assert_eq!(saved.world().unwrap().unwrap(), World { revision: 8, ..world() });
        fs::remove_file(dir.path().join(STEPS)).unwrap();
        assert_eq!(saved.world().unwrap().unwrap().revision, 8);
        saved.sync_world().unwrap();
    }

    proptest! {
        #[test]
        fn steps_are_taken_as_far_as_they_are_whole(cut in any::<prop::sample::Index>(), flip: bool) {
            let dir = tempfile::tempdir().unwrap();
            let saved = Saved::new(dir.path());
            let worlds = stepped(&saved, &[80, 81, 82]);
            let path = dir.path().join(STEPS);
            let mut bytes = fs::read(&path).unwrap();
            let at = cut.index(bytes.len());
            if flip { bytes[at] ^= 1 } else { bytes.truncate(at) }
            fs::write(&path, &bytes).unwrap();
            let found = saved.world().unwrap().unwrap();
            prop_assert!(worlds[..3].contains(&found), "{:?}", found);
        }
    }

    #[test]
    fn a_lease_is_not_taken_for_a_world() {
        let dir = tempfile::tempdir().unwrap();
        let saved = Saved::new(dir.path());
        saved.put_world(&world()).unwrap();
        fs::rename(dir.path().join(WORLD), dir.path().join(LEASE)).unwrap();
        assert!(matches!(saved.lease(), Err(SavedError::Damaged { .. })));
    }
}
