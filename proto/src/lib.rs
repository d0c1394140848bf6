//! The contracts between the parts.
//!
//! `v1` is generated from `c2c/v1/*.proto`; `tls` is the transport those are spoken over; `agent_api` is the JSON that
//! the CNI shim and the CLI speak with the agent over its Unix socket; `egress` reads the rules that several of these
//! carry; `pages` is what every daemon says about itself over HTTP. No behaviour of either side lives here.

pub mod agent_api;
pub mod agent_socket;
pub mod egress;
#[cfg(feature = "pages")]
pub mod pages;
#[cfg(feature = "grpc")]
pub mod tls;

/// A client accepts messages up to this size, in bytes; tonic's own limit of 4 MB is too small for the world of a large
/// foundation. A snapshot is at most some 100 bytes for each policy that concerns the cell, 600 with the longest names.
pub const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Generated from `c2c/v1/fabric.proto` and `c2c/v1/operator.proto`.
#[cfg(feature = "grpc")]
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("c2c.v1");
}
