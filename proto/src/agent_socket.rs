//! The asking side of the agent's Unix socket: connect, check who listens, one request, one reply, all before one
//! deadline. Blocking and without a runtime, because the shim lives for a few milliseconds.
//!
//! It holds no meaning of any request; the answering side is the agent's `cni_api`.

use crate::agent_api::{ApiError, MAX_REQUEST_BYTES, Reply, Request, code};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, sendmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde_json::Value;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A reply longer than this is not believed, in bytes. A full flow table of 131,072 rows is about 30 MB.
const MAX_REPLY_BYTES: usize = 64 << 20;
/// How much of an answer that is not ours is quoted, in bytes.
const QUOTED_BYTES: usize = 60;

/// Where the agent listens, and how long one call may take from beginning to end.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

/// Why there is no answer to use.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens there.
    #[error("cannot reach the agent at {}: is c2c-agent running on this cell?", .socket.display())]
    Unreachable {
        /// Where it was looked for.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Somebody listens there who is not the agent.
    #[error("{} is not the agent's socket: {reason}", .socket.display())]
    NotTheAgent {
        /// Where it was looked for.
        socket: PathBuf,
        /// What was found instead, and what was expected.
        reason: String,
    },
    /// The agent took too long. It may still do what it was asked.
    #[error("the agent at {} did not answer within {} s", .socket.display(), .timeout.as_secs_f64())]
    Deadline {
        /// Where it listens.
        socket: PathBuf,
        /// How long it was given.
        timeout: Duration,
    },
    /// The connection ended before the answer. The agent may have done what it was asked, or a part of it.
    #[error("the connection to the agent at {} ended before an answer came", .socket.display())]
    Broken {
        /// Where it listens.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The agent answered, and refused.
    #[error(transparent)]
    Refused(#[from] ApiError),
}

impl Client {
    /// A client that asks the agent at `socket` and waits at most `timeout` for each answer.
    pub fn new(socket: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { socket: socket.into(), timeout }
    }

    /// Asks, and returns the value of the agent's answer. `descriptor` travels with the request's first byte.
    pub fn call(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> Result<Value, CallError> {
        let deadline = Instant::now() + self.timeout;
        let mut stream = self.connect()?;
        self.check_listener(&stream)?;
        let line = line(request).map_err(|e| self.io_error(e))?;
        if line.len() > MAX_REQUEST_BYTES {
            return Err(too_long(line.len()).into());
        }
        self.send(&mut stream, &line, descriptor, deadline).map_err(|e| self.io_error(e))?;
        let answer = self.receive(&mut stream, deadline).map_err(|e| self.io_error(e))?;
        match self.decode(&answer)? {
            Reply::Ok(value) => Ok(value),
            Reply::Error(error) => Err(error.into()),
        }
    }

    /// Connects. A Unix socket's connect waits while the listener's queue is full, at most for the send timeout.
    fn connect(&self) -> Result<UnixStream, CallError> {
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .and_then(|fd| self.connect_to(fd))
            .map_err(|errno| self.connect_error(errno))?;
        Ok(UnixStream::from(fd))
    }

    fn connect_to(&self, fd: OwnedFd) -> nix::Result<OwnedFd> {
        let whole = i64::try_from(self.timeout.as_secs()).unwrap_or(i64::MAX);
        let wait = TimeVal::new(whole, i64::from(self.timeout.subsec_micros()));
        setsockopt(&fd, sockopt::SendTimeout, &wait)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(&self.socket)?)?;
        Ok(fd)
    }

    fn connect_error(&self, errno: Errno) -> CallError {
        if errno == Errno::EAGAIN {
            return self.deadline();
        }
        match what_is_not_a_socket(&self.socket) {
            Some(reason) => self.not_the_agent(reason),
            None if errno == Errno::EPROTOTYPE => self.not_the_agent("it is not a stream socket"),
            None => CallError::Unreachable { socket: self.socket.clone(), source: errno.into() },
        }
    }

    /// Only root can be the agent: anybody else who listens there would be handed a namespace.
    fn check_listener(&self, stream: &UnixStream) -> Result<(), CallError> {
        let peer = getsockopt(stream, sockopt::PeerCredentials).map_err(|e| self.io_error(e.into()))?;
        match peer.uid() {
            0 => Ok(()),
            uid => Err(self.not_the_agent(format!("uid {uid} listens there, expected root (uid 0)"))),
        }
    }

    fn send(
        &self,
        stream: &mut UnixStream,
        line: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> io::Result<()> {
        stream.set_write_timeout(Some(left_until(deadline)?))?;
        let sent = send_first(stream, line, descriptor)?;
        stream.write_all(line.get(sent..).unwrap_or_default())?;
        stream.shutdown(Shutdown::Write)
    }

    fn receive(&self, stream: &mut UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut answer = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        while answer.last() != Some(&b'\n') && answer.len() < MAX_REPLY_BYTES {
            stream.set_read_timeout(Some(left_until(deadline)?))?;
            match stream.read(&mut chunk) {
                Ok(0) if answer.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(0) => break,
                Ok(count) => answer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(answer)
    }

    fn decode(&self, answer: &[u8]) -> Result<Reply, CallError> {
        serde_json::from_slice(answer).map_err(|error| {
            let start = String::from_utf8_lossy(answer.get(..QUOTED_BYTES).unwrap_or(answer)).into_owned();
            self.not_the_agent(format!(
                "it answered {start:?}, expected one line of JSON from c2c-agent ({error})"
            ))
        })
    }

    fn io_error(&self, source: io::Error) -> CallError {
        if matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            return self.deadline();
        }
        CallError::Broken { socket: self.socket.clone(), source }
    }

    fn deadline(&self) -> CallError {
        CallError::Deadline { socket: self.socket.clone(), timeout: self.timeout }
    }

    fn not_the_agent(&self, reason: impl Into<String>) -> CallError {
        CallError::NotTheAgent { socket: self.socket.clone(), reason: reason.into() }
    }
}

/// A request as it is sent.
fn line(request: &Request) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    Ok(line)
}

/// The agent would refuse it unread, which whoever is still sending does not hear.
fn too_long(bytes: usize) -> ApiError {
    let msg = format!(
        "the request has {bytes} bytes, and the agent takes {MAX_REQUEST_BYTES}: too many rules or labels"
    );
    ApiError { code: code::INVALID, msg, details: String::new() }
}

/// Sends the beginning of the line with the descriptor, and says how many bytes went with it.
fn send_first(stream: &UnixStream, line: &[u8], descriptor: Option<BorrowedFd<'_>>) -> nix::Result<usize> {
    let descriptors: Vec<_> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &rights[..0] } else { &rights[..] };
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(line)], control, MsgFlags::MSG_NOSIGNAL, None)
}

/// The time left, never zero, which a socket would take for "no limit".
fn left_until(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// Connecting to a plain file is "connection refused", as if the agent were down; this tells the two apart.
fn what_is_not_a_socket(path: &Path) -> Option<&'static str> {
    let kind = path.metadata().ok()?.file_type();
    (!kind.is_socket()).then_some("it is a file of another kind, expected a Unix socket")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_api::Attachment;
    use serde_json::json;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;
    use std::thread::{self, JoinHandle};

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn an_answer_comes_back() {
        let (socket, asked) = answering("value", br#"{"ok":{"lease":"10.255.1.0/24"}}"#);
        let value = Client::new(&socket.0, SOON).call(&Request::Status, None).unwrap();
        assert_eq!(value, json!({"lease": "10.255.1.0/24"}));
        assert_eq!(asked.join().unwrap(), "{\"request\":\"status\"}\n");
    }

    #[test]
    fn a_refusal_keeps_its_code() {
        let (socket, _asked) = answering("refusal", br#"{"error":{"code":11,"msg":"wait","details":""}}"#);
        let error = Client::new(&socket.0, SOON).call(&Request::Ready, None).unwrap_err();
        assert!(matches!(error, CallError::Refused(ApiError { code: 11, .. })), "{error:?}");
    }

    #[test]
    fn what_the_agent_would_not_read_is_not_sent() {
        let (socket, _asked) = answering("long", b"");
        let attachment =
            Attachment { container_id: "x".repeat(MAX_REQUEST_BYTES), ifname: "eth0".to_owned() };
        let error = Client::new(&socket.0, SOON).call(&Request::Del(attachment), None).unwrap_err();
        assert!(matches!(&error, CallError::Refused(ApiError { code: code::INVALID, .. })), "{error:?}");
    }

    #[test]
    fn whoever_does_not_speak_our_protocol_is_named() {
        let (socket, _asked) = answering("http", b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let error = Client::new(&socket.0, SOON).call(&Request::Ready, None).unwrap_err();
        assert!(matches!(error, CallError::NotTheAgent { .. }), "{error:?}");
        assert!(error.to_string().contains("HTTP/1.1 400"), "{error}");
    }

    #[test]
    fn closing_without_an_answer_is_not_an_answer() {
        let (socket, _asked) = answering("closed", b"");
        let error = Client::new(&socket.0, SOON).call(&Request::Ready, None).unwrap_err();
        assert!(matches!(error, CallError::Broken { .. }), "{error:?}");
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let socket = place("silence");
        let _listener = UnixListener::bind(&socket.0).unwrap();
        let error =
            Client::new(&socket.0, Duration::from_millis(50)).call(&Request::Ready, None).unwrap_err();
        assert!(matches!(error, CallError::Deadline { .. }), "{error:?}");
    }

    #[test]
    fn nobody_there_and_no_socket_are_different() {
        let socket = place("missing");
        let client = Client::new(&socket.0, SOON);
        assert!(matches!(client.call(&Request::Ready, None), Err(CallError::Unreachable { .. })));
        std::fs::write(&socket.0, "").unwrap();
        assert!(matches!(client.call(&Request::Ready, None), Err(CallError::NotTheAgent { .. })));
        std::fs::remove_file(&socket.0).unwrap();
        drop(UnixListener::bind(&socket.0).unwrap());
        assert!(matches!(client.call(&Request::Ready, None), Err(CallError::Unreachable { .. })), "stale");
    }

    /// A path of this process and test alone, and nothing there afterwards.
    struct Place(PathBuf);

    impl Drop for Place {
        fn drop(&mut self) {
            _ = std::fs::remove_file(&self.0);
        }
    }

    fn place(name: &str) -> Place {
        Place(std::env::temp_dir().join(format!("c2c-proto-{}-{name}.sock", std::process::id())))
    }

    /// Listens, takes one line and answers with these bytes.
    fn answering(name: &str, answer: &'static [u8]) -> (Place, JoinHandle<String>) {
        let socket = place(name);
        let listener = UnixListener::bind(&socket.0).unwrap();
        let asked = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(answer).unwrap();
            line
        });
        (socket, asked)
    }
}
