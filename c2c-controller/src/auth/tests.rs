//! Every kind of token that may arrive, the key cache through its life, and a verifier against a UAA's key server.

use super::cache::{Answer, KeyCache, MAX_AGE, PAUSE};
use super::keys::{self, KeySet};
use super::testing::{ISSUER, Signer, encode, key_list, signing_input, user_claims, with};
use super::token::{Refusal, Token, Unverified, strip_scheme};
use super::{AuthError, Settings, SetupError, Verifier, unix_now};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use ring::hmac;
use ring::signature::RSA_PKCS1_SHA256;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

const NOW: u64 = 1_800_000_000;

/// Two keys of the same name: the right one and a forger's.
static RIGHT: LazyLock<Signer> = LazyLock::new(|| Signer::new("key-1"));
static FORGED: LazyLock<Signer> = LazyLock::new(|| Signer::new("key-1"));
static NEXT: LazyLock<Signer> = LazyLock::new(|| Signer::new("key-2"));

fn key_set(keys: &[Value]) -> KeySet {
    keys::parse(key_list(keys).as_bytes()).unwrap()
}

/// As a verifier does it, with the keys given and at [`NOW`].
fn verify(header: &str, keys: &KeySet) -> Result<Token, Refusal> {
    let token = Unverified::parse(strip_scheme(header))?;
    let key = keys.get(token.kid()).ok_or(Refusal::UnknownKey)?;
    token.verify(key, ISSUER, NOW)
}

fn verify_claims(claims: &Value) -> Result<Token, Refusal> {
    verify(&RIGHT.token(claims), &key_set(&[RIGHT.jwk("RS256")]))
}

fn good() -> Value {
    user_claims(NOW + 600)
}

#[test]
fn a_good_token_says_who_and_what() {
    let token = verify_claims(&good()).unwrap();
    assert_eq!(token.subject, "user-1");
    assert!(token.may(&["network.admin", "network.write"]).is_ok() && token.may(&["openid"]).is_ok());
    let refused = token.may(&["network.write", "x.\"y"]).unwrap_err();
    assert_eq!(refused.status(), 403);
    assert_eq!(
        refused.to_string(),
        "provided scopes [network.admin openid] do not include allowed scopes [network.write x.\"y]"
    );
    let client = with(with(good(), "user_id", Value::Null), "aud", json!("network"));
    assert_eq!(verify_claims(&client).unwrap().subject, "cf", "a client's own, and aud may be a string");
    let pss = key_set(&[RIGHT.jwk("PS256")]);
    assert_eq!(verify(&RIGHT.pss_token(&good()), &pss).unwrap().subject, "user-1");
}

#[test]
fn the_scheme_is_stripped_as_the_incumbent_does() {
    let keys = key_set(&[RIGHT.jwk("RS256")]);
    let token = RIGHT.token(&good());
    for prefix in ["", "bearer ", "Bearer ", "Bearer bearer "] {
        assert!(verify(&format!("{prefix}{token}"), &keys).is_ok(), "{prefix}");
    }
    for prefix in ["BEARER ", "bearer  ", "bearer Bearer ", "Basic ", " "] {
        assert_eq!(verify(&format!("{prefix}{token}"), &keys), Err(Refusal::Malformed), "{prefix}");
    }
}

#[test]
fn claims_that_are_not_an_access_tokens_are_refused() {
    let cases = [
        ("exp", json!(NOW), Refusal::Expired),
        ("exp", json!(NOW - 1), Refusal::Expired),
        ("exp", Value::Null, Refusal::Claims),
        ("exp", json!("1900000000"), Refusal::Claims),
        ("iss", json!("https://tenant.uaa.example.org/oauth/token"), Refusal::Issuer),
        ("iss", json!(format!("{ISSUER}/")), Refusal::Issuer),
        ("zid", json!("tenant"), Refusal::Zone),
        ("zid", Value::Null, Refusal::Claims),
        ("scope", json!("network.admin"), Refusal::Claims),
        ("scope", Value::Null, Refusal::Kind),
        ("granted_scopes", json!(["network.admin"]), Refusal::Kind),
        ("jti", json!("4e1f3a-r"), Refusal::Kind),
    ];
    for (claim, value, refusal) in cases {
        assert_eq!(verify_claims(&with(good(), claim, value.clone())), Err(refusal), "{claim}: {value}");
    }
    assert!(verify_claims(&user_claims(NOW + 1)).is_ok(), "good to the last second");
    let nobody = with(with(good(), "user_id", Value::Null), "client_id", Value::Null);
    assert_eq!(verify_claims(&nobody), Err(Refusal::Claims));
}

#[test]
fn what_the_uaa_did_not_sign_is_refused() {
    let keys = key_set(&[RIGHT.jwk("RS256")]);
    assert_eq!(verify(&FORGED.token(&good()), &keys), Err(Refusal::Signature), "the right kid, another key");
    assert_eq!(verify(&NEXT.token(&good()), &keys), Err(Refusal::UnknownKey));
    let token = RIGHT.token(&good());
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let other = signing_input(&RIGHT.header("RS256"), &with(good(), "user_id", json!("root")));
    assert_eq!(verify(&format!("{other}.{signature}"), &keys), Err(Refusal::Signature), "changed claims");
    assert_eq!(verify(&format!("{signed}."), &keys), Err(Refusal::Signature), "no signature");
}

#[test]
fn the_key_and_not_the_token_says_which_algorithm() {
    let jwk = RIGHT.jwk("RS256");
    let keys = key_set(std::slice::from_ref(&jwk));
    let none = format!("{}.", signing_input(&RIGHT.header("none"), &good()));
    assert_eq!(verify(&none, &keys), Err(Refusal::Algorithm));
    // A verifier that believes the header takes the public key for the secret.
    let signed = signing_input(&RIGHT.header("HS256"), &good());
    let secret = hmac::Key::new(hmac::HMAC_SHA256, jwk["n"].as_str().unwrap().as_bytes());
    let mac = hmac::sign(&secret, signed.as_bytes());
    assert_eq!(verify(&format!("{signed}.{}", encode(mac.as_ref())), &keys), Err(Refusal::Algorithm));
    assert_eq!(verify(&RIGHT.pss_token(&good()), &keys), Err(Refusal::Algorithm), "RSA, and still another");
}

#[test]
fn what_is_no_jwt_is_refused() {
    let keys = key_set(&[RIGHT.jwk("RS256")]);
    let token = RIGHT.token(&good());
    let critical = with(RIGHT.header("RS256"), "crit", json!(["b64"]));
    let no_kid = with(RIGHT.header("RS256"), "kid", Value::Null);
    let cases = [
        "2f7ce0f6d4b24a9c".to_owned(),
        String::new(),
        "..".to_owned(),
        format!("{token}="),
        format!("{token} "),
        format!("x{token}"),
        RIGHT.sign(&critical, &good(), &RSA_PKCS1_SHA256),
        RIGHT.sign(&no_kid, &good(), &RSA_PKCS1_SHA256),
    ];
    for case in cases {
        assert_eq!(verify(&case, &keys), Err(Refusal::Malformed), "{case}");
    }
    let more_parts = verify(&token.replacen('.', ".e30.", 1), &keys);
    assert_eq!(more_parts, Err(Refusal::Signature));
}

#[test]
fn a_long_token_is_good_and_an_endless_one_is_not() {
    let scopes = |count: usize| with(good(), "scope", json!(vec!["some.scope-of-20-chars"; count]));
    let keys = key_set(&[RIGHT.jwk("RS256")]);
    let long = RIGHT.token(&scopes(250));
    assert!((8000..12_000).contains(&long.len()) && verify(&long, &keys).is_ok());
    assert_eq!(verify(&RIGHT.token(&scopes(600)), &keys), Err(Refusal::Malformed));
}

#[test]
fn keys_that_cannot_be_used_hide_no_others() {
    let other = |key, value| with(NEXT.jwk("RS256"), key, value);
    let listed = [
        json!("key"),
        other("kty", json!("EC")),
        other("alg", json!("HS256")),
        other("alg", Value::Null),
        other("use", json!("enc")),
        other("n", json!("?")),
        other("e", json!("AAAA")),
        RIGHT.jwk("RS256"),
    ];
    assert_eq!(key_set(&listed).into_keys().collect::<Vec<_>>(), ["key-1"]);
    assert!(keys::parse(b"{}").is_err() && keys::parse(b"<html>").is_err());
}

#[test]
fn the_uaa_is_asked_for_unknown_keys_but_not_by_every_caller() {
    let start = Instant::now();
    let mut cache = KeyCache::default();
    assert_eq!(cache.find("key-1", start), Answer::Fetch, "nothing is known yet");
    cache.failed(start);
    assert_eq!(cache.find("key-1", start), Answer::NotFetched);
    let later = start + PAUSE;
    assert_eq!(cache.find("key-1", later), Answer::Fetch);
    let keys = key_set(&[RIGHT.jwk("RS256")]);
    cache.fetched(keys.clone(), later);
    assert_eq!(cache.find("key-1", later), Answer::Key(keys["key-1"].clone()));
    assert_eq!(cache.find("invented", later + PAUSE / 2), Answer::NoSuchKey);
    assert_eq!(cache.find("key-2", later + PAUSE), Answer::Fetch);
}

#[test]
fn a_key_is_good_until_the_uaa_no_longer_lists_it() {
    let start = Instant::now();
    let mut cache = KeyCache::default();
    let old = key_set(&[RIGHT.jwk("RS256")]);
    let key = Answer::Key(old["key-1"].clone());
    cache.fetched(old, start);
    let old_age = start + MAX_AGE;
    assert_eq!(cache.find("key-1", old_age - Duration::from_nanos(1)), key);
    assert_eq!(cache.find("key-1", old_age), Answer::Fetch);
    cache.failed(old_age);
    assert_eq!(cache.find("key-1", old_age), key, "the UAA is away, and nothing speaks against the key");
    assert_eq!(cache.find("key-2", old_age), Answer::NotFetched);
    cache.fetched(key_set(&[RIGHT.jwk("RS256"), NEXT.jwk("RS256")]), old_age);
    assert_eq!(cache.find("key-1", old_age), key, "rotated, and both are listed");
    cache.fetched(key_set(&[NEXT.jwk("RS256")]), old_age + PAUSE);
    assert_eq!(cache.find("key-1", old_age + PAUSE), Answer::NoSuchKey);
}

/// Answers like a UAA, over TLS, and counts the questions.
struct KeyServer {
    settings: Settings,
    /// The whole HTTP response.
    response: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
    _directory: tempfile::TempDir,
}

impl KeyServer {
    async fn start(keys: &[Value]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca.crt");
        let acceptor = acceptor(&ca);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uaa_url = format!("https://127.0.0.1:{}/uaa/", listener.local_addr().unwrap().port());
        let settings = Settings { uaa_url, issuer: ISSUER.to_owned(), ca, online: None };
        let response = Arc::new(Mutex::new(ok(&key_list(keys))));
        let asked = Arc::new(AtomicUsize::new(0));
        tokio::spawn(answer(listener, acceptor, Arc::clone(&response), Arc::clone(&asked)));
        Self { settings, response, asked, _directory: directory }
    }

    fn answer_with(&self, response: Vec<u8>) {
        *self.response.lock().unwrap() = response;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn answer(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    response: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        let is_right = request.starts_with("GET /uaa/token_keys HTTP/1.1\r\n");
        assert!(is_right && request.contains("\r\nhost: 127.0.0.1:"), "{request}");
        asked.fetch_add(1, Ordering::SeqCst);
        let response = response.lock().unwrap().clone();
        // A client that has read enough hangs up.
        let _ = stream.write_all(&response).await;
        let _ = stream.shutdown().await;
    }
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A server certificate for 127.0.0.1, and its CA in the file.
fn acceptor(ca_file: &std::path::Path) -> TlsAcceptor {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    std::fs::write(ca_file, ca.pem()).unwrap();
    let params_of_server = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = params_of_server.signed_by(&key, &Issuer::new(params, ca_key)).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn fresh() -> Value {
    user_claims(unix_now() + 600)
}

/// The status and what the caller is told.
async fn refusal(verifier: &Verifier, header: &str) -> (u16, String) {
    let error = verifier.verify(header).await.unwrap_err();
    (error.status(), error.to_string())
}

const REFUSED: &str = "failed to verify token with uaa";

#[tokio::test]
async fn many_callers_ask_once_and_are_told_what_the_incumbent_says() {
    let server = KeyServer::start(&[RIGHT.jwk("RS256")]).await;
    let verifier = Verifier::new(server.settings.clone()).unwrap();
    assert_eq!(server.asked(), 0);
    let header = format!("bearer {}", RIGHT.token(&fresh()));
    let (one, two) = tokio::join!(verifier.verify(&header), verifier.verify(&header));
    assert_eq!((one.unwrap().subject, two.unwrap().subject), ("user-1".to_owned(), "user-1".to_owned()));
    assert_eq!(refusal(&verifier, "").await, (401, "missing authorization header".to_owned()));
    assert_eq!(refusal(&verifier, "bearer opaque").await, (401, REFUSED.to_owned()));
    assert_eq!(refusal(&verifier, &NEXT.token(&fresh())).await, (401, REFUSED.to_owned()), "asked just now");
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_rotated_key_is_found() {
    let server = KeyServer::start(&[RIGHT.jwk("RS256")]).await;
    let verifier = Verifier::new(server.settings.clone()).unwrap();
    verifier.verify(&RIGHT.token(&fresh())).await.unwrap();
    server.answer_with(ok(&key_list(&[NEXT.jwk("RS256"), RIGHT.jwk("RS256")])));
    tokio::time::pause();
    tokio::time::advance(PAUSE).await;
    tokio::time::resume();
    verifier.verify(&NEXT.token(&fresh())).await.unwrap();
    verifier.verify(&RIGHT.token(&fresh())).await.unwrap();
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn a_uaa_that_does_not_answer_well_is_no_bad_token() {
    let endless = ok(&" ".repeat(2 * 1024 * 1024));
    let redirect =
        b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/\r\nContent-Length: 0\r\n\r\n".to_vec();
    for response in [endless, redirect, ok("<html>"), b"SSH-2.0-x\r\n".to_vec(), Vec::new()] {
        let server = KeyServer::start(&[]).await;
        server.answer_with(response);
        let verifier = Verifier::new(server.settings.clone()).unwrap();
        let (status, text) = refusal(&verifier, &RIGHT.token(&fresh())).await;
        assert_eq!((status, text.starts_with(REFUSED)), (503, true), "{text}");
        assert_eq!((refusal(&verifier, &RIGHT.token(&fresh())).await.0, server.asked()), (503, 1));
    }
}

/// The clock stands still and jumps to the deadline once everybody waits.
#[tokio::test(start_paused = true)]
async fn a_silent_uaa_is_not_waited_for_for_ever() {
    let server = KeyServer::start(&[RIGHT.jwk("RS256")]).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uaa_url = format!("https://{}", silent.local_addr().unwrap());
    let verifier = Verifier::new(Settings { uaa_url, ..server.settings.clone() }).unwrap();
    assert_eq!(refusal(&verifier, &RIGHT.token(&fresh())).await.0, 503);
}

#[tokio::test]
async fn a_server_with_another_cas_certificate_is_not_asked() {
    let (server, other) = (KeyServer::start(&[RIGHT.jwk("RS256")]).await, KeyServer::start(&[]).await);
    let settings = Settings { ca: other.settings.ca.clone(), ..server.settings.clone() };
    let verifier = Verifier::new(settings).unwrap();
    assert!(matches!(verifier.verify(&RIGHT.token(&fresh())).await, Err(AuthError::Unavailable)));
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn settings_that_cannot_be_right_are_refused() {
    let server = KeyServer::start(&[]).await;
    let good = server.settings.clone();
    let urls = ["", "uaa", "http://uaa", "https://", "https://u:p@uaa", "https://uaa?x", "https://uaa:x"];
    for url in urls {
        let error = Verifier::new(Settings { uaa_url: url.to_owned(), ..good.clone() }).unwrap_err();
        assert!(matches!(error, SetupError::Url { .. }), "{url}: {error}");
    }
    for url in ["https://uaa", "https://[::1]:8443/uaa", "https://uaa.example.org/"] {
        assert!(Verifier::new(Settings { uaa_url: url.to_owned(), ..good.clone() }).is_ok(), "{url}");
    }
    let empty = good.ca.with_file_name("empty");
    std::fs::write(&empty, "").unwrap();
    for ca in [empty, "/none".into()] {
        let error = Verifier::new(Settings { ca, ..good.clone() }).unwrap_err();
        assert!(error.to_string().starts_with("uaa_ca: /"), "{error}");
    }
}
