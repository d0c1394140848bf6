//! Finding the way back: after a crash, after DELs that nobody could take, and when something drifted.
//!
//! Each pass looks at everything, goes on past failures, and reports. What is not ours by name and mark is never touched.

use super::failure::{called, chain};
use super::journal::Durability;
use super::manager::{Cell, Manager};
use super::plan;
use super::record::{Record, State};
use super::wire::Wire;
use crate::host::{self, Drift, Link, Netns, Observed, links, remove_link};
use c2c_proto::agent_api::{ApiError, PendingDel, code};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What a pass did, one line each. Both empty: everything was as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was put right.
    pub done: Vec<String>,
    /// What could not be; the next pass tries again.
    pub failed: Vec<String>,
}

impl Report {
    fn note(&mut self, what: String, result: Result<(), ApiError>) {
        match result {
            Ok(()) => self.done.push(what),
            Err(error) => self.failed.push(format!("{what}: {}: {}", error.msg, error.details)),
        }
    }
}

impl<W: Wire> Manager<W> {
    /// Finds the way back after a start, before anything is served: half-made and half-removed containers are undone,
    /// those whose interface is gone are let go, the rest is handed to the fabric. Interfaces of ours without a record get
    /// one if they were wired to the end, and are removed if they were not.
    ///
    /// # Errors
    /// When the cell's interfaces cannot be seen: then nothing is known of what runs, and nothing is to be served.
    pub async fn recover(&self) -> Result<Report, ApiError> {
        let mut report = Report::default();
        let seen = self.blocking(|cell| cell.home.run(links).map_err(|error| unseen(&error))).await?;
        let records = self.list();
        let owned = |link: &Link| records.iter().any(|record| owns(record, link));
        let unowned: Vec<_> =
            seen.iter().filter(|link| plan::is_ours(link) && !owned(link)).cloned().collect();
        for record in records {
            self.recover_one(record, &seen, &mut report).await;
        }
        for link in unowned {
            self.sort_out(link, &mut report).await;
        }
        let wired: Vec<_> = self.list().into_iter().filter(|record| record.state == State::Wired).collect();
        if let Err(error) = self.cell.wire.endpoint_restore(&wired) {
            report.failed.push(format!("restore the containers in the datapath: {}", chain(&error)));
        }
        self.retell_metadata(&mut report).await;
        Ok(report)
    }

    /// Does the DELs that the shim left in `dir` while the agent was away.
    pub async fn do_pending(&self, dir: &Path) -> Report {
        let mut report = Report::default();
        let files = match pending_files(dir) {
            Ok(files) => files,
            Err(error) => {
                report.failed.push(format!("read the pending DELs in {}: {error}", dir.display()));
                return report;
            }
        };
        for file in files {
            self.do_one_pending(&file, &mut report).await;
        }
        report
    }

    /// Puts back what drifted of every wired container, and lets go those whose interface is gone.
    pub async fn repair(&self) -> Report {
        let mut report = Report::default();
        let look = self.blocking(|cell| cell.home.run(Observed::look).map_err(|error| unseen(&error)));
        match look.await {
            Ok(cell) => {
                for record in self.list() {
                    self.repair_one(record, &cell, &mut report).await;
                }
            }
            Err(error) => report.note("look at the cell's interfaces".to_owned(), Err(error)),
        }
        self.retell_metadata(&mut report).await;
        report
    }

    async fn retell_metadata(&self, report: &mut Report) {
        let told = self.blocking(Cell::tell_metadata).await;
        if !matches!(told, Ok(false)) {
            report.note("tell the containers' metadata".to_owned(), told.map(drop));
        }
    }

    async fn recover_one(&self, mut record: Record, seen: &[Link], report: &mut Report) {
        let name = record.called();
        let link = seen.iter().find(|link| owns(&record, link));
        match (record.state, link) {
            (State::Wiring, _) => report.note(format!("undo the ADD of {name}"), self.unwire(record).await),
            (State::Unwiring, _) => {
                report.note(format!("finish the DEL of {name}"), self.unwire(record).await);
            }
            (State::Wired, None) => {
                report.note(format!("let go {name}, whose interface is gone"), self.unwire(record).await);
            }
            (State::Wired, Some(link)) if link.ifindex != record.ifindex => {
                record.ifindex = link.ifindex;
                self.cell.book.update(record.clone());
                let written = self.blocking(move |cell| cell.write(&record, Durability::Lazy)).await;
                report.note(format!("note the new interface index of {name}"), written);
            }
            (State::Wired, Some(_)) => {}
        }
    }

    /// An interface of ours without a record. A record is on disk before its interface is made and forgotten after it was
    /// removed, so one that was wired to the end had a record, which was damaged or lost with the state directory: the
    /// container may be running, and the interface tells itself what it is. Any other is what a crash left behind.
    async fn sort_out(&self, link: Link, report: &mut Report) {
        match plan::rebuilt(&link, &self.cell.settings.bandwidth) {
            Some(record) => self.adopt(record, report).await,
            None => self.remove_unowned(link, report).await,
        }
    }

    async fn adopt(&self, record: Record, report: &mut Report) {
        let what = format!("rebuild the lost record of {} from its interface", record.called());
        if !self.cell.book.adopt(record.clone()) {
            report.failed.push(format!("{what}: its address {} is another container's", record.address));
            return;
        }
        let written = self.blocking(move |cell| cell.write(&record, Durability::Forced)).await;
        report.note(what, written);
    }

    async fn remove_unowned(&self, link: Link, report: &mut Report) {
        let what = format!("remove the interface {}, which no container owns", link.name);
        let removed = self.blocking(move |cell| {
            let removed = cell.home.run(|| remove_link(&link.name, &link.alias, &link.mac));
            removed.map(drop).map_err(|error| unseen(&error))
        });
        report.note(what, removed.await);
    }

    async fn do_one_pending(&self, file: &Path, report: &mut Report) {
        let pending = match read_pending(file) {
            Ok(pending) => pending,
            Err(error) => return report.failed.push(set_aside(file, &error)),
        };
        let known = self.cell.book.get(&pending.attachment);
        let meant = known.filter(|record| record.created <= pending.requested_at);
        if meant.is_some() {
            let what = format!("do the pending DEL of {}", called(&pending.attachment));
            let done = self.del(pending.attachment).await;
            let failed = done.is_err();
            report.note(what, done);
            if failed {
                return;
            }
        }
        if let Err(error) = fs::remove_file(file) {
            report.failed.push(format!("remove the pending DEL {}: {error}", file.display()));
        }
    }

    /// Compares with what was seen first; only a container that seems to have drifted is looked at again, in its turn.
    async fn repair_one(&self, record: Record, cell: &Observed, report: &mut Report) {
        if record.state != State::Wired {
            return;
        }
        let name = record.called();
        let drifted = !record.host_end().drift(cell).is_empty();
        let _turn = self.cell.turns.take(&record.attachment.container_id).await;
        if self.cell.book.get(&record.attachment).as_ref() != Some(&record) {
            return; // an ADD or DEL was faster
        }
        let job = record.clone();
        let result =
            self.blocking(move |cell| mend(&cell.home, &job, drifted).map_err(|error| unseen(&error))).await;
        match result {
            Ok(drift) if drift.is_empty() => {}
            Ok(drift) if drift == [Drift::Link] => {
                report.note(format!("let go {name}, whose interface is gone"), self.unwire(record).await);
            }
            Ok(drift) => {
                let drift: Vec<_> = drift.iter().map(Drift::to_string).collect();
                report.done.push(format!("put {name} right: {}", drift.join(", ")));
            }
            Err(error) => report.note(format!("put {name} right"), Err(error)),
        }
    }
}

fn owns(record: &Record, link: &Link) -> bool {
    link.name == record.host_name && link.alias == record.mark()
}

/// Looks at both ends of a container and puts them right. Returns what had drifted; a missing interface alone, when the
/// host's end is gone.
fn mend(home: &Netns, record: &Record, drifted: bool) -> Result<Vec<Drift>, host::Error> {
    let mut all = Vec::new();
    if drifted {
        let end = record.host_end();
        let drift = home.run(|| Ok(end.drift(&Observed::look()?)))?;
        if drift.contains(&Drift::Link) {
            return Ok(vec![Drift::Link]);
        }
        home.run(|| end.repair(&drift))?;
        all.extend(drift);
    }
    all.extend(mend_inside(record)?);
    Ok(all)
}

/// The container's own end, when its namespace can still be found.
fn mend_inside(record: &Record) -> Result<Vec<Drift>, host::Error> {
    let same = |netns: &Netns| netns.id() == record.netns_id;
    let Some(netns) = Netns::open(Path::new(&record.netns)).ok().filter(same) else { return Ok(Vec::new()) };
    let end = record.container_end();
    netns.run(|| {
        let drift = end.drift(&Observed::look()?);
        if !drift.is_empty() && !drift.contains(&Drift::Link) {
            end.repair(&drift)?;
        }
        Ok(drift.into_iter().filter(|drift| *drift != Drift::Link).collect())
    })
}

fn pending_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    Ok(files)
}

fn read_pending(file: &Path) -> io::Result<PendingDel> {
    Ok(serde_json::from_slice(&fs::read(file)?)?)
}

fn set_aside(file: &Path, error: &io::Error) -> String {
    let copy = file.with_extension("json.damaged");
    let kept =
        fs::rename(file, &copy).map_or_else(|error| error.to_string(), |()| copy.display().to_string());
    format!("read the pending DEL {}: {error}; kept as {kept}", file.display())
}

fn unseen(error: &host::Error) -> ApiError {
    ApiError { code: code::HOST, msg: "the kernel's network".to_owned(), details: chain(error) }
}
