//! One access token: read, then checked against a key, in the order in which a forger learns least. Asks nobody and has no
//! clock.

use super::AuthError;
use super::keys::Key;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::collections::BTreeSet;

/// Longer than any header that a router passes on; an admin's token with all scopes is about 2 KiB.
const TOKEN_MAX_BYTES: usize = 16 * 1024;
/// The zone of the foundation itself. Other zones of the same UAA belong to tenants.
const ZONE: &str = "uaa";
/// How UAA ends the `jti` of a refresh token.
const REFRESH_SUFFIX: &str = "-r";

/// A verified caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The user's id, or the client's when no user is involved.
    pub subject: String,
    /// What the user let the client do, such as `network.admin`.
    pub scopes: BTreeSet<String>,
}

impl Token {
    /// Whether the token has one of these scopes.
    ///
    /// # Errors
    /// When it has none of them.
    pub fn may(&self, allowed: &[&str]) -> Result<(), AuthError> {
        if allowed.iter().any(|scope| self.scopes.contains(*scope)) {
            return Ok(());
        }
        let provided: Vec<&str> = self.scopes.iter().map(String::as_str).collect();
        Err(AuthError::Scopes { provided: provided.join(" "), allowed: allowed.join(" ") })
    }
}

/// Why a token is not good. For the log only: callers are not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a signed JWT of the compact form; it may be an opaque one.
    #[error(
        "it is not a signed JWT of at most {TOKEN_MAX_BYTES} bytes; expected UAA's jwt format, not opaque"
    )]
    Malformed,
    /// The UAA lists no such key.
    #[error("it names a key (kid) that the UAA does not list")]
    UnknownKey,
    /// The key is for something else.
    #[error("it names another algorithm (alg) than its key's")]
    Algorithm,
    /// Somebody else signed it, or it was changed.
    #[error("its signature does not fit its key")]
    Signature,
    /// The claims are not those of UAA's tokens.
    #[error("its claims are not UAA's; expected exp, iss, zid, and user_id or client_id")]
    Claims,
    /// Too old.
    #[error("it has expired")]
    Expired,
    /// Another issuer.
    #[error("its issuer (iss) is not uaa_issuer")]
    Issuer,
    /// A refresh token or an ID token.
    #[error("it is not an access token: it has no array of scopes, or is a refresh token")]
    Kind,
    /// It was good once.
    #[error("the UAA does not take it any more")]
    Revoked,
    /// A tenant's.
    #[error("its identity zone (zid) is not {ZONE}")]
    Zone,
}

/// The token in a header's value. Both spellings of the scheme are known, in this order, and it may be missing.
pub(crate) fn strip_scheme(header: &str) -> &str {
    let token = header.strip_prefix("Bearer ").unwrap_or(header);
    token.strip_prefix("bearer ").unwrap_or(token)
}

/// A token that nothing is known of but which key it claims to be signed with.
#[derive(Debug)]
pub(crate) struct Unverified<'a> {
    header: Header,
    /// Header and claims, as they were signed.
    signed: &'a str,
    claims: &'a str,
    signature: Vec<u8>,
}

/// The rest of the header is not looked at. Above all not `jku` and `jwk`: the token does not say whom to believe.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: String,
    /// What must be understood, or the token refused (RFC 7515, 4.1.11); UAA sends none.
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    exp: u64,
    iss: String,
    zid: String,
    #[serde(default)]
    jti: String,
    scope: Option<Vec<String>>,
    granted_scopes: Option<IgnoredAny>,
    user_id: Option<String>,
    client_id: Option<String>,
}

impl<'a> Unverified<'a> {
    pub(crate) fn parse(token: &'a str) -> Result<Self, Refusal> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(Refusal::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
        // A dot too many would be in the claims, where base64 has none.
        let (header, claims) = signed.split_once('.').ok_or(Refusal::Malformed)?;
        let header: Header = decode(header).ok_or(Refusal::Malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refusal::Malformed)?;
        if header.crit.is_some() {
            return Err(Refusal::Malformed);
        }
        Ok(Self { header, signed, claims, signature })
    }

    pub(super) fn kid(&self) -> &str {
        &self.header.kid
    }

    /// `key` is the one that [`Unverified::kid`] names; `now` is in seconds since 1970.
    pub(super) fn verify(&self, key: &Key, issuer: &str, now: u64) -> Result<Token, Refusal> {
        // The key says what it is for: the token's word on it must agree and is not used.
        if self.header.alg != key.algorithm().name() {
            return Err(Refusal::Algorithm);
        }
        if !key.signed(self.signed.as_bytes(), &self.signature) {
            return Err(Refusal::Signature);
        }
        let claims = URL_SAFE_NO_PAD.decode(self.claims).map_err(|_| Refusal::Claims)?;
        read_claims(&claims, issuer, now)
    }
}

/// What claims say that were signed.
pub(crate) fn read_claims(json: &[u8], issuer: &str, now: u64) -> Result<Token, Refusal> {
    let claims: Claims = serde_json::from_slice(json).map_err(|_| Refusal::Claims)?;
    claims.check(issuer, now)
}

impl Claims {
    fn check(self, issuer: &str, now: u64) -> Result<Token, Refusal> {
        // No leeway, as UAA allows none.
        if self.exp <= now {
            return Err(Refusal::Expired);
        }
        if self.iss != issuer {
            return Err(Refusal::Issuer);
        }
        let scopes = self.scope.ok_or(Refusal::Kind)?;
        if self.granted_scopes.is_some() || self.jti.ends_with(REFRESH_SUFFIX) {
            return Err(Refusal::Kind);
        }
        if self.zid != ZONE {
            return Err(Refusal::Zone);
        }
        let subject = self.user_id.or(self.client_id).ok_or(Refusal::Claims)?;
        Ok(Token { subject, scopes: scopes.into_iter().collect() })
    }
}

fn decode<T: DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
