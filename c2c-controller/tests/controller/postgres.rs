//! The controller on a database: what it acknowledged is there after it was killed, and a second one is refused.

use crate::cluster::Cluster;
use crate::harness::{Foundation, Ran};

#[test]
fn a_killed_controller_finds_all_in_the_database_and_a_second_one_is_refused() {
    let mut cluster = Cluster::start();
    let url = cluster.database("net");
    let mut foundation = Foundation::new();
    let controller = foundation.start_with(&["--postgres", &url]);
    foundation.run(&["allow-access", "a", "b", "--port", "1", "--wait", "0"]).ok();
    let before = foundation.run(&["list-access", "--json"]).json();
    let mut second = foundation.serve_command();
    let refused = Ran::from(second.args(["--listen", "127.0.0.1:0", "--postgres", &url]).output().unwrap());
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    let line = "/net is in use by another process; one controller at a time may have it";
    assert!(
        refused.err.starts_with("error: the store postgresql://") && refused.err.ends_with(line),
        "{}",
        refused.err
    );

    controller.kill();
    let _controller = foundation.start_with(&["--postgres", &url]);
    assert_eq!(foundation.run(&["list-access", "--json"]).json(), before);

    cluster.crash();
    cluster.start_again();
    foundation.run(&["allow-access", "a", "c", "--port", "1", "--wait", "0"]).ok();
    assert!(!foundation.data_dir().exists(), "nothing is kept beside the database");
}
