//! Serving: a task for each connection. What a request began goes on when its asker hangs up, because half an ADD is
//! nobody's wish; but an ADD whose asker hung up before is not begun, because its asker has undone it.

use super::receive::{Received, receive, refusal};
use super::socket::Socket;
use c2c_proto::agent_api::{ApiError, Reply, Request, code};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// A request is one small line from a program on the same machine; what takes longer never comes.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// The same for the reply, which may be a flow table of 30 MB for a CLI that prints it.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// When the process is out of descriptors, accepting fails until something is closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests that are being done may go on after the shutdown began. Longer than an ADD ever takes (its wait
/// for policies is 250 ms), shorter than systemd's patience.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// Whoever knows the answers.
pub trait Handle: Send + Sync + 'static {
    /// Answers one request. `netns` is the descriptor that came with it; an ADD always has one.
    fn handle(&self, request: Request, netns: Option<OwnedFd>) -> impl Future<Output = Reply> + Send;
}

impl Socket {
    /// Serves until `shutdown` is ready, then lets what was begun end, and removes the socket.
    pub async fn serve<H: Handle>(self, handler: Arc<H>, shutdown: impl Future<Output = ()> + Send) {
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => drop(connections.spawn(converse(stream, Arc::clone(&handler)))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the agent's socket");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        let left = connections.len();
        let drained = async { while connections.join_next().await.is_some() {} };
        if timeout(DRAIN_DEADLINE, drained).await.is_err() {
            tracing::warn!(
                left,
                "requests were cut short by the shutdown; the next start undoes what they left"
            );
        }
    }
}

async fn converse<H: Handle>(mut stream: UnixStream, handler: Arc<H>) {
    let reply = match listen(&stream).await {
        Ok(Received { request, .. }) if makes_something(&request) && hung_up(&stream) => {
            return tracing::warn!("an ADD or a change was not begun: its asker did not wait for the agent");
        }
        Ok(Received { request, descriptor }) => handler.handle(request, descriptor).await,
        Err(error) => Reply::Error(error),
    };
    match timeout(WRITE_DEADLINE, answer(&mut stream, &reply)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the asker did not wait for the answer"),
        Err(_) => tracing::debug!("the asker did not take the answer"),
    }
}

/// What an agent that was stopped or busy for a while must not make for somebody who has given up meanwhile: a DEL that
/// they sent next may be done already.
fn makes_something(request: &Request) -> bool {
    matches!(request, Request::Add(_) | Request::NetIn(_) | Request::NetOut(_))
}

/// Whether nobody would read an answer. An asker who said everything shuts down its side only.
fn hung_up(stream: &UnixStream) -> bool {
    let mut wanted = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    poll(&mut wanted, PollTimeout::ZERO).is_ok_and(|found| found > 0)
        && wanted.iter().any(|found| found.revents().is_some_and(|seen| seen.contains(PollFlags::POLLHUP)))
}

/// Reads the request of somebody who may ask.
async fn listen(stream: &UnixStream) -> Result<Received, ApiError> {
    let peer = stream.peer_cred().map_err(|error| refusal(code::INVALID, format!("who asks? {error}")))?;
    let received = timeout(READ_DEADLINE, receive(stream)).await;
    if peer.uid() != 0 {
        return Err(refusal(
            code::INVALID,
            format!("uid {} may not ask the agent, only root may", peer.uid()),
        ));
    }
    let seconds = READ_DEADLINE.as_secs();
    let received = received.unwrap_or_else(|_| {
        Err(refusal(code::UNDECODABLE, format!("no whole request came within {seconds} s")))
    })?;
    if matches!(received.request, Request::Add(_)) && received.descriptor.is_none() {
        return Err(refusal(
            code::INVALID,
            "an ADD needs the descriptor of the container's network namespace",
        ));
    }
    Ok(received)
}

async fn answer(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::NetnsId;
    use c2c_proto::agent_api::{Add, Attachment, Bandwidth, MAX_REQUEST_BYTES};
    use c2c_proto::agent_socket::{CallError, Client};
    use serde_json::json;
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream as BlockingStream;
    use std::path::PathBuf;
    use tempfile::TempDir;
    use tokio::sync::{Semaphore, oneshot};
    use tokio::task::{JoinHandle, spawn_blocking};

    /// Tells what it was asked, after it was let.
    struct Echo {
        asked: Semaphore,
        may_answer: Semaphore,
    }

    impl Handle for Echo {
        async fn handle(&self, request: Request, netns: Option<OwnedFd>) -> Reply {
            self.asked.add_permits(1);
            _ = self.may_answer.acquire().await;
            let id = netns.map(|netns| File::from(netns).metadata().unwrap());
            let id = id.map(|found| NetnsId { dev: found.dev(), inode: found.ino() });
            Reply::Ok(json!({ "request": request, "netns": id }))
        }
    }

    struct Served {
        _dir: TempDir,
        path: PathBuf,
        echo: Arc<Echo>,
        stop: oneshot::Sender<()>,
        task: JoinHandle<()>,
    }

    fn serve(permits: usize) -> Served {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("agent.sock");
        let (stop, stopped) = oneshot::channel::<()>();
        let echo = Arc::new(Echo { asked: Semaphore::new(0), may_answer: Semaphore::new(permits) });
        let socket = Socket::bind(&path).unwrap();
        let shutdown = async { _ = stopped.await };
        let task = tokio::spawn(socket.serve(Arc::clone(&echo), shutdown));
        Served { _dir: dir, path, echo, stop, task }
    }

    fn add() -> Request {
        let attachment = Attachment { container_id: "handle".to_owned(), ifname: "eth0".to_owned() };
        Request::Add(Add {
            attachment,
            netns: "/run/netns/x".to_owned(),
            metadata: BTreeMap::new(),
            ports: Vec::new(),
            egress: Vec::new(),
            bandwidth: Bandwidth::default(),
        })
    }

    async fn raw(path: &std::path::Path, bytes: Vec<u8>) -> String {
        let path = path.to_owned();
        let talk = move || {
            let mut stream = BlockingStream::connect(path).unwrap();
            _ = stream.write_all(&bytes);
            _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = String::new();
            _ = stream.read_to_string(&mut answer);
            answer
        };
        spawn_blocking(talk).await.unwrap()
    }

    #[tokio::test]
    async fn a_request_and_its_namespace_arrive() {
        let served = serve(1);
        let netns = File::open("/proc/self/ns/net").unwrap();
        let inode = netns.metadata().unwrap().ino();
        let client = Client::new(&served.path, Duration::from_secs(5));
        let value = spawn_blocking(move || client.call(&add(), Some(netns.as_fd()))).await.unwrap().unwrap();
        assert_eq!(value["netns"]["inode"], json!(inode));
        assert_eq!(value["request"]["container_id"], json!("handle"));
    }

    #[tokio::test]
    async fn an_add_without_a_namespace_is_refused() {
        let served = serve(1);
        let client = Client::new(&served.path, Duration::from_secs(5));
        let error = spawn_blocking(move || client.call(&add(), None)).await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::Refused(ApiError { code: code::INVALID, .. })), "{error:?}");
    }

    #[tokio::test]
    async fn garbage_is_answered_with_one_line_and_the_next_is_served() {
        let served = serve(1);
        let too_long = vec![b'x'; MAX_REQUEST_BYTES + 2];
        let rows: [(&[u8], &str); 6] = [
            (b"", "cannot be read"),
            (b"\n", "cannot be read"),
            (b"\x00\xff\xfe\n", "cannot be read"),
            (b"GET / HTTP/1.1\r\n\r\n", "cannot be read"),
            (b"{\"request\":\"destroy\"}\n", "unknown variant"),
            (&too_long, "longer than"),
        ];
        for (bytes, expected) in rows {
            let answer = raw(&served.path, bytes.to_vec()).await;
            assert!(
                answer.is_empty() && bytes.len() > MAX_REQUEST_BYTES || answer.contains(expected),
                "{answer:?}"
            );
            assert!(answer.lines().count() <= 1, "{answer:?}");
        }
        assert!(raw(&served.path, b"{\"request\":\"ready\"}".to_vec()).await.contains("\"ok\""));
    }

    #[tokio::test]
    async fn what_was_begun_ends_before_the_shutdown_does() {
        let served = serve(0);
        let client = Client::new(&served.path, Duration::from_secs(5));
        let call = spawn_blocking(move || client.call(&Request::Ready, None));
        _ = served.echo.asked.acquire().await.unwrap();
        served.stop.send(()).unwrap();
        tokio::task::yield_now().await;
        assert!(!served.task.is_finished(), "the request is still being done");
        served.echo.may_answer.add_permits(1);
        served.task.await.unwrap();
        assert!(call.await.unwrap().is_ok());
        assert!(!served.path.exists());
    }

    #[tokio::test]
    async fn what_was_begun_goes_on_when_its_asker_hangs_up() {
        let served = serve(0);
        let mut stream = BlockingStream::connect(&served.path).unwrap();
        stream.write_all(b"{\"request\":\"ready\"}\n").unwrap();
        _ = served.echo.asked.acquire().await.unwrap();
        drop(stream);
        served.echo.may_answer.add_permits(1);
        served.stop.send(()).unwrap();
        served.task.await.unwrap();
        assert_eq!(served.echo.may_answer.available_permits(), 1, "the handler came to its end");
    }

    #[tokio::test]
    async fn what_its_asker_gave_up_before_it_was_begun_is_not_begun() {
        let served = serve(10);
        let (path, netns) = (served.path.clone(), File::open("/proc/self/ns/net").unwrap());
        // The agent's tasks run on this very thread, so nothing is read before the askers have gone.
        let give_up = move |request: Request| {
            let client = Client::new(&path, Duration::from_millis(20));
            std::thread::spawn({
                let netns = netns.try_clone().unwrap();
                move || client.call(&request, Some(netns.as_fd()))
            })
            .join()
            .unwrap()
        };
        let attachment = Attachment { container_id: "handle".to_owned(), ifname: "eth0".to_owned() };
        for request in [add(), Request::Del(attachment)] {
            let error = give_up(request).unwrap_err();
            assert!(matches!(error, CallError::Deadline { .. }), "{error:?}");
        }
        _ = served.echo.asked.acquire().await.unwrap();
        let client = Client::new(&served.path, Duration::from_secs(5));
        let asked = spawn_blocking(move || client.call(&Request::Ready, None)).await.unwrap();
        assert!(asked.is_ok());
        served.stop.send(()).unwrap();
        served.task.await.unwrap();
        assert_eq!(served.echo.may_answer.available_permits(), 10, "every handler came to its end");
        assert_eq!(served.echo.asked.available_permits(), 2, "the DEL, and whether it is ready");
    }
}
