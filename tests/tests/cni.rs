//! The shim as a container runtime uses it, and misuses it, against a running, a stopped and a dying agent.

use anyhow::{Context, Result, ensure};
use c2c_tests::lab::{Lab, Options, added_address, in_lab};
use c2c_tests::netns::Namespace;
use c2c_tests::observe::traces::Traces;
use c2c_tests::traffic::{Reach, tcp};
use c2c_tests::wait;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Child;
use std::thread;
use std::time::Duration;

const ONE_CELL: usize = 1;
const MANY: usize = 50;

fn one_cell() -> Options {
    Options { cells: ONE_CELL, ..Options::default() }
}

fn code_of(document: &Value) -> Option<u64> {
    document.get("code").and_then(Value::as_u64)
}

#[test]
fn a_second_add_is_refused_and_leaves_the_first_working() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let (one, two) = (lab.add("a", "one", "app")?, lab.add("a", "two", "app")?);
        lab.allow("app", "app", "tcp", "7000")?;
        let _server = tcp::Server::start(&two.namespace(), 7000)?;
        let again = lab.shim("a", "ADD", "one", Some("app"))?;
        ensure!(!again.ok && code_of(&again.document).is_some_and(|code| code >= 100), "{again:?}");
        let attempt = tcp::connect(&one.namespace(), two.address, 7000)?;
        ensure!(attempt.reach == Reach::Reached(one.address), "after a second ADD: {}", attempt.reach);
        let check = tcp::connect(&two.namespace(), one.address, 7000)?;
        ensure!(check.reach == Reach::Refused, "a closed port that policy allows: {}", check.reach);
        Ok(())
    })
}

#[test]
fn del_succeeds_twice_without_a_namespace_and_for_strangers() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let before = Traces::of(lab.cell("a")?)?;
        let first = lab.add("a", "first", "app")?;
        for _ in 0..2 {
            let answer = lab.shim("a", "DEL", "first", None)?;
            ensure!(answer.ok && answer.document.is_null(), "{answer:?}");
        }
        first.namespace().delete()?;
        let second = lab.add("a", "second", "app")?;
        second.namespace().delete()?;
        let answer = lab.shim("a", "DEL", "second", None)?;
        ensure!(answer.ok, "DEL of a container whose namespace is gone: {answer:?}");
        let answer = lab.shim("a", "DEL", "never-seen", None)?;
        ensure!(answer.ok, "DEL of a container that never was: {answer:?}");
        before.are_all_there_is(lab, "a")
    })
}

#[test]
fn a_del_while_the_agent_is_down_is_done_when_it_is_back() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let before = Traces::of(lab.cell("a")?)?;
        let container = lab.add("a", "one", "app")?;
        lab.kill_agent("a")?;
        let refused = lab.shim("a", "ADD", "two", Some("app"))?;
        ensure!(!refused.ok, "an ADD cannot be served without the agent: {refused:?}");
        let answer = lab.shim("a", "DEL", "one", None)?;
        ensure!(answer.ok, "a DEL must not fail: {answer:?}");
        container.namespace().delete()?;
        lab.start_agent("a")?;
        before.are_all_there_is(lab, "a")?;
        lab.add("a", "three", "app").map(drop)
    })
}

#[test]
fn a_shim_killed_in_the_middle_of_add_leaves_nothing_after_del() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let before = Traces::of(lab.cell("a")?)?;
        for delay in [0, 1, 2, 4, 6, 8, 12, 16, 24, 32] {
            let namespace = Namespace::create(lab.place().namespace("victim").name())?;
            let mut shim = lab.start_shim("a", "ADD", "victim", Some("app"))?;
            // Not a wait for anything: the kill shall come at different moments of the ADD.
            thread::sleep(Duration::from_millis(delay));
            shim.kill().context("cannot kill the shim")?;
            shim.wait().context("cannot wait for the shim")?;
            settled_del(lab, "victim")?;
            namespace.delete()?;
        }
        before.are_all_there_is(lab, "a")
    })
}

#[test]
fn an_agent_killed_in_the_middle_of_add_leaves_nothing_after_del() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let before = Traces::of(lab.cell("a")?)?;
        for delay in [0, 2, 4, 8, 12, 20] {
            let namespace = Namespace::create(lab.place().namespace("victim").name())?;
            let shim = lab.start_shim("a", "ADD", "victim", Some("app"))?;
            thread::sleep(Duration::from_millis(delay));
            lab.kill_agent("a")?;
            shim.wait_with_output().context("cannot wait for the shim")?;
            lab.start_agent("a")?;
            settled_del(lab, "victim")?;
            namespace.delete()?;
        }
        before.are_all_there_is(lab, "a")
    })
}

/// A DEL as a runtime does it: again when it is told to come back later.
fn settled_del(lab: &Lab, container: &str) -> Result<()> {
    const TRY_AGAIN: u64 = 11;
    wait::until_true("a DEL to be served", || {
        let answer = lab.shim("a", "DEL", container, None)?;
        ensure!(answer.ok || code_of(&answer.document) == Some(TRY_AGAIN), "{answer:?}");
        Ok(answer.ok)
    })
}

#[test]
fn fifty_concurrent_adds_get_addresses_of_their_own_and_fifty_dels_leave_nothing() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let before = Traces::of(lab.cell("a")?)?;
        let names: Vec<String> = (0..MANY).map(|number| format!("c{number}")).collect();
        for name in &names {
            Namespace::create(lab.place().namespace(name).name())?;
        }
        let start = |verb: &str| -> Result<Vec<Child>> {
            names.iter().map(|name| lab.start_shim("a", verb, name, Some("app"))).collect()
        };
        let addresses = start("ADD")?.into_iter().map(added).collect::<Result<BTreeSet<Ipv4Addr>>>()?;
        ensure!(addresses.len() == MANY, "{} addresses for {MANY} containers", addresses.len());
        for address in &addresses {
            let last = address.octets()[3];
            ensure!(!matches!(last, 0 | 1 | 255), "{address} is not a container's");
        }
        for shim in start("DEL")? {
            let output = shim.wait_with_output().context("cannot wait for the shim")?;
            ensure!(output.status.success(), "DEL: {}", String::from_utf8_lossy(&output.stdout));
        }
        for name in &names {
            lab.namespace(name)?.delete()?;
        }
        before.are_all_there_is(lab, "a")
    })
}

fn added(shim: Child) -> Result<Ipv4Addr> {
    let output = shim.wait_with_output().context("cannot wait for the shim")?;
    ensure!(output.status.success(), "ADD: {}", String::from_utf8_lossy(&output.stdout));
    added_address(&serde_json::from_slice(&output.stdout)?)
}

#[test]
fn check_tells_a_wired_container_from_a_damaged_one() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let namespace = Namespace::create(lab.place().namespace("one").name())?;
        let added = lab.shim("a", "ADD", "one", Some("app"))?;
        ensure!(added.ok, "{added:?}");
        let check = |lab: &Lab| lab.shim_with("a", "CHECK", "one", &[("prevResult", added.document.clone())]);
        let whole = check(lab)?;
        ensure!(whole.ok, "{whole:?}");
        namespace.ip(&["link set eth0 down"])?;
        let damaged = check(lab)?;
        ensure!(!damaged.ok, "a container whose device is down passed CHECK");
        ensure!(lab.shim("a", "DEL", "one", None)?.ok);
        let gone = check(lab)?;
        ensure!(!gone.ok, "a container that is gone passed CHECK");
        Ok(())
    })
}

#[test]
fn gc_removes_what_is_not_listed_and_nothing_else() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let (kept, stale) = (lab.add("a", "kept", "app")?, lab.add("a", "stale", "app")?);
        let valid = serde_json::json!([{ "containerID": "kept", "ifname": "eth0" }]);
        let answer = lab.shim_with("a", "GC", "", &[("cni.dev/valid-attachments", valid)])?;
        ensure!(answer.ok, "{answer:?}");
        let page = lab.ask_agent("a", "endpoints")?.to_string();
        ensure!(page.contains(&kept.address.to_string()), "the listed container is gone: {page}");
        ensure!(!page.contains(&stale.address.to_string()), "the other container is still there: {page}");
        Ok(())
    })
}

#[test]
fn status_says_whether_an_add_can_be_served() -> Result<()> {
    in_lab(&one_cell(), |lab| {
        let ready = lab.shim("a", "STATUS", "", None)?;
        ensure!(ready.ok, "{ready:?}");
        lab.kill_agent("a")?;
        let away = lab.shim("a", "STATUS", "", None)?;
        ensure!(!away.ok && code_of(&away.document).is_some(), "{away:?}");
        let version = lab.shim("a", "VERSION", "", None)?;
        ensure!(version.ok && version.document["supportedVersions"].is_array(), "{version:?}");
        Ok(())
    })
}
