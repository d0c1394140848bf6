//! What the programs say of each packet, when the operator asks for it: aya-log's ring buffer, read by a thread of its
//! own and handed to the log. With tracing off there is no thread, and the verifier has removed the code in the programs.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use aya::Ebpf;
use aya_log::EbpfLogger;
use c2c_common::counter::{Hook, Outcome};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Error, Trace};

/// How long the reader waits before it looks whether it should stop, in milliseconds.
const PATIENCE_MS: u16 = 200;

/// aya-log's level: nothing, or up to "info" (drops), or up to "debug" (deliveries too).
pub(super) const fn level(trace: Trace) -> u8 {
    match trace {
        Trace::Off => 0,
        Trace::Drops => 3,
        Trace::Packets => 4,
    }
}

/// The reading thread; dropping it ends it.
#[derive(Debug)]
pub(super) struct Reader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts to read what these programs say; `None` when they say nothing.
    pub(super) fn start(programs: &mut Ebpf, trace: Trace) -> Result<Option<Self>, Error> {
        if trace == Trace::Off {
            return Ok(None);
        }
        let logger = EbpfLogger::init_with_logger(programs, Names)
            .map_err(|error| Error::Trace(io::Error::other(error)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::Builder::new().name("trace".to_owned()).spawn(move || read(logger, &seen));
        let thread = Some(thread.map_err(Error::Trace)?);
        Ok(Some(Self { stop, thread }))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A reader that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}

fn read(mut logger: EbpfLogger<Names>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let ready =
            poll(&mut [PollFd::new(logger.as_fd(), PollFlags::POLLIN)], PollTimeout::from(PATIENCE_MS));
        if matches!(ready, Ok(n) if n > 0) {
            logger.flush();
        }
    }
}

/// Gives the programs' messages names: they begin with the numbers of a hook and an outcome.
#[derive(Debug)]
struct Names;

impl log::Log for Names {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::info!(target: "c2c_agent::trace", "{}", named(&record.args().to_string()));
    }

    fn flush(&self) {}
}

/// A message that does not begin so is passed on as it is.
fn named(message: &str) -> String {
    let mut words = message.splitn(3, ' ');
    let hook = words.next().and_then(|n| n.parse::<u8>().ok()).and_then(Hook::from_raw);
    let outcome = words.next().and_then(|n| n.parse::<u8>().ok()).and_then(Outcome::from_raw);
    match (hook, outcome, words.next()) {
        (Some(hook), Some(outcome), Some(rest)) => format!("{} {} {rest}", hook.as_str(), outcome.as_str()),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn numbers_become_names() {
        let message = "1 21 10.255.1.2:40000 > 10.255.2.2:7000 protocol 6";
        let wanted = "from_underlay policy_denied 10.255.1.2:40000 > 10.255.2.2:7000 protocol 6";
        assert_eq!(named(message), wanted);
        for strange in ["", "1", "9 99 x", "hello", "1 15 x"] {
            assert_eq!(named(strange), strange);
        }
    }
}
