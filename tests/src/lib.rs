//! The harness: network namespaces, a lab of real cells in them, traffic through it, and what can be observed of it.
//!
//! The `c2c-lab` binary, the demo and the system tests (`tests/`) share all of it. Nothing here knows how the fabric
//! does its work: daemons are started as an operator starts them and asked through their own commands.

pub mod bench;
pub mod cast;
pub mod demo;
pub mod lab;
pub mod netns;
pub mod observe;
pub mod process;
pub mod sim;
pub mod traffic;
pub mod wait;
