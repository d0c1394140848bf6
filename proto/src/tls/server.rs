//! A server for clients that are other people's, so TLS 1.2 is spoken too, and HTTP/1.1. It asks them for a certificate of a
//! CA of theirs, or for none when they say who they are in another way, such as a token.

use super::error::rustls_error;
use super::identity::{
    check_key, check_validity, client_verifier, read_certificates, read_key, read_roots, refuse_resumption,
    unusable,
};
use super::{HANDSHAKE_DEADLINE, TlsError};
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::NoClientAuth;
use rustls::version::{TLS12, TLS13};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server};

/// The application protocol of these servers (RFC 7301, 6).
const HTTP_1_1: &[u8] = b"http/1.1";

/// What a server shows to its clients. Cheap to clone; clones share what [`ServerCertificate::reload`] reads.
#[derive(Clone, Debug)]
pub struct ServerCertificate {
    certificate: Arc<PathBuf>,
    key: Arc<PathBuf>,
    /// Whose certificates clients need; nothing: they need none.
    clients: Option<Arc<PathBuf>>,
    current: Arc<ArcSwap<Shown>>,
}

#[derive(Debug)]
struct Shown {
    config: Arc<ServerConfig>,
    expires: u64,
}

impl ServerCertificate {
    /// Reads and checks the files: the certificate is valid now and belongs to the key. Whom it was signed by is for the
    /// clients to judge.
    ///
    /// # Errors
    /// The first thing that is wrong, with the file's name.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::load_for(certificate, key, None)
    }

    /// The same for clients that have a certificate of this CA. Nobody else is let in.
    ///
    /// # Errors
    /// As [`ServerCertificate::load`].
    pub fn load_mutual(certificate: &Path, key: &Path, clients: &Path) -> Result<Self, TlsError> {
        Self::load_for(certificate, key, Some(clients))
    }

    fn load_for(certificate: &Path, key: &Path, clients: Option<&Path>) -> Result<Self, TlsError> {
        let current = Arc::new(ArcSwap::from_pointee(load(certificate, key, clients)?));
        let [certificate, key] = [certificate, key].map(|path| Arc::new(path.to_owned()));
        Ok(Self { certificate, key, clients: clients.map(|path| Arc::new(path.to_owned())), current })
    }

    /// Reads the files again. Handshakes from now on use them; what was loaded before stays when something is wrong.
    ///
    /// # Errors
    /// As [`ServerCertificate::load`].
    pub fn reload(&self) -> Result<(), TlsError> {
        let clients = self.clients.as_ref().map(|path| path.as_path());
        self.current.store(Arc::new(load(&self.certificate, &self.key, clients)?));
        Ok(())
    }

    /// When the certificate ends, in seconds since 1970.
    #[must_use]
    pub fn expires(&self) -> u64 {
        self.current.load().expires
    }

    /// The files of the certificate, of its key and of its clients' CA.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.certificate, &self.key].into_iter().chain(&self.clients).map(|file| file.as_path())
    }

    /// Does the handshake on a connection that was accepted. Nothing when there was none within
    /// [`HANDSHAKE_DEADLINE`]; the log then says why.
    pub async fn handshake(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> Option<server::TlsStream<TcpStream>> {
        let accepting = TlsAcceptor::from(Arc::clone(&self.current.load().config)).accept(stream);
        match tokio::time::timeout(HANDSHAKE_DEADLINE, accepting).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                let reason = rustls_error(&error).map_or_else(|| error.to_string(), ToString::to_string);
                tracing::info!(%remote, reason, "closed a connection: no TLS handshake");
                None
            }
            Err(_) => {
                tracing::info!(%remote, "closed a connection: no TLS handshake within the deadline");
                None
            }
        }
    }
}

fn load(certificate: &Path, key: &Path, clients: Option<&Path>) -> Result<Shown, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = read_certificates("certificate", certificate)?;
    let private = read_key(key)?;
    let (_, expires) = check_validity(certificate, &chain)?;
    check_key(certificate, key, &chain, &private, &provider)?;
    let on_error = |error| unusable("certificate", certificate, error);
    let verifier = match clients {
        Some(ca) => client_verifier(ca, Arc::new(read_roots(ca)?), &provider)?,
        None => Arc::new(NoClientAuth),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(on_error)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, private)
        .map_err(on_error)?;
    if clients.is_some() {
        refuse_resumption(&mut config);
    }
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(Shown { config: Arc::new(config), expires })
}
