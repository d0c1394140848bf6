//! Tells aya which types may cross into the kernel as bytes. The types are `c2c-common`'s; the promise is made here,
//! because only user space needs it.
#![expect(unsafe_code, reason = "the promise that a type is plain bytes")]

use c2c_common::counter::Counter;
use c2c_common::flow::{Flow, FlowKey};
use c2c_common::layout::{
    Config, Connections, EgressAddress, EgressClass, EgressPorts, EgressPortsKey, Endpoint, Lease, LeaseKey,
    MappedKey, Mapping, PolicyKey, RateKey, ServiceKey,
};
use c2c_common::outside::Translation;

/// A type of the map layout, as aya takes it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Raw<T>(pub(super) T);

// SAFETY: repr(C), u32 and pairs of u16: no padding, every bit pattern is a value (asserted 64 bytes).
unsafe impl aya::Pod for Raw<Config> {}
// SAFETY: repr(C), u32, u16 and byte arrays with their padding spelled out (asserted 24 bytes).
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
// SAFETY: repr(C), u32 and two u16, aligned to its size of 8 bytes (asserted).
unsafe impl aya::Pod for Raw<Mapping> {}
// SAFETY: repr(C), u32 and two u16 (asserted 8 bytes).
unsafe impl aya::Pod for Raw<MappedKey> {}
// SAFETY: repr(C), two u32 (asserted 8 bytes).
unsafe impl aya::Pod for Raw<EgressAddress> {}
// SAFETY: repr(C), two u32 (asserted 8 bytes).
unsafe impl aya::Pod for Raw<EgressClass> {}
// SAFETY: repr(C), u32, u16 and two u8 (asserted 8 bytes).
unsafe impl aya::Pod for Raw<EgressPortsKey> {}
// SAFETY: repr(C), two u64 (asserted 16 bytes).
unsafe impl aya::Pod for Raw<EgressPorts> {}
// SAFETY: repr(C), a flow, two u32, u16 and its padding spelled out (asserted 40 bytes).
unsafe impl aya::Pod for Raw<Translation> {}
// SAFETY: repr(C), two u64 (asserted 16 bytes).
unsafe impl aya::Pod for Raw<Connections> {}
// SAFETY: repr(C), two u32 and two u16 (asserted 12 bytes).
unsafe impl aya::Pod for Raw<RateKey> {}
// SAFETY: repr(C), u32 and two u16 (asserted 8 bytes).
unsafe impl aya::Pod for Raw<ServiceKey> {}
