//! Traffic between namespaces: servers that say whom they see, clients that tell refused from lost, and forgers.

pub mod forged;
pub mod frame;
pub mod icmp;
pub mod raw;
pub mod tcp;
pub mod udp;
pub mod volume;

use anyhow::ensure;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long a client waits before it calls something lost.
pub const TIMEOUT: Duration = Duration::from_secs(3);
/// A refusal within this time answered the first packet: TCP repeats an unanswered SYN after one second.
pub const AT_ONCE: Duration = Duration::from_millis(900);

/// How far a client came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The server answered and said which address it sees.
    Reached(Ipv4Addr),
    /// Somebody said no: a reset, or an ICMP port-unreachable.
    Refused,
    /// Nobody said anything.
    TimedOut,
    /// Anything else.
    Failed(String),
}

/// One try of a client.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// How far it came.
    pub reach: Reach,
    /// How long that took.
    pub took: Duration,
}

impl Attempt {
    /// Whether it was refused before a first packet would have been repeated.
    #[must_use]
    pub fn refused_at_once(&self) -> bool {
        self.reach == Reach::Refused && self.took < AT_ONCE
    }

    /// An error unless it was refused before a first packet would have been repeated.
    pub fn is_refused(&self) -> anyhow::Result<()> {
        ensure!(self.refused_at_once(), "{} after {:?} instead of refused at once", self.reach, self.took);
        Ok(())
    }

    /// An error unless the server was reached and saw this address.
    pub fn is_seen_as(&self, address: Ipv4Addr) -> anyhow::Result<()> {
        let wanted = Reach::Reached(address);
        ensure!(self.reach == wanted, "{} after {:?} instead of {wanted}", self.reach, self.took);
        Ok(())
    }
}

impl Display for Reach {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reached(address) => write!(formatter, "connected, seen as {address}"),
            Self::Refused => formatter.write_str("refused"),
            Self::TimedOut => formatter.write_str("timeout"),
            Self::Failed(why) => write!(formatter, "failed: {why}"),
        }
    }
}

impl From<io::Error> for Reach {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, TimedOut, WouldBlock};
        let is = |kinds: [io::ErrorKind; 2]| kinds.contains(&error.kind());
        if is([ConnectionRefused, ConnectionReset]) {
            Self::Refused
        } else if is([TimedOut, WouldBlock]) {
            Self::TimedOut
        } else {
            Self::Failed(error.to_string())
        }
    }
}
