//! Who calls the REST API: access tokens of Cloud Foundry's UAA, verified here with the keys that the UAA publishes.
//!
//! `token` reads and checks one token, `keys` reads what `/token_keys` says, `cache` decides when it has to be asked again,
//! and `fetch` asks. A token is checked without asking anybody, so one that was revoked is good until it expires, unless
//! `online` asks for that as well. What a
//! caller may do with a policy is not decided here.
//!
//! Formats: RFC 7515 (JWS), RFC 7517 (JWK), RFC 7519 (JWT), and UAA's documentation of its tokens and of `/token_keys`.

mod cache;
mod fetch;
pub(crate) mod keys;
mod online;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod token;

pub use crate::https::SetupError;
pub use online::OnlineCheck;
pub use token::{Refusal, Token};

use crate::https::Https;
use cache::{Answer, KeyCache};
use online::Online;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use token::Unverified;
use tokio::time::Instant;

/// Which UAA is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it is: `https://HOST[:PORT][/PATH]`. Keys are fetched from there and from nowhere else.
    pub uaa_url: String,
    /// What its tokens must say as `iss`, exactly.
    pub issuer: String,
    /// The CAs (PEM) that may sign its certificate. Read for each connection.
    pub ca: PathBuf,
    /// How it is asked whether a token was revoked; nothing: it is not asked.
    pub online: Option<OnlineCheck>,
}

/// Why a caller is not let in. The text is what the caller is told.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// There is no token.
    #[error("missing authorization header")]
    Missing,
    /// The token is not good.
    #[error("failed to verify token with uaa")]
    Refused(#[source] Refusal),
    /// The key of the token is not known, and the UAA cannot be asked for it; or it cannot be asked whether the token was revoked.
    #[error("failed to verify token with uaa: it cannot be asked, try again later")]
    Unavailable,
    /// The token is good and does not suffice.
    #[error("provided scopes [{provided}] do not include allowed scopes [{allowed}]")]
    Scopes {
        /// The scopes of the token, with blanks between them.
        provided: String,
        /// The scopes of which one would do, likewise.
        allowed: String,
    },
}

impl AuthError {
    /// The HTTP status that says the same. With 401 goes the header `WWW-Authenticate: Bearer` (RFC 6750, 3).
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Missing | Self::Refused(_) => 401,
            Self::Scopes { .. } => 403,
            Self::Unavailable => 503,
        }
    }
}

/// Verifies tokens. Cheap to clone; clones share the keys.
#[derive(Clone, Debug)]
pub struct Verifier {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    issuer: String,
    uaa: Https,
    online: Option<Online>,
    cache: Mutex<KeyCache>,
    /// Held while the UAA is asked, so that it is asked once by all who wait for the answer.
    asking: tokio::sync::Mutex<()>,
}

impl Verifier {
    /// Asks the UAA nothing yet: it may start later than we do.
    ///
    /// # Errors
    /// When the URL cannot be one, or the CA file cannot be used.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let uaa = fetch::uaa(&settings)?;
        let online = settings.online.as_ref().map(|check| Online::new(uaa.clone(), check)).transpose()?;
        let shared = Shared {
            online,
            issuer: settings.issuer,
            uaa,
            cache: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Verifies the token in an Authorization header's value; no header is the empty value.
    ///
    /// # Errors
    /// When the caller is not let in.
    pub async fn verify(&self, header: &str) -> Result<Token, AuthError> {
        let mut verified = self.verify_header(header).await;
        if let (Ok(_), Some(online)) = (&verified, &self.shared.online)
            && let Err(error) = online.check(token::strip_scheme(header)).await
        {
            verified = Err(error);
        }
        if let Err(AuthError::Refused(reason)) = &verified {
            tracing::debug!(%reason, "a token is refused");
        }
        verified
    }

    async fn verify_header(&self, header: &str) -> Result<Token, AuthError> {
        if header.is_empty() {
            return Err(AuthError::Missing);
        }
        let unverified = Unverified::parse(token::strip_scheme(header)).map_err(AuthError::Refused)?;
        match self.find_key(unverified.kid()).await {
            Answer::Key(key) => {
                unverified.verify(&key, &self.shared.issuer, unix_now()).map_err(AuthError::Refused)
            }
            Answer::NoSuchKey => Err(AuthError::Refused(Refusal::UnknownKey)),
            Answer::Fetch | Answer::NotFetched => Err(AuthError::Unavailable),
        }
    }

    async fn find_key(&self, kid: &str) -> Answer {
        if let Some(key) = self.shared.cache().current(kid, Instant::now()) {
            return Answer::Key(key);
        }
        // A task of its own: a caller that hangs up must not cut short what others wait for.
        let asking = tokio::spawn(find_or_fetch(Arc::clone(&self.shared), kid.to_owned()));
        asking.await.unwrap_or(Answer::NotFetched)
    }
}

async fn find_or_fetch(shared: Arc<Shared>, kid: String) -> Answer {
    let _asking = shared.asking.lock().await;
    let answer = shared.cache().find(&kid, Instant::now());
    if !matches!(answer, Answer::Fetch) {
        return answer;
    }
    match fetch::keys(&shared.uaa).await {
        Ok(keys) => {
            tracing::info!(keys = keys.len(), "the keys of the UAA were fetched");
            shared.cache().fetched(keys, Instant::now());
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the keys of the UAA cannot be fetched; those fetched before stay in use");
            shared.cache().failed(Instant::now());
        }
    }
    shared.cache().find(&kid, Instant::now())
}

impl Shared {
    fn cache(&self) -> MutexGuard<'_, KeyCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A clock before 1970 is at 0, where no token has expired; one that is wrong by so much fails the TLS to the UAA first.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
