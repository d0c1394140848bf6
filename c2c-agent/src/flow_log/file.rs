//! A file that lines are added to and that others may rename, remove or empty at any time, as logrotate does: nobody has
//! to tell the agent.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Lines tell which app talks to whom; they are for root and its group.
const MODE: u32 = 0o640;

/// See the module.
#[derive(Debug)]
pub(super) struct Appender {
    path: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    identity: Identity,
    /// The last line was written in part.
    torn: bool,
}

/// Device and inode.
type Identity = (u64, u64);

impl Appender {
    /// Opens nothing yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line to the file that has the path now. A line is written whole or is an error; the next one begins on a
    /// line of its own all the same.
    pub(super) fn append(&mut self, line: &str) -> io::Result<()> {
        let open = self.current()?;
        let text = if open.torn { format!("\n{line}\n") } else { format!("{line}\n") };
        let written = write(&mut open.file, text.as_bytes())?;
        let whole = written == text.len();
        open.torn = !whole && (open.torn || written > 0);
        if whole { Ok(()) } else { Err(io::Error::new(ErrorKind::WriteZero, "a line was written in part")) }
    }

    fn current(&mut self) -> io::Result<&mut Open> {
        let there = fs::metadata(&self.path).ok().map(|metadata| identity(&metadata));
        let open = match self.open.take() {
            Some(open) if Some(open.identity) == there => open,
            Some(_) | None => Open::new(&self.path)?,
        };
        Ok(self.open.insert(open))
    }
}

impl Open {
    /// Does not wait for a reader when somebody has put a pipe there.
    fn new(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(MODE).custom_flags(nix::libc::O_NONBLOCK);
        let file = options.open(path)?;
        let identity = identity(&file.metadata()?);
        Ok(Self { file, identity, torn: false })
    }
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

fn write(file: &mut File, text: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(text) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn appender(dir: &tempfile::TempDir) -> (Appender, PathBuf) {
        let path = dir.path().join("flows.log");
        (Appender::new(path.clone()), path)
    }

    #[test]
    fn a_file_that_was_renamed_or_removed_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, path) = appender(&dir);
        let old = dir.path().join("flows.log.1");
        log.append("a").unwrap();
        log.append("b").unwrap();
        fs::rename(&path, &old).unwrap();
        log.append("c").unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "a\nb\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "c\n");
        fs::remove_file(&path).unwrap();
        log.append("d").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "d\n");
    }

    #[test]
    fn a_file_that_was_emptied_or_is_there_already_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, path) = appender(&dir);
        fs::write(&path, "before\n").unwrap();
        log.append("a").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\na\n");
        OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        log.append("b").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "b\n");
    }

    #[test]
    fn a_directory_that_comes_later_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later/flows.log");
        let mut log = Appender::new(path.clone());
        assert!(log.append("a").is_err());
        fs::create_dir(dir.path().join("later")).unwrap();
        log.append("b").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "b\n");
    }

    #[test]
    fn nobody_waits_for_a_pipe_and_a_torn_line_stays_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, path) = appender(&dir);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(log.append("nobody reads").is_err());
        let mut reader =
            OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path).unwrap();
        let more_than_a_pipe_takes = "x".repeat(4 << 20);
        assert_eq!(log.append(&more_than_a_pipe_takes).unwrap_err().kind(), ErrorKind::WriteZero);
        assert!(log.append("full").is_err());
        let mut read = Vec::new();
        assert_eq!(reader.read_to_end(&mut read).unwrap_err().kind(), ErrorKind::WouldBlock);
        log.append("next").unwrap();
        read.clear();
        reader.read_to_end(&mut read).unwrap_err();
        assert_eq!(String::from_utf8(read).unwrap(), "\nnext\n");
    }
}
