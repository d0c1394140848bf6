//! Ports of a cell that lead into its containers: from outside, from other cells, and from the cell's own containers.

use anyhow::{Context, Result, ensure};
use c2c_tests::lab::{Container, Lab, Options, Wanted, in_lab};
use c2c_tests::netns::Namespace;
use c2c_tests::traffic::tcp::{Conversation, Transfer};
use c2c_tests::traffic::{Attempt, icmp, tcp, udp};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddrV4};

/// What the containers listen on.
const PORT: u16 = 8080;
/// The first port that agents give out unless they are told otherwise.
const FIRST_CELL_PORT: u16 = 61_000;
/// What the shim says when a port of the cell is taken.
const NO_PORT: u64 = 107;

/// A container with a port of its cell that leads to its servers.
struct Web {
    container: Container,
    _tcp: tcp::Server,
    _udp: udp::Server,
}

impl Web {
    fn enter(lab: &Lab, cell: &str, name: &str, wanted: &Wanted) -> Result<Self> {
        let container = lab.add_as(cell, name, wanted)?;
        let _tcp = tcp::Server::start(&container.namespace(), PORT)?;
        let _udp = udp::Server::start(&container.namespace(), PORT)?;
        Ok(Self { container, _tcp, _udp })
    }

    fn cell_port(&self) -> Result<u16> {
        self.container.cell_port(PORT)
    }
}

fn web() -> Wanted {
    Wanted::app("web").port(0, PORT)
}

/// One try over each transport.
fn both(from: &Namespace, to: Ipv4Addr, port: u16) -> Result<[(&'static str, Attempt); 2]> {
    Ok([("tcp", tcp::connect(from, to, port)?), ("udp", udp::ask(from, to, port)?)])
}

fn all_are_seen_as(attempts: [(&str, Attempt); 2], address: Ipv4Addr) -> Result<()> {
    attempts
        .iter()
        .try_for_each(|(protocol, attempt)| attempt.is_seen_as(address).context((*protocol).to_owned()))
}

fn all_are_refused(attempts: [(&str, Attempt); 2]) -> Result<()> {
    attempts.iter().try_for_each(|(protocol, attempt)| attempt.is_refused().context((*protocol).to_owned()))
}

#[test]
fn a_port_of_the_cell_leads_into_the_container_from_everywhere_outside() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let web = Web::enter(lab, "a", "web", &web())?;
        let (to, port) = (lab.cell("a")?.underlay_address, web.cell_port()?);
        ensure!(port >= FIRST_CELL_PORT, "{port}");
        let (outside, b) = (lab.outside(), lab.cell("b")?);
        let clients = [
            ("outside", outside.namespace(), outside.address),
            ("far", outside.far(), outside.far_address),
            ("cell b", b.namespace(), b.underlay_address),
        ];
        for (who, namespace, address) in &clients {
            // A connected UDP socket takes answers from where it asked only.
            all_are_seen_as(both(namespace, to, port)?, *address).with_context(|| format!("from {who}"))?;
        }
        let mut transfer = Transfer::start(&outside.far(), to, port)?;
        transfer.goes_on()?;
        transfer.finish().map(drop)
    })
}

#[test]
fn ports_that_lead_nowhere_are_the_cells_own() -> Result<()> {
    in_lab(&Options { cells: 1, ..Options::default() }, |lab| {
        let web = Web::enter(lab, "a", "web", &web())?;
        let (cell, outside) = (lab.cell("a")?, lab.outside());
        let own = web.cell_port()? + 1;
        all_are_refused(both(&outside.namespace(), cell.underlay_address, own)?)?;
        let _tcp = tcp::Server::start(&cell.namespace(), own)?;
        let _udp = udp::Server::start(&cell.namespace(), own)?;
        all_are_seen_as(both(&outside.namespace(), cell.underlay_address, own)?, outside.address)
    })
}

#[test]
fn what_a_container_answers_through_its_port_is_the_cells_answer() -> Result<()> {
    in_lab(&Options { cells: 1, ..Options::default() }, |lab| {
        let deaf = lab.add_as("a", "deaf", &web())?;
        let (to, port) = (lab.cell("a")?.underlay_address, deaf.cell_port(PORT)?);
        let far = lab.outside().far();
        let ear = icmp::ear(&far)?;
        all_are_refused(both(&far, to, port)?)?;
        let error = ear.hear(icmp::error)?.context("no error")?;
        ensure!(error.from == to && error.about_destination == SocketAddrV4::new(to, port), "{error:?}");

        // Errors of routers on the way back find the container behind the port.
        lab.outside().set_far_mtu(1_300)?;
        let _server = tcp::Server::start(&deaf.namespace(), PORT)?;
        let mut transfer = Transfer::start(&far, to, port)?;
        transfer.goes_on()?;
        transfer.finish().map(drop)
    })
}

#[test]
fn ports_that_run_out_are_refused_and_come_back() -> Result<()> {
    let agent = vec![("mapped_ports".to_owned(), "\"61000-61001\"".to_owned())];
    in_lab(&Options { cells: 1, agent, ..Options::default() }, |lab| {
        let first = Web::enter(lab, "a", "first", &web())?;
        lab.add_as("a", "second", &web())?;
        let said = lab.add_as("a", "third", &web()).err().context("a third port out of two")?.to_string();
        ensure!(said.contains(&NO_PORT.to_string()) && said.contains("61001"), "{said}");
        let page = lab.ask_agent("a", "endpoints")?.to_string();
        ensure!(!page.contains("third"), "something of it is left: {page}");
        let (to, outside) = (lab.cell("a")?.underlay_address, lab.outside());
        all_are_seen_as(both(&outside.namespace(), to, first.cell_port()?)?, outside.address)?;
        lab.remove("second")?;
        lab.add_as("a", "third", &web()).map(drop)
    })
}

#[test]
fn mappings_and_their_numbers_survive_an_agent_that_is_killed() -> Result<()> {
    in_lab(&Options { cells: 1, ..Options::default() }, |lab| {
        let first = Web::enter(lab, "a", "first", &web())?;
        let (to, port) = (lab.cell("a")?.underlay_address, first.cell_port()?);
        let (outside, address) = (lab.outside().namespace(), lab.outside().address);
        let mut talk = Conversation::start(&outside, to, port)?;
        lab.kill_agent("a")?;
        talk.ping().context("a live connection without the agent")?;
        all_are_seen_as(both(&outside, to, port)?, address).context("without the agent")?;
        lab.start_agent("a")?;
        talk.ping().context("a live connection with the next agent")?;
        all_are_seen_as(both(&outside, to, port)?, address).context("with the next agent")?;
        ensure!(lab.ports_of("a", "first")? == first.container.ports, "the next agent forgot a mapping");
        let second = Web::enter(lab, "a", "second", &web())?;
        ensure!(second.cell_port()? != port, "{port} was given out twice");
        all_are_seen_as(both(&outside, to, second.cell_port()?)?, address)
    })
}

#[test]
fn a_mapping_goes_with_its_container() -> Result<()> {
    in_lab(&Options { cells: 1, ..Options::default() }, |lab| {
        let web = Web::enter(lab, "a", "web", &web())?;
        let (to, port) = (lab.cell("a")?.underlay_address, web.cell_port()?);
        let outside = lab.outside();
        all_are_seen_as(both(&outside.namespace(), to, port)?, outside.address)?;
        lab.remove("web")?;
        all_are_refused(both(&outside.namespace(), to, port)?)?;
        ensure!(lab.ports_of("a", "web")?.is_empty(), "the agent still knows the mapping");
        Ok(())
    })
}

#[test]
fn a_cells_port_can_be_chosen_and_is_nobody_elses_then() -> Result<()> {
    in_lab(&Options { cells: 1, ..Options::default() }, |lab| {
        let chosen = Wanted::app("web").port(61_500, PORT);
        let web = Web::enter(lab, "a", "web", &chosen)?;
        ensure!(web.cell_port()? == 61_500, "{:?}", web.container.ports);
        let (to, outside) = (lab.cell("a")?.underlay_address, lab.outside());
        all_are_seen_as(both(&outside.namespace(), to, 61_500)?, outside.address)?;

        let taken = Namespace::create(lab.place().namespace("taken").name())?;
        let answer = lab.shim_as("a", "ADD", "taken", &chosen)?;
        taken.delete()?;
        ensure!(!answer.ok && answer.document["code"] == NO_PORT, "{answer:?}");
        all_are_seen_as(both(&outside.namespace(), to, 61_500)?, outside.address)
    })
}

#[test]
fn a_container_that_calls_its_own_cells_port_needs_a_policy() -> Result<()> {
    in_lab(&Options { cells: 1, ..Options::default() }, |lab| {
        // Whatever it may reach outside, this is not outside.
        let anywhere = Wanted::app("client").rule(json!({ "protocol": 0 }));
        let client = lab.add_as("a", "client", &anywhere)?;
        let web = Web::enter(lab, "a", "web", &web())?;
        let (to, port) = (lab.cell("a")?.underlay_address, web.cell_port()?);
        for container in [&client, &web.container] {
            all_are_refused(both(&container.namespace(), to, port)?).context(container.name.clone())?;
        }
        for protocol in ["tcp", "udp"] {
            lab.allow("client", "web", protocol, &PORT.to_string())?;
        }
        all_are_seen_as(both(&client.namespace(), to, port)?, client.address)?;
        let mut transfer = Transfer::start(&client.namespace(), to, port)?;
        transfer.goes_on()?;
        transfer.finish()?;
        all_are_refused(both(&web.container.namespace(), to, port)?).context("itself")
    })
}

#[test]
fn another_cells_port_is_outside_and_needs_an_egress_rule() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let web = Web::enter(lab, "a", "web", &web())?;
        let (to, port) = (lab.cell("a")?.underlay_address, web.cell_port()?);
        let cells = json!({ "networks": [{ "start": "192.0.2.0", "end": "192.0.2.255" }] });
        let client = lab.add_as("b", "client", &Wanted::app("client").rule(cells))?;
        let other = lab.add("b", "other", "client")?;
        all_are_refused(both(&other.namespace(), to, port)?)?;
        all_are_seen_as(both(&client.namespace(), to, port)?, lab.cell("b")?.underlay_address)
    })
}
