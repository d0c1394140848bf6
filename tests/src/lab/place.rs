//! Where a lab lives: its directory, the name that all its namespaces share, and how both go away again.
//!
//! Knows nothing of what runs in it. A directory that does not bear the mark of a lab is never removed.

use super::Description;
use crate::netns::Namespace;
use crate::process::Process;
use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};

const MARK: &str = ".c2c-lab";
const DAEMONS: [&str; 2] = ["c2c-agent", "c2c-controller"];
const DESCRIPTION: &str = "lab.json";
/// A Unix socket's path has at most 107 bytes (unix(7)), and `cell-a/agent.sock` comes behind the directory.
const LONGEST_DIRECTORY: usize = 85;

/// A lab's directory and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    directory: PathBuf,
    name: String,
}

impl Place {
    /// The place of this directory, which need not exist. The name follows from the directory, so that `down` finds
    /// what is left even when the directory was lost.
    pub fn at(directory: &Path) -> Result<Self> {
        let directory = std::path::absolute(directory).context("the lab's directory has no absolute path")?;
        if directory.as_os_str().len() > LONGEST_DIRECTORY {
            bail!(
                "{} is longer than {LONGEST_DIRECTORY} bytes, too long for the sockets in it: choose another with --dir",
                directory.display()
            );
        }
        let mut hasher = DefaultHasher::new();
        directory.hash(&mut hasher);
        let name = format!("lab{:08x}", hasher.finish() & 0xffff_ffff);
        Ok(Self { directory, name })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The name that its namespaces share.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where `lab.json` is.
    #[must_use]
    pub fn description_file(&self) -> PathBuf {
        self.directory.join(DESCRIPTION)
    }

    /// A file or directory in the lab's own.
    #[must_use]
    pub fn path(&self, relative: &str) -> PathBuf {
        self.directory.join(relative)
    }

    /// The namespace of one of its parts.
    #[must_use]
    pub fn namespace(&self, part: &str) -> Namespace {
        Namespace::named(&format!("{}{part}", self.prefix()))
    }

    /// All of its namespaces that exist.
    pub fn namespaces(&self) -> Result<Vec<Namespace>> {
        Namespace::with_prefix(&self.prefix())
    }

    /// The lab's description; none when no lab is up here.
    pub fn read_description(&self) -> Result<Option<Description>> {
        read_json(&self.description_file())
    }

    /// Whether anything of a lab is here.
    pub fn is_used(&self) -> Result<bool> {
        Ok(self.directory.join(MARK).exists() || !self.namespaces()?.is_empty())
    }

    /// Makes the directory, marks it and mounts a bpffs of its own in it.
    pub(super) fn prepare(&self) -> Result<()> {
        let directory = self.directory.display();
        std::fs::create_dir_all(&self.directory).with_context(|| format!("cannot make {directory}"))?;
        if std::fs::read_dir(&self.directory)
            .with_context(|| format!("cannot read {directory}"))?
            .next()
            .is_some()
        {
            bail!("{directory} is not empty and not a lab's: choose another with --dir");
        }
        write(&self.path(MARK), self.name.as_bytes())?;
        make_directory(&self.containers())?;
        let bpf = self.bpf();
        make_directory(&bpf)?;
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&Path>)
            .with_context(|| format!("cannot mount a bpffs at {}", bpf.display()))
    }

    /// Ends the daemons, removes the namespaces, the mount and the directory, and says what was removed. Goes
    /// on after a failure and reports the first one.
    pub fn clear(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        let results = [
            self.end_processes(&mut removed),
            self.delete_namespaces(&mut removed),
            self.unmount(&mut removed),
            self.remove_directory(&mut removed),
        ];
        results.into_iter().collect::<Result<Vec<()>>>()?;
        Ok(removed)
    }

    /// A daemon is known by the configuration file in this directory that it was started with, so that one is found even
    /// when whoever started it died before writing its number down.
    fn end_processes(&self, removed: &mut Vec<String>) -> Result<()> {
        let ours = |words: &[String]| match words {
            [program, serve, flag, config, ..] => {
                let program = Path::new(program)
                    .file_name()
                    .is_some_and(|name| DAEMONS.iter().any(|daemon| name == *daemon));
                program
                    && serve == "serve"
                    && flag == "--config"
                    && Path::new(config).starts_with(&self.directory)
            }
            _ => false,
        };
        for process in Process::all_that(ours)? {
            process.kill()?;
            removed.push(format!("process {}", process.pid));
        }
        Ok(())
    }

    fn delete_namespaces(&self, removed: &mut Vec<String>) -> Result<()> {
        for namespace in self.namespaces()? {
            namespace.delete()?;
            removed.push(format!("namespace {}", namespace.name()));
        }
        Ok(())
    }

    fn unmount(&self, removed: &mut Vec<String>) -> Result<()> {
        let bpf = self.bpf();
        match umount2(&bpf, MntFlags::MNT_DETACH) {
            Ok(()) => removed.push(format!("mount {}", bpf.display())),
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINVAL) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", bpf.display())),
        }
        Ok(())
    }

    fn remove_directory(&self, removed: &mut Vec<String>) -> Result<()> {
        if !self.path(MARK).exists() {
            return Ok(());
        }
        let directory = self.directory.display();
        std::fs::remove_dir_all(&self.directory).with_context(|| format!("cannot remove {directory}"))?;
        removed.push(format!("directory {directory}"));
        Ok(())
    }

    /// Where there is a record of each container.
    pub(super) fn containers(&self) -> PathBuf {
        self.path("containers")
    }

    /// Where the lab's bpffs is mounted; each cell has a pin directory in it.
    pub(super) fn bpf(&self) -> PathBuf {
        self.path("bpf")
    }

    fn prefix(&self) -> String {
        format!("c2c-{}-", self.name)
    }
}

/// Makes a directory and those above it.
pub(super) fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}

/// Writes a small file.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// Replaces a JSON file in one step, so that a reader sees the old or the new one.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let directory = path.parent().context("a file without a directory")?;
    let json = serde_json::to_vec_pretty(value).context("cannot be written as JSON")?;
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&json)?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a JSON file; none when it does not exist.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let value = serde_json::from_slice(&bytes);
    value.map(Some).with_context(|| format!("{} is not what a lab writes", path.display()))
}
