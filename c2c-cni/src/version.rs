//! Which versions of CNI are spoken, and since when each command exists.

use crate::env::Command;
use crate::error::{CniError, DECODING_FAILURE, INCOMPATIBLE_VERSION};
use serde_json::{Value, json};
use std::io::Read;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// What is spoken, oldest first. Matched exactly: CNI has no ranges.
pub const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// What is spoken when nobody says anything.
pub(crate) const NEWEST: &str = "1.1.0";

/// VERSION must answer even when its stdin stays open and silent; a runtime that does say a version has said it by then.
const STDIN_WAIT: Duration = Duration::from_millis(50);
/// A configuration longer than this is not read for its version, in bytes.
const MAX_PEEK_BYTES: u64 = 1 << 20;

pub(crate) fn is_supported(version: &str) -> bool {
    SUPPORTED.contains(&version)
}

/// Versions 0.4.0 and before put `version` into `ips` and always print `dns`.
pub(crate) fn is_before_1(version: &str) -> bool {
    version.starts_with("0.")
}

/// Refuses a version that is not ours, and a command that the version does not have. CHECK, GC and STATUS need to
/// compare, so for them a version that is none at all is a decoding failure, as in the reference.
pub(crate) fn check(command: &Command, version: &str) -> Result<(), CniError> {
    let since = match command {
        Command::Check => Some([0, 4, 0]),
        Command::Gc | Command::Status => Some([1, 1, 0]),
        Command::Unknown(_) => return Ok(()),
        Command::Add | Command::Del | Command::Version => None,
    };
    if let Some(since) = since {
        let parsed = parse(version).ok_or_else(|| {
            CniError::new(
                DECODING_FAILURE,
                format!("cniVersion is {version:?}, expected three numbers as in {NEWEST}"),
            )
        })?;
        if parsed < since {
            let [major, minor, patch] = since;
            let msg = format!(
                "config version {version} does not allow this command, expected {major}.{minor}.{patch} or newer"
            );
            return Err(CniError::new(INCOMPATIBLE_VERSION, msg));
        }
    }
    if is_supported(version) {
        return Ok(());
    }
    let details = format!("config is {version:?}, plugin supports {}", SUPPORTED.join(", "));
    Err(CniError::new(INCOMPATIBLE_VERSION, "incompatible CNI versions").with(details))
}

/// The answer to VERSION, in the version that stdin asks for if it does.
pub(crate) fn document(stdin: Box<dyn Read + Send>) -> Value {
    let asked = peek(stdin).filter(|version| parse(version).is_some());
    json!({ "cniVersion": asked.as_deref().unwrap_or(NEWEST), "supportedVersions": SUPPORTED })
}

/// The reading thread is left behind when stdin stays silent; the process ends without it.
fn peek(stdin: Box<dyn Read + Send>) -> Option<String> {
    let (sender, receiver) = mpsc::channel();
    let read = move || {
        let mut bytes = Vec::new();
        _ = stdin.take(MAX_PEEK_BYTES).read_to_end(&mut bytes);
        _ = sender.send(bytes);
    };
    thread::Builder::new().spawn(read).ok()?;
    let bytes = receiver.recv_timeout(STDIN_WAIT).ok()?;
    let conf: Value = serde_json::from_slice(&bytes).ok()?;
    Some(conf.get("cniVersion")?.as_str()?.to_owned())
}

fn parse(version: &str) -> Option<[u64; 3]> {
    let mut numbers = version.split('.').map(|part| part.parse().ok());
    let parsed = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some(parsed)
}
