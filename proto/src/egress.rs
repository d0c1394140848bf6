//! The words of egress rules: Cloud Controller's (security groups) and Garden's (net-out) become permissions, which are
//! addresses and what may be sent to them. The controller reads rules to report bad ones, the agent to enforce them.
//!
//! Which rules apply to a container is not said here, nor how permissions become map rows: that is the agent's policy
//! room. A rule is good or bad as a whole; who reads a list skips the bad ones and reports them.

use crate::agent_api::{IcmpControl, IpRange, NetOutRule, PortRange, Transport};
use serde::{Deserialize, Deserializer, Serialize};
use std::net::Ipv4Addr;

/// One rule may be at most so many permissions, destinations times ranges of ports. Cloud Controller's own limit is on
/// the size of a group's text; without one here, two long lists would multiply into gigabytes.
pub const MAX_PERMISSIONS: usize = 65_536;

/// A rule of a security group, in Cloud Controller's words and JSON. Nothing is checked before [`permissions`], so that
/// one bad rule does not spoil the group it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityRule {
    /// `tcp`, `udp`, `icmp` or `all`, in any case.
    pub protocol: String,
    /// An address, a CIDR, a range `a-b`, or several of these with commas between them.
    pub destination: String,
    /// `80`, `80-90` or `80,443,8000-9000`; empty without ports.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_null")]
    pub ports: String,
    /// Type of ICMP; absent, -1 or 255: any. Ignored for other protocols.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<i32>,
    /// Code of ICMP; absent, -1 or 255: any. Ignored for other protocols.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Whether new connections are logged.
    #[serde(deserialize_with = "or_null")]
    pub log: bool,
    /// What its author says about it.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_null")]
    pub description: String,
}

/// Something that a rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Permission {
    /// First address that may be sent to.
    pub first: Ipv4Addr,
    /// Last of them, not below `first`.
    pub last: Ipv4Addr,
    /// What may be sent.
    pub traffic: Traffic,
    /// Whether new connections are logged.
    pub log: bool,
}

/// What may be sent to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Traffic {
    /// Every protocol.
    All,
    /// To these ports.
    Ports {
        /// Of which transport.
        protocol: Transport,
        /// First port; Garden's rules without ports begin at 0.
        first: u16,
        /// Last port, not below `first`.
        last: u16,
    },
    /// ICMP.
    Icmp {
        /// Type; `None`: any, and then `code` is `None` too.
        kind: Option<u8>,
        /// Code; `None`: any.
        code: Option<u8>,
    },
}

/// Why a rule allows nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {found:?} of the rule ({rule}) cannot be used: expected {expected}")]
pub struct RuleError {
    /// The rule in short, on one line.
    pub rule: String,
    /// Which field: Cloud Controller's name, or Garden's.
    pub field: &'static str,
    /// What it holds; of a list, the bad element.
    pub found: String,
    /// What it can hold.
    pub expected: &'static str,
}

/// What a security group's rule allows. A CIDR with host bits (`10.1.2.3/8`) means the whole network, as for iptables;
/// blanks between the parts of a field mean nothing.
///
/// # Errors
/// When a field is not what [`SecurityRule`] says, or the destination is an IPv6 one, which the overlay does not carry.
pub fn permissions(rule: &SecurityRule) -> Result<Vec<Permission>, RuleError> {
    let read = || product(&list("destination", &rule.destination, destination)?, &traffics(rule)?, rule.log);
    read().map_err(|fault| fault.of(in_words(rule)))
}

/// What a rule of Garden's allows.
///
/// # Errors
/// When the protocol is not 0 to 3, a range is reversed, an address is not IPv4, or ports come without tcp or udp.
pub fn of_net_out(rule: &NetOutRule) -> Result<Vec<Permission>, RuleError> {
    let read = || product(&networks(&rule.networks)?, &garden_traffics(rule)?, rule.log);
    read().map_err(|fault| fault.of(garden_in_words(rule)))
}

type Addresses = (Ipv4Addr, Ipv4Addr);

const EVERYWHERE: Addresses = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);

const PROTOCOLS: &str = "tcp, udp, icmp or all";
const GARDEN_PROTOCOLS: &str = "0 (all), 1 (tcp), 2 (udp) or 3 (icmp)";
const IPV6: &str = "an IPv4 address, because IPv6 is not carried";
const DESTINATION: &str = "an IPv4 address, a CIDR, or a range a-b with a not above b";
const NETWORK: &str = "an IPv4 address, or a start that is not above the end";
const PORTS: &str = "ports from 1 to 65535, each a number or a range a-b with a not above b";
const NO_PORTS: &str = "no ports, because only tcp and udp have them";
const ICMP: &str = "a number from 0 to 255, or -1 for any";
const FEWER: &str = "at most 65536 pairs of a destination and a range of ports; split the rule";

/// A field that cannot be right; with its rule, a [`RuleError`].
struct Fault {
    field: &'static str,
    found: String,
    expected: &'static str,
}

impl Fault {
    fn new(field: &'static str, found: impl ToString, expected: &'static str) -> Self {
        Self { field, found: shortened(&found.to_string()), expected }
    }

    fn of(self, rule: String) -> RuleError {
        let Self { field, found, expected } = self;
        RuleError { rule, field, found, expected }
    }
}

fn product(destinations: &[Addresses], traffics: &[Traffic], log: bool) -> Result<Vec<Permission>, Fault> {
    let count = destinations.len().saturating_mul(traffics.len());
    if count > MAX_PERMISSIONS {
        return Err(Fault::new("destination and ports", count, FEWER));
    }
    let pairs = destinations.iter().flat_map(|to| traffics.iter().map(move |what| (to, what)));
    Ok(pairs.map(|(&(first, last), &traffic)| Permission { first, last, traffic, log }).collect())
}

fn traffics(rule: &SecurityRule) -> Result<Vec<Traffic>, Fault> {
    let protocol = rule.protocol.trim();
    if protocol.eq_ignore_ascii_case("tcp") {
        transport(Transport::Tcp, &rule.ports)
    } else if protocol.eq_ignore_ascii_case("udp") {
        transport(Transport::Udp, &rule.ports)
    } else if protocol.eq_ignore_ascii_case("icmp") {
        without_ports(&rule.ports)?;
        icmp(rule)
    } else if protocol.eq_ignore_ascii_case("all") {
        without_ports(&rule.ports)?;
        Ok(vec![Traffic::All])
    } else {
        Err(Fault::new("protocol", &rule.protocol, PROTOCOLS))
    }
}

fn transport(protocol: Transport, ports: &str) -> Result<Vec<Traffic>, Fault> {
    let ranges = list("ports", ports, port_range)?;
    Ok(ranges.into_iter().map(|(first, last)| Traffic::Ports { protocol, first, last }).collect())
}

fn without_ports(ports: &str) -> Result<(), Fault> {
    if ports.trim().is_empty() { Ok(()) } else { Err(Fault::new("ports", ports, NO_PORTS)) }
}

fn icmp(rule: &SecurityRule) -> Result<Vec<Traffic>, Fault> {
    let kind = icmp_number("type", rule.icmp_type)?;
    let code = icmp_number("code", rule.code)?;
    Ok(vec![Traffic::Icmp { kind, code: kind.and(code) }])
}

/// A type or a code of ICMP; `None` means any.
fn icmp_number(field: &'static str, number: Option<i32>) -> Result<Option<u8>, Fault> {
    match number {
        None | Some(-1 | 255) => Ok(None),
        Some(number) => u8::try_from(number).map(Some).map_err(|_| Fault::new(field, number, ICMP)),
    }
}

/// Reads a list with commas. An empty element is as bad as any other that `element` refuses.
fn list<T>(
    field: &'static str,
    text: &str,
    element: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>, Fault> {
    let read = |part: &str| element(part).map_err(|expected| Fault::new(field, part.trim(), expected));
    text.split(',').map(read).collect()
}

fn destination(text: &str) -> Result<Addresses, &'static str> {
    if text.contains(':') {
        return Err(IPV6);
    }
    let addresses = if let Some((first, last)) = text.split_once('-') {
        address(first).zip(address(last))
    } else if let Some((base, prefix)) = text.split_once('/') {
        cidr(base, prefix)
    } else {
        address(text).map(|one| (one, one))
    };
    addresses.filter(|(first, last)| first <= last).ok_or(DESTINATION)
}

fn address(text: &str) -> Option<Ipv4Addr> {
    text.trim().parse().ok()
}

/// The network's first and last address; bits of the base below the prefix mean nothing.
fn cidr(base: &str, prefix: &str) -> Option<Addresses> {
    let base = address(base)?.to_bits();
    let prefix = u32::from(number(prefix).filter(|&prefix| prefix <= 32)?);
    let hosts = u32::MAX.checked_shr(prefix).unwrap_or(0);
    Some((Ipv4Addr::from_bits(base & !hosts), Ipv4Addr::from_bits(base | hosts)))
}

fn port_range(text: &str) -> Result<(u16, u16), &'static str> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = number(first).zip(number(last));
    range.filter(|&(first, last)| 0 < first && first <= last).ok_or(PORTS)
}

/// Digits with nothing but blanks around them; `parse` alone would take a sign.
fn number(text: &str) -> Option<u16> {
    let digits = text.trim();
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

fn networks(ranges: &[IpRange]) -> Result<Vec<Addresses>, Fault> {
    if ranges.is_empty() { Ok(vec![EVERYWHERE]) } else { ranges.iter().map(network).collect() }
}

/// A range without start and end is refused, not taken for "everywhere": that is what no range at all means.
fn network(range: &IpRange) -> Result<Addresses, Fault> {
    let fault = |expected| Fault::new("networks", range_in_words(range), expected);
    if range.start.contains(':') || range.end.contains(':') {
        return Err(fault(IPV6));
    }
    let or = |text: &str, other: &str| address(if text.trim().is_empty() { other } else { text });
    let addresses = or(&range.start, &range.end).zip(or(&range.end, &range.start));
    addresses.filter(|(first, last)| first <= last).ok_or_else(|| fault(NETWORK))
}

fn garden_traffics(rule: &NetOutRule) -> Result<Vec<Traffic>, Fault> {
    match rule.protocol {
        1 => garden_ports(Transport::Tcp, &rule.ports),
        2 => garden_ports(Transport::Udp, &rule.ports),
        0 | 3 if !rule.ports.is_empty() => Err(Fault::new("ports", ports_in_words(&rule.ports), NO_PORTS)),
        0 => Ok(vec![Traffic::All]),
        3 => Ok(vec![garden_icmp(rule.icmps)]),
        other => Err(Fault::new("protocol", other, GARDEN_PROTOCOLS)),
    }
}

fn garden_ports(protocol: Transport, ranges: &[PortRange]) -> Result<Vec<Traffic>, Fault> {
    if ranges.is_empty() {
        return Ok(vec![Traffic::Ports { protocol, first: 0, last: u16::MAX }]);
    }
    let read = |range: &PortRange| {
        let good = 0 < range.start && range.start <= range.end;
        let traffic = Traffic::Ports { protocol, first: range.start, last: range.end };
        good.then_some(traffic).ok_or_else(|| Fault::new("ports", ports_in_words(&[*range]), PORTS))
    };
    ranges.iter().map(read).collect()
}

fn garden_icmp(control: Option<IcmpControl>) -> Traffic {
    let any = |number: u8| (number != 255).then_some(number);
    let kind = control.and_then(|control| any(control.icmp_type));
    Traffic::Icmp { kind, code: kind.and(control.and_then(|control| control.code.and_then(any))) }
}

fn in_words(rule: &SecurityRule) -> String {
    let SecurityRule { protocol, destination, ports, icmp_type, code, .. } = rule;
    let (protocol, destination) = (shortened(protocol), shortened(destination));
    let mut words = format!("protocol {protocol:?}, destination {destination:?}");
    if !ports.is_empty() {
        words += &format!(", ports {:?}", shortened(ports));
    }
    if let Some(number) = icmp_type {
        words += &format!(", type {number}");
    }
    if let Some(number) = code {
        words += &format!(", code {number}");
    }
    words
}

fn garden_in_words(rule: &NetOutRule) -> String {
    let networks: Vec<_> = rule.networks.iter().map(range_in_words).collect();
    let networks = shortened(&networks.join(","));
    let ports = shortened(&ports_in_words(&rule.ports));
    format!("protocol {}, networks {networks:?}, ports {ports:?}", rule.protocol)
}

fn range_in_words(range: &IpRange) -> String {
    format!("{}-{}", range.start, range.end)
}

fn ports_in_words(ranges: &[PortRange]) -> String {
    let words: Vec<_> = ranges.iter().map(|range| format!("{}-{}", range.start, range.end)).collect();
    words.join(",")
}

/// A log line is no place for a list of a thousand networks.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Some writers of JSON say `null` where others say nothing.
fn or_null<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(feature = "grpc")]
impl From<crate::v1::SecurityRule> for SecurityRule {
    fn from(rule: crate::v1::SecurityRule) -> Self {
        let crate::v1::SecurityRule { protocol, destination, ports, r#type, code, log, description } = rule;
        Self { protocol, destination, ports, icmp_type: r#type, code, log, description }
    }
}

#[cfg(feature = "grpc")]
impl From<SecurityRule> for crate::v1::SecurityRule {
    fn from(rule: SecurityRule) -> Self {
        let SecurityRule { protocol, destination, ports, icmp_type, code, log, description } = rule;
        Self { protocol, destination, ports, r#type: icmp_type, code, log, description }
    }
}

#[cfg(test)]
mod tests;
