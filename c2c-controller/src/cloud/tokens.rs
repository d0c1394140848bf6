//! Our own token for Cloud Controller: fetched by one call at a time, and kept until shortly before it expires.

use super::Client;
use super::controller::CloudError;
use crate::https::{Call, Https};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long before its end a token is not used any more: longer than a call takes, and clocks differ.
const MARGIN: Duration = Duration::from_secs(60);

/// The value of a Basic Authorization header (RFC 7617), as UAA reads it: nothing in it is encoded but for base64.
pub(crate) fn basic(client: &Client) -> Option<HeaderValue> {
    let pair = STANDARD.encode(format!("{}:{}", client.id, client.secret));
    let mut value = HeaderValue::from_str(&format!("Basic {pair}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[derive(Debug)]
pub(super) struct Tokens {
    uaa: Https,
    basic: Option<HeaderValue>,
    /// Locked while the UAA is asked, so that it is asked once by all who wait for the answer.
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// The Authorization header, and until when it is used.
    token: Option<(HeaderValue, Instant)>,
    /// When the UAA was last asked in vain.
    failed: Option<Instant>,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    /// In seconds.
    expires_in: u64,
}

impl Tokens {
    pub(super) fn new(uaa: Https, client: &Client) -> Self {
        Self { uaa, basic: basic(client), held: Mutex::default() }
    }

    /// The value of an Authorization header for Cloud Controller.
    pub(super) async fn get(&self) -> Result<HeaderValue, CloudError> {
        let asked = Instant::now();
        let mut held = self.held.lock().await;
        if let Some((token, until)) = &held.token
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        // Somebody asked while we waited: those who wait do not ask one after the other.
        if held.failed.is_some_and(|failed| failed >= asked) {
            return Err(CloudError::NoToken);
        }
        match self.fetch().await {
            Ok(token) => {
                held.token = Some(token.clone());
                Ok(token.0)
            }
            Err(error) => {
                held.failed = Some(Instant::now());
                Err(error)
            }
        }
    }

    /// Cloud Controller does not take this one any more.
    pub(super) async fn drop_token(&self, refused: &HeaderValue) {
        let mut held = self.held.lock().await;
        held.token.take_if(|(token, _)| token == refused);
    }

    async fn fetch(&self) -> Result<(HeaderValue, Instant), CloudError> {
        let basic = self.basic.clone().ok_or(CloudError::Unsendable)?;
        let now = Instant::now();
        let call = Call::post("/oauth/token", "grant_type=client_credentials".to_owned()).authorized(basic);
        let Answer { access_token, expires_in } = self.uaa.json(call).await?;
        let mut token =
            HeaderValue::from_str(&format!("bearer {access_token}")).map_err(|_| CloudError::Unsendable)?;
        token.set_sensitive(true);
        // A century, so that no sum overflows.
        let life = Duration::from_secs(expires_in.min(3_153_600_000));
        tracing::debug!(expires_in, "the UAA gave us a token for Cloud Controller");
        Ok((token, now + life.saturating_sub(MARGIN).max(life / 2)))
    }
}
