//! `lab.json`: what an outside program has to know to use a lab. Paths are absolute, addresses are reachable inside the
//! named namespaces only.

use super::Outside;
use crate::netns::Namespace;
use crate::process::Process;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// A lab that is up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Description {
    /// The name that its namespaces share: they are called `c2c-NAME-…`.
    pub name: String,
    /// Where everything of it is.
    pub directory: PathBuf,
    /// A directory with one JSON file for each container: its namespace, its address and the ports that lead into it.
    pub containers: PathBuf,
    /// Namespace of the bridge that joins the cells.
    pub underlay_namespace: String,
    /// What is there beside the cells.
    pub outside: Outside,
    /// The controller.
    pub controller: Controller,
    /// The cells, in the order of their names.
    pub cells: Vec<Cell>,
}

/// The controller and what a client of it needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Controller {
    /// `https://host:port`, for agents and operators.
    pub address: String,
    /// Its address on the underlay.
    pub underlay_address: Ipv4Addr,
    /// Its network namespace.
    pub namespace: String,
    /// The certificate authority that everybody trusts.
    pub ca: PathBuf,
    /// An operator's certificate.
    pub certificate: PathBuf,
    /// The operator's key.
    pub key: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its store.
    pub data_dir: PathBuf,
    /// Where it writes what it has to say.
    pub log: PathBuf,
    /// The daemon that was started last; it need not run any more.
    pub process: Option<Process>,
}

/// A cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// Its name, `a` for the first.
    pub name: String,
    /// Its network namespace.
    pub namespace: String,
    /// The device that leads to the other cells.
    pub underlay_interface: String,
    /// That device's address.
    pub underlay_address: Ipv4Addr,
    /// Where its agent listens for the shim and the command line.
    pub agent_socket: PathBuf,
    /// Where a container runtime finds the network's configuration list.
    pub cni_config_dir: PathBuf,
    /// Where a container runtime finds the shim; `CNI_PATH`.
    pub plugin_dir: PathBuf,
    /// What the shim is told with `--configFile` when it is Garden's networker.
    pub networker_config: PathBuf,
    /// Where its agent serves metrics, inside the namespace.
    pub metrics_address: SocketAddr,
    /// Where its agent pins programs and maps.
    pub pin_dir: PathBuf,
    /// Where its agent keeps its state.
    pub state_dir: PathBuf,
    /// Its agent's configuration file.
    pub config: PathBuf,
    /// Where its agent writes what it has to say.
    pub log: PathBuf,
    /// The agent that was started last; it need not run any more.
    pub process: Option<Process>,
}

impl Cell {
    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> Namespace {
        Namespace::named(&self.namespace)
    }

    /// Whether its agent runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some_and(Process::is_alive)
    }
}

impl Controller {
    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> Namespace {
        Namespace::named(&self.namespace)
    }
    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some_and(Process::is_alive)
    }
}
