//! A UAA as far as the controller needs one: `/token_keys` over TLS, and tokens signed with that key.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use c2c_proto::tls::{Files, ServerCertificate};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Uaa {
    pub(crate) url: String,
    key: RsaKeyPair,
}

impl Uaa {
    /// Serves its keys for as long as the runtime lives.
    pub(crate) async fn start(files: &Files) -> Self {
        let key = new_key();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let certificate = ServerCertificate::load(&files.cert, &files.key).unwrap();
        let keys = json!({"keys": [jwk(&key)]}).to_string();
        tokio::spawn(async move {
            loop {
                let (stream, remote) = listener.accept().await.unwrap();
                tokio::spawn(serve(certificate.clone(), stream, remote, keys.clone()));
            }
        });
        Self { url, key }
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

async fn serve(certificate: ServerCertificate, stream: TcpStream, remote: SocketAddr, keys: String) {
    let Some(stream) = certificate.handshake(stream, remote).await else { return };
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        if stream.read_line(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let (status, body) = match request.starts_with("GET /token_keys HTTP/1.1\r\n") {
        true => ("200 OK", keys),
        false => ("404 Not Found", String::new()),
    };
    let length = body.len();
    let reply = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    // The client may be gone.
    let _ = stream.write_all(reply.as_bytes()).await;
    let _ = stream.shutdown().await;
}
