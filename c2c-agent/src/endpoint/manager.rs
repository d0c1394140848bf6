//! ADD, DEL, CHECK and GC. Each validates first, then acts, and undoes all of it when a part fails.
//!
//! The order of an ADD: the record on disk, the veth pair (down), the programs and the map entry, and only then the
//! addresses and up. So a packet never passes a container that is not enforced, and whatever a crash leaves has a record.
//! A DEL goes the other way round.

use super::book::{Book, NoRoom};
use super::failure::{called, caused, failure, of_host};
use super::journal::{Durability, Error, Journal, Loaded};
use super::metadata_file::MetadataFile;
use super::plan::Intent;
use super::ports::{PortError, Ports};
use super::record::{Record, State};
use super::settings::Settings;
use super::turns::Turns;
use super::wire::Wire;
use crate::fabric::{CellLease, Fabric};
use crate::host::{self, Drift, End, Netns, Observed, create_pair, remove_link};
use c2c_proto::agent_api::{Add, Added, ApiError, Attachment, Check, code};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The containers of this cell. Cheap to clone; all clones are one.
#[derive(Debug)]
pub struct Manager<W = Fabric> {
    pub(super) cell: Arc<Cell<W>>,
}

impl<W> Clone for Manager<W> {
    fn clone(&self) -> Self {
        Self { cell: Arc::clone(&self.cell) }
    }
}

/// What all clones of a manager share.
#[derive(Debug)]
pub(super) struct Cell<W> {
    pub(super) wire: Arc<W>,
    pub(super) journal: Journal,
    pub(super) book: Book,
    pub(super) turns: Turns,
    /// The namespace of the hosts' ends.
    pub(super) home: Netns,
    pub(super) settings: Settings,
    pub(super) metadata_file: Option<MetadataFile>,
}

impl<W: Wire> Manager<W> {
    /// Opens the records under `state_dir`. Nothing is done about them before [`Manager::recover`].
    ///
    /// # Errors
    /// When the directory cannot be read and written. A damaged record is not an error: it is told about and set aside.
    pub fn open(state_dir: &Path, wire: Arc<W>, settings: Settings) -> Result<Self, Error> {
        Self::open_in(state_dir, wire, settings, Netns::current()?)
    }

    /// As [`Manager::open`], with the hosts' ends in the namespace `home`.
    ///
    /// # Errors
    /// As [`Manager::open`].
    pub fn open_in(state_dir: &Path, wire: Arc<W>, settings: Settings, home: Netns) -> Result<Self, Error> {
        let (journal, Loaded { records, last_address, last_port }) =
            Journal::open(state_dir.join("endpoints"))?;
        let ports = Ports::new(settings.mapped_ports.clone(), settings.kept_ports.clone(), last_port);
        let (book, refused) = Book::new(records, last_address, ports);
        for record in refused {
            let name = record.attachment.file_name();
            let reason = format!("another record has the address {} or one of the ports too", record.address);
            let kept = journal.set_aside(&name, &reason);
            kept.map_err(|source| Error::Write { file: name.clone().into(), source })?;
        }
        let turns = Turns::default();
        let metadata_file = settings.metadata_file.clone().map(MetadataFile::new);
        let cell = Cell { wire, journal, book, turns, home, settings, metadata_file };
        Ok(Self { cell: Arc::new(cell) })
    }

    /// Wires a container.
    ///
    /// # Errors
    /// Nothing of the container is left then, and one that was wired before under the same name keeps working.
    pub async fn add(&self, add: Add, netns: OwnedFd) -> Result<Added, ApiError> {
        let (attachment, ports) = (add.attachment.clone(), add.ports.clone());
        let netns = self.container(netns, &add.netns);
        let intent = Intent::check(add, &self.cell.settings)?;
        let netns = Arc::new(netns?);
        let _turn = self.cell.turns.take(&attachment.container_id).await;
        self.make_room(&attachment).await?;
        let lease = self.cell.wire.cell_lease().ok_or_else(no_lease)?;
        let record = |address, ports| intent.record(&netns, (address, ports), &lease, now());
        let record = self.cell.book.enter(lease.block, &ports, record);
        let record = record.map_err(|reason| no_room(&reason, &attachment, &lease))?;
        match self.make(record.clone(), &netns).await {
            Ok(record) => {
                self.tell_metadata().await;
                Ok(record.added(&self.cell.settings))
            }
            Err(error) => Err(self.undo(&record, error).await),
        }
    }

    /// Unwires a container. One that is not wired is unwired already.
    ///
    /// # Errors
    /// When something of it could not be removed; asking again goes on from there.
    pub async fn del(&self, attachment: Attachment) -> Result<(), ApiError> {
        let _turn = self.cell.turns.take(&attachment.container_id).await;
        match self.cell.book.get(&attachment) {
            Some(record) => self.unwire(record).await,
            None => Ok(()),
        }
    }

    /// Compares a container with what ADD made of it. With the container's namespace its own end is looked at too.
    ///
    /// # Errors
    /// With everything that is missing or changed.
    pub async fn check(&self, check: Check, netns: Option<OwnedFd>) -> Result<(), ApiError> {
        let attachment = &check.attachment;
        let netns = netns.map(|netns| self.container(netns, "of the container")).transpose()?;
        let _turn = self.cell.turns.take(&attachment.container_id).await;
        let record = self.cell.book.get(attachment).filter(|record| record.state == State::Wired);
        let record = record.ok_or_else(|| {
            failure(code::UNKNOWN_CONTAINER, format!("{} is not wired on this cell", called(attachment)))
        })?;
        let mut found = Vec::new();
        if record.address != check.address {
            found.push(format!("its address is {}, and prevResult says {}", record.address, check.address));
        }
        found.extend(self.differences(record, netns).await?);
        if found.is_empty() {
            return Ok(());
        }
        let details = found.join("; ");
        Err(ApiError {
            code: code::DRIFTED,
            msg: format!("{} is not as ADD left it", called(attachment)),
            details,
        })
    }

    /// Unwires every container that is not listed.
    ///
    /// # Errors
    /// With everything that could not be removed; the rest is removed all the same.
    pub async fn gc(&self, valid: Vec<Attachment>) -> Result<(), ApiError> {
        let mut failures = Vec::new();
        for record in self.list().into_iter().filter(|record| !valid.contains(&record.attachment)) {
            tracing::info!(container = record.called(), "GC does not list this container; it is unwired");
            failures.extend(self.del(record.attachment).await.err());
        }
        let Some(first) = failures.first() else { return Ok(()) };
        let code = first.code;
        let details: Vec<_> =
            failures.iter().map(|error| format!("{}: {}", error.msg, error.details)).collect();
        let msg = format!("{} containers could not be unwired", failures.len());
        Err(ApiError { code, msg, details: details.join("; ") })
    }

    /// Whether an ADD could be served now.
    ///
    /// # Errors
    /// With what is missing, as CNI's STATUS wants it.
    pub fn ready(&self) -> Result<(), ApiError> {
        let lease = self.cell.wire.cell_lease().ok_or_else(no_lease);
        let unavailable = |error| ApiError { code: code::UNAVAILABLE, ..error };
        let lease = lease.map_err(unavailable)?;
        if self.cell.book.free(lease.block) == 0 { Err(unavailable(no_address(&lease))) } else { Ok(()) }
    }

    /// The container at an address.
    pub fn at(&self, address: Ipv4Addr) -> Option<Record> {
        self.cell.book.at(address)
    }

    /// The containers of this cell, half-made ones included.
    pub fn list(&self) -> Vec<Record> {
        self.cell.book.all()
    }

    /// The agent's own namespace is no container's.
    fn container(&self, netns: OwnedFd, name: &str) -> Result<Netns, ApiError> {
        let unusable =
            |error: host::Error| caused(code::INVALID, "the network namespace cannot be used", &error);
        let netns = Netns::from_descriptor(netns, name).map_err(unusable)?;
        if netns.id().dev != self.cell.home.id().dev {
            let msg = format!(
                "the descriptor of {name} is no namespace's, expected a container's network namespace"
            );
            return Err(failure(code::INVALID, msg));
        }
        if netns.id() == self.cell.home.id() {
            let msg = format!("the network namespace {name} is the cell's own, expected a container's");
            return Err(failure(code::INVALID, msg));
        }
        Ok(netns)
    }

    /// Refuses a second ADD. What an earlier one left when even its undoing failed is undone first.
    async fn make_room(&self, attachment: &Attachment) -> Result<(), ApiError> {
        let Some(record) = self.cell.book.get(attachment) else { return Ok(()) };
        if record.state == State::Wired {
            let msg = format!("{} is wired already with the address {}", called(attachment), record.address);
            return Err(failure(code::EXISTS, msg));
        }
        self.unwire(record).await
    }

    async fn make(&self, mut record: Record, netns: &Arc<Netns>) -> Result<Record, ApiError> {
        let (intent, inside) = (record.clone(), Arc::clone(netns));
        record.ifindex = self.blocking(move |cell| cell.make_pair(&intent, &inside)).await?;
        self.cell.book.update(record.clone());
        let enforced = self.cell.wire.endpoint_add(&record).await;
        enforced.map_err(|error| {
            caused(code::DATAPATH, format!("the datapath does not take {}", record.called()), &error)
        })?;
        record.state = State::Wired;
        let (wired, inside) = (record.clone(), Arc::clone(netns));
        self.blocking(move |cell| cell.bring_up(&wired, &inside)).await?;
        self.cell.book.update(record.clone());
        Ok(record)
    }

    /// Undoes a failed ADD, and says so in its error when even that fails.
    async fn undo(&self, record: &Record, mut error: ApiError) -> ApiError {
        let record = self.cell.book.get(&record.attachment).unwrap_or_else(|| record.clone());
        if let Err(second) = self.unwire(record).await {
            tracing::error!(%error, undo = %second, details = second.details, "a failed ADD could not be undone; DEL tries again");
            error.details =
                format!("{}; and it could not be undone: {}: {}", error.details, second.msg, second.details);
        }
        error
    }

    /// Removes everything of a container. Goes on past failures; what failed keeps the record.
    pub(super) async fn unwire(&self, mut record: Record) -> Result<(), ApiError> {
        record.state = State::Unwiring;
        self.cell.book.update(record.clone());
        let leaving = record.clone();
        if let Err(error) = self.blocking(move |cell| cell.write(&leaving, Durability::Lazy)).await {
            tracing::warn!(%error, details = error.details, "the DEL goes on without a record of it");
        }
        // The interface goes before its programs: without them whatever still runs in the container would reach the
        // cell's own stack unseen.
        let gone = record.clone();
        let removed = self.blocking(move |cell| cell.remove_pair(&gone)).await;
        let let_go = self.cell.wire.endpoint_remove(&record).await;
        let let_go = let_go.map_err(|error| {
            caused(code::DATAPATH, format!("the datapath does not let go of {}", record.called()), &error)
        });
        removed.and(let_go)?;
        let attachment = record.attachment;
        let forgotten = attachment.clone();
        self.blocking(move |cell| cell.forget(&forgotten)).await?;
        self.cell.book.strike(&attachment);
        self.tell_metadata().await;
        Ok(())
    }

    /// What cannot be told now is told by the next pass.
    async fn tell_metadata(&self) {
        if let Err(error) = self.blocking(Cell::tell_metadata).await {
            tracing::error!(%error, details = error.details, "the next pass tries again");
        }
    }

    async fn differences(&self, record: Record, netns: Option<Netns>) -> Result<Vec<String>, ApiError> {
        self.blocking(move |cell| {
            let look = |netns: &Netns, end: &End| netns.run(|| Ok(end.drift(&Observed::look()?)));
            let failed = |error: host::Error| of_host(&record.attachment, &error);
            let mut found = told("on the cell", &look(&cell.home, &record.host_end()).map_err(failed)?);
            if let Some(netns) = &netns {
                let inside = look(netns, &record.container_end()).map_err(failed)?;
                found.extend(told("in the container", &tolerated(inside)));
            }
            Ok(found)
        })
        .await
    }

    /// Does something that waits for the disk or the kernel, on a thread for that.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Cell<W>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let cell = Arc::clone(&self.cell);
        let done = tokio::task::spawn_blocking(move || job(&cell)).await;
        done.unwrap_or_else(|error| Err(caused(code::HOST, "a job of the agent came to no end", &error)))
    }
}

impl<W: Wire> Cell<W> {
    fn make_pair(&self, record: &Record, netns: &Netns) -> Result<u32, ApiError> {
        self.write(record, Durability::Forced)?;
        self.journal.write_last_address(record.address);
        self.note_last_port(record);
        let made = self.home.run(|| create_pair(&record.pair(), netns));
        made.map_err(|error| of_host(&record.attachment, &error))
    }

    fn bring_up(&self, record: &Record, netns: &Netns) -> Result<(), ApiError> {
        let up = self.home.run(|| record.host_end().configure());
        let up = up.and_then(|()| netns.run(|| record.container_end().configure()));
        up.map_err(|error| of_host(&record.attachment, &error))?;
        self.write(record, Durability::Lazy)
    }

    /// An interface of that name that is not ours is nobody's business here: it is left alone.
    fn remove_pair(&self, record: &Record) -> Result<(), ApiError> {
        match self.home.run(|| remove_link(&record.host_name, &record.mark(), &record.host_mac)) {
            Ok(_) => Ok(()),
            Err(error @ host::Error::Foreign { .. }) => {
                tracing::warn!(%error, container = record.called(), "nothing to remove");
                Ok(())
            }
            Err(error) => Err(of_host(&record.attachment, &error)),
        }
    }

    pub(super) fn write(&self, record: &Record, durability: Durability) -> Result<(), ApiError> {
        self.journal.write(record, durability).map_err(|error| of_state(&error))
    }

    /// Notes the port that was handed out last, when this container has one.
    pub(super) fn note_last_port(&self, record: &Record) {
        if let Some(port) = self.book.last_port().filter(|_| !record.ports.is_empty()) {
            self.journal.write_last_port(port);
        }
    }

    /// Tells other programs of the cell which containers there are, and answers whether that was news.
    pub(super) fn tell_metadata(&self) -> Result<bool, ApiError> {
        let Some(file) = &self.metadata_file else { return Ok(false) };
        file.tell(|| self.book.all()).map_err(|error| {
            caused(code::STATE, format!("cannot write the metadata file {}", file.path().display()), &error)
        })
    }

    fn forget(&self, attachment: &Attachment) -> Result<(), ApiError> {
        self.journal.remove(attachment).map_err(|error| of_state(&error))
    }
}

/// A plugin that runs after us may have changed the hardware address, and CHECK must tolerate that. The kernel flushes
/// the neighbours with it.
fn tolerated(mut inside: Vec<Drift>) -> Vec<Drift> {
    if inside.iter().any(|drift| matches!(drift, Drift::Mac(_))) {
        inside.retain(|drift| !matches!(drift, Drift::Mac(_) | Drift::Neighbour));
    }
    inside
}

fn told(place: &str, drift: &[Drift]) -> Vec<String> {
    drift.iter().map(|drift| format!("{place} {drift}")).collect()
}

fn of_state(error: &Error) -> ApiError {
    caused(code::STATE, "the agent cannot keep its records", error)
}

fn no_lease() -> ApiError {
    let msg = "this cell holds no lease yet; `c2c-agent status` tells why";
    failure(code::TRY_AGAIN, msg)
}

fn no_room(reason: &NoRoom, attachment: &Attachment, lease: &CellLease) -> ApiError {
    match reason {
        NoRoom::Address => no_address(lease),
        NoRoom::Port(error) => no_port(error, &called(attachment)),
    }
}

/// A port that cannot be had, and for whom.
pub(super) fn no_port(error: &PortError, container: &str) -> ApiError {
    failure(code::NO_PORT, format!("{container} cannot have the port that it asks for: {error}"))
}

fn no_address(lease: &CellLease) -> ApiError {
    failure(code::NO_ADDRESS, format!("every address of the cell's lease {} is in use", lease.block))
}

/// Unix seconds.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
