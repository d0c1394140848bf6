//! The keys about the world outside the overlay, checked: mapped ports, masquerading, name servers, the cell's own
//! services, denied networks, limits. Whether the ports are free on this host is [`super::ports`]' question.

use super::{ConfigError, Layer, List};
use c2c_common::addr;
use c2c_common::layout::ServiceKey;
use c2c_common::wire::{TCP, UDP};
use c2c_proto::agent_api::Bandwidth;
use ipnet::Ipv4Net;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

/// Where DNS is asked.
const DNS_PORT: u16 = 53;
/// Ports below are the cell's own services', as the kernel's `ip_unprivileged_port_start` has it.
const FIRST_POOL_PORT: u16 = 1024;
/// Silk's kbit, for rates and for bursts.
const BITS_PER_KBIT: u64 = 1_024;
/// A queue's burst is 32 bits of bytes in the kernel (`tc_tbf_qopt`).
const MAX_BURST_BITS: u64 = u32::MAX as u64 * 8;
/// Connections are let in with a distance of whole nanoseconds.
const MAX_PER_SECOND: u32 = 1_000_000_000;

const PORTS: &str = "FIRST-LAST, ports from 1024 to 65535";
const CIDRS: &str = "CIDRs, for example [\"10.0.0.0/8\"]";
const SERVICES: &str = "addresses and ports, for example [\"169.254.0.2:8053\"]";
const ADDRESSES: &str = "IPv4 addresses, for example [\"169.254.0.2\"]";
const DOMAINS: &str = "domain names of at most 253 letters, digits, '-', '_' and '.'";
const OVERLAP: &str = "ports that are not those of mapped_ports";

/// Everything about the world outside the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Ports of the cell that can lead into containers.
    pub mapped_ports: RangeInclusive<u16>,
    /// Ports, and ICMP identifiers, that masqueraded flows come from. They are not those of `mapped_ports`.
    pub nat_ports: RangeInclusive<u16>,
    /// Networks that are reached without masquerading, beside the overlay.
    pub no_masquerade: Vec<Ipv4Net>,
    /// What containers know of DNS.
    pub dns: Dns,
    /// What containers may reach on the cell itself.
    pub host: HostAccess,
    /// What they may not reach, whatever security groups say.
    pub deny: DenyNetworks,
    /// Limits of connections to the outside.
    pub outbound: Outbound,
    /// Of each container that does not ask for another; all 0: no limit.
    pub bandwidth: Bandwidth,
    /// What a container's own egress rules are worth.
    pub static_egress: StaticEgress,
}

/// What containers know of DNS; `None` leaves it to Garden.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers.
    pub servers: Option<Vec<Ipv4Addr>>,
    /// Domains to search.
    pub search: Option<Vec<String>>,
}

/// What containers may reach on the cell itself, beside link-local name servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostAccess {
    /// Over TCP.
    pub tcp: Vec<SocketAddrV4>,
    /// Over UDP.
    pub udp: Vec<SocketAddrV4>,
    /// Addresses of which everything may be reached.
    pub accept: Vec<Ipv4Addr>,
}

/// Networks that are denied before all rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DenyNetworks {
    /// To all containers.
    pub always: Vec<Ipv4Net>,
    /// To apps and tasks.
    pub running: Vec<Ipv4Net>,
    /// To staging containers.
    pub staging: Vec<Ipv4Net>,
}

/// Limits of connections to the outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbound {
    /// Of new connections per container and destination; `None`: no limit.
    pub limit: Option<Rate>,
    /// TCP connections that a container may hold at one time; 0: any number.
    pub max_connections: u32,
}

/// How many new connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At once; at least 1.
    pub burst: u32,
    /// Per second; 1 to 1,000,000,000.
    pub per_second: u32,
    /// More are counted and logged, and let through.
    pub dry_run: bool,
}

/// What a container's own egress rules (Garden's net-out) are worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StaticEgress {
    /// They count when no security group is bound to the container.
    #[default]
    Fallback,
    /// They never count.
    Ignore,
}

impl Network {
    /// What containers may reach on the cell itself, as rows of `HOST_SERVICES`. Port 53 of a link-local name server is
    /// among it: bosh-dns listens on the cell at 169.254.0.2.
    #[must_use]
    pub fn host_services(&self) -> BTreeSet<ServiceKey> {
        let key = |ip, port: u16, protocol: u8| ServiceKey {
            addr: addr::from_ipv4(ip),
            port: port.to_be(),
            protocol: protocol.into(),
        };
        let servers = self.dns.servers.iter().flatten().filter(|server| server.is_link_local());
        let dns = servers.flat_map(|&ip| [key(ip, DNS_PORT, TCP), key(ip, DNS_PORT, UDP)]);
        let tcp = self.host.tcp.iter().map(|at| key(*at.ip(), at.port(), TCP));
        let udp = self.host.udp.iter().map(|at| key(*at.ip(), at.port(), UDP));
        let all = self.host.accept.iter().map(|&ip| key(ip, 0, 0));
        dns.chain(tcp).chain(udp).chain(all).collect()
    }

    pub(super) fn check(layer: &Layer) -> Result<Self, ConfigError> {
        let mapped_ports = pool("mapped_ports", layer.mapped_ports.as_deref(), 61_000..=65_535)?;
        let nat_ports = pool("nat_ports", layer.nat_ports.as_deref(), 16_384..=32_767)?;
        if mapped_ports.start() <= nat_ports.end() && nat_ports.start() <= mapped_ports.end() {
            let found = format!("{}-{}", nat_ports.start(), nat_ports.end());
            return Err(ConfigError::value("nat_ports", &found, OVERLAP));
        }
        Ok(Self {
            mapped_ports,
            nat_ports,
            no_masquerade: networks("no_masquerade", layer.no_masquerade.as_ref())?,
            dns: dns(layer)?,
            host: host(layer)?,
            deny: deny(layer)?,
            outbound: outbound(layer)?,
            bandwidth: bandwidth(layer)?,
            static_egress: static_egress(layer.static_egress.as_deref())?,
        })
    }
}

fn pool(
    key: &'static str,
    text: Option<&str>,
    default: RangeInclusive<u16>,
) -> Result<RangeInclusive<u16>, ConfigError> {
    let Some(text) = text else { return Ok(default) };
    let range = super::ports::range(text).filter(|range| *range.start() >= FIRST_POOL_PORT);
    range.ok_or_else(|| ConfigError::value(key, text, PORTS))
}

fn dns(layer: &Layer) -> Result<Dns, ConfigError> {
    let server = |text: &String| text.parse().map_err(|_| ConfigError::DnsServer { found: text.clone() });
    let servers = layer.dns_servers.as_ref().map(|List(texts)| texts.iter().map(server).collect());
    let search =
        layer.search_domains.as_ref().map(|list| elements("search_domains", Some(list), DOMAINS, domain));
    Ok(Dns { servers: servers.transpose()?, search: search.transpose()? })
}

fn host(layer: &Layer) -> Result<HostAccess, ConfigError> {
    Ok(HostAccess {
        tcp: elements("host_tcp_services", layer.host_tcp_services.as_ref(), SERVICES, service)?,
        udp: elements("host_udp_services", layer.host_udp_services.as_ref(), SERVICES, service)?,
        accept: elements("host_accept", layer.host_accept.as_ref(), ADDRESSES, |text| text.parse().ok())?,
    })
}

fn deny(layer: &Layer) -> Result<DenyNetworks, ConfigError> {
    Ok(DenyNetworks {
        always: networks("deny_networks_always", layer.deny_networks_always.as_ref())?,
        running: networks("deny_networks_running", layer.deny_networks_running.as_ref())?,
        staging: networks("deny_networks_staging", layer.deny_networks_staging.as_ref())?,
    })
}

/// A dry run alone is one of a limit, as Silk has it.
fn outbound(layer: &Layer) -> Result<Outbound, ConfigError> {
    let burst = layer.outbound_burst.unwrap_or(1_000);
    let per_second = layer.outbound_rate_per_sec.unwrap_or(100);
    if burst == 0 {
        return Err(ConfigError::value("outbound_burst", "0", "at least 1"));
    }
    if !(1..=MAX_PER_SECOND).contains(&per_second) {
        let found = per_second.to_string();
        return Err(ConfigError::value("outbound_rate_per_sec", &found, "1 to 1000000000"));
    }
    let dry_run = layer.outbound_dry_run.unwrap_or(false);
    let limited = dry_run || layer.outbound_limit.unwrap_or(false);
    Ok(Outbound {
        limit: limited.then_some(Rate { burst, per_second, dry_run }),
        max_connections: layer.outbound_max_connections.unwrap_or(0),
    })
}

fn bandwidth(layer: &Layer) -> Result<Bandwidth, ConfigError> {
    let (rate, burst) = (layer.bandwidth_rate.unwrap_or(0), layer.bandwidth_burst.unwrap_or(0));
    let fault = |key, found: u64, expected| Err(ConfigError::value(key, &found.to_string(), expected));
    match (rate.checked_mul(BITS_PER_KBIT), burst.checked_mul(BITS_PER_KBIT)) {
        (None, _) => fault("bandwidth_rate", rate, "fewer kbit a second"),
        (_, Some(0)) if rate > 0 => {
            fault("bandwidth_burst", 0, "kbit above 0, because bandwidth_rate is set")
        }
        (Some(0), _) if burst > 0 => {
            fault("bandwidth_rate", 0, "kbit above 0, because bandwidth_burst is set")
        }
        (Some(rate), Some(burst)) if burst <= MAX_BURST_BITS => {
            Ok(Bandwidth { ingress_rate: rate, ingress_burst: burst, egress_rate: rate, egress_burst: burst })
        }
        (Some(_), _) => fault("bandwidth_burst", burst, "at most 33554431 kbit (4 GB)"),
    }
}

fn static_egress(text: Option<&str>) -> Result<StaticEgress, ConfigError> {
    match text.unwrap_or("fallback") {
        "fallback" => Ok(StaticEgress::Fallback),
        "ignore" => Ok(StaticEgress::Ignore),
        other => Err(ConfigError::value("static_egress", other, "fallback or ignore")),
    }
}

fn networks(key: &'static str, list: Option<&List>) -> Result<Vec<Ipv4Net>, ConfigError> {
    elements(key, list, CIDRS, network)
}

/// All elements of a list that may be absent, or which of them cannot be right.
fn elements<T>(
    key: &'static str,
    list: Option<&List>,
    expected: &'static str,
    element: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, ConfigError> {
    let texts = list.into_iter().flat_map(|List(texts)| texts);
    texts.map(|text| element(text).ok_or_else(|| ConfigError::value(key, text, expected))).collect()
}

/// A CIDR, or one address. Bits below the prefix mean nothing, as for iptables.
fn network(text: &str) -> Option<Ipv4Net> {
    let one = || text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from);
    text.parse::<Ipv4Net>().ok().or_else(one).map(|net| net.trunc())
}

fn service(text: &str) -> Option<SocketAddrV4> {
    text.parse().ok().filter(|service: &SocketAddrV4| service.port() > 0)
}

fn domain(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = !text.is_empty() && text.len() <= 253 && text.chars().all(fits);
    good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
