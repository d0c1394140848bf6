//! What a UAA says at `/token_keys`: a JWK set (RFC 7517). RSA keys that sign; keys of other kinds are left out, because a
//! UAA shows those to nobody but its own clients.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaParameters, RsaPublicKeyComponents,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Some encoders pad, though RFC 7518 says not to.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Keys by what tokens call them (`kid`).
pub(crate) type KeySet = BTreeMap<String, Key>;

/// A public RSA key and the one algorithm that it is for. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    algorithm: Algorithm,
    /// Modulus and exponent, big-endian, without zeros in front.
    n: Arc<[u8]>,
    e: Arc<[u8]>,
}

/// How UAA signs with RSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Ps256,
}

impl Algorithm {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Rs256, Self::Ps256].into_iter().find(|algorithm| algorithm.name() == name)
    }

    fn parameters(self) -> &'static RsaParameters {
        match self {
            Self::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::Ps256 => &RSA_PSS_2048_8192_SHA256,
        }
    }
}

impl Key {
    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether the key made this signature of this message.
    pub(crate) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let components = RsaPublicKeyComponents { n: &self.n, e: &self.e };
        components.verify(self.algorithm.parameters(), message, signature).is_ok()
    }
}

#[derive(Deserialize)]
struct Answer {
    /// Looked at one by one, so that one strange key does not hide the others.
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    kty: String,
    alg: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    n: String,
    e: String,
}

/// Reads an answer. Keys that cannot be used are left out and logged.
pub(crate) fn parse(answer: &[u8]) -> Result<KeySet, serde_json::Error> {
    let answer: Answer = serde_json::from_slice(answer)?;
    Ok(answer.keys.into_iter().filter_map(usable).collect())
}

fn usable(jwk: serde_json::Value) -> Option<(String, Key)> {
    let kid = jwk.get("kid").cloned();
    let key = serde_json::from_value(jwk).ok().and_then(from_jwk);
    if key.is_none() {
        let kid = kid.unwrap_or_default();
        tracing::warn!(%kid, "a key of the UAA is left out; expected an RSA key to sign with, RS256 or PS256");
    }
    key
}

fn from_jwk(jwk: Jwk) -> Option<(String, Key)> {
    if jwk.kty != "RSA" || jwk.usage.is_some_and(|usage| usage != "sig") {
        return None;
    }
    let algorithm = Algorithm::from_name(&jwk.alg)?;
    Some((jwk.kid, Key { algorithm, n: unsigned(&jwk.n)?, e: unsigned(&jwk.e)? }))
}

/// A number's bytes. UAA writes the sign too: a zero in front of most moduli, which the verification does not take.
fn unsigned(text: &str) -> Option<Arc<[u8]>> {
    let bytes = LENIENT.decode(text).ok()?;
    let first = bytes.iter().position(|byte| *byte != 0)?;
    bytes.get(first..).map(Arc::from)
}
