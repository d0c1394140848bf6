//! Network namespaces by name, as `ip netns` knows them.
//!
//! A thread enters a namespace once and ends there; no thread ever comes back from one. A socket stays in the namespace
//! that it was made in, and a child process starts in that of the thread that makes it.

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::Write;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

const DIRECTORY: &str = "/run/netns";

/// A network namespace that exists, or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace, with its loopback device up. Its IPv6 addresses are valid at once, so that nothing in it
    /// changes by itself.
    pub fn create(name: &str) -> Result<Self> {
        ip_command(&["netns", "add", name], None)?;
        let namespace = Self::named(name);
        namespace.run(without_address_detection)?;
        namespace.ip(&["link set lo up"])?;
        Ok(namespace)
    }

    /// A handle for a namespace that was made elsewhere.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// All namespaces whose name begins with the prefix.
    pub fn with_prefix(prefix: &str) -> Result<Vec<Self>> {
        let Ok(entries) = std::fs::read_dir(DIRECTORY) else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.context("cannot read /run/netns")?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names.iter().filter(|name| name.starts_with(prefix)).map(|name| Self::named(name)).collect())
    }

    /// Its name, as `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Whether it is there.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Removes it with every device in it.
    pub fn delete(&self) -> Result<()> {
        ip_command(&["netns", "delete", &self.name], None).map(drop)
    }

    /// Does the work on a thread of its own inside the namespace, and gives back what it gave.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = self.path();
        let file =
            File::open(&path).with_context(|| format!("cannot open the namespace {}", path.display()))?;
        let inside = || {
            setns(&file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter {}", path.display()))?;
            work()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Does one or more `ip` commands inside the namespace, as one batch that stops at the first failure.
    pub fn ip(&self, commands: &[&str]) -> Result<()> {
        let batch = commands.join("\n");
        ip_command(&["-n", &self.name, "-batch", "-"], Some(&batch)).map(drop)
    }

    /// Runs a program to its end inside the namespace; failure is an error that holds what it said.
    pub fn output(&self, command: &mut Command) -> Result<String> {
        self.run(|| output(command))
    }
}

/// A namespace that is removed with its last user, also when that one panics.
#[derive(Debug)]
pub struct TemporaryNamespace(Namespace);

impl TemporaryNamespace {
    /// Makes a namespace, with its loopback device up.
    pub fn create(name: &str) -> Result<Self> {
        Namespace::create(name).map(Self)
    }
}

impl Deref for TemporaryNamespace {
    type Target = Namespace;
    fn deref(&self) -> &Namespace {
        &self.0
    }
}

impl Drop for TemporaryNamespace {
    fn drop(&mut self) {
        if self.0.exists()
            && let Err(error) = self.0.delete()
        {
            eprintln!("{error:#}");
        }
    }
}

/// Switches duplicate address detection off for devices to come. Missing files mean a kernel without IPv6.
fn without_address_detection() -> Result<()> {
    for device in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{device}/accept_dad");
        if Path::new(&path).exists() {
            std::fs::write(&path, "0").with_context(|| format!("cannot write {path}"))?;
        }
    }
    Ok(())
}

/// Runs a program to its end; failure is an error that holds what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{shown} failed ({}): {}", output.status, said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{shown} did not print text"))
}

fn ip_command(arguments: &[&str], batch: Option<&str>) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start ip (package iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(batch.unwrap_or_default().as_bytes()).context("cannot write to ip")?;
    }
    let output = child.wait_with_output().context("cannot wait for ip")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {} {}: {}", arguments.join(" "), batch.unwrap_or_default(), said.trim());
    }
    String::from_utf8(output.stdout).context("ip did not print text")
}
