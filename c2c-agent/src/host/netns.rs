//! Network namespaces: opening, telling apart, and doing something inside one.
//!
//! A thread enters one namespace once and ends with its job. None ever has to find its way home, so neither an error
//! nor a panic can leave a thread of the agent in a container's namespace.

use super::Error;
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

/// What tells one namespace from another: a path can be mounted over, and a descriptor number is reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NetnsId {
    /// Device of the kernel's namespace file system.
    pub dev: u64,
    /// Inode there.
    pub inode: u64,
}

/// A network namespace, held open.
#[derive(Debug)]
pub struct Netns {
    file: File,
    id: NetnsId,
    name: String,
}

impl Netns {
    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, Error> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace that a path names. That it is one at all shows when it is entered.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        File::open(path)
            .and_then(|file| Self::held(file, &name))
            .map_err(|source| Error::Netns { netns: name, source })
    }

    /// A namespace that came as a descriptor; `name` is for messages.
    pub fn from_descriptor(descriptor: OwnedFd, name: &str) -> Result<Self, Error> {
        Self::held(File::from(descriptor), name)
            .map_err(|source| Error::Netns { netns: name.to_owned(), source })
    }

    fn held(file: File, name: &str) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let id = NetnsId { dev: metadata.dev(), inode: metadata.ino() };
        Ok(Self { file, id, name: name.to_owned() })
    }

    /// Which namespace this is.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does a job on a thread of its own inside this namespace, and waits for it.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::Netns { netns: self.name.clone(), source: errno.into() })?;
            job()
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("netns".to_owned());
            let handle =
                thread.spawn_scoped(scope, inside).map_err(|error| self.job_error(error.to_string()))?;
            handle.join().unwrap_or_else(|panic| Err(self.job_error(panic_text(panic.as_ref()))))
        })
    }

    fn job_error(&self, reason: String) -> Error {
        Error::Job { netns: self.name.clone(), reason }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it panicked: {}", text.unwrap_or_else(|| "no message".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing;

    #[test]
    fn a_job_runs_inside_and_its_caller_stays_outside() {
        let home = Netns::current().unwrap().id();
        let other = testing::namespace();
        let inside = other.run(|| Ok(Netns::current()?.id())).unwrap();
        assert_eq!(inside, other.id());
        assert_ne!(inside, home);
        assert_eq!(Netns::current().unwrap().id(), home);
    }

    #[test]
    fn a_job_that_panics_is_an_error() {
        let error = testing::namespace().run(|| -> Result<(), Error> { panic!("lost") }).unwrap_err();
        assert!(error.to_string().contains("it panicked: lost"), "{error}");
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Netns::open(file.path()).unwrap().run(|| Ok(())).unwrap_err();
        assert!(matches!(error, Error::Netns { .. }), "{error:?}");
        assert!(matches!(Netns::open(Path::new("/proc/none")), Err(Error::Netns { .. })));
    }
}
