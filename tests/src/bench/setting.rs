//! What a fabric is asked to hold: containers, policies and rules for the outside, computed and not drawn, the same for
//! every fabric.

use crate::lab::Joined;
use std::net::Ipv4Addr;

/// What the servers listen on; policies allow it over TCP and UDP.
pub(super) const PORT: u16 = 7_000;
/// Ports of one policy where policies are ranges.
const RANGE: u16 = 1_000;
/// Apps beside those of the traffic that policies name. Far fewer than there are tags (65,535), more than a cell can host.
const OTHER_APPS: u32 = 1_000;
/// The policies of one other app to one destination differ by their port; each in another block of 64, so that no two of
/// them share a row of a map that keeps 64 ports in a row.
const PORT_STEP: u32 = 1_024;

/// An app of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum App {
    Client,
    Server,
    /// An app that only policies name, or one of a container that does nothing.
    Other(u16),
}

impl App {
    /// As long as a Cloud Foundry guid, so that what is kept and sent is as large as it would be.
    pub(super) fn name(self) -> String {
        let number = self.tag();
        format!("{number:08x}-0c2c-4000-8000-{number:012x}")
    }

    /// The incumbent's number for it; c2c's controller gives its own.
    pub(super) fn tag(self) -> u16 {
        match self {
            Self::Client => 1,
            Self::Server => 2,
            Self::Other(number) => 3 + number,
        }
    }
}

/// Who may reach whom on which ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) source: App,
    pub(super) destination: App,
    pub(super) protocol: &'static str,
    pub(super) ports: (u16, u16),
}

/// What the policies name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One port each.
    Ports,
    /// A thousand ports each.
    Ranges,
}

/// One size of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) joined: Joined,
    /// On each cell; two of them take part in the traffic.
    pub(super) containers: u8,
    /// Beside the two of the traffic: half of them towards its client's app and half towards its server's, both of which
    /// have a container on each cell, so that all of them concern both cells.
    pub(super) policies: u32,
    pub(super) shape: Shape,
    /// What the client may reach outside, the traffic's server in the middle.
    pub(super) egress_rules: u16,
}

impl Setting {
    /// The smallest: those of the traffic and nothing else.
    pub(super) const SMALL: Self =
        Self { joined: Joined::Switch, containers: 2, policies: 0, shape: Shape::Ports, egress_rules: 1 };

    /// All policies, the traffic's last.
    pub(super) fn policies(&self) -> Vec<Policy> {
        let others = (0..self.policies).map(|number| self.other(number));
        others.chain(["tcp", "udp"].map(|protocol| self.of_traffic(protocol))).collect()
    }

    fn of_traffic(&self, protocol: &'static str) -> Policy {
        Policy { source: App::Client, destination: App::Server, protocol, ports: self.ports(PORT) }
    }

    fn other(&self, number: u32) -> Policy {
        let (half, source, turn) = (number % 2, number / 2 % OTHER_APPS, number / 2 / OTHER_APPS);
        let narrow = |wide: u32| u16::try_from(wide).unwrap_or(u16::MAX);
        Policy {
            source: App::Other(narrow(source)),
            destination: if half == 0 { App::Server } else { App::Client },
            protocol: "tcp",
            ports: self.ports(narrow(PORT_STEP * (turn + 1))),
        }
    }

    fn ports(&self, first: u16) -> (u16, u16) {
        match self.shape {
            Shape::Ports => (first, first),
            Shape::Ranges => (first, first + (RANGE - 1)),
        }
    }

    /// Addresses outside that the client may reach on [`PORT`].
    pub(super) fn outside(&self, server: Ipv4Addr) -> Vec<Ipv4Addr> {
        // 198.18.0.0/15 is for benchmarks (RFC 2544); every second address, so that no two make a larger network.
        let other =
            |number: u16| Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + 2 * u32::from(number));
        let middle = self.egress_rules / 2;
        (0..self.egress_rules).map(|number| if number == middle { server } else { other(number) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_policy_comes_twice_and_none_of_the_others_opens_the_traffic_s_way() {
        for (policies, shape) in [(0, Shape::Ports), (100_000, Shape::Ports), (1_000, Shape::Ranges)] {
            let all = Setting { policies, shape, ..Setting::SMALL }.policies();
            let distinct: BTreeSet<_> = all
                .iter()
                .map(|policy| (policy.source, policy.destination, policy.protocol, policy.ports))
                .collect();
            assert_eq!((all.len(), distinct.len()), (policies as usize + 2, policies as usize + 2));
            assert_eq!(all.iter().filter(|policy| policy.source == App::Client).count(), 2);
            assert!(all.iter().all(|policy| policy.ports.0 <= policy.ports.1));
        }
    }

    #[test]
    fn the_server_outside_is_in_the_middle_of_the_rules() {
        let setting = Setting { egress_rules: 1_000, ..Setting::SMALL };
        let server = Ipv4Addr::new(192, 0, 2, 254);
        let outside = setting.outside(server);
        assert_eq!((outside.len(), outside[500]), (1_000, server));
        assert_eq!(outside.iter().collect::<BTreeSet<_>>().len(), 1_000);
    }
}
