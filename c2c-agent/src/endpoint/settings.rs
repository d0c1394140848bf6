//! What the agent's configuration says about every container.

use crate::config::Network;
use c2c_proto::agent_api::Bandwidth;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// What every container is given, beside what its runtime asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The cell's address on the underlay, which the mapped ports are at.
    pub cell_address: Ipv4Addr,
    /// The ports that containers get when they ask for any.
    pub mapped_ports: RangeInclusive<u16>,
    /// Ports that no container can have even when it asks for them: the NAT's, and the tunnel's.
    pub kept_ports: Vec<RangeInclusive<u16>>,
    /// Name servers; absent: the runtime is told of none.
    pub dns_servers: Option<Vec<String>>,
    /// Domains to search; absent: the runtime is told of none.
    pub search_domains: Option<Vec<String>>,
    /// Limits of a container whose runtime asks for none; 0: none.
    pub bandwidth: Bandwidth,
    /// Where the containers' metadata are told to other programs of the cell, if anywhere.
    pub metadata_file: Option<PathBuf>,
}

impl Settings {
    /// The settings of an agent at this address whose tunnel has this UDP port.
    pub fn new(network: &Network, cell_address: Ipv4Addr, tunnel_port: u16) -> Self {
        let servers = network.dns.servers.as_ref();
        Self {
            cell_address,
            mapped_ports: network.mapped_ports.clone(),
            kept_ports: vec![network.nat_ports.clone(), tunnel_port..=tunnel_port],
            dns_servers: servers.map(|servers| servers.iter().map(ToString::to_string).collect()),
            search_domains: network.dns.search.clone(),
            bandwidth: network.bandwidth,
            metadata_file: None,
        }
    }

    /// The same, telling the containers' metadata in `file`.
    #[must_use]
    pub fn telling(self, file: Option<PathBuf>) -> Self {
        Self { metadata_file: file, ..self }
    }
}
