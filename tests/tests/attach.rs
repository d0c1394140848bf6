//! Every way in which the programs can be attached, on a real lab: each forwards, enforces, is adopted without a loss,
//! and is taken off without a trace. And what the programs tell when they are asked to.

use anyhow::{Context, Result, ensure};
use c2c_tests::cast::{Cast, OTHER_PORT, PORT, UDP_PORT};
use c2c_tests::lab::{Lab, Options, in_lab};
use c2c_tests::observe::counters::Counters;
use c2c_tests::observe::network::NetworkState;
use c2c_tests::traffic::forged::{Datagram, Tunnel, VNI};
use c2c_tests::traffic::{Reach, forged, tcp, udp};
use c2c_tests::wait;
use std::fs;

fn with(agent: &[(&str, &str)]) -> Options {
    let agent = agent.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Options { agent, ..Options::default() }
}

fn enforces(cast: &Cast) -> Result<()> {
    let from = cast.frontend.namespace();
    for (place, backend) in cast.backends() {
        let allowed = tcp::connect(&from, backend.address, PORT)?;
        let seen = Reach::Reached(cast.frontend.address);
        ensure!(allowed.reach == seen, "allowed, {place}: {}", allowed.reach);
        let other = tcp::connect(&from, backend.address, OTHER_PORT)?;
        ensure!(other.refused_at_once(), "another port, {place}: {}", other.reach);
    }
    Ok(())
}

/// Forwards, enforces, is adopted by the next agent under traffic, and leaves the host as it was.
fn serves_and_goes(lab: &mut Lab) -> Result<()> {
    lab.allow("frontend", "backend", "tcp", &PORT.to_string())?;
    lab.allow("frontend", "backend", "udp", &UDP_PORT.to_string())?;
    let cast = Cast::enter(lab)?;
    enforces(&cast)?;
    let stream = udp::Stream::start(&cast.frontend.namespace(), cast.backend_b.address, UDP_PORT)?;
    stream.sends(20)?;
    for cell in ["a", "b"] {
        lab.kill_agent(cell)?;
        lab.start_agent(cell)?;
        ensure!(lab.status(cell)?.adopted(), "the agent of cell {cell} began anew");
        stream.sends(20)?;
    }
    stream.finish(&cast.udp_b)?;
    enforces(&cast)?;
    lab.stop_agent("a")?;
    lab.force_uninstall_agent("a")
}

fn goes_without_a_trace(options: &Options) -> Result<()> {
    in_lab(options, |lab| {
        let virgin = NetworkState::of(&lab.add_outsider("outsider", 200)?)?;
        let before = before_the_agent(lab)?;
        serves_and_goes(lab)?;
        let after = NetworkState::of(&lab.cell("a")?.namespace())?;
        ensure!(after.devices() == virgin.devices(), "{:?}", after.devices());
        let differences = before.differences(&after);
        ensure!(differences.is_empty(), "{differences:?}");
        Ok(())
    })
}

fn before_the_agent(lab: &mut Lab) -> Result<NetworkState> {
    lab.stop_agent("a")?;
    lab.uninstall_agent("a")?;
    let before = NetworkState::of(&lab.cell("a")?.namespace())?;
    lab.start_agent("a")?;
    Ok(before)
}

#[test]
fn tcx_links_everywhere_serve_and_go_without_a_trace() -> Result<()> {
    goes_without_a_trace(&with(&[("attach", "\"tcx\"")]))
}

/// What a kernel before 6.6 gets.
#[test]
fn clsact_filters_everywhere_serve_and_go_without_a_trace() -> Result<()> {
    goes_without_a_trace(&with(&[("attach", "\"clsact\"")]))
}

#[test]
fn behind_the_shield_the_fabric_serves_and_goes_without_a_trace() -> Result<()> {
    goes_without_a_trace(&with(&[("shield", "\"generic\"")]))
}

#[test]
fn the_shield_drops_what_is_forged_before_the_programs_see_it() -> Result<()> {
    in_lab(&with(&[("shield", "\"generic\"")]), |lab| {
        let cast = Cast::enter(lab)?;
        let outsider = lab.add_outsider("outsider", 200)?;
        let datagram = Datagram {
            source: cast.frontend.address,
            destination: cast.backend_b.address,
            port: UDP_PORT,
            payload: b"forged",
        };
        let before = Counters::of(lab, "b")?;
        let tunnel = Tunnel { vni: VNI, tag: 1 };
        forged::send_tunnelled(&outsider, lab.cell("b")?.underlay_address, tunnel, &datagram)?;
        wait::until_true("the forged packet to be counted", || {
            Ok(!Counters::of(lab, "b")?.since(&before).is_empty())
        })?;
        let moved = Counters::of(lab, "b")?.since(&before);
        ensure!(moved.keys().eq(["xdp_underlay/unknown_cell"]), "{moved:?}");
        Ok(())
    })
}

/// Changes `trace` in a cell's configuration and has the running agent read it.
fn trace(lab: &Lab, cell: &str, level: &str) -> Result<()> {
    let cell = lab.cell(cell)?;
    let config = fs::read_to_string(&cell.config)?;
    let lines = config.lines().filter(|line| !line.starts_with("trace = "));
    let rest: Vec<&str> = lines.collect();
    fs::write(&cell.config, format!("trace = {level:?}\n{}\n", rest.join("\n")))?;
    cell.process.as_ref().context("no agent runs")?.hang_up()
}

#[test]
fn tracing_tells_of_drops_while_it_is_on_and_loses_no_packet() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        lab.allow("frontend", "backend", "udp", &UDP_PORT.to_string())?;
        let cast = Cast::enter(lab)?;
        let log = lab.cell("b")?.log.clone();
        let told = || -> Result<usize> {
            Ok(fs::read_to_string(&log)?.matches("from_underlay policy_denied").count())
        };
        let refused = || tcp::connect(&cast.frontend.namespace(), cast.backend_b.address, OTHER_PORT);
        let stream = udp::Stream::start(&cast.frontend.namespace(), cast.backend_b.address, UDP_PORT)?;
        stream.sends(20)?;
        ensure!(refused()?.refused_at_once() && told()? == 0, "something was traced unasked");
        trace(lab, "b", "drops")?;
        wait::until_true("a refusal to be traced", || {
            ensure!(refused()?.refused_at_once());
            Ok(told()? > 0)
        })?;
        trace(lab, "b", "off")?;
        wait::until_true("tracing to end", || {
            let before = told()?;
            ensure!(refused()?.refused_at_once());
            std::thread::sleep(std::time::Duration::from_millis(300));
            Ok(told()? == before)
        })?;
        stream.finish(&cast.udp_b).map(drop)
    })
}
