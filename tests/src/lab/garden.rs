//! The shim as Garden's external networker: called with `--action` and `--handle`, JSON on standard input.

use super::Lab;
use super::cells::command;
use crate::netns::Namespace;
use crate::process::Process;
use anyhow::{Context, Result};
use serde_json::Value;
use std::io::Write;
use std::process::{Child, Command, Stdio};

/// A network namespace with a process in it, as Garden has one when it calls its networker. Both go with this value.
#[derive(Debug)]
pub struct Sandbox {
    namespace: Namespace,
    process: Process,
}

impl Sandbox {
    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The number of its first process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for result in [self.process.kill(), self.namespace.delete()] {
            if let Err(error) = result {
                eprintln!("a sandbox could not be removed: {error:#}");
            }
        }
    }
}

/// What the networker answered.
#[derive(Clone, Debug)]
pub struct GardenAnswer {
    /// Whether the exit code was zero.
    pub ok: bool,
    /// What it printed for Garden; null when it printed nothing.
    pub document: Value,
    /// What it printed for Garden's log.
    pub log: String,
}

impl Lab {
    /// A place for a container that Garden would make.
    pub fn sandbox(&self, name: &str) -> Result<Sandbox> {
        let namespace = Namespace::create(self.place().namespace(name).name())?;
        // Bounded, should nobody be left to end it.
        let mut sleep = Command::new("sleep");
        let process = Process::start(sleep.arg("600"), &namespace, &self.place().path("sandboxes.log"))?;
        Ok(Sandbox { namespace, process })
    }

    /// Calls the networker of a cell as Garden does, and waits for its end.
    pub fn garden(&self, cell: &str, action: &str, handle: &str, input: &Value) -> Result<GardenAnswer> {
        GardenAnswer::of(self.start_garden(cell, action, handle, input)?)
    }

    /// As [`Lab::garden`], and does not wait.
    pub fn start_garden(&self, cell: &str, action: &str, handle: &str, input: &Value) -> Result<Child> {
        let cell = self.cell(cell)?;
        let mut command = command("c2c-cni")?;
        // The order of cf-deployment: the extra arguments first.
        command.arg(format!("--configFile={}", cell.networker_config.display()));
        command.args(["--action", action, "--handle", handle]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = cell.namespace().run(|| command.spawn().context("cannot start the networker"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that refuses its arguments need not read on.
            let _unread = stdin.write_all(input.to_string().as_bytes());
        }
        Ok(child)
    }
}

impl GardenAnswer {
    /// Waits for a networker that was started.
    pub fn of(networker: Child) -> Result<Self> {
        let output = networker.wait_with_output().context("cannot wait for the networker")?;
        let document = match output.stdout.as_slice() {
            [] => Value::Null,
            printed => serde_json::from_slice(printed).with_context(|| {
                format!("the networker printed no JSON: {}", String::from_utf8_lossy(printed))
            })?,
        };
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Self { ok: output.status.success(), document, log })
    }

    /// A property that Garden would keep with the container.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.document.get("properties")?.get(name)?.as_str()
    }
}
