//! Controllers on a database: what one acknowledged is there after it was killed, and another one knows it at once.

use crate::cluster::Cluster;
use crate::harness::Foundation;

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
