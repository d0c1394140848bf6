//! What guardian is told on stdout, byte for byte as CF's networker says it.

use super::config::Config;
use c2c_proto::agent_api::{Added, PortMapping};
use serde::Serialize;

/// Shown by Garden as the container's `HostIP`; of no meaning since Garden has no bridge of its own.
const LEGACY_HOST_IP: &str = "255.255.255.255";

#[derive(Serialize)]
struct Up<'a> {
    properties: Properties<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns_servers: Option<&'a Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    search_domains: Option<&'a Vec<String>>,
}

/// Every value is a text: guardian refuses numbers.
#[derive(Serialize)]
struct Properties<'a> {
    #[serde(rename = "garden.network.container-ip")]
    container_ip: String,
    #[serde(rename = "garden.network.host-ip")]
    host_ip: &'a str,
    #[serde(rename = "garden.network.mapped-ports")]
    mapped_ports: String,
    #[serde(rename = "garden.network.interface")]
    interface: &'a str,
}

/// In the JSON inside `mapped-ports`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MappedPort {
    host_port: u16,
    container_port: u16,
}

/// In the answer to `net-in`.
#[derive(Serialize)]
struct NetIn {
    host_port: u16,
    container_port: u16,
}

/// The answer to `up`.
pub(super) fn up(added: &Added, config: &Config) -> Result<String, serde_json::Error> {
    let port = |mapping: &PortMapping| MappedPort {
        host_port: mapping.host_port,
        container_port: mapping.container_port,
    };
    let ports: Vec<_> = added.ports.iter().map(port).collect();
    serde_json::to_string(&Up {
        properties: Properties {
            container_ip: added.address.to_string(),
            host_ip: LEGACY_HOST_IP,
            mapped_ports: serde_json::to_string(&ports)?,
            interface: &added.container.name,
        },
        dns_servers: added.dns_servers.as_ref(),
        search_domains: config.search_domains.as_ref().or(added.search_domains.as_ref()),
    })
}

/// The answer to `net-in`.
pub(super) fn net_in(mapping: PortMapping) -> Result<String, serde_json::Error> {
    let PortMapping { host_port, container_port, .. } = mapping;
    serde_json::to_string(&NetIn { host_port, container_port })
}
