//! The simulator, small: what it reports must be so, and nothing of it may be left.

use anyhow::Result;
use c2c_tests::process::Process;
use c2c_tests::sim::{self, Options};

#[test]
fn twenty_cells_converge_after_every_restart_and_know_what_they_must() -> Result<()> {
    let namespace = || std::fs::read_link("/proc/self/ns/net");
    let before = namespace()?;
    let report = sim::run(&Options { cells: 20, apps: 60, policies: 300, samples: 20 }, |_| {})?;
    assert_eq!((report.cells, report.apps, report.policies), (20, 60, 300));
    assert_eq!((report.policy.samples, report.policy.most_cells_concerned), (20, 4));
    assert_eq!((report.policy_everywhere.samples, report.policy_everywhere.most_cells_concerned), (20, 20));
    assert_eq!(report.first_connection.snapshots, 20);
    assert_eq!(report.restart_resumed.snapshots, 0, "who resumes needs no snapshot");
    assert_eq!(report.restart_forgotten.snapshots, 20);
    assert!(report.policies_verified > 300 + 20 * 21, "{report:?}");
    let memory = &report.controller_memory;
    assert!(memory.loaded_mib > 1.0 && memory.peak_mib >= memory.connected_mib, "{memory:?}");
    assert!(report.to_string().lines().all(|line| line.len() < 120), "{report}");

    assert_eq!(namespace()?, before);
    let ours = |words: &[String]| words.iter().any(|word| word.contains("/c2c-sim-"));
    assert_eq!(Process::all_that(ours)?, []);
    Ok(())
}
