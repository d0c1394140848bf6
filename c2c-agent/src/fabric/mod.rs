//! What the cell enforces: the datapath, the mirrored world, the lease and the wired endpoints, behind one lock.
//!
//! Whoever learns something says it here, and returns when the kernel's maps hold it: `control_stream` the lease and the
//! world, `endpoint` the containers. What the maps shall hold is computed by `policy::compile`; how it is written is
//! `datapath`'s. Nothing here speaks with the controller or makes an interface.

mod enforcer;
#[cfg(test)]
pub(crate) mod fake;
mod kernel;
mod outside;
mod place;
mod report;
mod view;

pub use kernel::Kernel;
pub use report::{Report, chain as report_chain};
pub use view::{Applied, EgressView, Tunnels, View};

use crate::config::Network;
use crate::datapath::{self, CounterRow, Datapath, FlowRow, MapUse, Swept, Trace, TranslationRow};
use crate::endpoint::Record;
use crate::lease::Grant;
use crate::policy::compile::{Cell, Placed};
use crate::policy::mirror::{Announcement, Mirror, Mismatch, Opening, Update};
use crate::policy::saved::{Saved, SavedError};
use crate::policy::world::{Policy, World};
use c2c_common::layout::Event;
use enforcer::Enforcer;
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// An ADD waits this long for the policies of an app that is new on the cell. A controller that answers does so within
/// a few milliseconds; without the answer the container starts with no policies, and gets them when they come.
const POLICY_WAIT: Duration = Duration::from_millis(250);

/// What a container gets its address from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellLease {
    /// The cell's own addresses.
    pub block: Ipv4Net,
    /// The network of all cells.
    pub overlay: Ipv4Net,
    /// Largest packet in the overlay, in bytes.
    pub mtu: u32,
}

/// Why a container could not be enforced, or not be let go.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// The programs could not be attached to its device.
    #[error("cannot attach the programs to {name}")]
    Attach {
        /// The host's end of its veth pair.
        name: String,
        /// The kernel's reason.
        source: datapath::Error,
    },
    /// Its map entry could not be written.
    #[error("cannot enter the container {address} into the datapath")]
    Enter {
        /// Its address.
        address: Ipv4Addr,
        /// The kernel's reason, with the map's name and size when it is full.
        source: datapath::Error,
    },
    /// The cell's ports could not be led into it, or not away from it.
    #[error("cannot change which of the cell's ports lead into the container {address}")]
    Ports {
        /// Its address.
        address: Ipv4Addr,
        /// The kernel's reason.
        source: datapath::Error,
    },
    /// It is to be changed and is not there.
    #[error("the container {address} is not enforced on this cell: it was removed meanwhile")]
    Unknown {
        /// Its address.
        address: Ipv4Addr,
    },
    /// It could not be taken out of the datapath.
    #[error("cannot take the container {address} out of the datapath")]
    Remove {
        /// Its address.
        address: Ipv4Addr,
        /// The kernel's reason.
        source: datapath::Error,
    },
    /// A thread of the agent was lost while it wrote; what it did is not known.
    #[error("a thread that wrote to the datapath was lost; the next reconcile pass finds what it left")]
    Lost(#[from] tokio::task::JoinError),
}

/// What the cell enforces.
#[derive(Debug)]
pub struct Fabric<K = Datapath> {
    enforcer: Arc<Mutex<Enforcer<K>>>,
    /// Marked changed when the apps and spaces hosted may have changed: the stream announces it.
    apps: watch::Sender<()>,
    /// Marked changed when the controller said something, or the stream ended: ADDs wait for it.
    heard: watch::Sender<()>,
    /// Marked changed when the world is another: it is saved.
    world: watch::Sender<()>,
}

impl<K: Kernel> Fabric<K> {
    /// A fabric over an open datapath, that knows the cell and what the operator says about the outside, and what was
    /// saved: the world, and the lease if there is one.
    #[must_use]
    pub fn new(datapath: K, cell: (Cell, Network), world: World, lease: Option<Grant>) -> Self {
        let enforcer = Enforcer::new(datapath, cell, Mirror::new(world), lease);
        Self {
            enforcer: Arc::new(Mutex::new(enforcer)),
            apps: watch::Sender::default(),
            heard: watch::Sender::default(),
            world: watch::Sender::default(),
        }
    }

    /// From now on, writes every world down before it is enforced.
    #[must_use]
    pub fn remembering(self, saved: Saved) -> Self {
        self.lock().remember_in(saved);
        self
    }

    /// Writes the world down if that failed when it came.
    ///
    /// # Errors
    /// When it fails again.
    pub fn remember(&self) -> Result<(), SavedError> {
        self.lock().remember_owed()
    }

    /// Where a new container gets its address from; nothing when no lease is held, or the one held must be assumed lost.
    pub fn cell_lease(&self) -> Option<CellLease> {
        self.lock().cell_lease()
    }

    /// Enforces a new container: its programs are attached and its map entries written when this returns. The policies of
    /// an app that is new on the cell, and the security groups of such a space, are asked for and waited for, for a short
    /// while.
    ///
    /// # Errors
    /// When the kernel refuses; nothing of the container is left in the datapath then.
    pub async fn endpoint_add(&self, record: &Record) -> Result<(), FabricError> {
        let mut heard = self.heard.subscribe();
        let (address, place) = (record.address, place::of(record));
        let space = place.space.clone();
        self.blocking(move |enforcer| enforcer.add(address, place)).await?;
        self.apps.send_replace(());
        let known = heard.wait_for(|()| !self.lock().awaits(&record.app, &space));
        if tokio::time::timeout(POLICY_WAIT, known).await.is_err() {
            let app = &record.app;
            tracing::warn!(app, space, "the controller has not sent what concerns a new app or space yet");
        }
        Ok(())
    }

    /// Enforces what changed of a container: its ports, or its static rules.
    ///
    /// # Errors
    /// When the container is not enforced, or the kernel refuses; everything is as before then.
    pub async fn endpoint_update(&self, record: &Record) -> Result<(), FabricError> {
        let (address, place) = (record.address, place::of(record));
        self.blocking(move |enforcer| enforcer.update(address, place)).await
    }

    /// Takes a container out of the datapath. It may be gone already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn endpoint_remove(&self, record: &Record) -> Result<(), FabricError> {
        let (address, name) = (record.address, record.host_name.clone());
        let removed = self.blocking(move |enforcer| enforcer.remove(address, &name)).await;
        self.apps.send_replace(());
        removed
    }

    /// Takes over the containers that an earlier run left, all at once. What is in the datapath and not among them is
    /// taken out by the next [`Fabric::reconcile`].
    ///
    /// # Errors
    /// With the first container that the kernel refuses; all others are restored.
    pub fn endpoint_restore(&self, records: &[Record]) -> Result<(), FabricError> {
        self.restore(records.iter().map(|record| (record.address, place::of(record))).collect())
    }

    pub(crate) fn restore(&self, placed: BTreeMap<Ipv4Addr, Placed>) -> Result<(), FabricError> {
        let restored = self.lock().restore(placed);
        self.apps.send_replace(());
        restored
    }

    /// Sets the lease to enforce, and whether new containers may use it.
    pub fn set_lease(&self, lease: Option<Grant>, admits: bool) {
        self.lock().set_lease(lease, admits);
    }

    /// Changes what the operator says about the outside.
    pub fn set_network(&self, network: Network) {
        self.lock().set_network(network);
    }

    /// Containers that live on the cell.
    pub fn live_containers(&self) -> usize {
        self.lock().live()
    }

    /// A stream is being opened: what to say first.
    pub fn open(&self) -> Opening {
        self.lock().mirror().open()
    }

    /// The controller granted the lease on this stream, and speaks for this store.
    pub fn granted(&self, store_id: &str) {
        self.lock().mirror().granted(store_id);
        self.heard.send_replace(());
    }

    /// The stream ended; with `distrust` the next one has to start with a snapshot.
    pub fn close(&self, distrust: bool) {
        let mut enforcer = self.lock();
        enforcer.mirror().close();
        if distrust {
            enforcer.mirror().distrust();
        }
        drop(enforcer);
        self.heard.send_replace(());
    }

    /// What has to be announced on the stream, if anything.
    pub fn announce(&self) -> Option<Announcement> {
        self.lock().mirror().announce()
    }

    /// Takes what the controller says about the world and enforces it; answers how far the cell has got.
    ///
    /// # Errors
    /// With the first update that does not follow from what was said before. What came before it is enforced, and the
    /// stream must be ended.
    pub fn take(&self, updates: impl IntoIterator<Item = Update>) -> Result<Applied, Mismatch> {
        let applied = self.lock().take(updates)?;
        self.heard.send_replace(());
        self.world.send_replace(());
        Ok(applied)
    }

    /// How far the cell has got.
    pub fn applied(&self) -> Applied {
        self.lock().applied()
    }

    /// Compares the kernel with what shall be, and puts back what drifted. `cell` is what the host shows now.
    pub fn reconcile(&self, cell: Cell) -> Report {
        self.lock().reconcile(cell)
    }

    /// What each container may reach outside, and why.
    pub fn egress(&self) -> Vec<EgressView> {
        self.lock().egress()
    }

    /// The tunnel's UDP port of the lease that is enforced.
    pub fn udp_port(&self) -> Option<u16> {
        self.lock().udp_port()
    }

    /// How this cell and the others reach each other; nothing without a lease.
    pub fn tunnels(&self) -> Option<Tunnels> {
        self.lock().tunnels()
    }

    /// What can be told about the fabric.
    pub fn view(&self) -> View {
        self.lock().view()
    }

    /// The policies that touch an app of this cell.
    pub fn policies(&self) -> Vec<Policy> {
        self.lock().policies()
    }

    /// Told when the apps and spaces hosted may have changed.
    #[must_use]
    pub fn watch_apps(&self) -> watch::Receiver<()> {
        self.apps.subscribe()
    }

    /// Told when the world is another.
    #[must_use]
    pub fn watch_world(&self) -> watch::Receiver<()> {
        self.world.subscribe()
    }

    /// For what takes milliseconds, so that fifty containers at once do not keep the stream waiting.
    async fn blocking(
        &self,
        job: impl FnOnce(&mut Enforcer<K>) -> Result<(), FabricError> + Send + 'static,
    ) -> Result<(), FabricError> {
        let enforcer = Arc::clone(&self.enforcer);
        tokio::task::spawn_blocking(move || job(&mut locked(&enforcer))).await?
    }

    fn lock(&self) -> MutexGuard<'_, Enforcer<K>> {
        locked(&self.enforcer)
    }
}

/// What only the real datapath can tell or do.
impl Fabric {
    /// Changes what the programs trace.
    ///
    /// # Errors
    /// When the programs cannot be replaced; the old ones stay attached.
    pub fn set_trace(&self, trace: Trace) -> Result<(), datapath::Error> {
        self.lock().datapath().set_trace(trace)
    }

    /// Attaches the offload self-test's program to a device of the agent's own, with which it goes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_self_test(&self, ifindex: u32) -> Result<(), datapath::Error> {
        self.lock().datapath().attach_self_test(ifindex)
    }

    /// Removes flows that are over ([`Datapath::sweep`]); to be done every few seconds. The lock is free while they are looked
    /// at, which takes longest.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn sweep(&self) -> Result<Swept, datapath::Error> {
        let mut enforcer = self.lock();
        let datapath = enforcer.datapath();
        let (reader, devices, departures) = (datapath.reader(), datapath.devices(), datapath.departures());
        drop(enforcer);
        let found = reader.look(devices, departures)?;
        self.lock().datapath().sweep(found)
    }

    /// Takes everything of ours out of the kernel, and answers on which devices a clsact qdisc that was made for us is
    /// left to be removed.
    ///
    /// # Errors
    /// When a pin cannot be removed; the rest is removed all the same.
    pub fn uninstall(&self) -> Result<Vec<String>, datapath::Error> {
        let mut enforcer = self.lock();
        let qdiscs = enforcer.datapath().made_qdiscs();
        enforcer.datapath().uninstall().map(|()| qdiscs)
    }

    /// The flow table. The lock is free while it is read, here and below.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn flows(&self) -> Result<Vec<FlowRow>, datapath::Error> {
        self.reader().flows()
    }

    /// The flows with the outside.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn translations(&self) -> Result<Vec<TranslationRow>, datapath::Error> {
        let cell = self.lock().underlay();
        self.reader().translations(cell)
    }

    /// Gives what rules ask to be logged to `take`, on a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn events(&self, take: impl FnMut(Event) + Send + 'static) -> Result<(), datapath::Error> {
        self.lock().datapath().events(take)
    }

    /// The counters that are not zero.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Vec<CounterRow>, datapath::Error> {
        self.reader().counters()
    }

    /// How full every map is that can fill up.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn maps(&self) -> Result<Vec<MapUse>, datapath::Error> {
        let mut maps = self.lock().datapath().tables();
        maps.extend(self.reader().caches()?);
        Ok(maps)
    }

    fn reader(&self) -> Arc<datapath::Reader> {
        self.lock().datapath().reader()
    }
}

/// A panic under the lock leaves nothing half-written that the next reconcile would not mend.
fn locked<K>(enforcer: &Mutex<Enforcer<K>>) -> MutexGuard<'_, Enforcer<K>> {
    enforcer.lock().unwrap_or_else(PoisonError::into_inner)
}
