//! Who may reach whom on which ports: the values of a policy, legal by construction.

use super::{AppId, Invalid, Tag};
use std::fmt;

/// The transport protocols that a policy can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Reads `tcp` or `udp` in any case.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(field: &'static str, text: &str) -> Result<Self, Invalid> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => {
                Err(Invalid { field, problem: format!("{text:?} is not supported"), expected: "tcp or udp" })
            }
        }
    }

    /// IANA's number for it.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The protocol of IANA's number, if it is one of ours.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp].into_iter().find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One port or a range of them, both ends included, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    start: u16,
    end: u16,
}

impl Ports {
    const EXPECTED: &str = "a port from 1 to 65535, or a range such as 7000-7010";

    /// Reads `7000` or `7000-7010`.
    ///
    /// # Errors
    /// When it is neither, a port is not from 1 to 65535, or the range ends below its start.
    pub fn parse(field: &'static str, text: &str) -> Result<Self, Invalid> {
        let invalid = |problem| Invalid { field, problem, expected: Self::EXPECTED };
        let (start, end) = text.split_once('-').unwrap_or((text, text));
        let port = |digits: &str| {
            // `u16::from_str` takes a leading `+`, which is no port.
            let number = digits.parse::<u16>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
            number.filter(|port| *port != 0).ok_or_else(|| match digits == text {
                true => invalid(format!("{text:?} is not a port")),
                false => invalid(format!("{digits:?} in {text:?} is not a port")),
            })
        };
        let (start, end) = (port(start)?, port(end)?);
        Self::new(start, end).ok_or_else(|| invalid(format!("the range {text:?} ends below its start")))
    }

    /// A range by its ends; nothing when it is none.
    #[must_use]
    pub fn new(start: u16, end: u16) -> Option<Self> {
        (start != 0 && start <= end).then_some(Self { start, end })
    }

    /// The first port.
    #[must_use]
    pub fn start(self) -> u16 {
        self.start
    }

    /// The last port.
    #[must_use]
    pub fn end(self) -> u16 {
        self.end
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.start == self.end {
            true => f.pad(&self.start.to_string()),
            false => f.pad(&format!("{}-{}", self.start, self.end)),
        }
    }
}

/// The source app may open connections to the destination app on these ports. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Policy {
    /// Who connects.
    pub source: AppId,
    /// Who is connected to.
    pub destination: AppId,
    /// By which protocol.
    pub protocol: Protocol,
    /// On which ports of the destination.
    pub ports: Ports,
}

impl Policy {
    /// Reads a policy as an operator writes it.
    ///
    /// # Errors
    /// The first field that cannot be right.
    pub fn parse(source: &str, destination: &str, protocol: &str, ports: &str) -> Result<Self, Invalid> {
        Ok(Self {
            source: AppId::parse("source app", source)?,
            destination: AppId::parse("destination app", destination)?,
            protocol: Protocol::parse("protocol", protocol)?,
            ports: Ports::parse("port", ports)?,
        })
    }

    /// Whether it names the app on either side.
    #[must_use]
    pub fn names(&self, app: &AppId) -> bool {
        self.source == *app || self.destination == *app
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} {} {}", self.source, self.destination, self.protocol, self.ports)
    }
}

/// A policy with the tags of its two apps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaggedPolicy {
    /// What is allowed.
    pub policy: Policy,
    /// The source app's tag.
    pub source_tag: Tag,
    /// The destination app's tag.
    pub destination_tag: Tag,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_legal() {
        for (text, start, end) in
            [("1", 1, 1), ("65535", 65535, 65535), ("7000-7010", 7000, 7010), ("5-5", 5, 5)]
        {
            let ports = Ports::parse("port", text).unwrap();
            assert_eq!((ports.start(), ports.end()), (start, end), "{text}");
        }
        assert_eq!(Ports::parse("port", "7000-7010").unwrap().to_string(), "7000-7010");
        assert_eq!(Ports::parse("port", "5-5").unwrap().to_string(), "5");
    }

    #[test]
    fn ports_that_are_not_are_refused_with_what_was_expected() {
        let cases = [
            ("0", "port: \"0\" is not a port; expected a port from 1 to 65535"),
            ("70000", "port: \"70000\" is not a port"),
            ("9-8", "port: the range \"9-8\" ends below its start"),
            ("abc", "\"abc\" is not a port"),
            ("", "\"\" is not a port"),
            ("-", "\"\" in \"-\" is not a port"),
            ("1-70000", "\"70000\" in \"1-70000\" is not a port"),
            ("1-2-3", "\"2-3\" in \"1-2-3\" is not a port"),
            ("+7000", "\"+7000\" is not a port"),
            (" 7000", "is not a port"),
            ("0x10", "is not a port"),
        ];
        for (text, message) in cases {
            let error = Ports::parse("port", text).unwrap_err().to_string();
            assert!(error.contains(message), "{text:?}: {error}");
        }
    }

    #[test]
    fn protocols_in_any_case_and_nothing_else() {
        for (text, protocol) in [("tcp", Protocol::Tcp), ("TCP", Protocol::Tcp), ("Udp", Protocol::Udp)] {
            assert_eq!(Protocol::parse("protocol", text), Ok(protocol));
        }
        for text in ["", "icmp", "tcp ", "6"] {
            let error = Protocol::parse("protocol", text).unwrap_err().to_string();
            assert_eq!(error, format!("protocol: {text:?} is not supported; expected tcp or udp"));
        }
    }
}
