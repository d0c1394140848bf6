//! The server's side: accepts connections and yields those whose handshake is complete.
//!
//! Whatever arrives, the loop goes on: a handshake that fails, stalls or is not one at all ends alone and is logged.

use super::error::rustls_error;
use super::{HANDSHAKE_DEADLINE, Identity, Peer};
use futures::Stream;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, server};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// Handshakes under way at once. More wait in the kernel's accept queue: a stranger that opens connections and says
/// nothing costs at most this many sockets, each for [`HANDSHAKE_DEADLINE`].
const MAX_HANDSHAKES: usize = 512;

/// How long to leave the accept queue alone when the kernel has no descriptor or memory left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts on the listener for as long as the stream is polled or held; handshakes run side by side.
/// Must be called within a tokio runtime. Yields no errors: there is none that should end the loop.
pub fn incoming(
    listener: TcpListener,
    identity: Identity,
) -> impl Stream<Item = io::Result<TlsStream>> + Send + 'static {
    let (ready, connections) = mpsc::channel(1);
    tokio::spawn(accept_loop(listener, identity, ready));
    ReceiverStream::new(connections)
}

async fn accept_loop(listener: TcpListener, identity: Identity, ready: mpsc::Sender<io::Result<TlsStream>>) {
    let slots = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            () = ready.closed() => return,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((slot, stream, remote)) => {
                let (identity, ready) = (identity.clone(), ready.clone());
                tokio::spawn(async move {
                    if let Some(stream) = handshake(stream, remote, &identity).await {
                        drop(slot);
                        // Fails only when nobody accepts connections any more.
                        let _ = ready.send(Ok(stream)).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, remote) = listener.accept().await?;
    Ok((slot, stream, remote))
}

async fn handshake(stream: TcpStream, remote: SocketAddr, identity: &Identity) -> Option<TlsStream> {
    // Messages are small and answered at once; waiting to fill a segment would only add latency. A socket that refuses
    // the option still works.
    let _ = stream.set_nodelay(true);
    let accepting = TlsAcceptor::from(identity.server()).accept(stream);
    match tokio::time::timeout(HANDSHAKE_DEADLINE, accepting).await {
        Ok(Ok(stream)) => TlsStream::new(stream, remote),
        Ok(Err(error)) => {
            let reason = rustls_error(&error).map_or_else(|| error.to_string(), ToString::to_string);
            tracing::info!(%remote, reason, "refused a connection: no TLS 1.3 handshake with a certificate of our CA");
            None
        }
        Err(_) => {
            tracing::info!(%remote, "closed a connection: no TLS handshake within the deadline");
            None
        }
    }
}

/// A connection whose other end has shown a certificate of our CA.
#[derive(Debug)]
pub struct TlsStream {
    inner: server::TlsStream<TcpStream>,
    peer: Arc<Peer>,
}

impl TlsStream {
    fn new(inner: server::TlsStream<TcpStream>, remote: SocketAddr) -> Option<Self> {
        let certificate = inner.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = certificate.and_then(Peer::from_certificate);
        if peer.is_none() {
            tracing::info!(%remote, "closed a connection: its certificate cannot be decoded");
        }
        Some(Self { peer: Arc::new(peer?), inner })
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Connected for TlsStream {
    /// Found in a request's extensions as `Arc<Peer>`.
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
