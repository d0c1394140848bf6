//! Leases of real cells: races, a controller that lost its store, and one that was told something else meanwhile.

use anyhow::{Context, Result, ensure};
use c2c_tests::lab::{Lab, Options, command, in_lab};
use c2c_tests::observe::files_below;
use c2c_tests::traffic::{Reach, tcp};
use c2c_tests::wait;
use std::collections::BTreeSet;

const RACING_CELLS: usize = 8;

fn block(lab: &Lab, cell: &str) -> Result<String> {
    lab.status(cell)?.block().map(str::to_owned).with_context(|| format!("cell {cell} has no lease"))
}

#[test]
fn two_cells_never_hold_overlapping_leases() -> Result<()> {
    in_lab(&Options { cells: RACING_CELLS, ..Options::default() }, |lab| {
        // All agents of a lab start at the same time. They do it once more, with nothing saved on either side.
        let names: Vec<String> = lab.description().cells.iter().map(|cell| cell.name.clone()).collect();
        let distinct = |lab: &Lab| -> Result<()> {
            let blocks = names.iter().map(|name| block(lab, name)).collect::<Result<BTreeSet<String>>>()?;
            ensure!(
                blocks.len() == RACING_CELLS,
                "{RACING_CELLS} cells share {} blocks: {blocks:?}",
                blocks.len()
            );
            ensure!(!blocks.contains("10.255.0.0/24"), "the first block is reserved: {blocks:?}");
            Ok(())
        };
        distinct(lab)?;
        lab.kill_controller()?;
        for name in &names {
            forget(lab, name)?;
        }
        wipe_controller(lab)?;
        lab.start_controller()?;
        for name in &names {
            lab.start_agent_unready(name)?;
        }
        for name in &names {
            lab.wait_until_ready(name)?;
        }
        distinct(lab)
    })
}

#[test]
fn a_lease_survives_a_controller_that_lost_everything() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        let before = [block(lab, "a")?, block(lab, "b")?];
        let one = lab.add("a", "one", "app")?;
        lab.kill_controller()?;
        wipe_controller(lab)?;
        lab.start_controller()?;
        for cell in ["a", "b"] {
            lab.wait_until_ready(cell)?;
        }
        ensure!([block(lab, "a")?, block(lab, "b")?] == before, "the leases changed");
        let two = lab.add("b", "two", "app")?;
        lab.allow("app", "app", "tcp", "7000")?;
        let _server = tcp::Server::start(&two.namespace(), 7000)?;
        let attempt = tcp::connect(&one.namespace(), two.address, 7000)?;
        ensure!(attempt.reach == Reach::Reached(one.address), "{}", attempt.reach);
        Ok(())
    })
}

#[test]
fn a_contradicting_lease_is_refused_without_killing_live_containers() -> Result<()> {
    // The first block is reserved, so this network has one block to give.
    let options = Options { cells: 1, overlay_network: "10.255.0.0/23".to_owned(), ..Options::default() };
    in_lab(&options, |lab| {
        let (one, two) = (lab.add("a", "one", "app")?, lab.add("a", "two", "app")?);
        lab.allow("app", "app", "tcp", "7000")?;
        let _server = tcp::Server::start(&two.namespace(), 7000)?;
        let works = || -> Result<()> {
            let attempt = tcp::connect(&one.namespace(), two.address, 7000)?;
            ensure!(attempt.reach == Reach::Reached(one.address), "{}", attempt.reach);
            Ok(())
        };
        works()?;
        let only = block(lab, "a")?;
        // The controller loses everything, and a newcomer gets the block before its holder is back.
        lab.kill_controller()?;
        lab.stop_agent("a")?;
        wipe_controller(lab)?;
        lab.start_controller()?;
        let newcomer = lab.add_cell(&options)?;
        lab.wait_until_ready(&newcomer)?;
        ensure!(block(lab, &newcomer)? == only, "there was only one block to give");

        lab.start_agent_unready("a")?;
        wait::until_true("cell a to say that its lease was refused", || {
            Ok(lab.status("a").is_ok_and(|status| status.page()["problems"].to_string().contains(&only)))
        })?;
        ensure!(!lab.status("a")?.stream_is_live(), "the contradicting lease was granted");
        works()
    })
}

/// The agent is killed and everything it knew is gone, as on a cell that was made anew.
fn forget(lab: &Lab, cell: &str) -> Result<()> {
    lab.kill_agent(cell)?;
    lab.force_uninstall_agent(cell)?;
    ensure!(files_below(&lab.cell(cell)?.state_dir)?.is_empty(), "uninstalling left state on cell {cell}");
    Ok(())
}

fn wipe_controller(lab: &Lab) -> Result<()> {
    let data = &lab.controller().data_dir;
    std::fs::remove_dir_all(data).with_context(|| format!("cannot remove {}", data.display()))?;
    std::fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))
}

#[test]
fn evicting_a_cell_frees_its_lease() -> Result<()> {
    in_lab(&Options::default(), |lab| {
        lab.kill_agent("b")?;
        let listed = lab.operator(&["leases"])?;
        let address = lab.cell("b")?.underlay_address.to_string();
        ensure!(listed.contains(&address), "{listed}");
        lab.operator(&["evict", "b"])?;
        let listed = lab.operator(&["leases"])?;
        ensure!(!listed.contains(&address), "{listed}");
        ensure!(lab.operator(&["evict", "b"]).is_err(), "a cell without a lease cannot be evicted");
        Ok(())
    })
}

#[test]
fn an_overlay_network_smaller_than_a_lease_is_refused_by_name() -> Result<()> {
    in_lab(&Options { cells: 1, ..Options::default() }, |lab| {
        lab.kill_controller()?;
        let text = std::fs::read_to_string(&lab.controller().config)?;
        let small = lab.place().path("small.toml");
        std::fs::write(&small, text.replace("10.255.0.0/16", "10.255.0.0/25"))?;
        let mut command = command("c2c-controller")?;
        command.args(["serve", "--config"]).arg(&small);
        let refused = lab.controller().namespace().output(&mut command);
        let said = format!("{:#}", refused.err().context("the controller started")?);
        ensure!(said.contains("overlay_network") && said.contains("10.255.0.0/25"), "{said}");
        Ok(())
    })
}
