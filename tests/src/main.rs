//! `c2c-lab`: the lab and the demo by hand. `cargo xtask lab` and `cargo xtask demo` start it.

use anyhow::{Context, Result};
use c2c_tests::demo;
use c2c_tests::lab::{Bandwidth, Lab, Options, Place, Wanted, guard, program};
use c2c_tests::observe::status::Status;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// A lab: cells in network namespaces, each with an agent, one controller, and containers. Needs root.
#[derive(Debug, Parser)]
#[command(name = "c2c-lab", bin_name = "cargo xtask lab")]
struct Arguments {
    /// Where the lab lives.
    #[arg(long, value_name = "DIRECTORY", global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start a lab; it stays up until `down`.
    Up {
        /// How many cells, from 1 to 26; they are called a, b, c and so on.
        #[arg(long, default_value_t = 2)]
        cells: usize,
    },
    /// Say what is up.
    Status,
    /// Make a container and take it through the CNI shim.
    Add {
        /// The cell it shall be on.
        cell: String,
        /// Its name.
        name: String,
        #[command(flatten)]
        wanted: WantedArguments,
    },
    /// Run a command in the network of a container, of a cell (cell-a), or of the controller, there as its operator.
    Exec {
        /// A container, cell-NAME, controller, underlay, outside (a host that is no cell) or far (one behind it).
        name: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Take a container off the network and remove it.
    Remove {
        /// Its name.
        name: String,
    },
    /// Take the lab down, also one that crashed or never came up.
    Down,
    /// Tell the story of two cells in a lab of its own.
    #[command(hide = true)]
    Demo {
        /// Also write every line as JSON to this file.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Take the lab down when standard input ends.
    #[command(hide = true)]
    Guard,
}

/// What a container shall be.
#[derive(Debug, clap::Args)]
struct WantedArguments {
    /// The app it is an instance of.
    #[arg(long)]
    app: String,
    /// The space that it is in.
    #[arg(long)]
    space: Option<String>,
    /// What it does: app, task or staging.
    #[arg(long, default_value = "app")]
    workload: String,
    /// A port of it that a port of the cell shall lead to, may be repeated; CELL:CONTAINER chooses the cell's.
    #[arg(long = "port", value_name = "CONTAINER_PORT")]
    ports: Vec<String>,
    /// Something outside that it may reach, may be repeated: Garden's NetOutRule as JSON.
    #[arg(long = "rule", value_name = "JSON")]
    rules: Vec<String>,
    /// Its bandwidth in both directions, in kbit/s.
    #[arg(long, value_name = "KBIT")]
    bandwidth: Option<u32>,
}

impl WantedArguments {
    fn parse(&self) -> Result<Wanted> {
        let mut wanted = Wanted::app(&self.app).workload(&self.workload);
        if let Some(space) = &self.space {
            wanted = wanted.space(space);
        }
        for port in &self.ports {
            let (cell, container) = port.split_once(':').unwrap_or(("0", port));
            let number = |text: &str| {
                text.parse().with_context(|| format!("--port {port}: {text:?} is no port, 1 to 65535"))
            };
            wanted = wanted.port(number(cell)?, number(container)?);
        }
        for rule in &self.rules {
            wanted =
                wanted.rule(serde_json::from_str(rule).with_context(|| format!("--rule {rule}: not JSON"))?);
        }
        // As much as may come at once: a tenth of a second's worth.
        let bandwidth = |kbit: u32| Bandwidth { rate: u64::from(kbit) * 1_000, burst: u64::from(kbit) * 100 };
        Ok(self.bandwidth.map(bandwidth).into_iter().fold(wanted, Wanted::bandwidth))
    }
}

fn main() -> ExitCode {
    match perform(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("c2c-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: Arguments) -> Result<ExitCode> {
    let place = || Place::at(&arguments.dir.clone().map_or_else(default_directory, Ok)?);
    match arguments.action {
        Action::Up { cells } => up(place()?, cells)?,
        Action::Status => status(&Lab::open(place()?)?)?,
        Action::Add { cell, name, wanted } => {
            let wanted = wanted.parse()?;
            let container = Lab::open(place()?)?.add_as(&cell, &name, &wanted)?;
            println!("{} has {} in namespace {}", container.name, container.address, container.namespace);
            for port in container.ports {
                println!("port {} of cell {cell} leads to its port {}", port.cell, port.container);
            }
        }
        Action::Exec { name, command } => return exec(&Lab::open(place()?)?, &name, &command),
        Action::Remove { name } => Lab::open(place()?)?.remove(&name)?,
        Action::Down => down(&place()?)?,
        Action::Demo { json } => {
            let came_true = demo::tell(json.as_deref())?;
            return Ok(if came_true { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Action::Guard => guard(&place()?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(place: Place, cells: usize) -> Result<()> {
    let lab = Lab::up(place, &Options { cells, ..Options::default() })?;
    println!("{} cells are up: {}", lab.description().cells.len(), lab.place().description_file().display());
    Ok(())
}

fn down(place: &Place) -> Result<()> {
    let removed = Lab::down(place)?;
    if removed.is_empty() {
        println!("no lab is up in {}", place.directory().display());
    }
    for what in removed {
        println!("removed {what}");
    }
    Ok(())
}

fn status(lab: &Lab) -> Result<()> {
    let runs = |running| if running { "runs" } else { "DOES NOT RUN" };
    let controller = lab.controller();
    println!("controller  {}  {}", controller.address, runs(controller.is_running()));
    for cell in &lab.description().cells {
        let status = lab.status(&cell.name).ok();
        let block = status.as_ref().and_then(Status::block).unwrap_or("no lease");
        let stream = if status.as_ref().is_some_and(Status::stream_is_live) { "live" } else { "not live" };
        let agent = runs(cell.is_running());
        println!("cell {}  {}  agent {agent}  {block}  stream {stream}", cell.name, cell.underlay_address);
    }
    let outside = lab.outside();
    println!("outside  {}  and behind it far  {}", outside.address, outside.far_address);
    for container in lab.containers()? {
        let ports: String =
            container.ports.iter().map(|port| format!("  port {} → {}", port.cell, port.container)).collect();
        println!(
            "container {}  cell {}  app {}  {}{ports}",
            container.name, container.cell, container.app, container.address
        );
    }
    Ok(())
}

/// Runs a command where the user asked for, with this repository's programs first on its path.
fn exec(lab: &Lab, name: &str, words: &[OsString]) -> Result<ExitCode> {
    let namespace = lab.namespace(name)?;
    let (first, arguments) = words.split_first().context("no command")?;
    // Looked up here, because a changed PATH counts for the command's children only.
    let found = first.to_str().and_then(|first| program(first).ok());
    let mut command = Command::new(found.as_ref().map_or(first.as_os_str(), |path| path.as_os_str()));
    command.args(arguments);
    match name {
        "controller" => drop(command.envs(lab.operator_environment())),
        _ => {
            if let Some(cell) = name.strip_prefix("cell-") {
                command.env("C2C_SOCKET", &lab.cell(cell)?.agent_socket);
            }
        }
    }
    let run = || command.status().with_context(|| format!("cannot start {}", first.display()));
    let code = namespace.run(run)?.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// `target/lab` of the repository that this program was built from.
fn default_directory() -> Result<PathBuf> {
    let repository =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository has no directory")?;
    Ok(repository.join("target/lab"))
}
