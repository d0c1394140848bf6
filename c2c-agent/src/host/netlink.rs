//! A blocking netlink socket that sends many requests in one system call.
//!
//! The messages are rtnetlink's; its connection is not used, because it wants a runtime on the thread that is inside
//! the container's namespace and one round trip for each request. The kernel takes a batch in order, and it does not
//! stop at a request that it refuses: a request that depends on another one's success belongs into the next batch.

use super::Error;
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

/// How often a dump is read again when it changed meanwhile. Each reading takes well under a millisecond.
const DUMP_ATTEMPTS: u32 = 20;

/// One request, and what it is for in an error message ("…refused to {what}").
#[derive(Debug)]
pub(super) struct Step {
    what: String,
    flags: u16,
    message: RouteNetlinkMessage,
}

impl Step {
    /// Makes something new; refused when it exists.
    pub(super) fn create(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self { what: what.into(), flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, message }
    }

    /// Makes something, or makes it as it should be.
    pub(super) fn put(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self { what: what.into(), flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, message }
    }

    /// Changes or removes something that exists.
    pub(super) fn change(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self { what: what.into(), flags: NLM_F_ACK, message }
    }

    /// Reads; answered by what is read, so there is no acknowledgement to wait for.
    fn read(what: &str, flags: u16, message: RouteNetlinkMessage) -> Self {
        Self { what: what.to_owned(), flags, message }
    }
}

/// How much of an answer a datagram was.
enum Part {
    Some,
    Interrupted,
    Last,
}

/// A netlink socket in the namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub(super) fn open() -> Result<Self, Error> {
        Self::socket().map_err(|source| Error::Netlink { what: "open a netlink socket".to_owned(), source })
    }

    fn socket() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket })
    }

    /// Sends all steps at once and waits for every answer. Returns the first refusal.
    pub(super) fn apply(&mut self, steps: Vec<Step>) -> Result<(), Error> {
        let Some(first) = steps.first() else { return Ok(()) };
        let failed = |source| Error::Netlink { what: first.what.clone(), source };
        self.send(steps.iter().zip(0..)).map_err(failed)?;
        let mut refusals = Vec::new();
        for _ in &steps {
            refusals.extend(self.acknowledgement().map_err(failed)?);
        }
        let refusal = refusals.into_iter().next();
        refusal.map_or(Ok(()), |(number, source)| Err(refused(&steps, number, source)))
    }

    /// One thing that the namespace holds, or `None` when the kernel does not know it.
    pub(super) fn get(
        &mut self,
        what: &str,
        request: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, Error> {
        let failed = |source| Error::Netlink { what: what.to_owned(), source };
        self.send([(&Step::read(what, 0, request), 0)]).map_err(failed)?;
        let mut found = Vec::new();
        match self.part(&mut found) {
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
            Err(error) => Err(failed(error)),
            Ok(_) => Ok(found.pop()),
        }
    }

    /// Everything of one kind that the namespace holds. An answer that ends early is an error, never half a world.
    pub(super) fn dump(
        &mut self,
        what: &str,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let step = Step::read(what, NLM_F_DUMP, request);
        let failed = |source| Error::Netlink { what: what.to_owned(), source };
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(found) = self.dump_once(&step).map_err(failed)? {
                return Ok(found);
            }
        }
        Err(failed(io::Error::other(format!(
            "it changed during each of {DUMP_ATTEMPTS} attempts to read it"
        ))))
    }

    /// `None` when the kernel says that what it dumped changed meanwhile, and so may lack something.
    fn dump_once(&self, step: &Step) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        self.send([(step, 0)])?;
        let mut found = Vec::new();
        let mut whole = true;
        loop {
            match self.part(&mut found)? {
                Part::Some => {}
                Part::Interrupted => whole = false,
                Part::Last => return Ok(whole.then_some(found)),
            }
        }
    }

    fn send<'a>(&self, steps: impl IntoIterator<Item = (&'a Step, u32)>) -> io::Result<()> {
        let mut batch = Vec::new();
        for (step, number) in steps {
            let mut message = NetlinkMessage::from(step.message.clone());
            message.header.flags = NLM_F_REQUEST | step.flags;
            message.header.sequence_number = number;
            message.finalize();
            let start = batch.len();
            batch.resize(start + message.buffer_len(), 0);
            message.serialize(batch.get_mut(start..).unwrap_or_default());
        }
        let sent = self.socket.send(&batch, 0)?;
        if sent == batch.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Waits for one answer; a refusal comes with the number of its request.
    fn acknowledgement(&self) -> io::Result<Option<(u32, io::Error)>> {
        let message = self.messages()?.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?;
        let NetlinkPayload::Error(error) = message.payload else {
            return Err(io::Error::other("an answer that is no acknowledgement"));
        };
        Ok(error.code.map(|_| (message.header.sequence_number, error.to_io())))
    }

    /// Reads one datagram of what was asked for.
    fn part(&self, found: &mut Vec<RouteNetlinkMessage>) -> io::Result<Part> {
        let mut part = Part::Some;
        for message in self.messages()? {
            if message.header.flags & NLM_F_DUMP_INTR != 0 {
                part = Part::Interrupted;
            }
            if let NetlinkPayload::InnerMessage(inner) = message.payload {
                found.push(inner);
            } else if let NetlinkPayload::Error(error) = message.payload {
                return Err(error.to_io());
            } else if let NetlinkPayload::Done(_) = message.payload {
                return Ok(Part::Last);
            }
        }
        Ok(part)
    }

    fn messages(&self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let (datagram, _) = self.socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            messages.push(message);
        }
        Ok(messages)
    }
}

fn refused(steps: &[Step], number: u32, source: io::Error) -> Error {
    let what =
        usize::try_from(number).ok().and_then(|number| steps.get(number)).map(|step| step.what.clone());
    Error::Refused { what: what.unwrap_or_else(|| "do what was asked".to_owned()), source }
}
