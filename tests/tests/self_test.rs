//! The offload self-test between real agents. The underlay devices are veth pairs, which leave checksums and segmentation
//! to the wire; a classifier on the wire's side stands for a device that breaks what it is asked to do.

use anyhow::{Context, Result, ensure};
use c2c_tests::cast::{Cast, PORT};
use c2c_tests::lab::{Lab, Options, in_lab};
use c2c_tests::netns::output;
use c2c_tests::observe::counters::Counters;
use c2c_tests::observe::{metrics, network::NetworkState};
use c2c_tests::traffic::tcp;
use c2c_tests::wait;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::process::Command;

const KEY: &str = "offload_self_test";
const SEGMENTATION: &str = "tx-udp_tnl-segmentation";
/// Classic BPF: UDP (what is tunnelled is) of more than 1,600 bytes is dropped, all else goes on. A packet of that size
/// was to be cut.
const DROP_UNCUT: &str = "6,48 0 0 23,21 0 3 17,128 0 0 0,37 0 1 1600,6 0 0 2,6 0 0 4294967295";
/// The same for all UDP of more than 500 bytes: a path that large packets do not pass at all.
const DROP_LARGE: &str = "6,48 0 0 23,21 0 3 17,128 0 0 0,37 0 1 500,6 0 0 2,6 0 0 4294967295";

fn in_testing_lab(mode: &str, test: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let agent = vec![(KEY.to_owned(), format!("{mode:?}"))];
    in_lab(&Options { agent, ..Options::default() }, test)
}

/// Starts cell a's agent anew with another mode, behind a wire that drops what this says.
fn restart_behind(lab: &mut Lab, wire: &str, mode: &str) -> Result<()> {
    lab.stop_agent("a")?;
    let underlay = lab.namespace("underlay")?;
    underlay.output(Command::new("tc").args("qdisc replace dev to-cell-a clsact".split(' ')))?;
    let words = "filter replace dev to-cell-a ingress pref 1 handle 1 bpf direct-action bytecode";
    underlay.output(Command::new("tc").args(words.split(' ')).arg(wire))?;
    set_mode(lab, mode)?;
    lab.start_agent("a")
}

fn set_mode(lab: &Lab, mode: &str) -> Result<()> {
    let path = &lab.cell("a")?.config;
    let text = std::fs::read_to_string(path).context("the agent's configuration")?;
    let others: Vec<_> = text.lines().filter(|line| !line.starts_with(KEY)).collect();
    std::fs::write(path, format!("{KEY} = {mode:?}\n{}", others.join("\n")))
        .context("the agent's configuration")
}

fn offload(lab: &Lab, cell: &str) -> Result<Value> {
    Ok(lab.status(cell)?.page()["offload"].clone())
}

fn wait_for_verdict(lab: &Lab, cell: &str, verdict: &str) -> Result<Value> {
    let seen = || offload(lab, cell).map(|page| format!("cell {cell}: {page}")).unwrap_or_default();
    wait::until(&format!("the verdict {verdict}"), || {
        let page = offload(lab, cell)?;
        Ok((page["verdict"] == verdict).then_some(page))
    })
    .with_context(seen)
}

/// Whether the kernel cuts cell a's tunnelled packets, because the device shall not.
fn segmentation(lab: &Lab) -> Result<bool> {
    let text =
        lab.cell("a")?.namespace().output(Command::new("ethtool").args(["--show-features", "eth0"]))?;
    let line = text.lines().find(|line| line.starts_with(SEGMENTATION)).context("no such feature")?;
    Ok(line.contains(": on"))
}

fn stream_flows(lab: &Lab) -> Result<()> {
    lab.allow("frontend", "backend", "tcp", &PORT.to_string())?;
    let cast = Cast::enter(lab)?;
    let mut transfer = tcp::Transfer::start(&cast.frontend.namespace(), cast.backend_b.address, PORT)?;
    transfer.goes_on()?;
    transfer.finish().map(drop)
}

#[test]
fn a_sound_device_is_found_sound_and_nothing_is_changed() -> Result<()> {
    in_testing_lab("fix", |lab| {
        for cell in ["a", "b"] {
            let page = wait_for_verdict(lab, cell, "sound")?;
            ensure!(page["switched_off"] == Value::Array(Vec::new()) && page["undo"].is_null(), "{page}");
        }
        ensure!(segmentation(lab)?);
        let counters = Counters::of(lab, "b")?;
        ensure!(
            counters.packets("from_underlay/self_test") > 0
                && counters.packets("from_underlay/wrong_vni") == 0
        );
        let page = metrics::get(lab.cell("a")?, "/metrics")?.1;
        ensure!(metrics::value(&page, "c2c_agent_offload_verdict{state=\"sound\"}") == Some(1.0), "{page}");
        wait::until_true("the test's devices to be gone", || {
            let devices = NetworkState::of(&lab.cell("a")?.namespace())?.devices();
            Ok(!devices.iter().any(|device| device.starts_with("c2c-test")))
        })
    })
}

#[test]
fn shield_filters_and_tracing_do_not_stand_in_its_way() -> Result<()> {
    let key = |key: &str, value: &str| (key.to_owned(), format!("{value:?}"));
    let agent =
        vec![key(KEY, "fix"), key("shield", "generic"), key("attach", "clsact"), key("trace", "packets")];
    in_lab(&Options { agent, ..Options::default() }, |lab| {
        wait_for_verdict(lab, "a", "sound").and_then(|_| wait_for_verdict(lab, "b", "sound")).map(drop)
    })
}

#[test]
fn what_breaks_segmentation_is_found_switched_off_and_put_back_by_uninstall() -> Result<()> {
    in_testing_lab("off", |lab| {
        restart_behind(lab, DROP_UNCUT, "fix")?;
        let page = wait_for_verdict(lab, "a", "sound")?;
        let undo = page["undo"].as_str().context("no undo")?.to_owned();
        ensure!(undo.starts_with("ethtool --features eth0") && undo.contains(SEGMENTATION), "{page}");
        ensure!(!segmentation(lab)? && !undo.contains("checksum"), "the least that helps: {page}");
        stream_flows(lab)?;

        lab.stop_agent("a")?;
        lab.start_agent("a")?;
        ensure!(!segmentation(lab)?, "the next agent leaves it so");
        ensure!(wait_for_verdict(lab, "a", "sound")?["undo"] == undo, "and knows whose doing it was");
        let table = lab.agent_command("a", &["status"])?;
        ensure!(table.contains(&undo), "{table}");

        lab.stop_agent("a")?;
        lab.force_uninstall_agent("a")?;
        ensure!(segmentation(lab)?, "an uninstall puts it back");
        Ok(())
    })
}

#[test]
fn what_computes_no_checksums_is_found_and_switched_off() -> Result<()> {
    in_testing_lab("off", |lab| {
        restart_behind(lab, &drop_unfinished(lab)?, "fix")?;
        let page = wait_for_verdict(lab, "a", "sound")?;
        let off = page["switched_off"].to_string();
        ensure!(off.contains("tx-checksum") && !off.contains(SEGMENTATION), "{page}");
        lab.stop_agent("a")?;
        lab.uninstall_agent("a")?;
        let shown = lab.cell("a")?.namespace().output(Command::new("ethtool").args(["-k", "eth0"]))?;
        ensure!(shown.contains("tx-checksum-ip-generic: on"), "an uninstall puts it back: {shown}");
        Ok(())
    })
}

/// Classic BPF that drops cell a's probes when their inner TCP checksum is that of the pseudo header alone (what the sender
/// leaves there for the device): one packet's, and that of three to be cut. A veth pair computes none, and a receiver
/// believes it; what came off a wire like that it would not.
fn drop_unfinished(lab: &Lab) -> Result<String> {
    let base = |cell| -> Result<Ipv4Addr> {
        let status = lab.status(cell)?;
        let block = status.block().context("no block")?;
        Ok(block.split('/').next().unwrap_or_default().parse()?)
    };
    let halves =
        [base("a")?, base("b")?].map(|address| (address.to_bits() >> 16) + (address.to_bits() & 0xffff));
    let [one, three] = [1_410, 3 * 1_410].map(|payload| {
        let sum = halves.iter().sum::<u32>() + 6 + 20 + payload;
        (sum & 0xffff) + (sum >> 16)
    });
    Ok(format!("7,48 0 0 23,21 0 4 17,40 0 0 100,21 1 0 {one},21 0 1 {three},6 0 0 2,6 0 0 4294967295"))
}

#[test]
fn a_report_says_what_is_broken_and_changes_nothing() -> Result<()> {
    in_testing_lab("off", |lab| {
        restart_behind(lab, DROP_UNCUT, "report")?;
        wait_for_verdict(lab, "a", "broken_segmentation")?;
        ensure!(segmentation(lab)?);
        let warnings = lab.status("a")?.page()["warnings"].to_string();
        ensure!(
            warnings.contains("try: ethtool --features eth0") && warnings.contains(SEGMENTATION),
            "{warnings}"
        );
        Ok(())
    })
}

#[test]
fn off_again_puts_back_what_was_switched_off() -> Result<()> {
    in_testing_lab("off", |lab| {
        restart_behind(lab, DROP_UNCUT, "fix")?;
        wait_for_verdict(lab, "a", "sound")?;
        ensure!(!segmentation(lab)?);
        lab.stop_agent("a")?;
        set_mode(lab, "off")?;
        lab.start_agent("a")?;
        wait::until_true("segmentation to be on again", || segmentation(lab))
    })
}

#[test]
fn a_path_without_large_packets_and_a_cell_that_is_away_are_no_verdict() -> Result<()> {
    in_testing_lab("off", |lab| {
        restart_behind(lab, DROP_LARGE, "fix")?;
        lost_probes_change_nothing(lab)?;
        lab.kill_agent("b")?;
        restart_behind(lab, DROP_UNCUT, "fix")?;
        lost_probes_change_nothing(lab)
    })
}

/// The first trial is over when its devices, which are there while it lasts, are gone again.
fn lost_probes_change_nothing(lab: &Lab) -> Result<()> {
    let exists = || -> Result<bool> {
        let devices = output(Command::new("ip").args(["-n", lab.cell("a")?.namespace().name(), "link"]))?;
        Ok(devices.contains("c2c-test"))
    };
    wait::until_true("a test to begin", exists)?;
    wait::until_true("the test to end", || Ok(!exists()?))?;
    let page = offload(lab, "a")?;
    ensure!(page["verdict"] == "unknown" && page["failure"].is_null(), "{page}");
    ensure!(segmentation(lab)?);
    Ok(())
}
