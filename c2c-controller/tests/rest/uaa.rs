//! A UAA as far as the controller needs one, over TLS: its keys and tokens signed with them, and a token for our client.

use crate::stub::{self, Answer, Asked};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use c2c_proto::tls::Files;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

/// Our client's password in these tests, and the token that it gets.
pub(crate) const SECRET: &str = "s3cret:/?";
pub(crate) const CLIENT_TOKEN: &str = "token-of-our-client";

pub(crate) struct Uaa {
    pub(crate) url: String,
    key: RsaKeyPair,
    world: Arc<Mutex<World>>,
}

/// What the UAA does.
pub(crate) struct World {
    keys: String,
    /// Seconds.
    pub(crate) tokens_live: u64,
    /// How often our client got a token.
    pub(crate) tokens_given: usize,
    /// How often it was asked whether a token is good, and whether all are revoked.
    pub(crate) checks: usize,
    pub(crate) all_revoked: bool,
    /// Whether it answers our client at all.
    pub(crate) broken: bool,
}

impl Uaa {
    /// Serves for as long as the runtime lives.
    pub(crate) async fn start(files: &Files) -> Self {
        let key = new_key();
        let keys = json!({"keys": [jwk(&key)]}).to_string();
        let world =
            World { keys, tokens_live: 600, tokens_given: 0, checks: 0, all_revoked: false, broken: false };
        let world = Arc::new(Mutex::new(world));
        let url = stub::serve(files, {
            let world = Arc::clone(&world);
            move |asked| world.lock().unwrap().answer(asked)
        });
        Self { url: url.await, key, world }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// The value of an Authorization header, as `cf` sends it.
    pub(crate) fn bearer(&self, scopes: &[&str]) -> String {
        format!("bearer {}", self.token(&json!({"scope": scopes})))
    }

    /// A token of a user, with these claims over the usual ones.
    pub(crate) fn token(&self, changes: &Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({
            "jti": "3b4c", "sub": "user-1", "scope": ["network.admin"], "client_id": "cf", "cid": "cf", "azp": "cf",
            "grant_type": "password", "user_id": "user-1", "origin": "uaa", "user_name": "admin",
            "iat": now, "exp": now + 600, "iss": format!("{}/oauth/token", self.url), "zid": "uaa",
            "aud": ["cf", "network"],
        });
        for (key, value) in changes.as_object().unwrap() {
            claims[key] = value.clone();
        }
        let header =
            json!({"alg": "RS256", "kid": "key-1", "typ": "JWT", "jku": "https://example.org/token_keys"});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(&claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// ring makes no RSA keys.
fn new_key() -> RsaKeyPair {
    let arguments = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    let made = Command::new("openssl").args(arguments).output().expect("the tests need openssl");
    RsaKeyPair::from_pkcs8(PrivatePkcs8KeyDer::from_pem_slice(&made.stdout).unwrap().secret_pkcs8_der())
        .unwrap()
}

fn jwk(key: &RsaKeyPair) -> Value {
    let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
    let [n, e] = [n, e].map(|number| URL_SAFE_NO_PAD.encode(number));
    json!({"kty": "RSA", "e": e, "use": "sig", "kid": "key-1", "alg": "RS256", "n": n})
}

impl World {
    fn answer(&mut self, asked: &Asked) -> Answer {
        match asked.line.as_str() {
            "GET /token_keys" => Answer::Json(200, self.keys.clone()),
            "POST /check_token" => self.check(asked),
            "POST /oauth/token" => self.token(asked),
            _ => Answer::Json(404, String::new()),
        }
    }

    fn check(&mut self, asked: &Asked) -> Answer {
        assert!(asked.body.starts_with("token=eyJ") && !asked.header("authorization").is_empty());
        self.checks += 1;
        match (self.broken, self.all_revoked) {
            (true, _) => Answer::Json(503, "<html>busy</html>".to_owned()),
            (_, true) => {
                Answer::Json(400, r#"{"error":"invalid_token","error_description":"revoked"}"#.to_owned())
            }
            (false, false) => Answer::Json(200, r#"{"client_id":"cf"}"#.to_owned()),
        }
    }

    fn token(&mut self, asked: &Asked) -> Answer {
        if self.broken {
            return Answer::Json(503, "<html>busy</html>".to_owned());
        }
        let basic = format!("Basic {}", STANDARD.encode(format!("network-policy:{SECRET}")));
        let form = "application/x-www-form-urlencoded";
        if asked.header("authorization") != basic || asked.header("content-type") != form {
            return Answer::Json(
                401,
                r#"{"error":"unauthorized","error_description":"Bad credentials"}"#.to_owned(),
            );
        }
        assert_eq!(asked.body, "grant_type=client_credentials");
        self.tokens_given += 1;
        let token =
            json!({"access_token": CLIENT_TOKEN, "token_type": "bearer", "expires_in": self.tokens_live});
        Answer::Json(200, token.to_string())
    }
}
