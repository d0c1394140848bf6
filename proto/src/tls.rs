//! Mutual TLS 1.3, both sides: who may speak at all, and who is speaking.
//!
//! Every connection between an agent, an operator and the controller shows two certificates of one CA. What a
//! certificate may do is its subject's organizationalUnitName ([`Role`]); for which underlay address a cell speaks is its
//! IP subject alternative name (RFC 5280, 4.2.1.6). What a role is allowed is not decided here but by the services.
//!
//! Certificates are replaced while running: [`Identity::reload`] reads the files again, handshakes from then on use what
//! was read, and open streams stay as they are. [`FileWatch`] tells when it is time.
//!
//! [`ServerCertificate`] is for servers whose clients are other people's: they show a certificate of another CA, or none.

mod channel;
mod error;
mod identity;
mod incoming;
mod peer;
mod server;
mod watch;

pub use channel::{cause, channel};
pub use error::TlsError;
pub use identity::{Files, Identity};
pub use incoming::{TlsStream, incoming};
pub use peer::{Peer, Role};
pub use server::ServerCertificate;
pub use watch::FileWatch;

use std::time::Duration;

/// From the TCP connection to the first byte under TLS. A peer that needs longer is not one of ours or not alive.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// The only application protocol of mutual TLS, as registered for ALPN (RFC 7540, 3.3): HTTP/2.
const ALPN: &[u8] = b"h2";
