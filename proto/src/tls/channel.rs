//! The client's side: a gRPC channel to the controller that connects when it is used, and says clearly why it cannot.

use super::{HANDSHAKE_DEADLINE, Identity, Peer, Role, TlsError};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::error::Error;
use std::io;
use std::time::Duration;
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// A silent connection is asked whether it is alive this often; a cut cable is noticed within this and
/// [`KEEPALIVE_TIMEOUT`].
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long the answer may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel to the controller at `https://HOST:PORT`. Connects at the first call, and again when the connection is
/// lost and a call is made; each handshake uses the identity as it is then.
///
/// # Errors
/// When the address cannot be one. Whatever goes wrong later is the call's status: see [`cause`].
pub fn channel(address: &str, identity: Identity) -> Result<Channel, TlsError> {
    let (endpoint, target) =
        parse(address).ok_or_else(|| TlsError::Address { address: address.to_owned() })?;
    let connector = tower::service_fn(move |_: Uri| {
        let (target, identity) = (target.clone(), identity.clone());
        async move { connect(&target, &identity).await.map(TokioIo::new) }
    });
    Ok(endpoint
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector))
}

/// Why a call could not even be made, when the reason is the connection; nothing when the server itself answered.
#[must_use]
pub fn cause(status: &tonic::Status) -> Option<&TlsError> {
    let mut next: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Where to connect, and whose certificate is expected there.
#[derive(Clone, Debug)]
struct Target {
    host: String,
    port: u16,
    name: ServerName<'static>,
    /// HOST:PORT, for messages.
    address: String,
}

fn parse(address: &str) -> Option<(Endpoint, Target)> {
    let uri: Uri = address.parse().ok()?;
    let (host, port) = (uri.host()?, uri.port_u16()?);
    if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return None;
    }
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host.clone()).ok()?;
    let target = Target { host, port, name, address: format!("{}:{port}", uri.host()?) };
    Some((Endpoint::from(uri), target))
}

async fn connect(target: &Target, identity: &Identity) -> Result<TlsStream<TcpStream>, TlsError> {
    let deadline =
        || TlsError::Deadline { address: target.address.clone(), seconds: HANDSHAKE_DEADLINE.as_secs() };
    let unreachable = |source| TlsError::Connect { address: target.address.clone(), source };
    let connecting = TcpStream::connect((target.host.as_str(), target.port));
    let stream = tokio::time::timeout(HANDSHAKE_DEADLINE, connecting)
        .await
        .map_err(|_| unreachable(io::ErrorKind::TimedOut.into()))?
        .map_err(unreachable)?;
    // Messages are small and answered at once; a socket that refuses the option still works.
    let _ = stream.set_nodelay(true);
    tokio::time::timeout(HANDSHAKE_DEADLINE, handshake(stream, target, identity))
        .await
        .map_err(|_| deadline())?
}

/// The handshake, and then the server's first byte (HTTP/2's SETTINGS, RFC 9113, 3.4, which hyper sends unasked): in TLS
/// 1.3 a client is done before the server has seen its certificate, so a refusal arrives only there.
async fn handshake(
    stream: TcpStream,
    target: &Target,
    identity: &Identity,
) -> Result<TlsStream<TcpStream>, TlsError> {
    let failed = |error| TlsError::from_client_handshake(&target.address, &identity.files().cert, error);
    let connecting = TlsConnector::from(identity.client()).connect(target.name.clone(), stream);
    let mut stream = connecting.await.map_err(failed)?;
    check_role(&stream, target)?;
    if stream.fill_buf().await.map_err(failed)?.is_empty() {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(stream)
}

/// A cell's certificate must not do for a controller's, wherever it is shown.
fn check_role(stream: &TlsStream<TcpStream>, target: &Target) -> Result<(), TlsError> {
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    match certificate.and_then(Peer::from_certificate) {
        Some(Peer { role: Some(Role::Controller), .. }) => Ok(()),
        _ => Err(TlsError::Untrusted {
            address: target.address.clone(),
            reason: format!("its role (organizationalUnitName) is not {}", Role::Controller),
        }),
    }
}
