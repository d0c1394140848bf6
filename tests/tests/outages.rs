//! Agents and controllers that die, start again and start alone, while traffic runs.

use anyhow::{Context, Result, ensure};
use c2c_common::layout::VERSION;
use c2c_tests::cast::{Cast, OTHER_PORT, PORT, UDP_PORT};
use c2c_tests::lab::{Lab, Options, in_lab};
use c2c_tests::observe::counters::Counters;
use c2c_tests::traffic::{Reach, tcp, udp};

/// The fabric lets through what is allowed and nothing else, on both cells.
fn enforces(cast: &Cast) -> Result<()> {
    let from = cast.frontend.namespace();
    for (place, backend) in cast.backends() {
        let allowed = tcp::connect(&from, backend.address, PORT)?;
        ensure!(
            allowed.reach == Reach::Reached(cast.frontend.address),
            "allowed, {place}: {}",
            allowed.reach
        );
        let port = tcp::connect(&from, backend.address, OTHER_PORT)?;
        ensure!(port.refused_at_once(), "another port, {place}: {}", port.reach);
        let intruder = tcp::connect(&cast.intruder.namespace(), backend.address, PORT)?;
        ensure!(intruder.refused_at_once(), "the intruder, {place}: {}", intruder.reach);
    }
    Ok(())
}

fn prepared(lab: &Lab) -> Result<Cast> {
    let cast = Cast::enter(lab)?;
    lab.allow("frontend", "backend", "tcp", &PORT.to_string())?;
    lab.allow("frontend", "backend", "udp", &UDP_PORT.to_string())?;
    Ok(cast)
}

#[test]
fn the_data_path_forwards_and_enforces_with_agent_and_controller_both_dead() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let mut transfer = tcp::Transfer::start(&cast.frontend.namespace(), cast.backend_b.address, PORT)?;
        lab.kill_controller()?;
        lab.kill_agent("a")?;
        lab.kill_agent("b")?;
        transfer.goes_on()?;
        enforces(&cast)?;
        transfer.finish().map(drop)
    })
}

#[test]
fn an_agent_that_was_killed_adopts_what_it_finds_and_no_packet_is_lost() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let (from, to) = (cast.frontend.namespace(), cast.backend_b.address);
        let mut transfer = tcp::Transfer::start(&from, to, PORT)?;
        let stream = udp::Stream::start(&from, to, UDP_PORT)?;
        stream.sends(20)?;
        for cell in ["b", "a"] {
            lab.kill_agent(cell)?;
            enforces(&cast)?;
            transfer.goes_on().with_context(|| format!("with the agent of cell {cell} dead"))?;
            lab.start_agent(cell)?;
            ensure!(lab.status(cell)?.adopted(), "the agent of cell {cell} began anew");
            transfer.goes_on().with_context(|| format!("with the new agent of cell {cell}"))?;
            enforces(&cast)?;
        }
        stream.finish(&cast.udp_b)?;
        transfer.finish().map(drop)
    })
}

/// An upgrade to another layout of maps: the new agent's are empty, so they are filled before its programs take over.
#[test]
fn an_agent_with_another_layout_takes_over_only_when_its_maps_are_filled() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let (from, to) = (cast.frontend.namespace(), cast.backend_b.address);
        let mut transfer = tcp::Transfer::start(&from, to, PORT)?;
        let stream = udp::Stream::start(&from, to, UDP_PORT)?;
        stream.sends(20)?;
        for cell in ["b", "a"] {
            lab.kill_agent(cell)?;
            let pins = &lab.cell(cell)?.pin_dir;
            let (now, earlier) = (pins.join(format!("maps-v{VERSION}")), pins.join("maps-v0"));
            std::fs::rename(&now, &earlier).context("cannot make the maps another layout's")?;
            lab.start_agent(cell)?;
            ensure!(!lab.status(cell)?.adopted(), "the agent of cell {cell} took maps of another layout");
            transfer.goes_on().with_context(|| format!("with the new agent of cell {cell}"))?;
            enforces(&cast)?;
            ensure!(now.exists() && !earlier.exists(), "the earlier layout's maps of cell {cell} are left");
        }
        stream.finish(&cast.udp_b)?;
        transfer.finish().map(drop)
    })
}

#[test]
fn a_policy_table_is_never_emptied_to_be_refilled() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let before = (Counters::of(lab, "a")?, Counters::of(lab, "b")?);
        let stream = udp::Stream::start(&cast.frontend.namespace(), cast.backend_b.address, UDP_PORT)?;
        stream.sends(20)?;
        for port in 9000..9010 {
            lab.allow("frontend", "backend", "udp", &port.to_string())?;
        }
        for port in 9000..9010 {
            // Each removal raises the epoch: every flow is decided again, from a table that must hold its policy.
            lab.forbid("frontend", "backend", "udp", &port.to_string())?;
        }
        for cell in ["a", "b"] {
            lab.stop_agent(cell)?;
            lab.start_agent(cell)?;
        }
        lab.kill_controller()?;
        lab.start_controller()?;
        lab.wait_until_ready("b")?;
        stream.sends(20)?;
        stream.finish(&cast.udp_b)?;
        for (cell, before) in [("a", before.0), ("b", before.1)] {
            let mut moved = Counters::of(lab, cell)?.since(&before);
            moved.retain(|name, _| name.contains("policy_"));
            ensure!(moved.is_empty(), "cell {cell} refused what was allowed all the while: {moved:?}");
        }
        Ok(())
    })
}

#[test]
fn the_controller_comes_back_with_every_lease_and_policy() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        let blocks = |lab: &Lab| -> Result<Vec<String>> {
            ["a", "b"]
                .iter()
                .map(|cell| Ok(lab.status(cell)?.block().unwrap_or_default().to_owned()))
                .collect()
        };
        let before = (blocks(lab)?, lab.operator(&["list-access"])?);
        lab.kill_controller()?;
        enforces(&cast)?;
        let newcomer = lab.add("b", "newcomer", "backend")?;
        let _server = tcp::Server::start(&newcomer.namespace(), PORT)?;
        let attempt = tcp::connect(&cast.frontend.namespace(), newcomer.address, PORT)?;
        ensure!(attempt.reach == Reach::Reached(cast.frontend.address), "the newcomer: {}", attempt.reach);
        lab.start_controller()?;
        lab.wait_until_ready("a")?;
        lab.wait_until_ready("b")?;
        let after = (blocks(lab)?, lab.operator(&["list-access"])?);
        ensure!(before == after, "before: {before:?}, after: {after:?}");
        lab.forbid("frontend", "backend", "tcp", &PORT.to_string())?;
        let refused = tcp::connect(&cast.frontend.namespace(), newcomer.address, PORT)?;
        ensure!(refused.refused_at_once(), "after the policy was removed: {}", refused.reach);
        Ok(())
    })
}

#[test]
fn an_agent_that_starts_while_the_controller_is_away_works_from_what_it_saved() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        enforces(&cast)?;
        lab.kill_controller()?;
        for cell in ["a", "b"] {
            lab.stop_agent(cell)?;
            lab.start_agent_unready(cell)?;
            lab.wait_until_it_answers(cell)?;
        }
        enforces(&cast)?;
        let newcomer = lab.add("b", "newcomer", "backend")?;
        let _server = tcp::Server::start(&newcomer.namespace(), PORT)?;
        let attempt = tcp::connect(&cast.frontend.namespace(), newcomer.address, PORT)?;
        ensure!(attempt.reach == Reach::Reached(cast.frontend.address), "the newcomer: {}", attempt.reach);
        Ok(())
    })
}

#[test]
fn an_agent_whose_pins_are_gone_builds_them_again_from_what_it_saved() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let cast = prepared(lab)?;
        lab.kill_controller()?;
        for cell in ["a", "b"] {
            lab.stop_agent(cell)?;
            std::fs::remove_dir_all(&lab.cell(cell)?.pin_dir)?;
            lab.start_agent_unready(cell)?;
            lab.wait_until_it_answers(cell)?;
            ensure!(!lab.status(cell)?.adopted(), "there was nothing to adopt on cell {cell}");
        }
        enforces(&cast)
    })
}
