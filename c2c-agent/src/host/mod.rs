//! The kernel's network as the agent sees and changes it: namespaces, interfaces, addresses, neighbours, routes,
//! limits and sysctls. The only room that speaks netlink, opens packet and raw sockets or enters a namespace.
//!
//! Everything here is blocking and acts in the namespace of the calling thread; [`Netns::run`] gives a job a thread
//! inside another one. Nothing here knows what an app, a lease or a record is, and nothing decides what to delete:
//! callers name an interface together with the alias that marks it as ours, and anything else is left alone.

mod addresses;
mod end;
mod features;
mod limit;
mod link;
mod netlink;
mod netns;
mod own_pair;
mod packet;
mod qdisc;
mod raw;
mod route;
mod sysctl;
#[cfg(test)]
pub(crate) mod testing;
mod underlay;
mod veth;
mod vxlan;

pub use addresses::addresses;
pub use end::{Drift, End, Observed};
pub use features::{active_features, switch_features};
pub use limit::{Limit, check_limit};
pub use link::{Link, find_link, links, remove_link};
pub use netns::{Netns, NetnsId};
pub use own_pair::OwnPair;
pub use packet::PacketSocket;
pub use qdisc::remove_clsact;
pub use raw::RawSocket;
pub use underlay::{Underlay, underlay};
pub use veth::{Pair, create_pair};
pub use vxlan::{ensure_vxlan_device, remove_vxlan_device};

use std::fmt::Write;
use std::io;
use std::path::PathBuf;

/// A hardware address, in the order of the wire.
pub type Mac = [u8; 6];

/// `aa:bb:cc:dd:ee:ff`.
pub fn mac_text(mac: &Mac) -> String {
    let mut text = String::with_capacity(17);
    for byte in mac {
        let colon = if text.is_empty() { "" } else { ":" };
        _ = write!(text, "{colon}{byte:02x}");
    }
    text
}

/// The hardware address that a text names, if it names one.
pub fn parse_mac(text: &str) -> Option<Mac> {
    let mut bytes =
        text.split(':').map(|byte| (byte.len() == 2).then(|| u8::from_str_radix(byte, 16).ok())?);
    let mut mac = Mac::default();
    for byte in &mut mac {
        *byte = bytes.next()??;
    }
    bytes.next().is_none().then_some(mac)
}

/// Why the kernel's network is not as it was asked to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A namespace could not be opened or entered.
    #[error("cannot enter the network namespace {netns}")]
    Netns {
        /// Which one.
        netns: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The job's thread could not be started, or it panicked.
    #[error("a job inside the network namespace {netns} came to no end: {reason}")]
    Job {
        /// Where it ran.
        netns: String,
        /// What happened to it.
        reason: String,
    },
    /// An interface of that name is there already.
    #[error("an interface {name} exists already {place}; remove it, or ask for another name")]
    Exists {
        /// Its name.
        name: String,
        /// In which namespace.
        place: &'static str,
    },
    /// An interface of that name is there, but c2c did not make it.
    #[error("the interface {name} is not c2c's: {reason}; it was left as it is")]
    Foreign {
        /// Its name.
        name: String,
        /// What tells that.
        reason: String,
    },
    /// There is no such interface.
    #[error("there is no interface {name}")]
    NoLink {
        /// Its name.
        name: String,
    },
    /// The interface lacks something that c2c needs.
    #[error("the interface {name} has no {what}")]
    Incomplete {
        /// Its name.
        name: String,
        /// What it lacks.
        what: &'static str,
    },
    /// The kernel refused.
    #[error("the kernel refused to {what}")]
    Refused {
        /// What was asked of it.
        what: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Netlink itself failed: the socket, or an answer that cannot be read.
    #[error("netlink failed while trying to {what}")]
    Netlink {
        /// What was asked.
        what: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// A kernel parameter could not be written.
    #[error("cannot set the kernel parameter {}", .path.display())]
    Sysctl {
        /// Its file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_reads_as_it_is_written() {
        let mac = [0xee, 0xee, 10, 255, 1, 2];
        assert_eq!(mac_text(&mac), "ee:ee:0a:ff:01:02");
        assert_eq!(parse_mac("ee:ee:0a:ff:01:02"), Some(mac));
    }

    #[test]
    fn what_is_no_mac_is_none() {
        for text in [
            "",
            "ee:ee:0a:ff:01",
            "ee:ee:0a:ff:01:02:03",
            "ee:ee:0a:ff:01:g2",
            "eeee:0a:ff:01:02",
            "e:e:a:f:1:2",
        ] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
    }
}
