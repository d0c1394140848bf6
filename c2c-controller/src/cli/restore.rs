//! `restore`: fills the store of a stopped controller with a backup.

use super::{Failure, output};
use crate::backup::{self, Backup, BackupError, Counts};
use crate::config::{StoreArgs, StorePlace};
use crate::domain::{Revision, State};
use crate::store::Store;
use clap::Args;
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
The controllers of the store have to be stopped, and a directory has to be written as the user that it belongs to. The whole
file is checked before anything is written, and all of it is written or nothing. The store gets a new identity: agents take
everything anew when they come back.

Examples:
  sudo -u c2c-controller c2c-controller restore net.backup --data-dir /var/lib/c2c-controller
  c2c-controller restore net.backup --config /etc/c2c/controller.toml --force";

/// What to restore, and where.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RestoreArgs {
    /// A file that `backup` wrote; - for standard input
    file: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
    /// Replace what is in the store
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Restored {
    from_store: String,
    from_revision: u64,
    taken_seconds_ago: u64,
    store: String,
    revision: u64,
    restored: Counts,
    replaced: Counts,
}

pub(super) fn run(args: &RestoreArgs) -> Result<(), Failure> {
    let Backup { header, state } = read(&args.file)?;
    let filled = fill(&args.store, args.force, &state)?;
    let restored = Restored {
        from_store: header.store,
        from_revision: header.revision,
        taken_seconds_ago: crate::api::now().wall.0.saturating_sub(header.taken),
        store: filled.store,
        revision: filled.revision,
        restored: header.counts,
        replaced: filled.replaced,
    };
    output::print(args.json, &restored, || human(&restored));
    Ok(())
}

/// A store that was filled.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) store: String,
    pub(super) revision: u64,
    /// What was in it before.
    pub(super) replaced: Counts,
}

/// Makes this the whole content of a store that is empty, unless it may be replaced.
pub(super) fn fill(place: &StoreArgs, force: bool, state: &State) -> Result<Filled, Failure> {
    let place = place.load().map_err(Failure::usage)?;
    if let StorePlace::Directory(directory) = &place {
        check_owner(directory)?;
    }
    let store = crate::assembly::open_store(&place).map_err(Failure::refused)?;
    let before = store.snapshot().map_err(Failure::refused)?;
    let replaced = Counts::of(&before.parts());
    check_empty(store.as_ref(), &before, replaced, force)?;
    // Who polled before must see that policies may be others now.
    let mut state = state.clone();
    state.restamp(before.stamp(), crate::api::now());
    let store = store.refill(before.revision(), &state).map_err(Failure::refused)?;
    Ok(Filled { store: store.id().to_string(), revision: Revision::FIRST.get(), replaced })
}

/// What root writes into the directory of a controller that is not root the controller could not read.
fn check_owner(directory: &Path) -> Result<(), Failure> {
    let owner = directory.metadata().map_or(0, |metadata| metadata.uid());
    if owner == 0 || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "{} belongs to the user with the id {owner}, who could not use what root writes there; run this as that user, \
         as with sudo -u '#{owner}'",
        directory.display()
    )))
}

fn check_empty(store: &dyn Store, before: &State, replaced: Counts, force: bool) -> Result<(), Failure> {
    if before.revision() == Revision::ZERO || force {
        return Ok(());
    }
    let Counts { leases, policies, security_groups, .. } = replaced;
    Err(Failure::Refused(format!(
        "the store is not empty: it is {} at revision {}, with {leases} leases, {policies} policies and \
         {security_groups} security groups; expected an empty one, or --force to replace all of that",
        store.id(),
        before.revision()
    )))
}

fn read(file: &Path) -> Result<Backup, Failure> {
    let input: Box<dyn Read> = match file == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(
            File::open(file)
                .map_err(|error| Failure::Usage(format!("file: cannot read {}: {error}", file.display())))?,
        ),
    };
    backup::read(BufReader::new(input)).map_err(|error| match error {
        error @ BackupError::Read(_) => Failure::usage(error),
        error @ (BackupError::NotABackup
        | BackupError::Version { .. }
        | BackupError::Line { .. }
        | BackupError::CutOff { .. }
        | BackupError::Altered { .. }
        | BackupError::Inconsistent(_)) => Failure::refused(error),
    })
}

fn human(restored: &Restored) -> String {
    let Restored { from_store, from_revision, taken_seconds_ago, store, revision, .. } = restored;
    let age = output::duration(*taken_seconds_ago);
    let head = format!(
        "revision {from_revision} of store {from_store}, taken {age} ago, is revision {revision} of store {store}"
    );
    let rows = output::rows(&restored.restored).into_iter().zip(output::rows(&restored.replaced));
    let rows = rows.map(|((kind, restored), (_, replaced))| {
        vec![kind.to_owned(), restored.to_string(), replaced.to_string()]
    });
    format!("{head}\n{}", output::table(&["", "restored", "replaced"], rows))
}
