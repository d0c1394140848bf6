//! Containers of a lab: a namespace each, taken through the CNI shim as a container runtime would.

use super::cells::command;
use super::place::{read_json, write_json};
use super::{Cell, Lab, Wanted};
use crate::netns::Namespace;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Stdio};

/// A container that is attached to the fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name, also the container id that the shim is told.
    pub name: String,
    /// The cell it is on.
    pub cell: String,
    /// Its app.
    pub app: String,
    /// Its network namespace.
    pub namespace: String,
    /// Its address in the overlay.
    pub address: Ipv4Addr,
    /// Ports of its cell that lead into it.
    #[serde(default)]
    pub ports: Vec<MappedPort>,
}

/// A port of a cell that leads into a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedPort {
    /// The cell's port.
    #[serde(rename = "host_port")]
    pub cell: u16,
    /// The container's port.
    #[serde(rename = "container_port")]
    pub container: u16,
}

impl Container {
    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> Namespace {
        Namespace::named(&self.namespace)
    }

    /// The cell's port that leads to one of the container's.
    pub fn cell_port(&self, container_port: u16) -> Result<u16> {
        let found = self.ports.iter().find(|port| port.container == container_port);
        found
            .map(|port| port.cell)
            .with_context(|| format!("no port of the cell leads to port {container_port} of {}", self.name))
    }
}

/// What the shim answered: its exit code and the one document it printed, null when it printed nothing.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Whether the exit code was zero.
    pub ok: bool,
    /// What it printed.
    pub document: Value,
}

impl Lab {
    /// Makes a container's namespace and takes it through the shim. When the shim refuses, the namespace goes again.
    pub fn add(&self, cell: &str, name: &str, app: &str) -> Result<Container> {
        self.add_as(cell, name, &Wanted::app(app))
    }

    /// As [`Lab::add`], with all that a container may be given.
    pub fn add_as(&self, cell: &str, name: &str, wanted: &Wanted) -> Result<Container> {
        let cell = self.cell(cell)?;
        if let Some(wrong) =
            name.chars().find(|character| !character.is_ascii_alphanumeric() && !"-_.".contains(*character))
        {
            bail!("a container's name has letters, digits, '-', '_' and '.', not {wrong:?}: {name:?}");
        }
        let namespace = Namespace::create(self.place.namespace(name).name())?;
        let added = self.attach(cell, name, wanted);
        if added.is_err() {
            namespace.delete()?;
        }
        let container = added?;
        write_json(&self.record(name), &container)?;
        Ok(container)
    }

    /// Takes a container off the fabric through the shim and removes its namespace.
    pub fn remove(&self, name: &str) -> Result<()> {
        let container = self.container(name)?;
        let answer = self.shim(&container.cell, "DEL", name, Some(&container.app))?;
        if !answer.ok {
            bail!("the shim refused to remove {name}: {}", answer.document);
        }
        container.namespace().delete()?;
        std::fs::remove_file(self.record(name)).context("cannot remove a container's record")
    }

    /// The container of this name.
    pub fn container(&self, name: &str) -> Result<Container> {
        read_json(&self.record(name))?.with_context(|| format!("no container is called {name:?}"))
    }

    /// All containers, in the order of their names.
    pub fn containers(&self) -> Result<Vec<Container>> {
        let mut containers = Vec::new();
        for entry in std::fs::read_dir(self.place.containers()).context("cannot read the containers")? {
            let path = entry.context("cannot read the containers")?.path();
            containers.extend(read_json::<Container>(&path)?);
        }
        containers.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(containers)
    }

    /// Runs the shim to its end as a container runtime would; an empty container name is for verbs that have none.
    pub fn shim(&self, cell: &str, verb: &str, container: &str, app: Option<&str>) -> Result<Answer> {
        answer(self.start_shim(cell, verb, container, app)?)
    }

    /// As [`Lab::shim`], with further fields in the configuration and without metadata.
    pub fn shim_with(
        &self,
        cell: &str,
        verb: &str,
        container: &str,
        fields: &[(&str, Value)],
    ) -> Result<Answer> {
        let mut configuration = plugin_configuration(self.cell(cell)?, None)?;
        for (name, value) in fields {
            configuration[*name] = value.clone();
        }
        answer(self.start_shim_as(cell, verb, container, &configuration)?)
    }

    /// Starts the shim with all that it is told, and does not wait for it.
    pub fn start_shim(&self, cell: &str, verb: &str, container: &str, app: Option<&str>) -> Result<Child> {
        let configuration = plugin_configuration(self.cell(cell)?, app.map(Wanted::app).as_ref())?;
        self.start_shim_as(cell, verb, container, &configuration)
    }

    fn start_shim_as(&self, cell: &str, verb: &str, container: &str, configuration: &Value) -> Result<Child> {
        let cell = self.cell(cell)?;
        let netns =
            if container.is_empty() { PathBuf::new() } else { self.place.namespace(container).path() };
        let mut command = command("c2c-cni")?;
        command
            .envs([
                ("CNI_COMMAND", verb),
                ("CNI_CONTAINERID", container),
                ("CNI_IFNAME", "eth0"),
                ("CNI_ARGS", ""),
            ])
            .env("CNI_NETNS", netns)
            .env("CNI_PATH", &cell.plugin_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = cell.namespace().run(|| command.spawn().context("cannot start the shim"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(configuration.to_string().as_bytes()).context("cannot write to the shim")?;
        }
        Ok(child)
    }

    /// Runs the shim to its end with all that a container may be given.
    pub fn shim_as(&self, cell: &str, verb: &str, container: &str, wanted: &Wanted) -> Result<Answer> {
        let configuration = plugin_configuration(self.cell(cell)?, Some(wanted))?;
        answer(self.start_shim_as(cell, verb, container, &configuration)?)
    }

    /// The ports of a cell that lead into a container, as its agent tells them.
    pub fn ports_of(&self, cell: &str, container: &str) -> Result<Vec<MappedPort>> {
        let page = self.ask_agent(cell, "ports")?;
        let rows = page.as_array().into_iter().flatten();
        let ours = rows.filter(|row| row["container_id"] == container);
        ours.map(|row| {
            serde_json::from_value(row.clone())
                .with_context(|| format!("a mapped port is not as expected: {row}"))
        })
        .collect()
    }

    fn attach(&self, cell: &Cell, name: &str, wanted: &Wanted) -> Result<Container> {
        let answer = self.shim_as(&cell.name, "ADD", name, wanted)?;
        if !answer.ok {
            bail!("the shim refused to add {name}: {}", answer.document);
        }
        Ok(Container {
            name: name.to_owned(),
            cell: cell.name.clone(),
            app: wanted.app_name().to_owned(),
            namespace: self.place.namespace(name).name().to_owned(),
            address: added_address(&answer.document)?,
            ports: if wanted.has_ports() { self.ports_of(&cell.name, name)? } else { Vec::new() },
        })
    }

    fn record(&self, name: &str) -> PathBuf {
        self.place.containers().join(format!("{name}.json"))
    }
}

fn answer(shim: Child) -> Result<Answer> {
    let output = shim.wait_with_output().context("cannot wait for the shim")?;
    let document = match output.stdout.as_slice() {
        [] => Value::Null,
        printed => serde_json::from_slice(printed)
            .with_context(|| format!("the shim printed no JSON: {}", String::from_utf8_lossy(printed)))?,
    };
    Ok(Answer { ok: output.status.success(), document })
}

/// The address in a CNI result.
pub fn added_address(result: &Value) -> Result<Ipv4Addr> {
    let address = result.pointer("/ips/0/address").and_then(Value::as_str);
    let address =
        address.and_then(|address| address.split('/').next()).and_then(|address| address.parse().ok());
    address.with_context(|| format!("the shim's result has no IPv4 address: {result}"))
}

/// The list's only plugin, with the network's name and version and with metadata, as CF's networker passes it on.
fn plugin_configuration(cell: &Cell, wanted: Option<&Wanted>) -> Result<Value> {
    let path = cell.cni_config_dir.join("10-c2c.conflist");
    let list: Value = read_json(&path)?.with_context(|| format!("{} is missing", path.display()))?;
    let mut configuration =
        list.pointer("/plugins/0").cloned().context("the configuration list has no plugin")?;
    let fields = configuration.as_object_mut().context("the plugin's configuration is not an object")?;
    fields.extend(["cniVersion", "name"].map(|field| (field.to_owned(), list[field].clone())));
    if let Some(wanted) = wanted {
        fields.insert("metadata".to_owned(), wanted.metadata());
        fields.extend(wanted.runtime_config().map(|config| ("runtimeConfig".to_owned(), config)));
    }
    Ok(configuration)
}
