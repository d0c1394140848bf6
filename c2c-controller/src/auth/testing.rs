//! Keys and tokens as a UAA makes them, for tests only. The keys are made for each run, by the `openssl` command: `ring`
//! makes none of RSA.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::process::Command;

pub(super) const ISSUER: &str = "https://uaa.example.org/oauth/token";

/// One key of a UAA.
pub(super) struct Signer {
    kid: &'static str,
    pair: RsaKeyPair,
}

impl Signer {
    pub(super) fn new(kid: &'static str) -> Self {
        let arguments = "genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048";
        let made = Command::new("openssl").args(arguments.split(' ')).output().unwrap();
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        // Not as DER: there, some versions leave out the envelope that makes it PKCS #8.
        let key = PrivatePkcs8KeyDer::from_pem_slice(&made.stdout).unwrap();
        Self { kid, pair: RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap() }
    }

    /// As the UAA lists it, with the sign in front of the modulus.
    pub(super) fn jwk(&self, alg: &str) -> Value {
        let RsaPublicKeyComponents::<Vec<u8>> { n, e } = self.pair.public().into();
        let n = [&[0], n.as_slice()].concat();
        json!({"kty": "RSA", "e": encode(&e), "use": "sig", "kid": self.kid, "alg": alg, "n": encode(&n)})
    }

    pub(super) fn header(&self, alg: &str) -> Value {
        json!({"alg": alg, "jku": "https://uaa.example.org/token_keys", "kid": self.kid, "typ": "JWT"})
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        self.sign(&self.header("RS256"), claims, &RSA_PKCS1_SHA256)
    }

    pub(super) fn pss_token(&self, claims: &Value) -> String {
        self.sign(&self.header("PS256"), claims, &RSA_PSS_SHA256)
    }

    pub(super) fn sign(&self, header: &Value, claims: &Value, encoding: &'static dyn RsaEncoding) -> String {
        let signed = signing_input(header, claims);
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair.sign(encoding, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", encode(&signature))
    }
}

/// What `/token_keys` answers.
pub(super) fn key_list(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

/// What is signed of a token.
pub(super) fn signing_input(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()))
}

/// A user's access token that expires then.
pub(super) fn user_claims(exp: u64) -> Value {
    json!({
        "jti": "4e1f3a", "sub": "user-1", "scope": ["network.admin", "openid"], "client_id": "cf", "cid": "cf",
        "azp": "cf", "grant_type": "password", "user_id": "user-1", "origin": "uaa", "user_name": "admin",
        "email": "admin", "auth_time": exp - 1200, "rev_sig": "d0", "iat": exp - 1200, "exp": exp, "iss": ISSUER,
        "zid": "uaa", "aud": ["network", "cf", "openid"]
    })
}

/// The claims with one replaced, or removed by a null.
pub(super) fn with(mut claims: Value, key: &str, value: Value) -> Value {
    let map = claims.as_object_mut().unwrap();
    map.remove(key);
    if !value.is_null() {
        map.insert(key.to_owned(), value);
    }
    claims
}

pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
