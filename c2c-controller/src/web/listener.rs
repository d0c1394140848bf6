//! Connections: accepted, taken through TLS, served with HTTP/1.1, and closed when their client is slow or we stop.

use axum::Router;
use c2c_proto::tls::ServerCertificate;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;

/// Connections at once; more wait in the kernel's queue. A request is answered within milliseconds.
const MAX_CONNECTIONS: usize = 1024;
/// How long a connection may be without a whole header, idle ones too: longer than Cloud Foundry's router keeps an idle
/// connection (90 s), or it would sometimes send a request on one that is just being closed.
const HEADER_DEADLINE: Duration = Duration::from_secs(120);
/// How long a client may take nothing of a reply.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How long to leave the accept queue alone when the kernel has no descriptor or memory left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stopping` is true, and then until the requests under way are answered.
pub(crate) async fn run(
    listener: TcpListener,
    certificate: ServerCertificate,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let open = GracefulShutdown::new();
    loop {
        let accept = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            // An error means that nobody is left to tell us.
            _ = stopping.wait_for(|stopping| *stopping) => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                let (router, watcher) = (router.clone(), open.watcher());
                let (certificate, mut stopping) = (certificate.clone(), stopping.clone());
                tokio::spawn(async move {
                    let stream = tokio::select! {
                        _ = stopping.wait_for(|stopping| *stopping) => None,
                        stream = handshake(&certificate, stream, remote) => stream,
                    };
                    if let Some(stream) = stream {
                        serve(stream, remote, router, watcher).await;
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    open.shutdown().await;
}

async fn handshake(
    certificate: &ServerCertificate,
    stream: TcpStream,
    remote: SocketAddr,
) -> Option<TlsStream<TcpStream>> {
    // Replies are small and whole. A socket that refuses the option still works.
    let _ = stream.set_nodelay(true);
    certificate.handshake(stream, remote).await
}

async fn serve(stream: TlsStream<TcpStream>, remote: SocketAddr, router: Router, watcher: Watcher) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .serve_connection(TokioIo::new(Impatient::new(stream)), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%remote, %error, "a connection ended early");
    }
}

/// A connection that fails when its client does not take what is sent to it.
struct Impatient<S> {
    inner: S,
    /// Runs while the client takes nothing.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> Impatient<S> {
    fn new(inner: S) -> Self {
        Self { inner, deadline: None }
    }

    /// What came of a write, unless it has waited for too long.
    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(WRITE_DEADLINE)));
        deadline.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.judge(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.judge(cx, ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (ours, mut theirs) = duplex(4);
        let mut ours = Impatient::new(ours);
        let slow = tokio::spawn(async move {
            let mut bytes = [0; 4];
            for _ in 0..3 {
                sleep(WRITE_DEADLINE - Duration::from_secs(1)).await;
                theirs.read_exact(&mut bytes).await.unwrap();
            }
            theirs
        });
        ours.write_all(&[0; 16]).await.unwrap();
        let theirs = slow.await.unwrap();
        assert_eq!(ours.write_all(&[0]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(theirs);
    }
}
