//! Our own certificate, key and CA: read from files, checked before anything relies on them, replaceable while running.

use super::error::TlsError;
use super::{ALPN, Peer};
use arc_swap::ArcSwap;
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, Error as RustlsError, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Where the three PEM files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The CA whose certificates we accept; may hold several, so that a CA can be rotated.
    pub ca: PathBuf,
    /// Our certificate, followed by intermediate ones if there are any.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Who we are to others. Cheap to clone; clones share what [`Identity::reload`] reads.
#[derive(Clone, Debug)]
pub struct Identity {
    files: Arc<Files>,
    current: Arc<ArcSwap<Loaded>>,
}

impl Identity {
    /// Reads and checks the files: each is what it should be, the certificate is valid now, signed by the CA and
    /// belongs to the key.
    ///
    /// # Errors
    /// The first thing that is wrong, with the file's name.
    pub fn load(files: &Files) -> Result<Self, TlsError> {
        let loaded = Loaded::from_files(files)?;
        Ok(Self { files: Arc::new(files.clone()), current: Arc::new(ArcSwap::from_pointee(loaded)) })
    }

    /// Reads the files again. Handshakes from now on use them; what was loaded before stays when something is wrong.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(Loaded::from_files(&self.files)?));
        Ok(())
    }

    /// What others read in our certificate.
    #[must_use]
    pub fn own(&self) -> Peer {
        self.current.load().own.clone()
    }

    /// When our certificate ends, in seconds since 1970.
    #[must_use]
    pub fn expires(&self) -> u64 {
        self.current.load().expires
    }

    /// The files this identity was read from.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().server)
    }

    pub(super) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.load().client)
    }
}

#[derive(Debug)]
struct Loaded {
    own: Peer,
    expires: u64,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Loaded {
    fn from_files(files: &Files) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(read_roots(&files.ca)?);
        let chain = read_certificates("certificate", &files.cert)?;
        let key = read_key(&files.key)?;
        let (own, expires) = check_validity(&files.cert, &chain)?;
        check_key(&files.cert, &files.key, &chain, &key, &provider)?;
        let verifier = client_verifier(&files.ca, Arc::clone(&roots), &provider)?;
        check_issuer(files, &chain, verifier.as_ref(), &roots, &provider)?;
        let on_error = |error| unusable("certificate", &files.cert, error);
        let server = server_config(&provider, verifier, &chain, &key).map_err(on_error)?;
        let client = client_config(&provider, roots, chain, key).map_err(on_error)?;
        Ok(Self { own, expires, server: Arc::new(server), client: Arc::new(client) })
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<ServerConfig, RustlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.to_vec(), key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    refuse_resumption(&mut config);
    Ok(config)
}

/// A resumed session skips the check of the client's certificate, and with it the expiry and a changed CA.
pub(super) fn refuse_resumption(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

/// Accepts clients with a certificate of these CAs.
pub(super) fn client_verifier(
    path: &Path,
    roots: Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
    verifier.map_err(|error| unusable("CA certificate", path, RustlsError::General(error.to_string())))
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, RustlsError> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

pub(super) fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates("CA certificate", path)? {
        roots.add(certificate).map_err(|error| unusable("CA certificate", path, error))?;
    }
    Ok(roots)
}

/// At least one certificate.
pub(super) fn read_certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(what, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) | Err(_) => Err(TlsError::NotPem { what, path: path.to_owned() }),
    }
}

pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read("private key", path)?;
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| TlsError::NotPem { what: "private key", path: path.to_owned() })
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { what, path: path.to_owned(), source })
}

/// Says what the certificate says of us and when it ends, if it is valid now.
pub(super) fn check_validity(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(Peer, u64), TlsError> {
    let not_pem = || TlsError::NotPem { what: "certificate", path: path.to_owned() };
    let leaf = chain.first().ok_or_else(not_pem)?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| not_pem())?;
    let (validity, now) = (parsed.validity(), x509_parser::time::ASN1Time::now());
    if now < validity.not_before {
        let not_before = validity.not_before.to_string();
        return Err(TlsError::NotYetValid { path: path.to_owned(), not_before });
    }
    if now > validity.not_after {
        return Err(TlsError::Expired { path: path.to_owned(), not_after: validity.not_after.to_string() });
    }
    let expires = u64::try_from(validity.not_after.timestamp()).unwrap_or_default();
    Ok((Peer::from_certificate(leaf).ok_or_else(not_pem)?, expires))
}

pub(super) fn check_key(
    certificate: &Path,
    path: &Path,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<(), TlsError> {
    match CertifiedKey::from_der(chain.to_vec(), key.clone_key(), provider) {
        Ok(_) => Ok(()),
        Err(RustlsError::InconsistentKeys(_)) => {
            Err(TlsError::KeyMismatch { key: path.to_owned(), certificate: certificate.to_owned() })
        }
        Err(error) => Err(unusable("private key", path, error)),
    }
}

/// Checks our own certificate as the other side will: as a client's or, where its purpose is the other one, a server's.
fn check_issuer(
    files: &Files,
    chain: &[CertificateDer<'static>],
    clients: &dyn ClientCertVerifier,
    roots: &RootCertStore,
    provider: &CryptoProvider,
) -> Result<(), TlsError> {
    let Some((leaf, intermediates)) = chain.split_first() else { return Ok(()) };
    let now = UnixTime::now();
    let as_server = || {
        let algorithms = provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
    };
    let verdict = match clients.verify_client_cert(leaf, intermediates, now) {
        Ok(_) => Ok(()),
        Err(RustlsError::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        )) => as_server(),
        Err(error) => Err(error),
    };
    verdict.map_err(|error| {
        use CertificateError::{BadSignature, UnknownIssuer};
        if matches!(error, RustlsError::InvalidCertificate(UnknownIssuer | BadSignature)) {
            TlsError::ForeignCa { certificate: files.cert.clone(), ca: files.ca.clone() }
        } else {
            unusable("certificate", &files.cert, error)
        }
    })
}

pub(super) fn unusable(what: &'static str, path: &Path, source: RustlsError) -> TlsError {
    TlsError::Unusable { what, path: path.to_owned(), source }
}
