//! What can be wrong with certificates and handshakes, each as a line that an operator can act on.

use rustls::{AlertDescription, CertificateError, Error as RustlsError};
use std::io;
use std::path::PathBuf;

/// Why there is no TLS connection, or could not be one.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read the {what} {}", path.display())]
    Read {
        /// What the file should hold: "CA certificate", "certificate" or "private key".
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file was read but holds something else.
    #[error("{} holds no {what} in PEM form", path.display())]
    NotPem {
        /// What the file should hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
    },
    /// Our own certificate is over.
    #[error("the certificate {} expired at {not_after}; issue a new one", path.display())]
    Expired {
        /// Which file.
        path: PathBuf,
        /// When it ended.
        not_after: String,
    },
    /// Our own certificate has not begun.
    #[error("the certificate {} is not valid before {not_before}; is this machine's clock right?", path.display())]
    NotYetValid {
        /// Which file.
        path: PathBuf,
        /// When it begins.
        not_before: String,
    },
    /// Our own certificate was signed by another CA than the one we trust.
    #[error("the certificate {} was not signed by the CA in {}", certificate.display(), ca.display())]
    ForeignCa {
        /// Our certificate.
        certificate: PathBuf,
        /// The CA that we trust.
        ca: PathBuf,
    },
    /// Our own certificate and key do not belong together.
    #[error("the private key {} does not match the certificate {}", key.display(), certificate.display())]
    KeyMismatch {
        /// Our key.
        key: PathBuf,
        /// Our certificate.
        certificate: PathBuf,
    },
    /// A file was read and decoded, and still cannot be used.
    #[error("the {what} {} cannot be used", path.display())]
    Unusable {
        /// What the file holds.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What rustls says.
        source: RustlsError,
    },
    /// The controller's address cannot be one.
    #[error("`{address}` is not the address of a controller: expected https://HOST:PORT")]
    Address {
        /// What was given.
        address: String,
    },
    /// Nobody answers.
    #[error("cannot reach {address}")]
    Connect {
        /// HOST:PORT.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// Somebody answered, but not in time.
    #[error("{address} accepted the connection and did not complete the TLS handshake in {seconds} s")]
    Deadline {
        /// HOST:PORT.
        address: String,
        /// The deadline.
        seconds: u64,
    },
    /// The other side does not accept our certificate.
    #[error("{address} refused our certificate {}: {reason}", certificate.display())]
    Refused {
        /// HOST:PORT.
        address: String,
        /// Our certificate.
        certificate: PathBuf,
        /// What its alert says.
        reason: &'static str,
    },
    /// We do not accept the other side's certificate.
    #[error("the certificate of {address} cannot be trusted: {reason}")]
    Untrusted {
        /// HOST:PORT.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The other side does not speak TLS 1.3 as we do.
    #[error("no TLS 1.3 connection with {address}")]
    Handshake {
        /// HOST:PORT.
        address: String,
        /// What came instead.
        source: io::Error,
    },
}

impl TlsError {
    /// What an error during a handshake means to the client that began it.
    pub(super) fn from_client_handshake(
        address: &str,
        certificate: &std::path::Path,
        source: io::Error,
    ) -> Self {
        let address = address.to_owned();
        match rustls_error(&source) {
            Some(RustlsError::AlertReceived(alert)) => match refusal(*alert) {
                Some(reason) => Self::Refused { address, certificate: certificate.to_owned(), reason },
                None => Self::Handshake { address, source },
            },
            Some(RustlsError::InvalidCertificate(wrong)) => {
                Self::Untrusted { address, reason: distrust(wrong) }
            }
            Some(_) | None => Self::Handshake { address, source },
        }
    }
}

/// The line for a certificate of the other side that we do not accept.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's own words do for what is not common")]
pub(super) fn distrust(wrong: &CertificateError) -> String {
    use CertificateError as E;
    match wrong {
        E::Expired | E::ExpiredContext { .. } => "it has expired".to_owned(),
        E::NotValidYet | E::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        // A CA of the same name and another key shows as a bad signature.
        E::UnknownIssuer | E::BadSignature => "it was signed by another CA than ours".to_owned(),
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            "it was issued for another name or address".to_owned()
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "it was issued for another role (client and server certificates are not interchangeable)"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// rustls's own error inside an error of the connection.
pub(super) fn rustls_error(error: &io::Error) -> Option<&RustlsError> {
    error.get_ref()?.downcast_ref()
}

/// The line for an alert (RFC 8446, 6.2) by which the other side refuses our certificate; nothing for other alerts.
fn refusal(alert: AlertDescription) -> Option<&'static str> {
    use AlertDescription as A;
    let lines: [(&[A], &'static str); 4] = [
        (&[A::CertificateExpired], "it has expired, or is not valid yet by the clock there"),
        (&[A::UnknownCA, A::DecryptError], "it was signed by another CA"),
        (&[A::CertificateRequired], "none was presented"),
        (
            &[A::BadCertificate, A::UnsupportedCertificate, A::CertificateUnknown, A::CertificateRevoked],
            "it is not one that may be used here",
        ),
    ];
    lines.into_iter().find(|(alerts, _)| alerts.contains(&alert)).map(|(_, line)| line)
}
