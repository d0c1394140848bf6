//! Reading one request: a bounded line and, with its first bytes, at most one descriptor.

use c2c_proto::agent_api::{ApiError, MAX_REQUEST_BYTES, Request, code};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// How much is read at a time, in bytes. Most requests are smaller.
const CHUNK_BYTES: usize = 4096;

/// A request and what came with it.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) request: Request,
    pub(super) descriptor: Option<OwnedFd>,
}

/// Reads the request up to its newline, or to the end of what is sent.
pub(super) async fn receive(stream: &UnixStream) -> Result<Received, ApiError> {
    let mut line = Vec::new();
    let mut descriptors = Vec::new();
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        let read = || read_some(stream, &mut chunk, &mut descriptors);
        let count = stream.async_io(Interest::READABLE, read).await.map_err(|error| unreadable(&error))?;
        let looked_at = line.len();
        line.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if line.len() > MAX_REQUEST_BYTES {
            return Err(refusal(
                code::INVALID,
                format!("the request is longer than {MAX_REQUEST_BYTES} bytes"),
            ));
        }
        if let Some(end) = line.iter().skip(looked_at).position(|byte| *byte == b'\n') {
            line.truncate(looked_at + end);
            break;
        }
        if count == 0 {
            break;
        }
    }
    let request = decode(&line)?;
    if descriptors.len() > 1 {
        let msg = format!("{} descriptors came with the request, expected at most one", descriptors.len());
        return Err(refusal(code::INVALID, msg));
    }
    Ok(Received { request, descriptor: descriptors.pop() })
}

fn read_some(stream: &UnixStream, chunk: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(chunk)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(received.bytes)
}

fn decode(line: &[u8]) -> Result<Request, ApiError> {
    serde_json::from_slice(line).map_err(|error| {
        refusal(code::UNDECODABLE, format!("the request cannot be read, expected one line of JSON: {error}"))
    })
}

fn unreadable(error: &io::Error) -> ApiError {
    refusal(code::UNDECODABLE, format!("the request cannot be read: {error}"))
}

/// An error that needs no more words.
pub(super) fn refusal(code: u32, msg: impl Into<String>) -> ApiError {
    ApiError { code, msg: msg.into(), details: String::new() }
}
