//! Tells aya which types may cross into the kernel as bytes. The types are `c2c-common`'s; the promise is made here,
//! because only user space needs it.
#![expect(unsafe_code, reason = "the promise that a type is plain bytes")]

use c2c_common::counter::Counter;
use c2c_common::flow::{Flow, FlowKey};
use c2c_common::layout::{Config, Endpoint, Lease, LeaseKey, PolicyKey};

/// A type of the map layout, as aya takes it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Raw<T>(pub(super) T);

// SAFETY: repr(C), nine u32, two u16, one u32: no padding, every bit pattern is a value (asserted 44 bytes).
unsafe impl aya::Pod for Raw<Config> {}
// SAFETY: repr(C), u32, u16 and byte arrays with their padding spelled out (asserted 20 bytes).
unsafe impl aya::Pod for Raw<Endpoint> {}
// SAFETY: repr(C), two u32 (asserted 8 bytes).
unsafe impl aya::Pod for Raw<LeaseKey> {}
// SAFETY: repr(C), u32 and byte arrays with their padding spelled out (asserted 12 bytes).
unsafe impl aya::Pod for Raw<Lease> {}
// SAFETY: repr(C), three u16 and two u8 (asserted 8 bytes).
unsafe impl aya::Pod for Raw<PolicyKey> {}
// SAFETY: repr(C), two u32, two u16, one u32: no padding (asserted 16 bytes).
unsafe impl aya::Pod for Raw<FlowKey> {}
// SAFETY: repr(C), two u64, u32, u16, two u8 (asserted 24 bytes).
unsafe impl aya::Pod for Raw<Flow> {}
// SAFETY: repr(C), two u64 (asserted 16 bytes).
unsafe impl aya::Pod for Raw<Counter> {}
