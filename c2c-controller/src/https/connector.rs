//! Connections: TLS 1.3 or 1.2 to a server whose certificate a CA of the configured file signed. The files are read for
//! each connection, so that certificates may be exchanged while we run; connections live for a minute without use.

use super::Server;
use hyper::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::error::Error;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower::Service;

/// For the connection and TLS. Also when nobody waits any more.
const DEADLINE: Duration = Duration::from_secs(5);

type BoxError = Box<dyn Error + Send + Sync>;

/// Why a server could never be called so.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No server can be there.
    #[error("{key}: {url:?} cannot be used; expected https://HOST[:PORT][/PATH]")]
    Url {
        /// The configuration's key.
        key: &'static str,
        /// What was set.
        url: String,
    },
    /// Nobody could be believed.
    #[error("{key}: {} cannot be used; expected one or more CA certificates (PEM)", path.display())]
    Ca {
        /// The configuration's key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: BoxError,
    },
    /// No header can hold it.
    #[error(
        "uaa_client or uaa_client_secret holds characters that no HTTP header can; expected printable ones"
    )]
    Client,
    /// Nobody would believe us.
    #[error("{key}: {} cannot be used; expected a certificate and its key (PEM)", path.display())]
    Identity {
        /// The configuration's key of the certificate.
        key: &'static str,
        /// Its file.
        path: PathBuf,
        /// What is wrong with it, or with its key.
        source: BoxError,
    },
}

/// A certificate to show, and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The certificate, with those that lead to the CA (PEM).
    pub(crate) certificate: PathBuf,
    /// Its private key (PEM).
    pub(crate) key: PathBuf,
    /// The configuration's key of the certificate.
    pub(crate) certificate_key: &'static str,
}

/// Makes the connections to one server.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    tcp: HttpConnector,
    ca: (&'static str, PathBuf),
    identity: Option<Identity>,
}

impl Connector {
    /// Reads the files once, to see that they can be used.
    pub(super) fn new(server: &Server) -> Result<Self, SetupError> {
        let mut tcp = HttpConnector::new();
        // It would refuse the scheme https, which TLS around it is for.
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let ca = (server.ca_key, server.ca.clone());
        let connector = Self { tcp, ca, identity: server.identity.clone() };
        connector.config()?;
        Ok(connector)
    }

    fn config(&self) -> Result<ClientConfig, SetupError> {
        let (key, path) = &self.ca;
        let trust = ClientConfig::builder_with_provider(ring::default_provider().into());
        let trust = trust.with_safe_default_protocol_versions().map_err(BoxError::from);
        let trust = trust.and_then(|trust| Ok(trust.with_root_certificates(roots(path)?)));
        let trust = trust.map_err(|source| SetupError::Ca { key, path: path.clone(), source })?;
        let Some(Identity { certificate, key, certificate_key }) = &self.identity else {
            return Ok(trust.with_no_client_auth());
        };
        let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
        let own = chain.and_then(|chain: Vec<_>| Ok((chain, PrivateKeyDer::from_pem_file(key)?)));
        let own = own.map_err(BoxError::from);
        let config = own.and_then(|(chain, key)| Ok(trust.with_client_auth_cert(chain, key)?));
        let path = certificate.clone();
        config.map_err(|source| SetupError::Identity { key: certificate_key, path, source })
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting =
            self.config().map(|config| HttpsConnector::from((self.tcp.clone(), config)).call(to));
        Box::pin(async move { tokio::time::timeout(DEADLINE, connecting?).await? })
    }
}

fn roots(ca: &PathBuf) -> Result<RootCertStore, BoxError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in it".into());
    }
    Ok(roots)
}
