//! One layer of configuration, from the file or from the environment and flags. Nothing is checked here but types.

use super::{ConfigError, List};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// What one source says; what it leaves open the source below may say.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The cell's name, unique in the foundation
    #[arg(long, env = "C2C_CELL", value_name = "NAME")]
    pub cell: Option<String>,
    /// The device that cells reach each other through
    #[arg(long, env = "C2C_UNDERLAY_INTERFACE", value_name = "DEVICE")]
    pub underlay_interface: Option<String>,
    /// The cell's address on it [default: its first IPv4 address]
    #[arg(long, env = "C2C_UNDERLAY_ADDRESS", value_name = "IPV4")]
    pub underlay_address: Option<Ipv4Addr>,
    /// The controller, https://HOST:PORT
    #[arg(long, env = "C2C_CONTROLLER", value_name = "URL")]
    pub controller: Option<String>,
    /// The CA that the controller's certificate is of
    #[arg(long, env = "C2C_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The cell's certificate
    #[arg(long, env = "C2C_CERTIFICATE", value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// The certificate's private key
    #[arg(long, env = "C2C_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// What is remembered over a restart [default: /var/lib/c2c]
    #[arg(long, env = "C2C_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where programs and maps are pinned, in a bpffs [default: /sys/fs/bpf/c2c]
    #[arg(long, env = "C2C_PIN_DIR", value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
    /// The socket of the shim and the CLI [default: /run/c2c/agent.sock]
    #[arg(long, env = "C2C_SOCKET", value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// Where the shim leaves DELs for an agent that is away [default: STATE_DIR/pending-del]
    #[arg(long, env = "C2C_PENDING_DIR", value_name = "DIR")]
    pub pending_dir: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served [default: 127.0.0.1:9464]
    #[arg(long, env = "C2C_METRICS_ADDRESS", value_name = "IP:PORT")]
    pub metrics_address: Option<SocketAddr>,
    /// How programs are attached: auto, tcx or clsact [default: auto]
    #[arg(long, env = "C2C_ATTACH", value_name = "HOW")]
    pub attach: Option<String>,
    /// The XDP shield of the underlay device: off, native or generic [default: off]
    #[arg(long, env = "C2C_SHIELD", value_name = "MODE")]
    pub shield: Option<String>,
    /// What the programs tell of each packet: off, drops or packets [default: off]
    #[arg(long, env = "C2C_TRACE", value_name = "LEVEL")]
    pub trace: Option<String>,
    /// Whether what the underlay device does to tunnelled packets is tested: fix, report or off [default: fix]
    #[arg(long, env = "C2C_OFFLOAD_SELF_TEST", value_name = "MODE")]
    pub offload_self_test: Option<String>,
    /// Hours without the controller after which new containers are refused [default: 168]
    #[arg(long, env = "C2C_PARTITION_TOLERANCE_HOURS", value_name = "HOURS")]
    pub partition_tolerance_hours: Option<u64>,
    /// What the agent logs, for example "info,c2c_agent::policy=debug" [default: info]
    #[arg(long, env = "C2C_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Ports of the cell that can lead into containers, FIRST-LAST [default: 61000-65535]
    #[arg(long, env = "C2C_MAPPED_PORTS", value_name = "PORTS")]
    pub mapped_ports: Option<String>,
    /// Ports that containers' flows to the outside come from, FIRST-LAST [default: 16384-32767]
    #[arg(long, env = "C2C_NAT_PORTS", value_name = "PORTS")]
    pub nat_ports: Option<String>,
    /// Networks that containers reach with their own address, beside the overlay [default: none]
    #[arg(long, env = "C2C_NO_MASQUERADE", value_name = "CIDR,…")]
    pub no_masquerade: Option<List>,
    /// Name servers of containers [default: Garden's own]
    #[arg(long, env = "C2C_DNS_SERVERS", value_name = "IPV4,…")]
    pub dns_servers: Option<List>,
    /// Domains that containers search [default: Garden's own]
    #[arg(long, env = "C2C_SEARCH_DOMAINS", value_name = "DOMAIN,…")]
    pub search_domains: Option<List>,
    /// What containers may reach on the cell over TCP [default: none]
    #[arg(long, env = "C2C_HOST_TCP_SERVICES", value_name = "IPV4:PORT,…")]
    pub host_tcp_services: Option<List>,
    /// What containers may reach on the cell over UDP [default: none]
    #[arg(long, env = "C2C_HOST_UDP_SERVICES", value_name = "IPV4:PORT,…")]
    pub host_udp_services: Option<List>,
    /// Addresses of the cell of which containers may reach everything [default: none]
    #[arg(long, env = "C2C_HOST_ACCEPT", value_name = "IPV4,…")]
    pub host_accept: Option<List>,
    /// Networks that no container reaches, whatever security groups say [default: none]
    #[arg(long, env = "C2C_DENY_NETWORKS_ALWAYS", value_name = "CIDR,…")]
    pub deny_networks_always: Option<List>,
    /// The same for apps and tasks [default: none]
    #[arg(long, env = "C2C_DENY_NETWORKS_RUNNING", value_name = "CIDR,…")]
    pub deny_networks_running: Option<List>,
    /// The same for staging containers [default: none]
    #[arg(long, env = "C2C_DENY_NETWORKS_STAGING", value_name = "CIDR,…")]
    pub deny_networks_staging: Option<List>,
    /// Limit the rate of connections from a container to a destination [default: false]
    #[arg(long, env = "C2C_OUTBOUND_LIMIT", value_name = "BOOL")]
    pub outbound_limit: Option<bool>,
    /// Connections that this limit lets through at once [default: 1000]
    #[arg(long, env = "C2C_OUTBOUND_BURST", value_name = "NUMBER")]
    pub outbound_burst: Option<u32>,
    /// And per second [default: 100]
    #[arg(long, env = "C2C_OUTBOUND_RATE_PER_SEC", value_name = "NUMBER")]
    pub outbound_rate_per_sec: Option<u32>,
    /// Count and log what the limit would refuse, and refuse nothing [default: false]
    #[arg(long, env = "C2C_OUTBOUND_DRY_RUN", value_name = "BOOL")]
    pub outbound_dry_run: Option<bool>,
    /// TCP connections to the outside that a container may hold at one time, 0 for any number [default: 0]
    #[arg(long, env = "C2C_OUTBOUND_MAX_CONNECTIONS", value_name = "NUMBER")]
    pub outbound_max_connections: Option<u32>,
    /// Bandwidth of a container in each direction, kbit of 1,024 bits a second, 0 for no limit [default: 0]
    #[arg(long, env = "C2C_BANDWIDTH_RATE", value_name = "KBIT")]
    pub bandwidth_rate: Option<u64>,
    /// Burst above it, kbit; set both or neither [default: 0]
    #[arg(long, env = "C2C_BANDWIDTH_BURST", value_name = "KBIT")]
    pub bandwidth_burst: Option<u64>,
    /// A container's own egress rules when no security group is bound: fallback or ignore [default: fallback]
    #[arg(long, env = "C2C_STATIC_EGRESS", value_name = "WHAT")]
    pub static_egress: Option<String>,
    /// Where logged connections are written as lines of JSON [default: the agent's own log]
    #[arg(long, env = "C2C_FLOW_LOG", value_name = "FILE")]
    pub flow_log: Option<PathBuf>,
    /// Where the containers are listed for others, as Silk's store.json [default: nowhere]
    #[arg(long, env = "C2C_CONTAINER_METADATA_FILE", value_name = "FILE")]
    pub container_metadata_file: Option<PathBuf>,
    /// Map name to entries, where another size than the built-in one is wanted; only in the file.
    #[arg(skip)]
    #[serde(default)]
    pub map_capacity: BTreeMap<String, u32>,
}

impl Layer {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })
    }

    /// What this layer says, and where it is silent what `below` says.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            cell: self.cell.or(below.cell),
            underlay_interface: self.underlay_interface.or(below.underlay_interface),
            underlay_address: self.underlay_address.or(below.underlay_address),
            controller: self.controller.or(below.controller),
            ca: self.ca.or(below.ca),
            certificate: self.certificate.or(below.certificate),
            key: self.key.or(below.key),
            state_dir: self.state_dir.or(below.state_dir),
            pin_dir: self.pin_dir.or(below.pin_dir),
            socket: self.socket.or(below.socket),
            pending_dir: self.pending_dir.or(below.pending_dir),
            metrics_address: self.metrics_address.or(below.metrics_address),
            attach: self.attach.or(below.attach),
            shield: self.shield.or(below.shield),
            trace: self.trace.or(below.trace),
            offload_self_test: self.offload_self_test.or(below.offload_self_test),
            partition_tolerance_hours: self.partition_tolerance_hours.or(below.partition_tolerance_hours),
            log: self.log.or(below.log),
            mapped_ports: self.mapped_ports.or(below.mapped_ports),
            nat_ports: self.nat_ports.or(below.nat_ports),
            no_masquerade: self.no_masquerade.or(below.no_masquerade),
            dns_servers: self.dns_servers.or(below.dns_servers),
            search_domains: self.search_domains.or(below.search_domains),
            host_tcp_services: self.host_tcp_services.or(below.host_tcp_services),
            host_udp_services: self.host_udp_services.or(below.host_udp_services),
            host_accept: self.host_accept.or(below.host_accept),
            deny_networks_always: self.deny_networks_always.or(below.deny_networks_always),
            deny_networks_running: self.deny_networks_running.or(below.deny_networks_running),
            deny_networks_staging: self.deny_networks_staging.or(below.deny_networks_staging),
            outbound_limit: self.outbound_limit.or(below.outbound_limit),
            outbound_burst: self.outbound_burst.or(below.outbound_burst),
            outbound_rate_per_sec: self.outbound_rate_per_sec.or(below.outbound_rate_per_sec),
            outbound_dry_run: self.outbound_dry_run.or(below.outbound_dry_run),
            outbound_max_connections: self.outbound_max_connections.or(below.outbound_max_connections),
            bandwidth_rate: self.bandwidth_rate.or(below.bandwidth_rate),
            bandwidth_burst: self.bandwidth_burst.or(below.bandwidth_burst),
            static_egress: self.static_egress.or(below.static_egress),
            flow_log: self.flow_log.or(below.flow_log),
            container_metadata_file: self.container_metadata_file.or(below.container_metadata_file),
            map_capacity: if self.map_capacity.is_empty() { below.map_capacity } else { self.map_capacity },
        }
    }
}
