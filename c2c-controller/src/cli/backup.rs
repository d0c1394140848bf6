//! `backup`: asks a running controller for everything it knows and keeps it in a file.

use super::client::{self, Client, Connection};
use super::{Failure, output};
use crate::backup::{self, Backup, Counts};
use c2c_proto::v1;
use clap::Args;
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal, Seek, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use tonic::{Response, Status};

const EXAMPLES: &str = "\
The file is JSON lines with a checksum, one state at one revision, readable by its owner alone. It is put in its place
when it is whole.

Examples:
  c2c-controller backup net.backup
  c2c-controller backup - | gpg --encrypt --recipient ops > net.backup.gpg";

/// How often the progress is told, in bytes.
const PROGRESS_BYTES: u64 = 16 << 20;

/// Where a backup goes.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BackupArgs {
    /// Where to; - for standard output
    file: PathBuf,
    /// Print JSON about what was backed up
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Serialize)]
struct BackedUp {
    file: PathBuf,
    bytes: u64,
    store: String,
    revision: u64,
    #[serde(flatten)]
    counts: Counts,
}

pub(super) fn run(args: &BackupArgs) -> Result<(), Failure> {
    let to_stdout = args.file == Path::new("-");
    let directory = match args.file.parent().filter(|parent| !to_stdout && !parent.as_os_str().is_empty()) {
        Some(directory) => directory.to_owned(),
        None if to_stdout => std::env::temp_dir(),
        None => PathBuf::from("."),
    };
    let unwritable =
        |error: io::Error| Failure::Usage(format!("file: cannot write {}: {error}", args.file.display()));
    // It is made with mode 0600.
    let mut file = NamedTempFile::new_in(&directory).map_err(unwritable)?;
    fetch(&args.connection, file.as_file())?.map_err(unwritable)?;
    let bytes = file.as_file().metadata().map_err(unwritable)?.len();
    file.rewind().map_err(unwritable)?;
    let Backup { header, .. } = backup::read(BufReader::new(file.as_file())).map_err(Failure::refused)?;
    if to_stdout {
        file.rewind().and_then(|()| io::copy(file.as_file_mut(), &mut io::stdout())).map_err(unwritable)?;
        return Ok(());
    }
    put_in_place(file, &directory, &args.file).map_err(unwritable)?;
    let (store, revision, counts) = (header.store, header.revision, header.counts);
    let done = BackedUp { file: args.file.clone(), bytes, store, revision, counts };
    output::print(args.json, &done, || human(&done));
    Ok(())
}

/// Takes the pieces to their end. What is wrong with the connection is the failure, what is wrong with the file the rest.
fn fetch(connection: &Connection, file: &File) -> Result<io::Result<()>, Failure> {
    client::call(connection, async |mut client: Client| {
        let mut chunks = client.backup(v1::BackupRequest {}).await?.into_inner();
        let mut out = BufWriter::new(file);
        let mut progress = Progress::default();
        while let Some(chunk) = chunks.message().await? {
            if let Err(error) = out.write_all(&chunk.data) {
                return Ok::<_, Status>(Response::new(Err(error)));
            }
            progress.add(chunk.data.len());
        }
        Ok(Response::new(out.flush()))
    })
}

fn put_in_place(file: NamedTempFile, directory: &Path, to: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(to)?;
    File::open(directory)?.sync_all()
}

fn human(BackedUp { file, bytes, store, revision, counts }: &BackedUp) -> String {
    let kinds = output::counts(counts);
    format!("{} holds revision {revision} of store {store}, {bytes} bytes\n{kinds}", file.display())
}

/// Tells somebody who watches how far it is.
#[derive(Default)]
struct Progress {
    done: u64,
    told: u64,
}

impl Progress {
    fn add(&mut self, bytes: usize) {
        self.done = self.done.saturating_add(bytes as u64);
        if self.done.saturating_sub(self.told) >= PROGRESS_BYTES && io::stderr().is_terminal() {
            self.told = self.done;
            eprintln!("{} MiB so far", self.done >> 20);
        }
    }
}
