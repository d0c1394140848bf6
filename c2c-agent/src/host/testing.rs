//! Namespaces for tests. They have no name and end with their last descriptor, so nothing is left even when a test
//! panics, and the machine's own interfaces are never in reach.

use super::Netns;
use nix::sched::{CloneFlags, unshare};
use std::thread;

/// A new, empty network namespace.
pub(crate) fn namespace() -> Netns {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace; these tests need root");
        Netns::current().unwrap()
    })
    .join()
    .unwrap()
}
