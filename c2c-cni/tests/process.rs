//! The plugin as a process: what only shows there.

use serde_json::Value;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn version_does_not_wait_for_stdin() {
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_c2c-cni"))
        .env_clear()
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(started.elapsed() < Duration::from_secs(5), "it waited for {stdin:?}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["cniVersion"], "1.1.0");
}

#[test]
fn an_error_is_one_document_on_stdout_and_a_line_on_stderr() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_c2c-cni")).env_clear().stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let document: Value = serde_json::from_slice(&output.stdout).expect("exactly one document");
    assert_eq!(document["code"], 4);
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(log, "c2c-cni: required env variables [CNI_COMMAND] missing\n");
}
