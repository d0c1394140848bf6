//! Packets that are not easy: errors about others, too big ones, pieces, options, marks of congestion, and what a
//! container must not send at all.

use anyhow::{Context, Result, ensure};
use c2c_tests::cast::{Cast, UDP_PORT};
use c2c_tests::lab::{Container, Lab, Options, Wanted, in_lab};
use c2c_tests::observe::counters::{self, Counters};
use c2c_tests::traffic::forged::{self, CE, Datagram, ECT, Header, NOT_ECT, Tunnel, VNI, VXLAN_PORT};
use c2c_tests::traffic::frame::{self, Tap};
use c2c_tests::traffic::raw::Ear;
use c2c_tests::traffic::{icmp, udp};
use c2c_tests::wait;
use nix::sys::socket::SockProtocol;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Allowed, and nobody listens.
const DEAF_PORT: u16 = 6000;
/// What a container's device takes, in bytes.
const OVERLAY_MTU: u16 = 1_450;
/// Larger than any device on the way takes.
const IN_PIECES: [u8; 3_000] = [7; 3_000];
/// RFC 2113, in a whole word.
const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];

/// The cast, and the frontend may send datagrams to both backends.
fn prepared(lab: &Lab) -> Result<Cast> {
    let cast = Cast::enter(lab)?;
    for port in [UDP_PORT, DEAF_PORT] {
        lab.allow("frontend", "backend", "udp", &port.to_string())?;
    }
    Ok(cast)
}

/// A container that may reach everything outside, and a server there.
fn caller(lab: &Lab) -> Result<(Container, udp::Server)> {
    let wanted = Wanted::app("frontend").rule(json!({ "protocol": 0 }));
    Ok((lab.add_as("a", "caller", &wanted)?, udp::Server::start(&lab.outside().far(), UDP_PORT)?))
}

fn datagram<'a>(from: &Container, to: Ipv4Addr, payload: &'a [u8]) -> Datagram<'a> {
    Datagram { source: from.address, destination: to, port: UDP_PORT, payload }
}

#[test]
fn an_error_about_a_flow_reaches_who_sent_also_across_cells() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let from = cast.frontend.namespace();
        for (place, backend) in cast.backends() {
            let before = Counters::of(lab, &backend.cell)?;
            let ear = icmp::ear(&from)?;
            udp::ask(&from, backend.address, DEAF_PORT)?.is_refused().context(place)?;
            let error = ear.hear(icmp::error)?.context(place)?;
            ensure!((error.from, error.code) == (backend.address, icmp::PORT), "{place}: {error:?}");
            ensure!(*error.about_source.ip() == cast.frontend.address, "{place}: {error:?}");
            let moved = Counters::of(lab, &backend.cell)?.since(&before);
            ensure!(moved.keys().all(|name| !name.contains("denied")), "it was ours: {moved:?}");
        }
        Ok(())
    })
}

#[test]
fn a_packet_that_is_too_big_for_the_tunnel_is_answered_with_the_size_that_fits() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let (from, to) = (cast.frontend.namespace(), cast.backend_b.address);
        // Somebody in the container made its device wider, and so is the other end: only the fabric knows the limit.
        let [a, b, c, d] = cast.frontend.address.octets();
        from.ip(&["link set eth0 mtu 1500"])?;
        let host_device = format!("s-{a:03}{b:03}{c:03}{d:03}");
        lab.cell("a")?.namespace().ip(&[&format!("link set {host_device} mtu 1500")])?;
        let ear = icmp::ear(&from)?;
        counters::expect_more(lab, "a", ("from_container/too_big", 1), || {
            let big = datagram(&cast.frontend, to, &[7; 1_472]);
            forged::send_with(&from, &big, Header { dont_fragment: true, ..Header::default() })
        })?;
        let error = ear.hear(icmp::error)?.context("nobody said that it was too big")?;
        ensure!(
            (error.kind, error.code, error.mtu)
                == (icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED, OVERLAY_MTU),
            "{error:?}"
        );
        ensure!(error.about_destination == SocketAddrV4::new(to, UDP_PORT), "{error:?}");
        // The container's stack believes it: what it may cut itself arrives.
        let socket = udp::Client::start(&from, 0, to, UDP_PORT)?;
        wait::until_true("a datagram that the sender cuts", || Ok(socket.exchange(&[7; 1_472]).is_ok()))
    })
}

#[test]
fn a_datagram_in_pieces_arrives_whole_and_so_does_its_answer() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let (caller, _server) = caller(lab)?;
        for (place, to) in cast
            .backends()
            .map(|(place, backend)| (place, backend.address))
            .into_iter()
            .chain([("outside", lab.outside().far_address)])
        {
            let socket = udp::Client::start(&caller.namespace(), 0, to, UDP_PORT)?;
            for _ in 0..5 {
                socket.exchange(&IN_PIECES).context(place)?;
            }
        }
        let web = lab.add_as("a", "web", &Wanted::app("web").port(0, UDP_PORT))?;
        let _inside = udp::Server::start(&web.namespace(), UDP_PORT)?;
        let mapped = lab.cell("a")?.underlay_address;
        let socket = udp::Client::start(&lab.outside().far(), 0, mapped, web.cell_port(UDP_PORT)?)?;
        let seen = socket.exchange(&IN_PIECES).context("through a mapped port")?;
        ensure!(*seen.ip() == lab.outside().far_address, "{seen}");
        Ok(())
    })
}

#[test]
fn pieces_are_no_way_around_a_policy() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        for backend in [&cast.backend_a, &cast.backend_b] {
            udp::send(&cast.intruder.namespace(), backend.address, UDP_PORT, &IN_PIECES)?.is_refused()?;
        }
        ensure!(!cast.udp_b.has_received(&IN_PIECES), "it arrived");
        // A piece whose first one nobody saw has no ports that could be judged.
        let long = datagram(&cast.frontend, cast.backend_b.address, &[9; 64]);
        let [_, second] = forged::cut(&forged::packet(&long, Header::default())?, 16, 77)?;
        counters::expect_more(lab, "a", ("from_container/fragment", 1), || {
            forged::send_ip(&cast.frontend.namespace(), cast.backend_b.address, &second)
        })
    })
}

#[test]
fn options_pass_and_source_routes_do_not() -> Result<()> {
    /// Loose and strict source routes by way of one router, and no operation to fill the word (RFC 791).
    const ROUTES: [[u8; 8]; 2] = [[0x83, 7, 4, 192, 0, 2, 254, 1], [0x89, 7, 4, 192, 0, 2, 254, 1]];
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let (caller, _server) = caller(lab)?;
        let outside = (&lab.outside().far(), lab.outside().far_address);
        let (near, away) = (cast.backend_a.namespace(), cast.backend_b.namespace());
        let ends = [(&near, cast.backend_a.address), (&away, cast.backend_b.address), outside];
        for (namespace, to) in ends {
            let ear = Ear::open(namespace, SockProtocol::Udp)?;
            let alert = datagram(&caller, to, b"alert");
            forged::send_with(
                &caller.namespace(),
                &alert,
                Header { options: &ROUTER_ALERT, ..Header::default() },
            )?;
            let heard =
                ear.hear(|packet| packet.payload.ends_with(b"alert").then(|| packet.options.clone()))?;
            ensure!(heard.as_deref() == Some(&ROUTER_ALERT), "{to}: {heard:?}");
            for options in &ROUTES {
                counters::expect_more(lab, "a", ("from_container/source_route", 1), || {
                    let routed = datagram(&caller, to, b"routed");
                    forged::send_with(&caller.namespace(), &routed, Header { options, ..Header::default() })
                })
                .with_context(|| to.to_string())?;
            }
        }
        ensure!(!cast.udp_b.has_received(b"routed"), "it arrived");
        Ok(())
    })
}

#[test]
fn a_container_has_no_tunnel_of_its_own() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let (caller, _server) = caller(lab)?;
        let tunnel = Tunnel { vni: VNI, tag: lab.tag_of("frontend", "a")? };
        let inner = datagram(&cast.frontend, cast.backend_b.address, b"smuggled");
        for cell in ["a", "b"] {
            let to = lab.cell(cell)?.underlay_address;
            counters::expect_more(lab, "a", ("from_container/own_tunnel", 1), || {
                forged::send_tunnelled(&caller.namespace(), to, tunnel, &inner)
            })
            .with_context(|| format!("to cell {cell}"))?;
        }
        let outside =
            Datagram { port: VXLAN_PORT, ..datagram(&caller, lab.outside().far_address, b"smuggled") };
        counters::expect_more(lab, "a", ("from_container/own_tunnel", 1), || {
            forged::send_plain(&caller.namespace(), &outside)
        })?;
        ensure!(!cast.udp_b.has_received(b"smuggled"), "it arrived");
        Ok(())
    })
}

#[test]
fn a_container_that_claims_anothers_address_by_arp_is_not_heard() -> Result<()> {
    const LIAR: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let liar = cast.frontend.namespace();
        for claimed in [cast.backend_a.address, GATEWAY, lab.cell("a")?.underlay_address] {
            for frame in
                [frame::arp_answer(LIAR, claimed, claimed), frame::arp_request(LIAR, claimed, GATEWAY)]
            {
                counters::expect_more(lab, "a", ("from_container/arp", 1), || {
                    frame::send(&liar, "eth0", &frame)
                })?;
            }
        }
        udp::ask(&liar, cast.backend_a.address, UDP_PORT)?.is_seen_as(cast.frontend.address)
    })
}

#[test]
fn marks_of_congestion_cross_the_tunnel() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let tunnel = Tunnel { vni: VNI, tag: lab.tag_of("frontend", "a")? };
        let (cell_a, cell_b) = (lab.cell("a")?, lab.cell("b")?);
        let ear = Ear::open(&cast.backend_b.namespace(), SockProtocol::Udp)?;
        let sent = |payload: &[u8], outer: u8, inner: u8| {
            let datagram = datagram(&cast.frontend, cast.backend_b.address, payload);
            let header = Header { ecn: inner, ..Header::default() };
            let packet = forged::tunnelled_with(tunnel, &datagram, header)?;
            forged::send_udp_marked(&cell_a.namespace(), cell_b.underlay_address, VXLAN_PORT, &packet, outer)
        };
        // RFC 6040, figure 4: outer, inner, and what the container gets.
        for (number, (outer, inner, expected)) in [
            (NOT_ECT, NOT_ECT, NOT_ECT),
            (ECT, NOT_ECT, NOT_ECT),
            (ECT, ECT, ECT),
            (CE, ECT, CE),
            (NOT_ECT, CE, CE),
            (CE, CE, CE),
        ]
        .into_iter()
        .enumerate()
        {
            let payload = format!("mark {number}");
            sent(payload.as_bytes(), outer, inner)?;
            let got =
                ear.hear(|packet| packet.payload.ends_with(payload.as_bytes()).then_some(packet.ecn))?;
            ensure!(got == Some(expected), "outer {outer}, inner {inner}: {got:?}");
        }
        counters::expect_more(lab, "b", ("from_underlay/ecn", 1), || sent(b"congested", CE, NOT_ECT))?;
        ensure!(!cast.udp_b.has_received(b"congested"), "it arrived");

        let tap = Tap::open(&cell_b.namespace())?;
        for mark in [NOT_ECT, ECT, CE] {
            let payload = format!("inner mark {mark}");
            let marked = datagram(&cast.frontend, cast.backend_b.address, payload.as_bytes());
            let header = Header { ecn: mark, ..Header::default() };
            forged::send_with(&cast.frontend.namespace(), &marked, header)?;
            let outer = tap.hear(|packet| {
                let ours =
                    packet.source == cell_a.underlay_address && packet.payload.ends_with(payload.as_bytes());
                ours.then_some(packet.ecn)
            })?;
            ensure!(outer == Some(mark), "inner {mark}: {outer:?}");
        }
        Ok(())
    })
}
