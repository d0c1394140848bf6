//! Processes that outlive the one that started them, known by number *and* start time, so that a number which the kernel
//! gave to somebody else in the meantime is never signalled.

use crate::netns::Namespace;
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// One process, for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did.
    pub started: u64,
}

impl Process {
    /// Starts a program inside a namespace, detached from this process and its terminal, its output appended to a log.
    pub fn start(command: &mut Command, namespace: &Namespace, log: &Path) -> Result<Self> {
        let shown = command.get_program().to_string_lossy().into_owned();
        let output = File::options().create(true).append(true).open(log);
        let output = output.with_context(|| format!("cannot write the log {}", log.display()))?;
        let errors = output.try_clone().context("cannot duplicate the log's descriptor")?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let spawn = || command.spawn().with_context(|| format!("cannot start {shown}"));
        let pid = namespace.run(spawn)?.id();
        Self::of(pid.cast_signed())
    }

    /// The process that has this number now.
    pub fn of(pid: i32) -> Result<Self> {
        let (_, started) = stat(pid).with_context(|| format!("process {pid} is gone"))?;
        Ok(Self { pid, started })
    }

    /// All processes whose command line the predicate accepts.
    pub fn all_that(accept: impl Fn(&[String]) -> bool) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").context("cannot read /proc")? {
            let name = entry.context("cannot read /proc")?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process may end at any moment while this looks; then it is none of those asked for.
            let Some((_, started)) = stat(pid) else { continue };
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<String> = words
                .split(|byte| *byte == 0)
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            if accept(&words) {
                found.push(Self { pid, started });
            }
        }
        Ok(found)
    }

    /// Whether it runs; one that ended and was not waited for does not.
    #[must_use]
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| started == self.started && state != 'Z')
    }

    /// Asks it to stop, and kills it when it has not within five seconds.
    pub fn stop(self) -> Result<()> {
        self.signal(Signal::TERM)?;
        if self.ended_within(Duration::from_secs(5))? { Ok(()) } else { self.kill() }
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(self) -> Result<()> {
        self.signal(Signal::KILL)?;
        if !self.ended_within(Duration::from_secs(10))? {
            bail!("process {} does not end although it was killed", self.pid);
        }
        Ok(())
    }

    /// Tells a daemon to read its configuration again.
    pub fn hang_up(self) -> Result<()> {
        self.signal(Signal::HUP)
    }

    /// Sends a signal; nothing happens when the process is gone.
    pub fn signal(self, signal: Signal) -> Result<()> {
        let Some(descriptor) = self.descriptor()? else { return Ok(()) };
        match pidfd_send_signal(&descriptor, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot signal process {}", self.pid)),
        }
    }

    /// What the kernel tells of each of its open descriptors, as in `/proc/PID/fdinfo`.
    pub fn descriptors(self) -> Result<Vec<String>> {
        let path = format!("/proc/{}/fdinfo", self.pid);
        let entries = std::fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?;
        // One may be closed at any moment while this looks.
        Ok(entries.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).collect())
    }

    /// Waits for its end.
    pub fn ended_within(self, bound: Duration) -> Result<bool> {
        let Some(descriptor) = self.descriptor()? else { return Ok(true) };
        let bound = Timespec::try_from(bound).context("not a time to wait")?;
        let ready = poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&bound))
            .context("cannot poll a process")?;
        if ready > 0
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may have been started by another process than this; then that one's parent buries it.
            let _not_our_child = waitpid(Some(pid), WaitOptions::NOHANG);
        }
        Ok(ready > 0)
    }

    /// A descriptor that means this process and no later one of the same number; none when it is gone.
    fn descriptor(self) -> Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot open process {}", self.pid)),
        };
        // Read after the descriptor was taken: from here on the number cannot change hands.
        let same = stat(self.pid).is_some_and(|(_, started)| started == self.started);
        Ok(same.then_some(descriptor))
    }
}

/// State and start time from `/proc/PID/stat` (proc(5)); the name in parentheses may hold anything, so it is skipped.
fn stat(pid: i32) -> Option<(char, u64)> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = line.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    // Field 22 of the line; the state is field 3.
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_changed_hands_is_another_process() -> Result<()> {
        let mut child = Command::new("sleep").arg("60").spawn()?;
        let process = Process::of(child.id().cast_signed())?;
        let namesake = Process { started: process.started + 1, ..process };
        assert!(process.is_alive());
        assert!(!namesake.is_alive());
        namesake.kill()?;
        assert!(process.is_alive(), "only the process that was meant may be killed");
        process.kill()?;
        assert!(!process.is_alive());
        process.kill()?;
        child.wait().expect_err("it was buried already");
        Ok(())
    }
}
