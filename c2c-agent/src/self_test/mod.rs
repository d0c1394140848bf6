//! The offload self-test: finds out whether the underlay device computes checksums and cuts large packets rightly when
//! they are tunnelled, by sending some to other cells, as a container's packets go, and hearing what arrived. Where it
//! does not, the kernel is told to do it instead.
//!
//! `machine` decides (time is an argument), `frame` is the packets as bytes.

pub mod frame;
pub mod machine;
