//! Waiting for a condition, with a bound. Nothing in the tests sleeps and hopes.

use anyhow::{Result, bail};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough for anything local on a busy machine; only a failing test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(5);

/// Asks again and again until the probe answers with a value; an error of the probe ends the wait.
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if started.elapsed() > PATIENCE {
            bail!("waited {} s in vain for {what}", PATIENCE.as_secs());
        }
        sleep(PAUSE);
    }
}

/// As [`until`], for a probe that answers yes or no.
pub fn until_true(what: &str, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, || Ok(probe()?.then_some(())))
}
