//! Asks the UAA for its keys: one GET over TLS to the configured address, without redirects, with a deadline and a limit.

use super::keys::{self, KeySet};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// From the first packet to the last byte. A caller waits for it when the key of its token is new.
const DEADLINE: Duration = Duration::from_secs(5);
/// A key with its certificate chain is some 10 KiB, and a UAA lists a handful.
const ANSWER_MAX_BYTES: usize = 1024 * 1024;
/// Where a URL without a port leads (RFC 9110, 4.2.2).
const HTTPS_PORT: u16 = 443;

/// Why tokens could never be verified so.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No UAA can be there.
    #[error("uaa_url: {url:?} cannot be used; expected https://HOST[:PORT][/PATH]")]
    Url {
        /// What was set.
        url: String,
    },
    /// Nobody could be believed.
    #[error("uaa_ca: {} cannot be used; expected one or more CA certificates (PEM)", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Why the UAA's keys are not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The CA file was good once.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Nobody there, or nobody whom we believe.
    #[error("cannot connect to the UAA at {address}; expected its TLS server, with a certificate of uaa_ca")]
    Connect {
        /// HOST:PORT.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// Not all of it in time.
    #[error("the UAA at {address} did not answer within {} s", DEADLINE.as_secs())]
    Deadline {
        /// HOST:PORT.
        address: String,
    },
    /// The connection broke, or does not speak HTTP.
    #[error("cannot ask the UAA for {url}; expected an HTTP server")]
    Http {
        /// What was asked for.
        url: Uri,
        /// Why not.
        source: hyper::Error,
    },
    /// It says no.
    #[error("the UAA answers {status} to a GET of {url}; expected 200")]
    Status {
        /// What was asked for.
        url: Uri,
        /// What it says.
        status: StatusCode,
    },
    /// The answer broke off, or does not end.
    #[error("cannot read the answer to {url}; expected at most {ANSWER_MAX_BYTES} bytes")]
    Body {
        /// What was asked for.
        url: Uri,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It is something else.
    #[error("the answer to {url} is not a JWK set; expected {{\"keys\":[...]}}")]
    Json {
        /// What was asked for.
        url: Uri,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// A UAA's `/token_keys`.
#[derive(Debug)]
pub(super) struct KeySource {
    url: Uri,
    host: String,
    port: u16,
    name: ServerName<'static>,
    /// HOST[:PORT] as configured, for the Host header.
    authority: HeaderValue,
    ca: PathBuf,
}

impl KeySource {
    pub(super) fn new(uaa_url: &str, ca: PathBuf) -> Result<Self, SetupError> {
        trust(&ca)?;
        Self::parse(uaa_url, ca).ok_or_else(|| SetupError::Url { url: uaa_url.to_owned() })
    }

    fn parse(uaa_url: &str, ca: PathBuf) -> Option<Self> {
        let url: Uri = format!("{}/token_keys", uaa_url.trim_end_matches('/')).parse().ok()?;
        let authority = url.authority()?;
        // A password would be sent nowhere, and shown in every message.
        if url.scheme_str() != Some("https") || url.query().is_some() || authority.as_str().contains('@') {
            return None;
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match authority.as_str().strip_prefix(authority.host())? {
            "" => HTTPS_PORT,
            port => port.strip_prefix(':')?.parse().ok()?,
        };
        let name = ServerName::try_from(host.clone()).ok()?;
        let authority = HeaderValue::from_str(authority.as_str()).ok()?;
        Some(Self { host, port, name, authority, ca, url })
    }

    pub(super) async fn fetch(&self) -> Result<KeySet, FetchError> {
        let answer = tokio::time::timeout(DEADLINE, self.get()).await;
        let answer = answer.map_err(|_| FetchError::Deadline { address: self.address() })??;
        keys::parse(&answer).map_err(|source| FetchError::Json { url: self.url.clone(), source })
    }

    async fn get(&self) -> Result<Bytes, FetchError> {
        let stream = self.connect().await?;
        let http = |source| FetchError::Http { url: self.url.clone(), source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        // Ends when we return or are dropped. What goes wrong with it is the request's error too.
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        let response = sender.send_request(self.request()).await.map_err(http)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status { url: self.url.clone(), status: response.status() });
        }
        let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
        let body = body.map_err(|source| FetchError::Body { url: self.url.clone(), source })?;
        Ok(body.to_bytes())
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.url.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
        request.headers_mut().insert(HOST, self.authority.clone());
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        request
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, FetchError> {
        let config = trust(&self.ca)?;
        let failed = |source| FetchError::Connect { address: self.address(), source };
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(failed)?;
        TlsConnector::from(config).connect(self.name.clone(), stream).await.map_err(failed)
    }

    /// HOST:PORT, for messages.
    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// TLS 1.3 or 1.2 to a server whose certificate one of the file's CAs signed.
fn trust(ca: &Path) -> Result<Arc<ClientConfig>, SetupError> {
    read_trust(ca).map(Arc::new).map_err(|source| SetupError::Ca { path: ca.to_owned(), source })
}

fn read_trust(ca: &Path) -> Result<ClientConfig, Box<dyn Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in it".into());
    }
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
