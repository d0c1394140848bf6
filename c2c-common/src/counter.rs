//! What can happen to a packet, each with a name and a counter: the one list that the programs, the metrics, the CLI
//! and the tests share. Packets in = delivered + dropped by reason, for every hook.

/// One cell of the `COUNTERS` map, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets as the wire saw them: an aggregate counts its segments.
    pub packets: u64,
    /// Bytes of the frames as the hook saw them.
    pub bytes: u64,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Hook {
    /// TC ingress of an endpoint's host device.
    FromContainer = 0,
    /// TC ingress of the underlay device.
    FromUnderlay = 1,
    /// TC egress of an endpoint's host device.
    ToContainer = 2,
    /// XDP of the underlay device.
    XdpUnderlay = 3,
}

impl Hook {
    /// All hooks, in the order of their numbers.
    pub const ALL: [Self; 4] =
        [Self::FromContainer, Self::FromUnderlay, Self::ToContainer, Self::XdpUnderlay];

    /// The hook of this number.
    #[must_use]
    pub fn from_raw(raw: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| *hook as u8 == raw)
    }

    /// The program's name, as in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FromContainer => "from_container",
            Self::FromUnderlay => "from_underlay",
            Self::ToContainer => "to_container",
            Self::XdpUnderlay => "xdp_underlay",
        }
    }
}

/// What was done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// Given to a container of this cell.
    ToEndpoint = 0,
    /// Encapsulated and sent to another cell.
    ToCell = 1,
    /// Given to this cell's own stack.
    ToHost = 2,
    /// Sent to another cell by the kernel's VXLAN device, because the program could not encapsulate it.
    ToSlowPath = 3,
    /// Sent to the outside, with the cell's address or, where nothing is masqueraded, with its own.
    ToOutside = 4,
    /// A packet of another cell's offload self-test, given to this cell's agent.
    SelfTest = 5,
    /// A refusal (RST or ICMP) sent in answer to a packet that was dropped. The drop itself is counted apart.
    RefusalSent = 8,
    /// A refusal kept back by the rate limit.
    RefusalLimited = 9,
    /// A flow that the flow table did not take; the packet was decided without it.
    FlowNotStored = 10,
    /// A new connection beyond the rate limit, let through because the limit is a dry run.
    RateWouldLimit = 11,
    /// A header that cannot be read, or lengths that contradict each other.
    Malformed = 16,
    /// Not IPv4.
    NotIpv4 = 17,
    /// A later fragment of a packet whose first one was not seen.
    Fragment = 18,
    /// A container sent from an address that is not its own.
    SpoofedSource = 19,
    /// An overlay address that no lease or no endpoint holds.
    UnknownDestination = 20,
    /// No policy allows it.
    PolicyDenied = 21,
    /// A policy allowed the flow once and was removed.
    PolicyRevoked = 22,
    /// A tunnel packet of another network.
    WrongVni = 23,
    /// A tunnel packet from an address that no cell has leased.
    UnknownCell = 24,
    /// A tunnel packet whose inner source does not lie in the sending cell's lease.
    ForeignLease = 25,
    /// A container sent to an address outside the overlay.
    EgressDenied = 26,
    /// A container sent to the cell itself.
    CellDenied = 27,
    /// Something other than the cell sent through a container's host device.
    NotFromCell = 28,
    /// The kernel could not encapsulate, decapsulate or redirect.
    Failed = 29,
    /// An ICMP error about a flow that is not known.
    UnrelatedIcmp = 30,
    /// Larger than the overlay's MTU with "don't fragment" set.
    TooBig = 31,
    /// ARP: both ends of an endpoint's pair know each other by static entries, so only a spoofer sends any.
    Arp = 32,
    /// A container sent what could pass for this cell's own tunnel.
    OwnTunnel = 33,
    /// Its options choose its route.
    SourceRoute = 34,
    /// Every port of the pool that it could be masqueraded with is taken.
    NatExhausted = 35,
    /// A new connection beyond the container's rate to that destination.
    RateLimited = 36,
    /// A new connection beyond those that the container may hold at one time.
    ConnectionsLimited = 37,
    /// A rule allowed the flow to the outside once and is gone.
    EgressRevoked = 38,
    /// Congestion was signalled on the way to a packet that says it does not understand the signal (RFC 6040).
    Ecn = 39,
}

/// Counters that a hook has.
pub const SLOTS: u32 = 64;
/// Entries of the `COUNTERS` map.
pub const COUNTERS_CAPACITY: u32 = SLOTS * 4;
const FIRST_DROP: u8 = Outcome::Malformed as u8;

/// Index into the `COUNTERS` map.
#[inline(always)]
#[must_use]
pub const fn index(hook: Hook, outcome: Outcome) -> u32 {
    hook as u32 * SLOTS + outcome as u32
}

impl Outcome {
    /// All outcomes, in the order of their numbers.
    pub const ALL: [Self; 34] = [
        Self::ToEndpoint,
        Self::ToCell,
        Self::ToHost,
        Self::ToSlowPath,
        Self::ToOutside,
        Self::SelfTest,
        Self::RefusalSent,
        Self::RefusalLimited,
        Self::FlowNotStored,
        Self::RateWouldLimit,
        Self::Malformed,
        Self::NotIpv4,
        Self::Fragment,
        Self::SpoofedSource,
        Self::UnknownDestination,
        Self::PolicyDenied,
        Self::PolicyRevoked,
        Self::WrongVni,
        Self::UnknownCell,
        Self::ForeignLease,
        Self::EgressDenied,
        Self::CellDenied,
        Self::NotFromCell,
        Self::Failed,
        Self::UnrelatedIcmp,
        Self::TooBig,
        Self::Arp,
        Self::OwnTunnel,
        Self::SourceRoute,
        Self::NatExhausted,
        Self::RateLimited,
        Self::ConnectionsLimited,
        Self::EgressRevoked,
        Self::Ecn,
    ];

    /// The outcome of this number.
    #[must_use]
    pub fn from_raw(raw: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| *outcome as u8 == raw)
    }

    /// Whether the packet went no further.
    #[inline(always)]
    #[must_use]
    pub const fn is_drop(self) -> bool {
        self as u8 >= FIRST_DROP
    }

    /// Whether the packet reached somewhere.
    #[must_use]
    pub const fn is_delivery(self) -> bool {
        self as u8 <= Self::SelfTest as u8
    }

    /// Whether the sender hears of the drop (RST or ICMP): it meant well and would otherwise wait for a timeout.
    /// Malformed and forged packets get silence.
    #[inline(always)]
    #[must_use]
    pub const fn is_audible(self) -> bool {
        matches!(
            self,
            Self::UnknownDestination
                | Self::PolicyDenied
                | Self::PolicyRevoked
                | Self::EgressDenied
                | Self::CellDenied
                | Self::TooBig
                | Self::NatExhausted
                | Self::RateLimited
                | Self::ConnectionsLimited
                | Self::EgressRevoked
        )
    }

    /// The name, as in metrics, tables and tests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ToEndpoint => "to_endpoint",
            Self::ToCell => "to_cell",
            Self::ToHost => "to_host",
            Self::ToSlowPath => "to_slow_path",
            Self::ToOutside => "to_outside",
            Self::SelfTest => "self_test",
            Self::RefusalSent => "refusal_sent",
            Self::RefusalLimited => "refusal_limited",
            Self::FlowNotStored => "flow_not_stored",
            Self::RateWouldLimit => "rate_would_limit",
            Self::Malformed => "malformed",
            Self::NotIpv4 => "not_ipv4",
            Self::Fragment => "fragment",
            Self::SpoofedSource => "spoofed_source",
            Self::UnknownDestination => "unknown_destination",
            Self::PolicyDenied => "policy_denied",
            Self::PolicyRevoked => "policy_revoked",
            Self::WrongVni => "wrong_vni",
            Self::UnknownCell => "unknown_cell",
            Self::ForeignLease => "foreign_lease",
            Self::EgressDenied => "egress_denied",
            Self::CellDenied => "cell_denied",
            Self::NotFromCell => "not_from_cell",
            Self::Failed => "failed",
            Self::UnrelatedIcmp => "unrelated_icmp",
            Self::TooBig => "too_big",
            Self::Arp => "arp",
            Self::OwnTunnel => "own_tunnel",
            Self::SourceRoute => "source_route",
            Self::NatExhausted => "nat_exhausted",
            Self::RateLimited => "rate_limited",
            Self::ConnectionsLimited => "connections_limited",
            Self::EgressRevoked => "egress_revoked",
            Self::Ecn => "ecn",
        }
    }
}

const _: () = assert!(size_of::<Counter>() == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_outcome_has_a_slot_and_a_name_of_its_own() {
        let slots: HashSet<_> =
            Hook::ALL.iter().flat_map(|&h| Outcome::ALL.iter().map(move |&o| index(h, o))).collect();
        assert_eq!(slots.len(), Hook::ALL.len() * Outcome::ALL.len());
        assert!(slots.iter().all(|&i| i < COUNTERS_CAPACITY));
        let names: HashSet<_> = Outcome::ALL.iter().map(|o| o.as_str()).collect();
        assert_eq!(names.len(), Outcome::ALL.len());
    }

    #[test]
    fn a_packet_is_delivered_or_dropped_never_both() {
        assert!(Outcome::ALL.iter().all(|o| !(o.is_drop() && o.is_delivery())));
        assert!(Outcome::ALL.iter().all(|o| !o.is_audible() || o.is_drop()));
    }
}
