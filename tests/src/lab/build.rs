//! Building a lab: the underlay, the certificates, the configuration files, and the order in which daemons start.

use super::description::{Cell, Controller, Description};
use super::place::{Place, make_directory, write, write_json};
use super::{Lab, cells, outside};
use crate::netns::{Namespace, output};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// The device of every host on the underlay.
pub const UNDERLAY_INTERFACE: &str = "eth0";
/// What a CF cell's network has.
const UNDERLAY_MTU: u32 = 1_500;
/// 192.0.2.0/24 is documentation's own (RFC 5737): it exists nowhere but in these namespaces.
const CONTROLLER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CONTROLLER_PORT: u16 = 4103;
const FIRST_CELL_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
/// On a cable of their own; 203.0.113.0/24 is documentation's own as well.
const FIRST_CABLE_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
/// The device that leads to the controller where a cable is the underlay.
const CONTROL_INTERFACE: &str = "control0";
const METRICS_PORT: u16 = 9464;
const SELF_TEST_KEY: &str = "offload_self_test";
const CELL_NAMES: &str = "abcdefghijklmnopqrstuvwxyz";

/// How the cells of a lab reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Joined {
    /// By the bridge that everything else is on as well.
    #[default]
    Switch,
    /// By a pair of devices, two cells only; the bridge carries what agents and controller say to each other.
    Cable,
}

/// What a lab shall be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many cells, from 1 to 26.
    pub cells: usize,
    /// How the cells reach each other.
    pub joined: Joined,
    /// The network that the cells' leases are cut from.
    pub overlay_network: String,
    /// Length of a lease's prefix in bits.
    pub block_prefix_length: u8,
    /// Sizes of maps that differ from what ships, for agents.
    pub map_capacity: Vec<(String, u32)>,
    /// Further keys of the agents' configuration, with their values as TOML.
    pub agent: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        let overlay_network = "10.255.0.0/16".to_owned();
        Self {
            cells: 2,
            joined: Joined::Switch,
            overlay_network,
            block_prefix_length: 24,
            map_capacity: Vec::new(),
            agent: Vec::new(),
        }
    }
}

impl Lab {
    /// Builds a lab and waits until every agent holds a lease and follows the controller. A lab that is up with as many
    /// cells is left as it is; what a crash left over is cleared first, and so is what this could not finish.
    pub fn up(place: Place, options: &Options) -> Result<Self> {
        if !(1..=CELL_NAMES.len()).contains(&options.cells) {
            bail!("a lab has 1 to {} cells, not {}", CELL_NAMES.len(), options.cells);
        }
        if options.joined == Joined::Cable && options.cells != 2 {
            bail!("a cable joins 2 cells, not {}", options.cells);
        }
        if let Some(description) = place.read_description()? {
            return Self { place, description }.leave_up(options);
        }
        place.clear()?;
        let built = Self::build(&place, options);
        if built.is_err() {
            place.clear()?;
        }
        built
    }

    /// Takes down whatever is in a place, and says what was removed.
    pub fn down(place: &Place) -> Result<Vec<String>> {
        place.clear()
    }

    fn leave_up(self, options: &Options) -> Result<Self> {
        let cells = &self.description.cells;
        if cells.len() != options.cells {
            bail!("a lab of {} cells is up already: take it down first with `lab down`", cells.len());
        }
        if let Some(dead) = self.dead_daemon() {
            bail!("a lab is up already, but {dead} does not run: take it down first with `lab down`");
        }
        Ok(self)
    }

    fn dead_daemon(&self) -> Option<String> {
        let agents = self.description.cells.iter();
        let agents = agents.map(|cell| (format!("the agent of cell {}", cell.name), cell.is_running()));
        let controller = ("the controller".to_owned(), self.description.controller.is_running());
        std::iter::once(controller).chain(agents).find(|(_, runs)| !runs).map(|(name, _)| name)
    }

    fn build(place: &Place, options: &Options) -> Result<Self> {
        place.prepare()?;
        let names: Vec<String> = CELL_NAMES.chars().take(options.cells).map(String::from).collect();
        let underlay = Namespace::create(place.namespace("underlay").name())?;
        underlay.ip(&["link add br0 type bridge", "link set br0 up"])?;
        let outside = outside::prepare(place, &underlay)?;
        let controller = prepare_controller(place, &underlay, options)?;
        let cells: Result<Vec<Cell>> = names
            .iter()
            .enumerate()
            .map(|(index, name)| prepare_cell(place, &underlay, options, index, name))
            .collect();
        let description = Description {
            name: place.name().to_owned(),
            directory: place.directory().to_path_buf(),
            containers: place.containers(),
            underlay_namespace: underlay.name().to_owned(),
            outside,
            controller,
            cells: cells?,
        };
        if let ([a, b], Joined::Cable) = (description.cells.as_slice(), options.joined) {
            lay_cable([(&a.namespace(), a.underlay_address), (&b.namespace(), b.underlay_address)])?;
        }
        let mut lab = Self { place: place.clone(), description };
        lab.start_controller()?;
        for name in &names {
            lab.start_agent_unready(name)?;
        }
        for name in &names {
            lab.wait_until_ready(name)?;
        }
        lab.write_description()?;
        Ok(lab)
    }

    pub(super) fn write_description(&self) -> Result<()> {
        write_json(&self.place.description_file(), &self.description)
    }

    /// Adds the next cell and starts its agent, but does not wait for it; gives the cell's name.
    pub fn add_cell(&mut self, options: &Options) -> Result<String> {
        let index = self.description.cells.len();
        let name = CELL_NAMES.chars().nth(index).context("the alphabet has no more cells")?.to_string();
        let underlay = Namespace::named(&self.description.underlay_namespace);
        let cell = prepare_cell(&self.place, &underlay, options, index, &name)?;
        self.description.cells.push(cell);
        self.start_agent_unready(&name)?;
        Ok(name)
    }

    /// Puts a host that is no cell on the underlay, with the last byte of its address.
    pub fn add_outsider(&self, name: &str, host: u8) -> Result<Namespace> {
        let underlay = Namespace::named(&self.description.underlay_namespace);
        join_underlay(&self.place, &underlay, name, UNDERLAY_INTERFACE, Ipv4Addr::new(192, 0, 2, host))
    }
}

/// A namespace on the underlay's bridge. It has no route beyond it.
pub(crate) fn join_underlay(
    place: &Place,
    underlay: &Namespace,
    name: &str,
    device: &str,
    address: Ipv4Addr,
) -> Result<Namespace> {
    let host = Namespace::create(place.namespace(name).name())?;
    let port = format!("to-{name}");
    let host_name = host.name();
    underlay.ip(&[
        &format!(
            "link add {port} mtu {UNDERLAY_MTU} type veth peer name {device} mtu {UNDERLAY_MTU} netns {host_name}"
        ),
        &format!("link set {port} master br0 up"),
    ])?;
    host.ip(&[&format!("addr add {address}/24 dev {device}"), &format!("link set {device} up")])?;
    Ok(host)
}

/// A pair of devices between two hosts, each of which has nothing else on that network.
pub(crate) fn lay_cable(ends: [(&Namespace, Ipv4Addr); 2]) -> Result<()> {
    let (device, [(first, _), (second, _)]) = (UNDERLAY_INTERFACE, ends);
    first.ip(&[&format!(
        "link add {device} mtu {UNDERLAY_MTU} type veth peer name {device} mtu {UNDERLAY_MTU} netns {}",
        second.name()
    )])?;
    ends.iter().try_for_each(|(host, address)| {
        host.ip(&[&format!("addr add {address}/24 dev {device}"), &format!("link set {device} up")])
    })
}

fn prepare_controller(place: &Place, underlay: &Namespace, options: &Options) -> Result<Controller> {
    let namespace = join_underlay(place, underlay, "controller", UNDERLAY_INTERFACE, CONTROLLER_ADDRESS)?;
    let pki = place.path("pki");
    pki_command(&["init"], place)?;
    issue(place, "controller", "controller", Some(CONTROLLER_ADDRESS))?;
    issue(place, "operator", "operator", None)?;
    let data_dir = place.path("controller");
    make_directory(&data_dir)?;
    let config = place.path("controller.toml");
    let text = format!(
        "listen = \"{CONTROLLER_ADDRESS}:{CONTROLLER_PORT}\"\noverlay_network = \"{}\"\nblock_prefix_length = {}\n\
         data_dir = {data_dir:?}\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n",
        options.overlay_network,
        options.block_prefix_length,
        pki.join("ca.crt"),
        pki.join("controller.crt"),
        pki.join("controller.key"),
    );
    write(&config, text.as_bytes())?;
    Ok(Controller {
        address: format!("https://{CONTROLLER_ADDRESS}:{CONTROLLER_PORT}"),
        underlay_address: CONTROLLER_ADDRESS,
        namespace: namespace.name().to_owned(),
        ca: pki.join("ca.crt"),
        certificate: pki.join("operator.crt"),
        key: pki.join("operator.key"),
        config,
        data_dir,
        log: place.path("controller.log"),
        process: None,
    })
}

fn prepare_cell(
    place: &Place,
    underlay: &Namespace,
    options: &Options,
    index: usize,
    name: &str,
) -> Result<Cell> {
    let offset = u32::try_from(index).context("too many cells")?;
    let at = |first: Ipv4Addr| Ipv4Addr::from_bits(first.to_bits() + offset);
    let (device, address) = match options.joined {
        Joined::Switch => (UNDERLAY_INTERFACE, at(FIRST_CELL_ADDRESS)),
        Joined::Cable => (CONTROL_INTERFACE, at(FIRST_CABLE_ADDRESS)),
    };
    let part = format!("cell-{name}");
    let namespace = join_underlay(place, underlay, &part, device, at(FIRST_CELL_ADDRESS))?;
    namespace.ip(&[&format!("route add default via {}", outside::ADDRESS)])?;
    issue(place, "cell", &part, Some(address))?;
    let directory = place.path(&part);
    let cell = Cell {
        name: name.to_owned(),
        namespace: namespace.name().to_owned(),
        underlay_interface: UNDERLAY_INTERFACE.to_owned(),
        underlay_address: address,
        agent_socket: directory.join("agent.sock"),
        cni_config_dir: directory.join("cni"),
        plugin_dir: directory.join("plugins"),
        networker_config: directory.join("networker.json"),
        metrics_address: SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT)),
        pin_dir: place.bpf().join(&part),
        state_dir: directory.join("state"),
        config: directory.join("agent.toml"),
        log: directory.join("agent.log"),
        process: None,
    };
    for path in [&cell.cni_config_dir, &cell.plugin_dir, &cell.state_dir] {
        make_directory(path)?;
    }
    write(&cell.config, agent_config(place, &cell, options).as_bytes())?;
    write_json(&cell.cni_config_dir.join("10-c2c.conflist"), &configuration_list(&cell))?;
    let networker = json!({ "agentSocket": cell.agent_socket, "pendingDir": pending_dir(&cell) });
    write_json(&cell.networker_config, &networker)?;
    let shim = cell.plugin_dir.join("c2c-cni");
    symlink(cells::program("c2c-cni")?, &shim).with_context(|| format!("cannot make {}", shim.display()))?;
    Ok(cell)
}

fn agent_config(place: &Place, cell: &Cell, options: &Options) -> String {
    let pki = |file: String| place.path("pki").join(file);
    let part = format!("cell-{}", cell.name);
    let mut text = format!(
        "cell = {:?}\nunderlay_interface = {:?}\nunderlay_address = \"{}\"\n\
         controller = \"https://{CONTROLLER_ADDRESS}:{CONTROLLER_PORT}\"\n\
         ca = {:?}\ncertificate = {:?}\nkey = {:?}\nstate_dir = {:?}\npin_dir = {:?}\nsocket = {:?}\n\
         pending_dir = {:?}\nmetrics_address = \"{}\"\n",
        cell.name,
        cell.underlay_interface,
        cell.underlay_address,
        pki("ca.crt".to_owned()),
        pki(format!("{part}.crt")),
        pki(format!("{part}.key")),
        cell.state_dir,
        cell.pin_dir,
        cell.agent_socket,
        pending_dir(cell),
        cell.metrics_address,
    );
    // Its packets are counted, and begin and end when they will; tests that are about it ask for it.
    if options.agent.iter().all(|(key, _)| key != SELF_TEST_KEY) {
        let _written = writeln!(text, "{SELF_TEST_KEY} = \"off\"");
    }
    for (key, value) in &options.agent {
        let _written = writeln!(text, "{key} = {value}");
    }
    if !options.map_capacity.is_empty() {
        text.push_str("\n[map_capacity]\n");
    }
    for (map, entries) in &options.map_capacity {
        let _written = writeln!(text, "{map} = {entries}");
    }
    text
}

/// Where the shim leaves a DEL while the agent is away.
pub(super) fn pending_dir(cell: &Cell) -> PathBuf {
    cell.state_dir.join("pending-del")
}

fn configuration_list(cell: &Cell) -> serde_json::Value {
    json!({
        "cniVersion": "1.1.0",
        "name": "c2c",
        "plugins": [{
            "type": "c2c-cni",
            "capabilities": { "portMappings": true, "bandwidth": true },
            "agentSocket": cell.agent_socket,
            "pendingDir": pending_dir(cell),
        }],
    })
}

fn issue(place: &Place, role: &str, name: &str, address: Option<Ipv4Addr>) -> Result<()> {
    let address = address.map(|address| address.to_string());
    let mut arguments = vec!["issue", "--role", role, "--name", name];
    arguments.extend(address.iter().flat_map(|address| ["--address", address]));
    pki_command(&arguments, place)
}

fn pki_command(arguments: &[&str], place: &Place) -> Result<()> {
    let mut command = cells::command("c2c-controller")?;
    command.arg("pki").args(arguments).arg("--dir").arg(place.path("pki"));
    output(&mut command).map(drop)
}
