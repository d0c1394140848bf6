//! The daemons of a lab: starting, stopping and killing them, and asking them what they know through their own commands.

use super::Lab;
use crate::netns::output;
use crate::observe::status::Status;
use crate::process::Process;
use crate::wait;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

impl Lab {
    /// Starts the controller, and waits until it answers an operator.
    pub fn start_controller(&mut self) -> Result<()> {
        let controller = &self.description.controller;
        let mut command = command("c2c-controller")?;
        command.args(["serve", "--config"]).arg(&controller.config);
        let process = Process::start(&mut command, &controller.namespace(), &controller.log)?;
        self.description.controller.process = Some(process);
        let answers = wait::until_true("the controller to answer", || {
            ensure!(process.is_alive(), "the controller ended");
            Ok(self.operator(&["leases"]).is_ok())
        });
        let log = &self.description.controller.log;
        answers.with_context(|| {
            format!("the controller does not start; it said at last:\n{}", last_lines(log))
        })?;
        self.update_description()
    }

    /// Starts a cell's agent, and waits until it holds a lease and follows the controller.
    pub fn start_agent(&mut self, cell: &str) -> Result<()> {
        self.start_agent_unready(cell)?;
        self.wait_until_ready(cell)
    }

    /// Starts a cell's agent and does not wait.
    pub fn start_agent_unready(&mut self, name: &str) -> Result<()> {
        let cell = self.cell(name)?;
        let mut command = command("c2c-agent")?;
        command.args(["serve", "--config"]).arg(&cell.config);
        let process = Process::start(&mut command, &cell.namespace(), &cell.log)?;
        for cell in self.description.cells.iter_mut().filter(|cell| cell.name == name) {
            cell.process = Some(process);
        }
        self.update_description()
    }

    /// Waits until a cell's agent holds a lease and has applied all that the controller told it.
    pub fn wait_until_ready(&self, name: &str) -> Result<()> {
        self.wait_for_status(name, "to hold a lease and follow the controller", |status| {
            status.lease_is_held() && status.stream_is_live()
        })
    }

    /// Waits until a cell's agent answers, with or without the controller.
    pub fn wait_until_it_answers(&self, name: &str) -> Result<()> {
        self.wait_for_status(name, "to answer", |_| true)
    }

    fn wait_for_status(&self, name: &str, what: &str, accept: impl Fn(&Status) -> bool) -> Result<()> {
        let cell = self.cell(name)?;
        let accepted = wait::until_true(&format!("the agent of cell {name} {what}"), || {
            ensure!(cell.is_running(), "the agent of cell {name} ended");
            Ok(self.status(name).is_ok_and(|status| accept(&status)))
        });
        accepted
            .with_context(|| format!("an agent does not start; it said at last:\n{}", last_lines(&cell.log)))
    }

    /// Kills a cell's agent with SIGKILL, as a crash would.
    pub fn kill_agent(&self, cell: &str) -> Result<()> {
        self.cell(cell)?.process.map_or(Ok(()), Process::kill)
    }

    /// Stops a cell's agent as systemd does.
    pub fn stop_agent(&self, cell: &str) -> Result<()> {
        self.cell(cell)?.process.map_or(Ok(()), Process::stop)
    }

    /// Removes everything that a cell's agent, which must have been stopped, left for its successor.
    pub fn uninstall_agent(&self, cell: &str) -> Result<()> {
        self.uninstall(cell, &[])
    }

    /// As [`Lab::uninstall_agent`], also when containers are there.
    pub fn force_uninstall_agent(&self, cell: &str) -> Result<()> {
        self.uninstall(cell, &["--force"])
    }

    fn uninstall(&self, cell: &str, flags: &[&str]) -> Result<()> {
        let cell = self.cell(cell)?;
        let mut command = command("c2c-agent")?;
        command.arg("uninstall").args(flags).arg("--config").arg(&cell.config);
        cell.namespace().output(&mut command).map(drop)
    }

    /// Kills the controller with SIGKILL, as a crash would.
    pub fn kill_controller(&self) -> Result<()> {
        self.description.controller.process.map_or(Ok(()), Process::kill)
    }

    /// What an agent says about itself.
    pub fn status(&self, cell: &str) -> Result<Status> {
        self.ask_agent(cell, "status").map(Status::new)
    }

    /// Asks an agent with one of its own commands, and gives the JSON it prints.
    pub fn ask_agent(&self, cell: &str, question: &str) -> Result<Value> {
        let json = self.agent_command(cell, &[question, "--json"])?;
        serde_json::from_str(&json)
            .with_context(|| format!("`c2c-agent {question} --json` did not print JSON: {json}"))
    }

    /// The tag of an app that a policy names, as a cell knows it.
    pub fn tag_of(&self, app: &str, cell: &str) -> Result<u16> {
        let page = self.ask_agent(cell, "policies")?;
        let mut ends = page
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|row| ["source", "destination"].map(|end| (row, end)));
        let found = ends.find(|(row, end)| row[*end] == app);
        let tag = found.and_then(|(row, end)| row[format!("{end}_tag")].as_u64());
        let tag = tag.with_context(|| format!("cell {cell} knows no tag of {app}: {page}"))?;
        u16::try_from(tag).context("a tag has 16 bits")
    }

    /// Runs a command of the agent's that talks to the running one, and gives what it prints.
    pub fn agent_command(&self, cell: &str, arguments: &[&str]) -> Result<String> {
        let cell = self.cell(cell)?;
        let mut command = command("c2c-agent")?;
        command.args(arguments).arg("--socket").arg(&cell.agent_socket);
        cell.namespace().output(&mut command)
    }

    /// Runs a command of the controller's as its operator, and gives what it prints.
    pub fn operator(&self, arguments: &[&str]) -> Result<String> {
        let mut command = command("c2c-controller")?;
        command.args(arguments).envs(self.operator_environment());
        self.description.controller.namespace().output(&mut command)
    }

    /// Allows an app to reach another on ports, as an operator does.
    pub fn allow(&self, source: &str, destination: &str, protocol: &str, ports: &str) -> Result<String> {
        self.operator(&["allow-access", source, destination, "--port", ports, "--protocol", protocol])
    }

    /// Takes back what [`Lab::allow`] allowed.
    pub fn forbid(&self, source: &str, destination: &str, protocol: &str, ports: &str) -> Result<String> {
        self.operator(&["remove-access", source, destination, "--port", ports, "--protocol", protocol])
    }

    /// What the controller's commands read from the environment.
    #[must_use]
    pub fn operator_environment(&self) -> Vec<(String, String)> {
        let controller = &self.description.controller;
        let path = |path: &PathBuf| path.display().to_string();
        vec![
            ("C2C_CONTROLLER".to_owned(), controller.address.clone()),
            ("C2C_CA".to_owned(), path(&controller.ca)),
            ("C2C_CERTIFICATE".to_owned(), path(&controller.certificate)),
            ("C2C_KEY".to_owned(), path(&controller.key)),
        ]
    }

    fn update_description(&self) -> Result<()> {
        // Before `up` has come to its end there is none: its presence says that the lab can be used.
        if self.place.description_file().exists() { self.write_description() } else { Ok(()) }
    }
}

/// A program of this repository, to be started without whatever of ours is set in this process's environment.
pub fn command(name: &str) -> Result<Command> {
    let mut command = Command::new(program(name)?);
    for (variable, _) in std::env::vars_os() {
        if variable.as_encoded_bytes().starts_with(b"C2C_") {
            command.env_remove(variable);
        }
    }
    Ok(command)
}

/// A program of this repository, next to the one that runs.
pub fn program(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("this program does not know where it is")?;
    let directories = this.ancestors().skip(1).take(2);
    let found = directories.map(|directory| directory.join(name)).find(|candidate| candidate.is_file());
    found.with_context(|| {
        format!("{name} is not next to {}: build it with `cargo xtask build`", this.display())
    })
}

/// The end of a log, for an error message.
pub(super) fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(20)).copied().collect::<Vec<_>>().join("\n")
}

/// The output of a program of this repository, run in this process's own namespace.
pub fn output_of(name: &str, arguments: &[&str]) -> Result<String> {
    output(command(name)?.args(arguments))
}
