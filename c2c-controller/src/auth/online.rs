//! Asks the UAA whether a token that is good by its signature still is: one that was revoked is not. Off unless an operator
//! wants it, because each request then waits for the UAA, and fails without it.

use super::token::Refusal;
use super::{AuthError, SetupError};
use crate::cloud::{Client, basic};
use crate::https::{Call, Https};
use crate::memory::Memory;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use ring::digest::{Digest, SHA256, digest};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A caller waits for it at each request.
const DEADLINE: Duration = Duration::from_secs(5);
/// The claims of a token with all scopes are some KiB.
const ANSWER_MAX_BYTES: usize = 64 << 10;
/// Tokens that are remembered, if any are: more than are used within minutes, and less than 2 MB.
const TOKENS: usize = 16_384;

/// How it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnlineCheck {
    /// Our client there, with the authority `uaa.resource`.
    pub client: Client,
    /// How long a token that is good is not asked for again; zero: it always is.
    pub age: Duration,
}

#[derive(Debug)]
pub(super) struct Online {
    uaa: Https,
    basic: HeaderValue,
    age: Duration,
    /// The SHA-256 of tokens that were good a moment ago.
    good: Mutex<Memory<Vec<u8>, ()>>,
}

impl Online {
    pub(super) fn new(uaa: Https, check: &OnlineCheck) -> Result<Self, SetupError> {
        let basic = basic(&check.client).ok_or(SetupError::Client)?;
        Ok(Self { uaa, basic, age: check.age, good: Mutex::new(Memory::new(TOKENS, check.age)) })
    }

    /// Whether the UAA still takes the token.
    pub(super) async fn check(&self, token: &str) -> Result<(), AuthError> {
        let name = digest(&SHA256, token.as_bytes());
        if !self.age.is_zero() && self.is_known(&name) {
            return Ok(());
        }
        let token: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
        let call = Call::post("/check_token", format!("token={token}")).authorized(self.basic.clone());
        match self.uaa.call(call.within(DEADLINE, ANSWER_MAX_BYTES)).await {
            Ok(_) => {
                self.good().keep([(name.as_ref().to_vec(), ())], Instant::now());
                Ok(())
            }
            Err(error) if error.status() == Some(StatusCode::BAD_REQUEST) => {
                Err(AuthError::Refused(Refusal::Revoked))
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the UAA does not say whether a token is still good");
                Err(AuthError::Unavailable)
            }
        }
    }

    fn is_known(&self, name: &Digest) -> bool {
        !self.good().recall([name.as_ref().to_vec()], Instant::now()).0.is_empty()
    }

    fn good(&self) -> MutexGuard<'_, Memory<Vec<u8>, ()>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
