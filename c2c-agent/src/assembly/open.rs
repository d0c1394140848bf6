//! Opening the rooms, in order, with what an earlier run left.

use super::tasks::log_report;
use crate::config::{Config, Network, PortConflict, host_ports, port_conflict};
use crate::datapath::{self, Datapath};
use crate::endpoint::{self, GATEWAY, Manager};
use crate::fabric::{Fabric, Report, report_chain};
use crate::host;
use crate::lease::{Lease, Tenure};
use crate::policy::compile;
use crate::policy::saved::{Saved, SavedError};
use crate::policy::world::World;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{DirBuilder, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The kernel's VXLAN device that merges tunnelled packets.
pub(super) const VXLAN_DEVICE: &str = "c2c-vxlan";
/// IANA's port for VXLAN, until the controller says another.
pub(super) const VXLAN_PORT: u16 = 4789;
/// Outer Ethernet, IPv4, UDP and VXLAN headers, in bytes (RFC 7348, section 5).
const ENCAPSULATION: u32 = 50;

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state directory cannot be used.
    #[error("cannot use the state directory {}", path.display())]
    StateDir {
        /// Which directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another agent works on the same state.
    #[error("another c2c-agent uses the state directory {}: stop it first", path.display())]
    Busy {
        /// Which directory.
        path: PathBuf,
    },
    /// The underlay device is not there, or has no address.
    #[error("cannot use underlay_interface = {name:?}")]
    Underlay {
        /// Its name.
        name: String,
        /// The kernel's reason.
        source: host::Error,
    },
    /// The VXLAN device cannot be made.
    #[error("cannot make the device {VXLAN_DEVICE}")]
    Vxlan(#[source] host::Error),
    /// The cell's addresses cannot be read.
    #[error("cannot read the cell's addresses")]
    Addresses(#[source] host::Error),
    /// A pool of ports is not the agent's to use.
    #[error("the cell's ports are not free for containers")]
    Ports(#[from] PortConflict),
    /// Programs or maps cannot be opened.
    #[error("cannot open the datapath")]
    Datapath(#[from] datapath::Error),
    /// The records of the containers cannot be read.
    #[error("cannot read the records of the containers")]
    Records(#[from] endpoint::Error),
    /// What runs on the cell cannot be seen.
    #[error("cannot see the containers that run: {}: {}", .0.msg, .0.details)]
    Recovery(c2c_proto::agent_api::ApiError),
    /// A thread of the agent was lost.
    #[error("a thread that opened the datapath was lost")]
    Thread(#[from] tokio::task::JoinError),
}

/// The rooms, open.
#[derive(Debug)]
pub(super) struct Cell {
    /// Held as long as the agent runs: one agent per state directory.
    pub(super) _lock: Lock,
    /// The cell as its host shows it.
    pub(super) facts: compile::Cell,
    /// What is enforced.
    pub(super) fabric: Arc<Fabric>,
    /// The containers.
    pub(super) manager: Arc<Manager>,
    /// What is remembered.
    pub(super) saved: Saved,
    /// The lease that was remembered.
    pub(super) tenure: Option<Tenure>,
}

/// One agent, or one uninstall, per state directory.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Makes the directory when it is missing.
    ///
    /// # Errors
    /// When it cannot be used, or somebody holds it.
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::StateDir { path: dir.into(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let file = File::create(dir.join("lock")).map_err(failed)?;
        let busy = |_| OpenError::Busy { path: dir.into() };
        Ok(Self { _file: Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(busy)? })
    }
}

/// What an earlier run remembered.
#[derive(Debug)]
pub(super) struct Kept {
    saved: Saved,
    tenure: Option<Tenure>,
    world: World,
}

impl Kept {
    /// Reads it. What is damaged counts as not remembered.
    pub(super) fn read(state_dir: &Path) -> Self {
        let saved = Saved::new(state_dir);
        let tenure = remembered(saved.lease());
        let tenure = tenure.map(|lease| Tenure { grant: lease.grant, renewed: lease.renewed });
        let world = remembered(saved.world()).unwrap_or_default();
        Self { saved, tenure, world }
    }

    /// The tunnel's port, as far as it is known before the controller was heard.
    pub(super) fn udp_port(&self) -> u16 {
        self.tenure.as_ref().map_or(VXLAN_PORT, |tenure| tenure.grant.udp_port)
    }
}

/// The largest packet of a container, in bytes.
pub(crate) fn container_mtu(underlay: &host::Underlay) -> u32 {
    underlay.mtu.saturating_sub(ENCAPSULATION)
}

/// Whether the pools of ports are free on this host.
pub(super) fn check_ports(network: &Network, tunnel_port: u16) -> Result<(), PortConflict> {
    let host = host_ports(Path::new("/"))?;
    port_conflict(network, Some(tunnel_port), host.ephemeral, &host.reserved)
}

/// Opens the rooms and brings back what an earlier run left: after this the cell enforces what it knows.
pub(super) async fn open(config: &Config, lock: Lock, kept: Kept) -> Result<Cell, OpenError> {
    let port = kept.udp_port();
    let Kept { saved, tenure, world } = kept;
    let (settings, address) = (config.datapath.clone(), config.underlay_address);
    let opening = tokio::task::spawn_blocking(move || {
        let facts = look(&settings.underlay, address, port)?;
        Ok::<_, OpenError>((facts, Datapath::open(&settings)?))
    });
    let (facts, datapath) = opening.await??;
    let tenure = tenure.map(|tenure| moved(tenure, facts.underlay));
    let lease = tenure.as_ref().map(|tenure| tenure.grant.clone());
    tracing::info!(adopted = datapath.adopted(), lease = lease.is_some(), "the datapath is open");
    let fabric = Fabric::new(datapath, (facts.clone(), config.network.clone()), world, lease);
    let fabric = Arc::new(fabric.remembering(saved.clone()));
    let settings = endpoint::Settings::new(&config.network, facts.underlay, port)
        .telling(config.container_metadata_file.clone());
    let manager = Arc::new(Manager::open(&config.state_dir, Arc::clone(&fabric), settings)?);
    let cell = Cell { _lock: lock, facts, fabric, manager, saved, tenure };
    cell.recover(&config.pending_dir).await?;
    Ok(cell)
}

/// Looks at the underlay device.
pub(super) fn underlay(name: &str, address: Option<Ipv4Addr>) -> Result<host::Underlay, OpenError> {
    host::underlay(name, address).map_err(|source| OpenError::Underlay { name: name.to_owned(), source })
}

/// Looks at the host: the underlay device, the VXLAN device, which is made when it is missing, and all addresses.
pub(super) fn look(underlay: &str, address: Option<Ipv4Addr>, port: u16) -> Result<compile::Cell, OpenError> {
    let device = self::underlay(underlay, address)?;
    let vxlan = host::ensure_vxlan_device(VXLAN_DEVICE, port).map_err(OpenError::Vxlan)?;
    let mut locals = host::addresses().map_err(OpenError::Addresses)?;
    // It comes with the first container, which must not take it for an address outside.
    locals.insert(GATEWAY);
    Ok(compile::Cell {
        underlay: device.address,
        underlay_ifindex: device.ifindex,
        link: device.link,
        vxlan_ifindex: vxlan,
        mtu: container_mtu(&device),
        locals,
    })
}

impl Cell {
    async fn recover(&self, pending: &Path) -> Result<(), OpenError> {
        // Without it all policies would be taken for those of no container, and removed: what is pinned goes on meanwhile.
        let mut report = report_of(self.manager.recover().await.map_err(OpenError::Recovery)?);
        report.merge(report_of(self.manager.do_pending(pending).await));
        let (fabric, facts) = (Arc::clone(&self.fabric), self.facts.clone());
        report.merge(tokio::task::spawn_blocking(move || fabric.reconcile(facts)).await?);
        log_report(&report);
        tracing::info!(containers = self.fabric.live_containers(), "what an earlier run left is enforced");
        Ok(())
    }
}

/// What a pass of the endpoints did, in the fabric's terms.
pub(super) fn report_of(report: endpoint::Report) -> Report {
    Report { repaired: report.done, failed: report.failed }
}

/// What is damaged or unreadable counts as not remembered, and is said.
fn remembered<T>(read: Result<Option<T>, SavedError>) -> Option<T> {
    read.unwrap_or_else(|error| {
        tracing::error!("{}", report_chain(&error));
        None
    })
}

/// The cell's address on the underlay is another than when the lease was granted: the controller decides whether the
/// cell may keep it.
fn moved(mut tenure: Tenure, underlay: Ipv4Addr) -> Tenure {
    let lease: &mut Lease = &mut tenure.grant.lease;
    if lease.underlay != underlay {
        tracing::warn!(was = %lease.underlay, is = %underlay, "the cell's underlay address has changed");
        lease.underlay = underlay;
    }
    tenure
}
