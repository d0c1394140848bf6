//! Asks the UAA for its keys.

use super::Settings;
use super::keys::{self, KeySet};
use crate::https::{Call, CallError, Https, Server, SetupError};
use std::time::Duration;

/// From the first packet to the last byte. A caller waits for it when the key of its token is new.
const DEADLINE: Duration = Duration::from_secs(5);
/// A key with its certificate chain is some 10 KiB, and a UAA lists a handful.
const ANSWER_MAX_BYTES: usize = 1024 * 1024;

/// Why the UAA's keys are not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// No answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It is something else.
    #[error("the answer of the UAA to /token_keys is not a JWK set; expected {{\"keys\":[...]}}")]
    Json(#[from] serde_json::Error),
}

/// The UAA of these settings.
pub(super) fn uaa(settings: &Settings) -> Result<Https, SetupError> {
    Https::new(&Server {
        name: "the UAA",
        url: settings.uaa_url.clone(),
        url_key: "uaa_url",
        ca: settings.ca.clone(),
        ca_key: "uaa_ca",
        identity: None,
    })
}

/// What it lists now.
pub(super) async fn keys(uaa: &Https) -> Result<KeySet, FetchError> {
    let answer = uaa.call(Call::get("/token_keys").within(DEADLINE, ANSWER_MAX_BYTES)).await?;
    Ok(keys::parse(&answer)?)
}
