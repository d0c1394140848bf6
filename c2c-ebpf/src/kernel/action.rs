//! What a program may answer.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};

/// TC: let the next program decide (TCX_NEXT; for a clsact filter, continue). Never TC_ACT_OK, which would keep other
/// programs on the device from seeing the packet.
pub const NEXT: i32 = TC_ACT_UNSPEC;
/// TC: drop.
pub const DROP: i32 = TC_ACT_SHOT;
/// XDP: on to the stack.
pub const XDP_PASS: u32 = xdp_action::XDP_PASS;
/// XDP: drop.
pub const XDP_DROP: u32 = xdp_action::XDP_DROP;

/// The license that the kernel is told. None of the helpers in use is reserved for GPL programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
