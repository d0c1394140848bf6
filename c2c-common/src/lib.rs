//! What kernel and user space share: the layouts of the maps, the list of drop reasons, and the pure functions that
//! both sides must agree on (ports to rows, flow tracking, checksums). `no_std`, no allocation, no panic, `core` only.
//!
//! It does not hold anything that touches a packet's memory or a map (that is `c2c-ebpf`), nor how user space gets
//! these bytes into the kernel (that is `c2c-agent`'s datapath room).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod addr;
pub mod bucket;
pub mod checksum;
pub mod counter;
pub mod egress;
pub mod flow;
pub mod layout;
pub mod options;
pub mod outside;
pub mod ports;
pub mod refusal;
pub mod self_test;
pub mod track;
pub mod wire;
