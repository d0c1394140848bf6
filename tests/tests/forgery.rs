//! Packets that lie about where they come from, or cannot be read: nothing arrives, each is counted under its reason and
//! under no other.

use anyhow::{Context, Result, ensure};
use c2c_tests::cast::{Cast, UDP_PORT};
use c2c_tests::lab::{Lab, Options, in_lab};
use c2c_tests::observe::counters::{self, Counters};
use c2c_tests::traffic::forged::{self, Datagram, INNER_IPV4, Tunnel, VNI};
use c2c_tests::traffic::{Reach, udp};
use std::net::Ipv4Addr;

/// One packet of the test's, sent to `backend_b`: nothing may arrive, one more must be counted.
fn is_dropped(
    lab: &Lab,
    cast: &Cast,
    (cell, reason): (&str, &str),
    payload: &[u8],
    send: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = Counters::of(lab, cell)?;
    send()?;
    // Who forges hears nothing; who is merely not allowed hears a refusal. Neighbour discovery over IPv6 is everywhere.
    let audible = reason.ends_with("/policy_denied") || reason.ends_with("/unknown_destination");
    let may_move = |name: &str| {
        name.contains("/to_") || name.ends_with("/not_ipv4") || (audible && name.ends_with("/refusal_sent"))
    };
    counters::expect_only(lab, cell, &before, (reason, 1), |name| !may_move(name))?;
    let honest = udp::ask(&cast.frontend.namespace(), cast.backend_b.address, UDP_PORT)?;
    ensure!(honest.reach == Reach::Reached(cast.frontend.address), "an honest datagram: {}", honest.reach);
    ensure!(!cast.udp_b.has_received(payload), "{} arrived", String::from_utf8_lossy(payload));
    Ok(())
}

fn prepared(lab: &Lab) -> Result<Cast> {
    let cast = Cast::enter(lab)?;
    lab.allow("frontend", "backend", "udp", &UDP_PORT.to_string())?;
    Ok(cast)
}

fn to_backend<'a>(cast: &Cast, source: Ipv4Addr, payload: &'a [u8]) -> Datagram<'a> {
    Datagram { source, destination: cast.backend_b.address, port: UDP_PORT, payload }
}

#[test]
fn a_container_cannot_send_from_an_address_that_is_not_its_own() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let strangers = [
            ("a free address of the cell", Ipv4Addr::from_bits(cast.frontend.address.to_bits() ^ 0x40)),
            ("its neighbour", cast.backend_a.address),
            ("a container of the other cell", cast.intruder.address),
            ("the cell", lab.cell("a")?.underlay_address),
            ("an address of nobody", Ipv4Addr::new(203, 0, 113, 5)),
        ];
        for (whose, source) in strangers {
            let datagram = to_backend(&cast, source, whose.as_bytes());
            is_dropped(lab, &cast, ("a", "from_container/spoofed_source"), whose.as_bytes(), || {
                forged::send_plain(&cast.frontend.namespace(), &datagram)
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_host_that_is_no_cell_cannot_use_the_tunnel_even_with_a_valid_tag() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let tunnel = Tunnel { vni: VNI, tag: lab.tag_of("frontend", "a")? };
        let outsider = lab.add_outsider("outsider", 200)?;
        let cell_b = lab.cell("b")?.underlay_address;
        let datagram = to_backend(&cast, cast.frontend.address, b"outsider");
        is_dropped(lab, &cast, ("b", "from_underlay/unknown_cell"), b"outsider", || {
            forged::send_tunnelled(&outsider, cell_b, tunnel, &datagram)
        })
    })
}

#[test]
fn a_cell_cannot_send_for_a_lease_that_is_not_its_own() -> Result<()> {
    in_lab(&Options { cells: 3, ..Options::default() }, |lab| {
        let cast = prepared(lab)?;
        let third = lab.add("c", "third", "third")?;
        let tunnel = Tunnel { vni: VNI, tag: lab.tag_of("frontend", "a")? };
        let cell_a = lab.cell("a")?.namespace();
        let cell_b = lab.cell("b")?.underlay_address;
        let sources = [
            ("a third cell's container", third.address),
            ("the receiver's own container", cast.intruder.address),
            ("an address outside the overlay", Ipv4Addr::new(203, 0, 113, 5)),
        ];
        for (whose, source) in sources {
            let datagram = to_backend(&cast, source, whose.as_bytes());
            is_dropped(lab, &cast, ("b", "from_underlay/foreign_lease"), whose.as_bytes(), || {
                forged::send_tunnelled(&cell_a, cell_b, tunnel, &datagram)
            })?;
        }
        Ok(())
    })
}

#[test]
fn an_unknown_tag_an_unknown_destination_and_a_header_that_cannot_be_read_are_denied() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let tag = lab.tag_of("frontend", "a")?;
        let (cell_a, cell_b) = (lab.cell("a")?.namespace(), lab.cell("b")?.underlay_address);
        // A source of cell a's lease that has no flow: only its tag speaks for it.
        let source = Ipv4Addr::from_bits(cast.frontend.address.to_bits() ^ 0x40);
        let datagram = to_backend(&cast, source, b"unknown");
        for unknown in [0, tag ^ 0x4000] {
            is_dropped(lab, &cast, ("b", "from_underlay/policy_denied"), b"unknown", || {
                forged::send_tunnelled(&cell_a, cell_b, Tunnel { vni: VNI, tag: unknown }, &datagram)
            })?;
        }
        is_dropped(lab, &cast, ("b", "from_underlay/wrong_vni"), b"unknown", || {
            forged::send_tunnelled(&cell_a, cell_b, Tunnel { vni: 77, tag }, &datagram)
        })?;
        let nobody = Ipv4Addr::from_bits(cast.backend_b.address.to_bits() ^ 0x40);
        is_dropped(lab, &cast, ("b", "from_underlay/unknown_destination"), b"unknown", || {
            let datagram = Datagram { destination: nobody, ..datagram.clone() };
            forged::send_tunnelled(&cell_a, cell_b, Tunnel { vni: VNI, tag }, &datagram)
        })?;
        let whole = forged::tunnelled(Tunnel { vni: VNI, tag }, &datagram)?;
        let with = |offset: usize, byte: u8| {
            let mut packet = whole.clone();
            packet[INNER_IPV4 + offset] = byte;
            packet
        };
        let unreadable = [
            ("malformed", whole[..1].to_vec()),
            // Without a source there is nothing that the cell's lease could hold.
            ("malformed", whole[..INNER_IPV4].to_vec()),
            ("malformed", with(0, 0x44)),
            ("malformed", with(2, 0xff)),
            ("malformed", whole[..whole.len() - 1].to_vec()),
            // A later piece, whose first one nobody saw.
            ("fragment", with(7, 0x01)),
        ];
        for (reason, packet) in unreadable {
            is_dropped(lab, &cast, ("b", &format!("from_underlay/{reason}")), b"unknown", || {
                forged::send_udp(&cell_a, cell_b, forged::VXLAN_PORT, &packet)
            })
            .with_context(|| format!("{reason}: {packet:02x?}"))?;
        }
        Ok(())
    })
}
