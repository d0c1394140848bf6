//! The doors for fuzzers: each reads bytes as a runtime's input and says whether the agent would have been asked. The targets
//! in `fuzz/` call these, and the tests here read their seeds. Built for those alone.

use crate::{Agent, run, run_garden};
use c2c_proto::agent_api::Request;
use c2c_proto::agent_socket::CallError;
use serde_json::Value;
use std::cell::Cell;
use std::io::Cursor;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

/// A network configuration. The command is STATUS: it reads all of it and touches no file.
pub fn cni(data: &[u8]) -> bool {
    let agent = Listening::default();
    let environment = |name: &str| match name {
        "CNI_COMMAND" => Some("STATUS".to_owned()),
        "CNI_PATH" => Some("/opt/cni/bin".to_owned()),
        _ => None,
    };
    let outcome = run(&environment, Box::new(Cursor::new(data.to_vec())), &agent);
    let said = outcome.stdout.is_none_or(|text| serde_json::from_str::<Value>(&text).is_ok());
    assert!(said, "a document is JSON");
    agent.asked.get()
}

/// What Garden writes for actions that touch no file.
pub fn garden(data: &[u8]) -> bool {
    let agent = Listening::default();
    for action in ["net-in", "net-out", "bulk-net-out"] {
        let arguments = ["--action", action, "--handle", "h"].map(str::to_owned);
        let outcome = run_garden(&arguments, Box::new(Cursor::new(data.to_vec())), &mut Vec::new(), &agent);
        assert!(outcome.log.iter().all(|line| !line.contains('\n')), "{:?}", outcome.log);
    }
    agent.asked.get()
}

/// An agent that says yes to all.
#[derive(Debug, Default)]
struct Listening {
    asked: Cell<bool>,
}

impl Agent for Listening {
    fn ask(&self, _: &Path, _: Duration, _: &Request, _: Option<BorrowedFd<'_>>) -> Result<Value, CallError> {
        self.asked.set(true);
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Target = fn(&[u8]) -> bool;

    /// One seed at least is what the target reads, and every one is read without harm.
    #[test]
    fn fuzz_targets_read_their_seeds() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let targets: [(&str, Target); 2] = [("cni", cni), ("garden", garden)];
        for (name, target) in targets {
            assert!(fuzz.join("fuzz_targets").join(format!("{name}.rs")).exists(), "{name}");
            let seeds = std::fs::read_dir(fuzz.join("seeds").join(name)).unwrap();
            let seeds: Vec<_> = seeds.map(|seed| std::fs::read(seed.unwrap().path()).unwrap()).collect();
            assert!(seeds.iter().filter(|seed| target(seed)).count() > 0, "{name}");
        }
    }
}
