//! What rules ask to be logged, as lines of JSON: one for each new connection to the outside that a rule with `log`
//! allows, and for each that a dry run of the rate limit would have refused. The programs' events come in, a file (or
//! the agent's own log) gets the lines. Which container has an address is asked of somebody else.
//!
//! It works on the thread that reads the events. While that waits for a disk, events wait in their ring; no packet and no
//! other part of the agent ever waits for it.

mod file;
mod record;

pub use record::{Cell, Container};

use c2c_common::addr::to_ipv4;
use c2c_common::layout::Event;
use file::Appender;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A disk that is full is told of once in so long, not with every connection.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// The log of one cell's flows.
#[derive(Debug)]
pub struct FlowLog {
    cell: Cell,
    /// `None`: the agent's own log.
    file: Option<Appender>,
    lost: Arc<AtomicU64>,
    complaints: Complaints,
}

impl FlowLog {
    /// A log that is written to this file, which is made when the first line comes; without one to the agent's own log,
    /// at level info.
    #[must_use]
    pub fn new(path: Option<PathBuf>, cell: Cell) -> Self {
        let file = path.map(Appender::new);
        Self { cell, file, lost: Arc::default(), complaints: Complaints::default() }
    }

    /// Lines that could not be written, since the start; to be read by others while the log is at work.
    #[must_use]
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// What the reader of events calls with each. `lookup` says who has an address; the fields of a container that it
    /// does not know are empty.
    pub fn taker(
        mut self,
        mut lookup: impl FnMut(Ipv4Addr) -> Option<Container> + Send + 'static,
    ) -> impl FnMut(Event) + Send + 'static {
        move |event| {
            let container = lookup(to_ipv4(event.source)).unwrap_or_default();
            self.record(&event, &container, SystemTime::now(), Instant::now());
        }
    }

    fn record(&mut self, event: &Event, container: &Container, at: SystemTime, now: Instant) {
        let line = record::line(event, container, &self.cell, at);
        let Some(file) = &mut self.file else {
            tracing::info!("{line}");
            return;
        };
        let failure = file.append(&line).err();
        if failure.is_some() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(complaint) = self.complaints.after(failure, now) {
            complain(file.path(), &complaint);
        }
    }
}

fn complain(path: &Path, complaint: &Complaint) {
    let Complaint { lost, reason } = complaint;
    let path = path.display();
    tracing::warn!(
        "{lost} lines of the flow log {path} could not be written ({reason}): make room, or mend the path"
    );
}

/// Failures that the operator has not heard of.
#[derive(Debug, Default)]
struct Complaints {
    told: Option<Instant>,
    due: Option<Complaint>,
}

/// What the operator hears.
#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    /// Lines since the last one.
    lost: u64,
    /// The latest reason.
    reason: String,
}

impl Complaints {
    /// What is to be told after a line was written, or was not for this reason.
    fn after(&mut self, failure: Option<io::Error>, now: Instant) -> Option<Complaint> {
        if let Some(failure) = failure {
            let lost = self.due.as_ref().map_or(0, |due| due.lost) + 1;
            self.due = Some(Complaint { lost, reason: failure.to_string() });
        }
        let silent = self.told.is_none_or(|told| now.duration_since(told) >= COMPLAINT_INTERVAL);
        let complaint = if silent { self.due.take() } else { None };
        if complaint.is_some() {
            self.told = Some(now);
        }
        complaint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use c2c_common::addr::from_ipv4;
    use c2c_common::counter::Outcome;
    use c2c_common::wire::TCP;
    use std::fs;

    fn cell() -> Cell {
        Cell { name: "diego-cell-7".into(), address: [10, 0, 1, 5].into() }
    }

    fn event() -> Event {
        Event {
            source: from_ipv4([10, 255, 1, 2].into()),
            destination: from_ipv4([192, 0, 2, 7].into()),
            source_port: 33344u16.to_be(),
            destination_port: 443u16.to_be(),
            protocol: TCP,
            outcome: Outcome::ToOutside as u8,
            icmp: [0; 2],
        }
    }

    #[test]
    fn events_become_lines_of_the_file_with_whom_the_lookup_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows.log");
        let log = FlowLog::new(Some(path.clone()), cell());
        let lost = log.lost();
        let known = Container { handle: "h".into(), ..Container::default() };
        let mut take =
            log.taker(move |address| (address == Ipv4Addr::new(10, 255, 1, 2)).then(|| known.clone()));
        take(event());
        take(Event { source: 0, ..event() });
        let written = fs::read_to_string(path).unwrap();
        let handles: Vec<_> = written
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|record| record["data"]["source"]["container_id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!((handles, lost.load(Ordering::Relaxed)), (vec!["h".to_owned(), String::new()], 0));
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        for path in ["/dev/full", "/nowhere/flows.log", "/"] {
            let log = FlowLog::new(Some(path.into()), cell());
            let lost = log.lost();
            let mut take = log.taker(|_| None);
            (0..3).for_each(|_| take(event()));
            assert_eq!(lost.load(Ordering::Relaxed), 3, "{path}");
        }
    }

    #[test]
    fn without_a_file_nothing_is_lost() {
        let log = FlowLog::new(None, cell());
        let lost = log.lost();
        log.taker(|_| None)(event());
        assert_eq!(lost.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_complaint_a_minute_tells_of_all_that_was_lost() {
        let mut complaints = Complaints::default();
        let start = Instant::now();
        let mut after = |seconds, fails: bool| {
            let failure = fails.then(|| io::Error::other("full"));
            complaints.after(failure, start + Duration::from_secs(seconds)).map(|complaint| complaint.lost)
        };
        assert_eq!(after(0, false), None);
        assert_eq!(after(1, true), Some(1), "the first at once");
        assert_eq!((after(2, true), after(60, true)), (None, None));
        assert_eq!(after(61, true), Some(3));
        assert_eq!((after(62, true), after(63, false)), (None, None));
        assert_eq!(after(121, false), Some(1), "also when lines are written again");
        assert_eq!(after(500, false), None);
    }
}
