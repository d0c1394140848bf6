//! A lab that goes away with the program that made it, whether that program ends, panics or is killed.

use super::{Lab, Options, Place, cells};
use anyhow::{Context, Result, ensure};
use std::io::Read;
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use tempfile::TempDir;

/// A lab in a temporary directory.
#[derive(Debug)]
pub struct TemporaryLab {
    lab: Lab,
    guard: Child,
    // After the lab: dropped last.
    _directory: TempDir,
}

impl TemporaryLab {
    /// Builds a lab of its own, of which any number can be up at a time.
    pub fn up(options: &Options) -> Result<Self> {
        let directory =
            tempfile::Builder::new().prefix("c2c-").tempdir().context("cannot make a temporary directory")?;
        let place = Place::at(&directory.path().join("lab"))?;
        let guard = start_guard(&place)?;
        let lab = Lab::up(place, options)?;
        Ok(Self { lab, guard, _directory: directory })
    }
}

/// Does a piece of work in a lab of its own, takes the lab down whatever became of the work, and checks that nothing of
/// it is left. When the work failed, what the daemons said at last is shown.
pub fn in_lab(options: &Options, work: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let mut lab = TemporaryLab::up(options)?;
    let worked = work(&mut lab);
    if worked.is_err() {
        print_logs(&lab);
    }
    let place = lab.place().clone();
    drop(lab);
    ensure!(
        !place.is_used()? || worked.is_err(),
        "something of the lab in {} is left",
        place.directory().display()
    );
    worked
}

impl Deref for TemporaryLab {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl DerefMut for TemporaryLab {
    fn deref_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }
}

impl Drop for TemporaryLab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_logs(&self.lab);
        }
        if let Err(error) = Lab::down(self.lab.place()) {
            eprintln!("a lab could not be taken down: {error:#}");
        }
        drop(self.guard.stdin.take());
        let _ended = self.guard.wait();
    }
}

fn print_logs(lab: &Lab) {
    let cells =
        lab.description().cells.iter().map(|cell| (format!("agent of cell {}", cell.name), &cell.log));
    for (who, log) in std::iter::once(("controller".to_owned(), &lab.controller().log)).chain(cells) {
        eprintln!("--- the {who} said at last:\n{}", cells::last_lines(log));
    }
}

/// A process of its own that takes the lab down when its standard input ends, which it does when this process does.
fn start_guard(place: &Place) -> Result<Child> {
    let mut command = cells::command("c2c-lab")?;
    command.arg("--dir").arg(place.directory()).arg("guard");
    // A process group of its own: what interrupts this program at the terminal must not reach its guard.
    command.process_group(0).stdin(Stdio::piped()).spawn().context("cannot start the lab's guard")
}

/// The guard's work.
pub fn guard(place: &Place) -> Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new()).context("cannot read from the lab's owner")?;
    Lab::down(place).map(drop)
}
