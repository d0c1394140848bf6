//! The manager with real namespaces and a datapath that only remembers. A cell here is a namespace of its own, so the
//! machine's interfaces are never in reach, and everything ends with its last descriptor.

mod changes;
mod lifecycle;
mod limits;
mod metadata;
mod recovery;

use super::{Manager, Record, Report, Settings, Wire};
use crate::fabric::CellLease;
use crate::host::{Link, Netns, links, testing};
use c2c_proto::agent_api::{Add, Added, ApiError, Attachment, Bandwidth, PortRequest};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::sync::Semaphore;

/// A datapath that remembers what it was told.
struct Memory {
    lease: Mutex<Option<CellLease>>,
    entered: Mutex<BTreeMap<Ipv4Addr, Record>>,
    /// What it refuses next.
    refuses: Mutex<Option<&'static str>>,
    /// Entering waits for this.
    gate: Semaphore,
    /// One for each ADD that came to the gate.
    waiting: Semaphore,
}

#[derive(Debug, thiserror::Error)]
#[error("map ENDPOINTS is full (64 entries)")]
struct Full;

impl Memory {
    fn refused(&self, what: &str) -> Result<(), Full> {
        if *self.refuses.lock().unwrap() == Some(what) { Err(Full) } else { Ok(()) }
    }

    fn entered(&self) -> Vec<Ipv4Addr> {
        self.entered.lock().unwrap().keys().copied().collect()
    }
}

impl Wire for Memory {
    type Error = Full;

    fn cell_lease(&self) -> Option<CellLease> {
        *self.lease.lock().unwrap()
    }

    async fn endpoint_add(&self, record: &Record) -> Result<(), Full> {
        self.waiting.add_permits(1);
        drop(self.gate.acquire().await.unwrap());
        self.refused("add")?;
        assert!(record.ifindex > 0, "the interface exists");
        let before = self.entered.lock().unwrap().insert(record.address, record.clone());
        assert!(before.is_none(), "{} is used twice", record.address);
        Ok(())
    }

    async fn endpoint_update(&self, record: &Record) -> Result<(), Full> {
        self.refused("update")?;
        let before = self.entered.lock().unwrap().insert(record.address, record.clone());
        assert!(before.is_some(), "{} was entered", record.address);
        Ok(())
    }

    async fn endpoint_remove(&self, record: &Record) -> Result<(), Full> {
        self.refused("remove")?;
        self.entered.lock().unwrap().remove(&record.address);
        Ok(())
    }

    fn endpoint_restore(&self, records: &[Record]) -> Result<(), Full> {
        self.refused("restore")?;
        let entered = records.iter().map(|record| (record.address, record.clone())).collect();
        *self.entered.lock().unwrap() = entered;
        Ok(())
    }
}

/// A cell: its own namespace, its state on disk, its datapath, and the agent's manager.
struct Cell {
    dir: TempDir,
    home: Netns,
    wire: Arc<Memory>,
    manager: Manager<Memory>,
    settings: Settings,
}

impl Cell {
    fn new(block: &str) -> Self {
        Self::with(block, settings())
    }

    fn with(block: &str, settings: Settings) -> Self {
        let dir = TempDir::new().unwrap();
        let home = testing::namespace();
        let wire = memory(block);
        let manager =
            Manager::open_in(dir.path(), Arc::clone(&wire), settings.clone(), reopened(&home)).unwrap();
        Self { dir, home, wire, manager, settings }
    }

    /// The agent is gone, and another one starts: the namespace and the disk stay.
    fn restarted(self) -> Self {
        let (wire, home) = (memory("10.255.1.0/24"), reopened(&self.home));
        let settings = self.settings.clone();
        let manager = Manager::open_in(self.dir.path(), Arc::clone(&wire), settings, home).unwrap();
        Self { manager, wire, ..self }
    }

    async fn recovered(self) -> (Self, Report) {
        let cell = self.restarted();
        let report = cell.manager.recover().await.unwrap();
        (cell, report)
    }

    async fn add(&self, id: &str, container: &Netns) -> Result<Added, ApiError> {
        self.manager.add(add(id, container), descriptor(container)).await
    }

    async fn del(&self, id: &str) -> Result<(), ApiError> {
        self.manager.del(attachment(id)).await
    }

    /// Interfaces of the cell, without its loopback.
    fn links(&self) -> Vec<Link> {
        let mut links = self.home.run(links).unwrap();
        links.retain(|link| link.name != "lo");
        links
    }

    fn names(&self) -> Vec<String> {
        self.links().into_iter().map(|link| link.name).collect()
    }

    fn record_file(&self, id: &str) -> PathBuf {
        self.dir.path().join("endpoints").join(attachment(id).file_name())
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("endpoints")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!(self.names(), [""; 0], "interfaces");
        assert_eq!(self.files(), [""; 0], "records");
        assert_eq!(self.wire.entered(), [Ipv4Addr::UNSPECIFIED; 0], "datapath");
        assert_eq!(self.manager.list(), [], "containers");
    }

    fn refuse(&self, what: Option<&'static str>) {
        *self.wire.refuses.lock().unwrap() = what;
    }
}

/// Ports from 61000 to 61007, and nothing else that is not the default.
fn settings() -> Settings {
    Settings {
        cell_address: Ipv4Addr::new(192, 0, 2, 7),
        mapped_ports: 61_000..=61_007,
        kept_ports: vec![16_384..=32_767, 4_789..=4_789],
        dns_servers: None,
        search_domains: None,
        bandwidth: Bandwidth::default(),
        metadata_file: None,
    }
}

/// A port that is asked for; 0: any.
fn port(host_port: u16, container_port: u16) -> PortRequest {
    PortRequest { host_port, container_port, protocol: None }
}

fn memory(block: &str) -> Arc<Memory> {
    let overlay = "10.255.0.0/16".parse().unwrap();
    let lease = CellLease { block: block.parse().unwrap(), overlay, mtu: 1450 };
    Arc::new(Memory {
        lease: Mutex::new(Some(lease)),
        entered: Mutex::default(),
        refuses: Mutex::default(),
        gate: Semaphore::new(1000),
        waiting: Semaphore::new(0),
    })
}

fn attachment(id: &str) -> Attachment {
    Attachment { container_id: id.to_owned(), ifname: "eth0".to_owned() }
}

fn add(id: &str, container: &Netns) -> Add {
    let metadata = BTreeMap::from([("policy_group_id".to_owned(), Value::from("frontend"))]);
    Add {
        attachment: attachment(id),
        netns: path(container),
        metadata,
        ports: Vec::new(),
        egress: Vec::new(),
        bandwidth: Bandwidth::default(),
    }
}

/// A path by which this process finds the namespace.
fn path(netns: &Netns) -> String {
    format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd())
}

fn descriptor(netns: &Netns) -> OwnedFd {
    File::open(path(netns)).unwrap().into()
}

fn reopened(netns: &Netns) -> Netns {
    Netns::open(Path::new(&path(netns))).unwrap()
}

/// iproute2 as an independent hand.
fn ip(netns: &Netns, arguments: &str) {
    let output = netns.run(|| Ok(Command::new("ip").args(arguments.split(' ')).output().unwrap())).unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
