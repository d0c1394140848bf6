//! The lab by hand: up and down in every order, what an outside program reads of it, and what happens when whoever
//! started it dies.

use anyhow::{Context, Result, ensure};
use c2c_tests::lab::{Lab, Options, Place, command};
use c2c_tests::process::Process;
use c2c_tests::wait;
use serde_json::Value;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A directory for a lab, which is taken down with it.
struct Bench {
    place: Place,
    _directory: TempDir,
}

impl Bench {
    fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("c2c-").tempdir()?;
        Ok(Self { place: Place::at(&directory.path().join("lab"))?, _directory: directory })
    }

    /// `c2c-lab` in this directory.
    fn lab(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = command("c2c-lab")?;
        command.arg("--dir").arg(self.place.directory()).args(arguments).stdin(Stdio::null());
        command.output().context("cannot start c2c-lab")
    }

    /// As [`Bench::lab`], and it has to succeed; gives what it printed.
    fn lab_does(&self, arguments: &[&str]) -> Result<String> {
        let output = self.lab(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Err(error) = Lab::down(&self.place) {
            eprintln!("{error:#}");
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn mounts_below(directory: &Path) -> Result<bool> {
    Ok(std::fs::read_to_string("/proc/mounts")?.contains(directory.to_str().context("not text")?))
}

#[test]
fn up_and_down_do_what_they_say_however_often() -> Result<()> {
    let bench = Bench::new()?;
    ensure!(bench.lab_does(&["down"])?.contains("no lab is up"));
    ensure!(said(&bench.lab(&["status"])?).contains("no lab is up"));
    bench.lab_does(&["up"])?;
    let first = std::fs::read(bench.place.description_file())?;
    bench.lab_does(&["up"])?;
    ensure!(first == std::fs::read(bench.place.description_file())?, "a second up changed the lab");
    ensure!(said(&bench.lab(&["up", "--cells", "3"])?).contains("up already"));
    bench.lab_does(&["down"])?;
    ensure!(!bench.place.directory().exists() && bench.place.namespaces()?.is_empty());
    ensure!(!mounts_below(bench.place.directory())?);
    ensure!(bench.lab_does(&["down"])?.contains("no lab is up"));
    Ok(())
}

#[test]
fn an_outside_program_can_use_the_lab_through_its_description() -> Result<()> {
    let bench = Bench::new()?;
    bench.lab_does(&["up", "--cells", "3"])?;
    let lab: Value = serde_json::from_slice(&std::fs::read(bench.place.description_file())?)?;
    let cells = lab["cells"].as_array().context("no cells")?;
    ensure!(cells.len() == 3);
    for cell in cells {
        for path in ["agent_socket", "cni_config_dir", "plugin_dir", "pin_dir", "state_dir"] {
            let path = cell[path].as_str().with_context(|| format!("{path} is missing"))?;
            ensure!(Path::new(path).exists(), "{path} does not exist");
        }
        let process: Process = serde_json::from_value(cell["process"].clone())?;
        ensure!(process.is_alive());
        let namespace = cell["namespace"].as_str().context("no namespace")?;
        ensure!(Path::new("/run/netns").join(namespace).exists());
        ensure!(cell["underlay_address"].is_string() && cell["metrics_address"].is_string());
    }
    for file in ["ca", "certificate", "key"] {
        let file = lab["controller"][file].as_str().with_context(|| format!("{file} is missing"))?;
        ensure!(Path::new(file).is_file(), "{file} does not exist");
    }
    Ok(())
}

#[test]
fn containers_come_and_go_by_hand() -> Result<()> {
    let bench = Bench::new()?;
    bench.lab_does(&["up"])?;
    let added = bench.lab_does(&["add", "a", "web", "--app", "frontend"])?;
    let address =
        added.split_whitespace().find(|word| word.starts_with("10.255.")).context("no address")?.to_owned();
    ensure!(said(&bench.lab(&["add", "a", "web", "--app", "frontend"])?).contains("web"));
    ensure!(
        said(&bench.lab(&["add", "z", "other", "--app", "frontend"])?).contains("no cell is called \"z\"")
    );
    let status = bench.lab_does(&["status"])?;
    ensure!(status.contains("web") && status.contains(&address), "{status}");
    let inside = bench.lab_does(&["exec", "web", "--", "ip", "-4", "-oneline", "address", "show", "eth0"])?;
    ensure!(inside.contains(&address), "{inside}");
    ensure!(bench.lab(&["exec", "web", "--", "sh", "-c", "exit 7"])?.status.code() == Some(7));
    ensure!(said(&bench.lab(&["exec", "nobody", "--", "true"])?).contains("nobody"));
    let policy = [
        "exec",
        "controller",
        "--",
        "c2c-controller",
        "allow-access",
        "frontend",
        "backend",
        "--port",
        "7000",
    ];
    bench.lab_does(&[&policy[..], &["--protocol", "tcp"]].concat())?;
    ensure!(bench.lab_does(&["exec", "controller", "--", "c2c-controller", "list-access"])?.contains("7000"));
    ensure!(bench.lab_does(&["exec", "cell-a", "--", "c2c-agent", "endpoints"])?.contains("web"));
    bench.lab_does(&["remove", "web"])?;
    ensure!(said(&bench.lab(&["remove", "web"])?).contains("no container is called \"web\""));
    ensure!(!bench.lab_does(&["status"])?.contains("web"));
    Ok(())
}

#[test]
fn a_container_is_given_by_hand_what_cf_gives_it() -> Result<()> {
    let bench = Bench::new()?;
    bench.lab_does(&["up", "--cells", "1"])?;
    let words = ["add", "a", "shop", "--app", "shop", "--space", "store", "--workload", "task"];
    let more =
        ["--port", "8080", "--port", "61500:2222", "--rule", "{\"protocol\":2}", "--bandwidth", "100000"];
    let said_by_add = bench.lab_does(&[&words[..], &more[..]].concat())?;
    ensure!(said_by_add.contains("port 61500 of cell a leads to its port 2222"), "{said_by_add}");
    let status = bench.lab_does(&["status"])?;
    for shown in ["outside  192.0.2.254", "far  198.51.100.2", "→ 8080", "port 61500 → 2222"] {
        ensure!(status.contains(shown), "{shown} is not in {status}");
    }
    for (name, address) in [("outside", "192.0.2.254"), ("far", "198.51.100.2")] {
        let inside = bench.lab_does(&["exec", name, "--", "ip", "-4", "address", "show", "eth0"])?;
        ensure!(inside.contains(address), "{inside}");
    }
    let lab: Value = serde_json::from_slice(&std::fs::read(bench.place.description_file())?)?;
    let record = Path::new(lab["containers"].as_str().context("no containers")?).join("shop.json");
    let record: Value = serde_json::from_slice(&std::fs::read(record)?)?;
    ensure!(record["ports"][1]["host_port"] == 61_500, "{record}");
    for wrong in [["--port", "many"], ["--port", "1:2:3"], ["--rule", "nonsense"]] {
        let refused = bench.lab(&[&["add", "a", "other", "--app", "shop"], &wrong[..]].concat())?;
        ensure!(!refused.status.success() && said(&refused).contains(wrong[1]), "{refused:?}");
    }
    ensure!(!bench.lab_does(&["status"])?.contains("other"));
    Ok(())
}

#[test]
fn what_a_crash_leaves_is_cleared_by_down_and_by_up() -> Result<()> {
    let bench = Bench::new()?;
    let lab = Lab::up(bench.place.clone(), &Options::default())?;
    lab.kill_controller()?;
    lab.kill_agent("a")?;
    ensure!(said(&bench.lab(&["up"])?).contains("does not run"));
    // The machine stopped before the description was written.
    std::fs::remove_file(bench.place.description_file())?;
    bench.lab_does(&["up"])?;
    ensure!(bench.lab_does(&["status"])?.matches("stream live").count() == 2);
    bench.lab_does(&["down"])?;
    ensure!(bench.place.namespaces()?.is_empty() && !bench.place.directory().exists());
    Ok(())
}

#[test]
fn an_up_that_is_killed_halfway_is_cleared_by_down() -> Result<()> {
    for delay in [50, 200, 500] {
        let bench = Bench::new()?;
        let mut command = command("c2c-lab")?;
        command
            .arg("--dir")
            .arg(bench.place.directory())
            .arg("up")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut up = command.spawn()?;
        // Not a wait for anything: the kill shall come at different moments.
        std::thread::sleep(Duration::from_millis(delay));
        up.kill()?;
        up.wait()?;
        bench.lab_does(&["down"])?;
        ensure!(bench.place.namespaces()?.is_empty() && !bench.place.directory().exists());
        ensure!(!mounts_below(bench.place.directory())?);
    }
    Ok(())
}

#[test]
fn two_labs_at_once_do_not_meet() -> Result<()> {
    let (one, two) = (Bench::new()?, Bench::new()?);
    one.lab_does(&["up", "--cells", "1"])?;
    two.lab_does(&["up", "--cells", "1"])?;
    one.lab_does(&["down"])?;
    ensure!(two.lab_does(&["status"])?.contains("stream live"));
    two.lab_does(&["add", "a", "web", "--app", "frontend"]).map(drop)
}

#[test]
fn a_lab_goes_away_with_the_program_that_was_killed() -> Result<()> {
    // The guard's standard input is held by this test; its end is what the death of the lab's owner looks like.
    let bench = Bench::new()?;
    Lab::up(bench.place.clone(), &Options { cells: 1, ..Options::default() })?;
    let mut command = command("c2c-lab")?;
    command.arg("--dir").arg(bench.place.directory()).arg("guard").stdin(Stdio::piped());
    let mut guard = command.spawn()?;
    drop(guard.stdin.take());
    ensure!(guard.wait()?.success());
    wait::until_true("the lab to be gone", || Ok(!bench.place.is_used()?))
}
