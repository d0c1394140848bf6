//! The socket's file: taking its place without taking anybody else's, and leaving nothing behind.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// Root alone may connect.
const MODE: u32 = 0o600;

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Something else has the path.
    #[error("cannot listen on {}: {reason}; it was left as it is", .path.display())]
    Taken {
        /// Which path.
        path: PathBuf,
        /// What is there.
        reason: String,
    },
    /// The socket could not be made.
    #[error("cannot listen on {}: {what}", .path.display())]
    Io {
        /// Which path.
        path: PathBuf,
        /// At which step.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A listening socket of ours. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    file: SocketFile,
}

/// The file, and which one it was, so that a successor's is never removed.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Listens on `path`. A stale socket of ours is replaced; a live one, another user's, or any other file is left
    /// alone. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the path is taken, or the socket cannot be made there.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |what| move |source| BindError::Io { path: path.to_owned(), what, source };
        if let Some(reason) = taken(path) {
            return Err(BindError::Taken { path: path.to_owned(), reason });
        }
        let parent = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(failed("its directory cannot be made"))?;
        // Made under another name and renamed when its mode is right: nobody ever finds it open to all.
        let draft = draft(path);
        _ = fs::remove_file(&draft);
        let listener = UnixListener::bind(&draft).map_err(failed("the socket cannot be made"))?;
        let file =
            SocketFile::finish(&draft, path).map_err(failed("the socket cannot be put in its place"))?;
        Ok(Self { listener, file })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

impl SocketFile {
    fn finish(draft: &Path, path: &Path) -> io::Result<Self> {
        fs::set_permissions(draft, Permissions::from_mode(MODE))?;
        let inode = fs::symlink_metadata(draft)?.ino();
        fs::rename(draft, path)?;
        Ok(Self { path: path.to_owned(), inode })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the agent's socket could not be removed");
        }
    }
}

fn draft(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

/// Why the path is not ours to take, if it is not.
fn taken(path: &Path) -> Option<String> {
    let found = fs::symlink_metadata(path).ok()?;
    let mode = found.mode() & 0o777;
    if !found.file_type().is_socket() {
        return Some(
            "a file of another kind is there, expected nothing or a socket that an agent left".to_owned(),
        );
    }
    match BlockingStream::connect(path) {
        Ok(_) => Some("another process listens there; is a c2c-agent running already?".to_owned()),
        Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => {
            Some(format!("a socket is there: {error}"))
        }
        Err(_) if found.uid() != 0 || mode != MODE => Some(format!(
            "a socket of uid {} and mode {mode:o} is there, an agent leaves 0 and 600",
            found.uid()
        )),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener as BlockingListener;
    use tempfile::TempDir;

    fn place() -> (TempDir, PathBuf) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("run/agent.sock");
        (dir, path)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn only_root_can_connect_and_nothing_is_left() {
        let (_dir, path) = place();
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        drop(socket);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_stale_socket_of_ours_is_replaced() {
        let (_dir, path) = place();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(BlockingListener::bind(&path).unwrap());
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let socket = Socket::bind(&path).unwrap();
        assert!(BlockingStream::connect(socket.path()).is_ok());
    }

    #[tokio::test]
    async fn what_is_not_a_stale_socket_of_ours_stays() {
        let (_dir, path) = place();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let refused = |expected: &str| {
            let error = Socket::bind(&path).unwrap_err();
            assert!(
                matches!(error, BindError::Taken { .. }) && error.to_string().contains(expected),
                "{error}"
            );
        };
        fs::write(&path, "precious").unwrap();
        refused("another kind");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        let live = BlockingListener::bind(&path).unwrap();
        refused("another process listens");
        drop(live);
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        refused("mode 666");
        fs::remove_file(&path).unwrap();
        let running = Socket::bind(&path).unwrap();
        refused("another process listens");
        drop(running);
    }

    #[tokio::test]
    async fn a_successor_keeps_its_socket() {
        let (_dir, path) = place();
        let first = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = Socket::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }
}
