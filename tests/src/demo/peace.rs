//! The chapters in which everything works and somebody tries what he may not: 1 to 5.

use super::story::Story;
use crate::cast::{Cast, OTHER_PORT, OTHER_UDP_PORT, PORT, RANGE_END, RANGE_START, UDP_PORT};
use crate::lab::Lab;
use crate::observe::counters::{self, Counters};
use crate::traffic::forged::{self, Datagram, Tunnel, VNI};
use crate::traffic::{tcp, udp};
use anyhow::{Result, ensure};
use std::net::Ipv4Addr;

const OUTSIDER_HOST: u8 = 200;

/// Chapter 1.
pub(super) fn nothing_is_allowed(story: &mut Story, _lab: &Lab, cast: &Cast) -> Result<()> {
    story.chapter("Nothing is allowed yet: a refusal, at once");
    for (place, backend) in cast.backends() {
        let attempt = tcp::connect(&cast.frontend.namespace(), backend.address, PORT)?;
        story.is_refused(&format!("frontend → backend ({place}), tcp {PORT}"), &attempt);
    }
    Ok(())
}

/// Chapter 2.
pub(super) fn a_policy_opens_one_port(story: &mut Story, lab: &Lab, cast: &Cast) -> Result<()> {
    story.chapter("allow-access frontend backend --port 7000 --protocol tcp");
    lab.allow("frontend", "backend", "tcp", &PORT.to_string())?;
    for (place, backend) in cast.backends() {
        let attempt = tcp::connect(&cast.frontend.namespace(), backend.address, PORT)?;
        story.reaches(&format!("frontend → backend ({place}), tcp {PORT}"), &attempt, cast.frontend.address);
    }
    Ok(())
}

/// Chapter 3.
pub(super) fn only_what_was_allowed(story: &mut Story, _lab: &Lab, cast: &Cast) -> Result<()> {
    story.chapter("Only that: not another port, not another app, not the way back");
    for (place, backend) in cast.backends() {
        let frontend = cast.frontend.namespace();
        let port = tcp::connect(&frontend, backend.address, OTHER_PORT)?;
        story.is_refused(&format!("frontend → backend ({place}), tcp {OTHER_PORT}"), &port);
        let back = tcp::connect(&backend.namespace(), cast.frontend.address, PORT)?;
        story.is_refused(&format!("backend ({place}) → frontend, tcp {PORT}"), &back);
    }
    for (place, backend) in [("other cell", &cast.backend_a), ("same cell", &cast.backend_b)] {
        let attempt = tcp::connect(&cast.intruder.namespace(), backend.address, PORT)?;
        story.is_refused(&format!("intruder → backend ({place}), tcp {PORT}"), &attempt);
    }
    Ok(())
}

/// Chapter 4.
pub(super) fn udp_and_ranges(story: &mut Story, lab: &Lab, cast: &Cast) -> Result<()> {
    story.chapter("A UDP policy (5353) and a range of ports (tcp 8000-8010)");
    lab.allow("frontend", "backend", "udp", &UDP_PORT.to_string())?;
    lab.allow("frontend", "backend", "tcp", &format!("{RANGE_START}-{RANGE_END}"))?;
    let frontend = cast.frontend.namespace();
    let own = cast.frontend.address;
    for (place, backend) in cast.backends() {
        let line = |protocol: &str, port: u16| format!("frontend → backend ({place}), {protocol} {port}");
        let to = backend.address;
        story.reaches(&line("udp", UDP_PORT), &udp::ask(&frontend, to, UDP_PORT)?, own);
        story.is_refused(&line("udp", OTHER_UDP_PORT), &udp::ask(&frontend, to, OTHER_UDP_PORT)?);
        story.is_refused(&line("tcp", UDP_PORT), &tcp::connect(&frontend, to, UDP_PORT)?);
        for port in [RANGE_START, 8005, RANGE_END] {
            story.reaches(&line("tcp", port), &tcp::connect(&frontend, to, port)?, own);
        }
        for port in [RANGE_START - 1, RANGE_END + 1] {
            story.is_refused(&line("tcp", port), &tcp::connect(&frontend, to, port)?);
        }
    }
    Ok(())
}

/// Chapter 5.
pub(super) fn forgeries(story: &mut Story, lab: &Lab, cast: &Cast) -> Result<()> {
    story.chapter("Forged packets: nothing arrives, each is counted under its reason");
    let tunnel = Tunnel { vni: VNI, tag: lab.tag_of("frontend", "a")? };
    let cell_b = lab.cell("b")?.underlay_address;
    let outsider = lab.add_outsider("outsider", OUTSIDER_HOST)?;
    let to_b =
        |source, payload| Datagram { source, destination: cast.backend_b.address, port: UDP_PORT, payload };

    let stranger = Ipv4Addr::from_bits(cast.frontend.address.to_bits() ^ 0x40);
    let spoofed = to_b(stranger, b"spoofed");
    forge(
        story,
        lab,
        cast,
        ("frontend sends from another address", "a", "from_container/spoofed_source"),
        || forged::send_plain(&cast.frontend.namespace(), &spoofed).map(|()| spoofed.payload),
    );
    let foreign = to_b(cast.frontend.address, b"outside");
    forge(
        story,
        lab,
        cast,
        ("a host outside sends VXLAN with a valid tag", "b", "from_underlay/unknown_cell"),
        || forged::send_tunnelled(&outsider, cell_b, tunnel, &foreign).map(|()| foreign.payload),
    );
    let usurped = to_b(cast.intruder.address, b"usurped");
    let cell_a = lab.cell("a")?.namespace();
    forge(
        story,
        lab,
        cast,
        ("cell a sends for a subnet of cell b", "b", "from_underlay/foreign_lease"),
        || forged::send_tunnelled(&cell_a, cell_b, tunnel, &usurped).map(|()| usurped.payload),
    );
    Ok(())
}

/// Sends a forgery, waits until it was counted, and lets an honest datagram follow it: what came before that one and
/// was not received never will be.
fn forge<'a>(
    story: &mut Story,
    lab: &Lab,
    cast: &Cast,
    (line, cell, reason): (&str, &str, &str),
    send: impl FnOnce() -> Result<&'a [u8]>,
) {
    let expected = format!("nothing arrived, 1 counted as {reason}");
    story.happens(line, &expected, || {
        let before = Counters::of(lab, cell)?;
        let payload = send()?;
        counters::expect_only(lab, cell, &before, (reason, 1), |_| true)?;
        let honest = udp::ask(&cast.frontend.namespace(), cast.backend_b.address, UDP_PORT)?;
        ensure!(honest.reach.to_string().starts_with("connected"), "an honest datagram: {}", honest.reach);
        ensure!(!cast.udp_b.has_received(payload), "the forged datagram arrived");
        Ok(format!("nothing arrived, 1 counted as {reason}"))
    });
}
