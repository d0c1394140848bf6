//! Controllers on a database: what one acknowledged is there after it was killed, and another one knows it at once.

use crate::cluster::Cluster;
use crate::harness::{Foundation, page, readiness_becomes};
use c2c_proto::v1;
use std::time::Duration;

#[test]
fn a_killed_controller_finds_all_in_the_database_and_another_one_has_it_at_once() {
    let mut cluster = Cluster::start();
    let url = cluster.database("net");
    let mut foundation = Foundation::new();
    let controller = foundation.start_with(&["--postgres", &url]);
    foundation.run(&["allow-access", "a", "b", "--port", "1", "--wait", "0"]).ok();
    let before = foundation.run(&["list-access", "--json"]).json();
    foundation.is_at(0);
    let other = foundation.start_with(&["--postgres", &url]);
    assert_eq!(foundation.run(&["list-access", "--json"]).json(), before, "of the other one, at once");
    other.kill();
    controller.kill();
    let _controller = foundation.start_with(&["--postgres", &url]);
    assert_eq!(foundation.run(&["list-access", "--json"]).json(), before);

    cluster.crash();
    cluster.start_again();
    foundation.run(&["allow-access", "a", "c", "--port", "1", "--wait", "0"]).ok();
    assert!(!foundation.data_dir().exists(), "nothing is kept beside the database");
}

/// Policies until one is not answered.
async fn until_a_commit_hangs(foundation: &Foundation) {
    let mut operator = foundation.operator();
    for port in 1_u16.. {
        let (source_app, destination_app) = ("a".to_owned(), "b".to_owned());
        let (protocol, ports) = ("tcp".to_owned(), port.to_string());
        let access = v1::AccessRequest { source_app, destination_app, protocol, ports, wait_milliseconds: 0 };
        match tokio::time::timeout(Duration::from_secs(1), operator.allow_access(access)).await {
            Ok(allowed) => drop(allowed.unwrap()),
            Err(_) => return,
        }
    }
}

#[test]
fn a_controller_whose_database_does_not_answer_says_so_and_stops_when_it_is_told_to() {
    let cluster = Cluster::start();
    let mut foundation = Foundation::new();
    let controller = foundation.start_with(&["--postgres", &cluster.database("net")]);
    let mut client = cluster.client();
    // Once the server has read that, a commit waits for a standby that does not come.
    client.execute("ALTER SYSTEM SET synchronous_standby_names = 'away'", &[]).unwrap();
    client.execute("SELECT pg_reload_conf()", &[]).unwrap();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        until_a_commit_hangs(&foundation).await;
        readiness_becomes(controller.pages, "503", "the store has not answered for").await;
        assert!(page(controller.pages, "/metrics").await.contains("c2c_controller_policies "));
    });
    assert!(controller.terminate().success());
}
