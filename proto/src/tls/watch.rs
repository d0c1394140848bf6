//! Tells when files come to hold something else, however that is done: written anew, renamed over, or reached through a
//! link that was swapped. What is watched (inotify(7)) are the directories, because a rename brings another file.

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// How long nothing has to happen before the files are read: a certificate and its key are replaced one after the other.
const SETTLE: Duration = Duration::from_millis(300);
/// As often the files are read without being told: not every file system tells, and there may be no inotify to be had.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// As many links may be followed to a file; the kernel follows 40 (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Watches some files.
#[derive(Debug)]
pub struct FileWatch {
    files: Vec<PathBuf>,
    /// Nothing when the kernel gives none.
    inotify: Option<Arc<Inotify>>,
    /// Told by a thread whenever something happens in one of the directories.
    stirred: Arc<Notify>,
    seen: u64,
}

impl FileWatch {
    /// Begins to watch: what changes from now on is told.
    #[must_use]
    pub fn new(files: Vec<PathBuf>) -> Self {
        let stirred = Arc::new(Notify::new());
        let inotify = begin(Arc::clone(&stirred)).inspect_err(
            |error| tracing::warn!(%error, "cannot watch the certificates; they are read every minute"),
        );
        let mut watch = Self { files, inotify: inotify.ok(), stirred, seen: 0 };
        watch.follow();
        watch.seen = watch.look();
        watch
    }

    /// Waits until the files hold something else than when it was told last.
    pub async fn changed(&mut self) {
        loop {
            tokio::select! {
                () = self.stirred.notified() => while timeout(SETTLE, self.stirred.notified()).await.is_ok() {},
                () = sleep(LOOK_EVERY) => {}
            }
            // A link may lead elsewhere now.
            self.follow();
            let now = self.look();
            if std::mem::replace(&mut self.seen, now) != now {
                return;
            }
        }
    }

    /// Watches every directory on the way to the files; those that are watched already stay so.
    fn follow(&self) {
        let Some(inotify) = &self.inotify else { return };
        let news = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE;
        for directory in self.files.iter().flat_map(|file| directories(file)) {
            // A directory that is not there has nothing to tell; its files are looked at all the same.
            let _ = inotify.add_watch(&directory, news);
        }
    }

    fn look(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.files.iter().for_each(|file| std::fs::read(file).ok().hash(&mut hasher));
        hasher.finish()
    }
}

/// Begins to listen on a thread, which ends with the first event after nobody waits for one.
fn begin(stirred: Arc<Notify>) -> io::Result<Arc<Inotify>> {
    let inotify = Arc::new(Inotify::init(InitFlags::IN_CLOEXEC)?);
    let told = Arc::clone(&inotify);
    let listen = move || {
        // What happened does not matter, nor that some of it was lost: the files are looked at.
        while matches!(told.read_events(), Ok(_) | Err(Errno::EINTR)) && Arc::strong_count(&stirred) > 1 {
            stirred.notify_one();
        }
    };
    thread::Builder::new().name("certificates".to_owned()).spawn(listen)?;
    Ok(inotify)
}

/// The directories in which a file, or a link on the way to it, can be replaced.
fn directories(file: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut next = std::path::absolute(file).ok();
    for _ in 0..MOST_LINKS {
        let Some(path) = next else { break };
        found.extend(path.parent().map(Path::to_owned));
        next = path.ancestors().find_map(|link| {
            let (target, directory) = (std::fs::read_link(link).ok()?, link.parent()?);
            found.insert(directory.to_owned());
            let rest = path.strip_prefix(link).ok()?;
            let target = directory.join(target);
            Some(if rest.as_os_str().is_empty() { target } else { target.join(rest) })
        });
    }
    found
}
