//! The programs, one packet at a time: `BPF_PROG_TEST_RUN` over the very object that ships. Every row says what goes
//! in, what the maps hold, what must be answered, which counter must move (and that no other does), and what comes out;
//! outgoing packets are read by a parser of another hand (etherparse), which also computes their checksums anew.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what is wrong by failing"
)]

mod from_container;
mod from_underlay;
mod full;
mod machine;
mod model;
mod outside;
mod packets;
mod self_test;
mod successor;
mod to_container;
mod xdp_underlay;
