//! Translation to the cell's address: who the outside sees, what comes back, and what happens when ports run out.

use anyhow::{Context, Result, ensure};
use c2c_tests::lab::{Container, Lab, Options, Wanted, in_lab};
use c2c_tests::netns::Namespace;
use c2c_tests::observe::counters::Counters;
use c2c_tests::traffic::forged::{self, Datagram, Header};
use c2c_tests::traffic::tcp::{Conversation, Transfer};
use c2c_tests::traffic::{icmp, tcp, udp};
use c2c_tests::wait;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::{Range, RangeInclusive};

const PORT: u16 = 8000;
/// What ships: below the host's ephemeral ports and below the mapped ones.
const POOL: RangeInclusive<u16> = 16_384..=32_767;
/// A pool that is used up soon.
const TINY: RangeInclusive<u16> = 20_000..=20_007;

fn one_cell() -> Options {
    Options { cells: 1, ..Options::default() }
}

fn with_agent(key: &str, value: &str) -> Options {
    Options { agent: vec![(key.to_owned(), value.to_owned())], ..one_cell() }
}

/// A container that may reach everything.
fn client(lab: &Lab, name: &str) -> Result<Container> {
    lab.add_as("a", name, &Wanted::app("app").rule(json!({ "protocol": 0 })))
}

fn servers(lab: &Lab) -> Result<(tcp::Server, udp::Server)> {
    let far = lab.outside().far();
    Ok((tcp::Server::start(&far, PORT)?, udp::Server::start(&far, PORT)?))
}

#[test]
fn the_outside_sees_the_cells_address_and_a_port_of_the_pool() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let client = client(lab, "client")?;
        let _servers = servers(lab)?;
        let (cell, to) = (lab.cell("a")?.underlay_address, lab.outside().far_address);
        let from = client.namespace();
        let seen = [
            Conversation::start(&from, to, PORT)?.seen,
            udp::Client::start(&from, 0, to, PORT)?.exchange(b"whom do you see")?,
        ];
        for seen in seen {
            ensure!(*seen.ip() == cell && POOL.contains(&seen.port()), "{seen}");
        }
        icmp::ping(&from, to)?.is_seen_as(to)?;
        let mut transfer = Transfer::start(&from, to, PORT)?;
        transfer.goes_on()?;
        transfer.finish().map(drop)
    })
}

#[test]
fn two_containers_use_the_same_port_to_the_same_destination() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let containers = [client(lab, "one")?, client(lab, "two")?];
        let _servers = servers(lab)?;
        let to = lab.outside().far_address;
        let mut talks = Vec::new();
        let mut sockets = Vec::new();
        for container in &containers {
            talks.push(Conversation::start_from(&container.namespace(), 20_001, to, PORT)?);
            sockets.push(udp::Client::start(&container.namespace(), 20_001, to, PORT)?);
        }
        let mut seen = Vec::new();
        for round in 0..3_u8 {
            seen.clear();
            for socket in &sockets {
                seen.push(socket.exchange(&[round])?);
            }
            for talk in &mut talks {
                talk.ping()?;
            }
        }
        ensure!(seen[0] != seen[1] && talks[0].seen != talks[1].seen, "{seen:?} and {talks:?}");
        for container in containers.iter().chain(&containers) {
            icmp::ping_as(&container.namespace(), to, 20_001)?.is_seen_as(to)?;
        }
        Ok(())
    })
}

#[test]
fn ranges_that_are_not_masqueraded_see_the_container() -> Result<()> {
    in_lab(&with_agent("no_masquerade", "[\"198.51.100.0/25\"]"), |lab| {
        let client = client(lab, "client")?;
        let _servers = servers(lab)?;
        let (cell, outside) = (lab.cell("a")?.underlay_address, lab.outside());
        outside.namespace().ip(&[&format!("route add {}/32 via {cell}", client.address)])?;
        let masqueraded = Ipv4Addr::new(198, 51, 100, 129);
        outside.add_far_address(masqueraded)?;
        for (to, seen) in [(outside.far_address, client.address), (masqueraded, cell)] {
            tcp::connect(&client.namespace(), to, PORT)?.is_seen_as(seen).context("tcp")?;
            udp::ask(&client.namespace(), to, PORT)?.is_seen_as(seen).context("udp")?;
            icmp::ping(&client.namespace(), to)?.is_seen_as(to).context("ping")?;
        }
        // Being known by its own address does not make it reachable.
        let _inside = tcp::Server::start(&client.namespace(), PORT)?;
        let inward = tcp::connect(&outside.far(), client.address, PORT)?;
        ensure!(!inward.reach.to_string().starts_with("connected"), "{}", inward.reach);
        Ok(())
    })
}

#[test]
fn errors_of_hosts_and_routers_outside_reach_the_container() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let client = client(lab, "client")?;
        let (outside, to) = (lab.outside(), lab.outside().far_address);
        let from = client.namespace();
        let about = |port| {
            let ends = (SocketAddrV4::new(client.address, port), SocketAddrV4::new(to, PORT));
            move |error: &icmp::Error| (error.about_source, error.about_destination) == ends
        };
        let ear = icmp::ear(&from)?;
        udp::Client::start(&from, 5_000, to, PORT)?.send(b"nobody listens")?;
        let error = ear.hear(|packet| icmp::error(packet).filter(about(5_000)))?;
        let error = error.context("no error about a port where nobody listens")?;
        ensure!((error.from, error.kind, error.code) == (to, icmp::UNREACHABLE, icmp::PORT), "{error:?}");
        tcp::connect(&from, to, PORT)?.is_refused()?;

        // One router is the cell, or is not; the next one is outside in either case.
        for time_to_live in [1, 2] {
            let datagram =
                Datagram { source: client.address, destination: to, port: PORT, payload: b"short" };
            forged::send_with(&from, &datagram, Header { time_to_live, ..Header::default() })?;
        }
        let error = ear.hear(|packet| {
            let error = icmp::error(packet).filter(about(forged::SOURCE_PORT));
            error.filter(|error| error.kind == icmp::TIME_EXCEEDED && error.from == outside.address)
        })?;
        error.context("no error of the router's about a packet that was too long under way").map(drop)
    })
}

#[test]
fn the_way_outside_may_be_narrower_than_the_overlay() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let client = client(lab, "client")?;
        let _servers = servers(lab)?;
        let (outside, to) = (lab.outside(), lab.outside().far_address);
        outside.set_far_mtu(1_300)?;
        let ear = icmp::ear(&client.namespace())?;
        let datagram = Datagram { source: client.address, destination: to, port: PORT, payload: &[7; 1_400] };
        forged::send_with(
            &client.namespace(),
            &datagram,
            Header { dont_fragment: true, ..Header::default() },
        )?;
        let error = ear.hear(|packet| icmp::error(packet).filter(|error| error.mtu > 0))?;
        let error = error.context("nobody said how narrow the way is")?;
        ensure!((error.code, error.mtu) == (icmp::FRAGMENTATION_NEEDED, 1_300), "{error:?}");
        let source = SocketAddrV4::new(client.address, forged::SOURCE_PORT);
        ensure!(error.about_source == source, "{error:?}");
        let mut transfer = Transfer::start(&client.namespace(), to, PORT)?;
        transfer.goes_on()?;
        transfer.finish().map(drop)
    })
}

#[test]
fn a_datagram_without_a_checksum_gets_none() -> Result<()> {
    // Of the UDP header, behind an IPv4 header without options.
    const CHECKSUM: Range<usize> = 26..28;
    in_lab(&one_cell(), |lab| {
        let client =
            lab.add_as("a", "client", &Wanted::app("app").rule(json!({ "protocol": 0 })).port(0, PORT))?;
        let (_tcp, far) = servers(lab)?;
        let inside = udp::Server::start(&client.namespace(), PORT)?;
        let (outside, cell) = (lab.outside(), lab.cell("a")?.underlay_address);
        let send = |from: &Namespace, source, destination, port| -> Result<()> {
            let datagram = Datagram { source, destination, port, payload: b"unchecked" };
            let mut packet = forged::packet(&datagram, Header::default())?;
            packet.get_mut(CHECKSUM).context("no checksum")?.fill(0);
            forged::send_ip(from, destination, &packet)
        };
        send(&client.namespace(), client.address, outside.far_address, PORT)?;
        wait::until_true("it to go out", || Ok(far.has_received(b"unchecked")))?;
        send(&outside.far(), outside.far_address, cell, client.cell_port(PORT)?)?;
        wait::until_true("it to come in", || Ok(inside.has_received(b"unchecked")))
    })
}

#[test]
fn ports_that_run_out_are_counted_and_refused_and_come_back() -> Result<()> {
    let pool = format!("\"{}-{}\"", TINY.start(), TINY.end());
    in_lab(&with_agent("nat_ports", &pool), |lab| {
        let client = client(lab, "client")?;
        let _servers = servers(lab)?;
        let _other = tcp::Server::start(&lab.outside().far(), PORT + 1)?;
        let (cell, to) = (lab.cell("a")?.underlay_address, lab.outside().far_address);
        let from = client.namespace();
        let mut talks: Vec<Conversation> =
            TINY.map(|_| Conversation::start(&from, to, PORT)).collect::<Result<_>>()?;
        let mut ports: Vec<u16> = talks.iter().map(|talk| talk.seen.port()).collect();
        ports.sort_unstable();
        ensure!(ports == TINY.collect::<Vec<u16>>(), "{ports:?}");

        let before = Counters::of(lab, "a")?;
        tcp::connect(&from, to, PORT)?.is_refused()?;
        let moved = Counters::of(lab, "a")?.since(&before);
        ensure!(moved.get("from_container/nat_exhausted") == Some(&1), "{moved:?}");
        tcp::connect(&from, to, PORT + 1)?.is_seen_as(cell).context("another destination")?;
        talks.iter_mut().try_for_each(Conversation::ping).context("those that have a port")?;

        talks.truncate(TINY.count() - 2);
        wait::until_true("ports to come back", || Ok(tcp::connect(&from, to, PORT)?.is_seen_as(cell).is_ok()))
    })
}

#[test]
fn translated_flows_go_on_without_the_agent_and_with_the_next() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let client = client(lab, "client")?;
        let _servers = servers(lab)?;
        let (cell, to) = (lab.cell("a")?.underlay_address, lab.outside().far_address);
        let mut transfer = Transfer::start(&client.namespace(), to, PORT)?;
        let socket = udp::Client::start(&client.namespace(), 0, to, PORT)?;
        let seen = socket.exchange(b"before")?;
        lab.kill_agent("a")?;
        transfer.goes_on()?;
        tcp::connect(&client.namespace(), to, PORT)?.is_seen_as(cell)?;
        lab.start_agent("a")?;
        transfer.goes_on()?;
        ensure!(socket.exchange(b"after")? == seen, "the same flow has another port");
        transfer.finish().map(drop)
    })
}
