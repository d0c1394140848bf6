//! Containers and the cell itself: closed but for what the configuration opens; from the cell everything is open.

use anyhow::{Context, Result};
use c2c_tests::lab::{Container, Lab, Options, in_lab};
use c2c_tests::observe::counters;
use c2c_tests::traffic::{icmp, tcp, udp};
use c2c_tests::wait;
use std::net::Ipv4Addr;

/// Where a cell's DNS listens, link-local.
const DNS: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 2);
/// Another address of the cell.
const OTHER: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 3);
/// The cell on the underlay.
const CELL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
/// What a container sees of the cell.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
const DNS_PORT: u16 = 53;
const TCP_PORT: u16 = 8443;
const UDP_PORT: u16 = 8125;
const OTHER_PORT: u16 = 9000;

fn cell_with(agent: &[(&str, &str)]) -> Options {
    let agent = agent.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Options { cells: 1, agent, ..Options::default() }
}

/// A container, and servers of the cell on every address and on all of the ports.
struct Scene {
    container: Container,
    _tcp: Vec<tcp::Server>,
    _udp: Vec<udp::Server>,
}

impl Scene {
    fn enter(lab: &mut Lab) -> Result<Self> {
        let cell = lab.cell("a")?.namespace();
        lab.stop_agent("a")?;
        cell.ip(&[&format!("addr add {DNS}/32 dev lo"), &format!("addr add {OTHER}/32 dev lo")])?;
        lab.start_agent("a")?;
        let ports = [DNS_PORT, TCP_PORT, UDP_PORT, OTHER_PORT];
        Ok(Self {
            container: lab.add("a", "client", "app")?,
            _tcp: ports.iter().map(|port| tcp::Server::start(&cell, *port)).collect::<Result<_>>()?,
            _udp: ports.iter().map(|port| udp::Server::start(&cell, *port)).collect::<Result<_>>()?,
        })
    }

    /// Of all addresses and ports of the cell exactly these can be reached.
    fn reaches_only(&self, tcp: &[(Ipv4Addr, u16)], udp: &[(Ipv4Addr, u16)]) -> Result<()> {
        let from = self.container.namespace();
        for address in [DNS, OTHER, CELL, GATEWAY] {
            for port in [DNS_PORT, TCP_PORT, UDP_PORT, OTHER_PORT] {
                let attempts = [
                    ("tcp", tcp, tcp::connect(&from, address, port)?),
                    ("udp", udp, udp::ask(&from, address, port)?),
                ];
                for (protocol, open, attempt) in attempts {
                    if open.contains(&(address, port)) {
                        attempt.is_seen_as(self.container.address)
                    } else {
                        attempt.is_refused()
                    }
                    .with_context(|| format!("{protocol} {address}:{port}"))?;
                }
            }
        }
        Ok(())
    }
}

#[test]
fn a_container_reaches_nothing_of_its_cell_and_is_told_so() -> Result<()> {
    in_lab(&cell_with(&[]), |lab| {
        let scene = Scene::enter(lab)?;
        counters::expect_more(lab, "a", ("from_container/cell_denied", 33), || {
            scene.reaches_only(&[], &[])?;
            icmp::ping(&scene.container.namespace(), CELL)?.is_refused()
        })
    })
}

#[test]
fn a_link_local_name_server_of_the_cell_is_open_on_its_port() -> Result<()> {
    in_lab(&cell_with(&[("dns_servers", &format!("[\"{DNS}\", \"198.51.100.2\"]"))]), |lab| {
        let open = [(DNS, DNS_PORT)];
        Scene::enter(lab)?.reaches_only(&open, &open)
    })
}

#[test]
fn services_of_the_cell_are_open_as_configured_and_as_ever_when_the_agent_is_dead() -> Result<()> {
    let tcp = format!("[\"{CELL}:{TCP_PORT}\", \"{OTHER}:{TCP_PORT}\"]");
    let udp = format!("[\"{CELL}:{UDP_PORT}\"]");
    in_lab(&cell_with(&[("host_tcp_services", &tcp), ("host_udp_services", &udp)]), |lab| {
        let scene = Scene::enter(lab)?;
        let (tcp, udp) = ([(CELL, TCP_PORT), (OTHER, TCP_PORT)], [(CELL, UDP_PORT)]);
        scene.reaches_only(&tcp, &udp)?;
        lab.kill_agent("a")?;
        scene.reaches_only(&tcp, &udp)?;
        lab.start_agent("a")?;
        scene.reaches_only(&tcp, &udp)
    })
}

#[test]
fn an_address_of_the_cell_can_be_opened_as_a_whole() -> Result<()> {
    in_lab(&cell_with(&[("host_accept", &format!("[\"{OTHER}\"]"))]), |lab| {
        let scene = Scene::enter(lab)?;
        let all = [DNS_PORT, TCP_PORT, UDP_PORT, OTHER_PORT].map(|port| (OTHER, port));
        scene.reaches_only(&all, &all)?;
        icmp::ping(&scene.container.namespace(), OTHER)?.is_seen_as(OTHER)
    })
}

#[test]
fn an_address_that_the_cell_gets_later_is_the_cells_too() -> Result<()> {
    in_lab(&cell_with(&[("host_accept", &format!("[\"{DNS}\"]"))]), |lab| {
        let (cell, container) = (lab.cell("a")?.namespace(), lab.add("a", "client", "app")?);
        let _tcp = tcp::Server::start(&cell, DNS_PORT)?;
        tcp::connect(&container.namespace(), DNS, DNS_PORT)?.is_refused()?;
        cell.ip(&[&format!("addr add {DNS}/32 dev lo")])?;
        wait::until_true("the agent to learn of the address", || {
            let attempt = tcp::connect(&container.namespace(), DNS, DNS_PORT)?;
            Ok(attempt.is_seen_as(container.address).is_ok())
        })
    })
}

#[test]
fn the_cell_reaches_its_containers_by_every_protocol() -> Result<()> {
    in_lab(&cell_with(&[]), |lab| {
        let container = lab.add("a", "server", "app")?;
        let _tcp = tcp::Server::start(&container.namespace(), TCP_PORT)?;
        let _udp = udp::Server::start(&container.namespace(), UDP_PORT)?;
        let cell = lab.cell("a")?.namespace();
        tcp::connect(&cell, container.address, TCP_PORT)?.is_seen_as(GATEWAY)?;
        udp::ask(&cell, container.address, UDP_PORT)?.is_seen_as(GATEWAY)?;
        icmp::ping(&cell, container.address)?.is_seen_as(container.address)
    })
}
