//! A disk that is full: writes are refused and say why, reads and streams go on, and so do writes when there is room again.
//! The disk is a small tmpfs in a mount namespace of the test's own thread, which the programs that it starts are in, too.

use crate::cluster::Cluster;
use crate::harness::{Foundation, PATIENCE, hello, readiness_becomes};
use c2c_proto::v1;
use c2c_proto::v1::agent_message::Message as ToController;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::io::Write;
use std::path::Path;
use std::time::Instant;
use tonic::Status;

/// Small, so that it is soon full.
fn mount_small_disk(at: &Path, megabytes: u32) {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).expect("the tests run as root");
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
    let size = format!("size={megabytes}m,mode=0755");
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
}

fn fill(file: &Path) {
    let mut file = std::fs::File::create(file).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

async fn allow(foundation: &Foundation, port: u16) -> Result<u64, Status> {
    let [source_app, destination_app] = ["a".to_owned(), "x".repeat(250)];
    let (protocol, ports) = ("tcp".to_owned(), port.to_string());
    let access = v1::AccessRequest { source_app, destination_app, protocol, ports, wait_milliseconds: 0 };
    Ok(foundation.operator().allow_access(access).await?.into_inner().revision)
}

/// `flags` say where the store is, and `ballast` is a file on its disk.
async fn writes_are_refused_and_all_else_goes_on(mut foundation: Foundation, flags: &[&str], ballast: &Path) {
    let mut controller = foundation.start_with(flags);
    let mut agent = foundation.connect(1, hello(1, &["a"])).await;
    agent.grant().await;
    agent.snapshot().await;
    let mut revision = allow(&foundation, 1).await.unwrap();
    agent.delta_to(revision).await;

    fill(ballast);
    // What the store has already taken from the disk may be used up first.
    let mut ports = 2..2000;
    let refused = loop {
        match allow(&foundation, ports.next().expect("a full disk is noticed")).await {
            Ok(written) => revision = written,
            Err(status) => break status,
        }
    };
    let message = refused.message().to_lowercase();
    let says = message.contains("mib left, and nothing is written below")
        || message.contains("no space left on device");
    assert!(says && !message.contains('\n'), "{message}");
    let listed = foundation.run(&["list-access", "--json"]).json();
    assert_eq!(listed["revision"], revision, "what was acknowledged, and nothing of what was refused");
    agent.say(ToController::Heartbeat(v1::Heartbeat { applied_revision: revision })).await;
    if revision > 2 {
        agent.delta_to(revision).await;
    }
    agent.heartbeat_ack().await;

    let is_ours = flags.is_empty();
    if is_ours {
        readiness_becomes(controller.pages, "503", "make room there").await;
    }
    std::fs::remove_file(ballast).unwrap();
    if is_ours {
        readiness_becomes(controller.pages, "200", "ready").await;
    }
    let deadline = Instant::now() + PATIENCE;
    let written = loop {
        match allow(&foundation, 5000).await {
            Ok(written) => break written,
            Err(status) => assert!(Instant::now() < deadline, "there is room again: {status}"),
        }
    };
    assert_eq!(written, revision + 1);
    agent.delta_to(written).await;
    drop(agent);
    controller.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(controller.wait().success(), "it was never broken");
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    let foundation = Foundation::new();
    let data = foundation.data_dir();
    std::fs::create_dir(&data).unwrap();
    // The store keeps 64 MiB free.
    mount_small_disk(&data, 128);
    run(writes_are_refused_and_all_else_goes_on(foundation, &[], &data.join("ballast")));
}

#[test]
fn a_database_whose_disk_is_full_refuses_writes_and_nothing_else() {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    mount_small_disk(directory.path(), 96);
    let cluster = Cluster::start_in(directory.path());
    let url = cluster.database("net");
    let ballast = directory.path().join("ballast");
    run(writes_are_refused_and_all_else_goes_on(Foundation::new(), &["--postgres", &url], &ballast));
}
