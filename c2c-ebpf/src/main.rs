//! The programs: where each packet enters, and what becomes of it. Every entry point is one match from a verdict to an
//! action; the steps behind it are in the module of the program's name, and read top to bottom.
//!
//! All memory, maps and helpers are reached through [`kernel`], the only room with `unsafe` in it. The decisions are
//! pure functions of `c2c-common`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![deny(unsafe_code)]

mod account;
mod deliver;
mod flows;
mod from_container;
mod from_outside;
mod from_underlay;
mod headers;
#[expect(unsafe_code, reason = "the one door to packet memory, maps and helpers")]
mod kernel;
mod masquerade;
mod outside;
mod refuse;
mod self_test;
mod to_container;
mod to_outside;
mod to_this_cell;
mod translate;
mod xdp_underlay;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use c2c_common::counter::{Hook, Outcome};

use crate::account::Account;
use crate::headers::Headers;
use crate::kernel::action::{NEXT, XDP_DROP, XDP_PASS};
use crate::kernel::packet::zeroed;

/// What becomes of a packet.
#[must_use]
enum Verdict {
    /// Not of the overlay: as if the program were not there. Not counted.
    NotOurs,
    /// Counted, then the action that delivers it. With the outcome of a drop it is delivered as the end of its flow.
    Deliver(Outcome, i32),
    /// Counted, then silence.
    Drop(Outcome),
    /// Counted, then the sender is told.
    Refuse(Outcome),
    /// Refused and counted before; now the sender is told.
    Answer,
}

impl Verdict {
    /// A drop with or without an answer, as the outcome asks for.
    #[inline(always)]
    fn refuse_if_audible(outcome: Outcome) -> Self {
        if outcome.is_audible() { Self::Refuse(outcome) } else { Self::Drop(outcome) }
    }

    /// The delivery of a packet that was made the end of its flow.
    #[inline(always)]
    fn into_end(self, outcome: Outcome) -> Self {
        match self {
            Self::Deliver(_, action) => Self::Deliver(outcome, action),
            failed => failed,
        }
    }
}

/// TC ingress of an endpoint's host device: what the container sends.
#[classifier]
pub fn from_container(ctx: TcContext) -> i32 {
    let account = Account::of(&ctx, Hook::FromContainer);
    let mut headers = zeroed::<Headers>();
    match from_container::run(&ctx, &mut headers) {
        Verdict::NotOurs => NEXT,
        Verdict::Deliver(outcome, action) => account.deliver(&ctx, outcome, &headers, action),
        Verdict::Drop(outcome) => account.drop(&ctx, outcome, &headers),
        Verdict::Refuse(outcome) => {
            account.drop(&ctx, outcome, &headers);
            match outcome {
                Outcome::TooBig => refuse::too_big(&ctx, &account, &headers),
                _ => refuse::to_container(&ctx, &account, &headers),
            }
        }
        Verdict::Answer => NEXT,
    }
}

/// TC ingress of the underlay device (and of the kernel's VXLAN device, for what the kernel had to reassemble).
#[classifier]
pub fn from_underlay(ctx: TcContext) -> i32 {
    let account = Account::of(&ctx, Hook::FromUnderlay);
    let mut headers = zeroed::<Headers>();
    match from_underlay::run(&ctx, &mut headers) {
        Verdict::NotOurs => NEXT,
        Verdict::Deliver(outcome, action) => account.deliver(&ctx, outcome, &headers, action),
        Verdict::Drop(outcome) => account.drop(&ctx, outcome, &headers),
        Verdict::Refuse(outcome) => {
            account.drop(&ctx, outcome, &headers);
            refuse::by_kernel(&ctx, &account, &headers)
        }
        Verdict::Answer => refuse::to_cell(&ctx, &account, &headers),
    }
}

/// TC egress of an endpoint's host device: what the cell itself sends to the container. Packets between containers
/// never come this way; they are redirected to the container's own device.
#[classifier]
pub fn to_container(ctx: TcContext) -> i32 {
    let account = Account::of(&ctx, Hook::ToContainer);
    let mut headers = zeroed::<Headers>();
    match to_container::run(&ctx, &mut headers) {
        Verdict::NotOurs => NEXT,
        Verdict::Deliver(outcome, action) => account.deliver(&ctx, outcome, &headers, action),
        Verdict::Drop(outcome) | Verdict::Refuse(outcome) => account.drop(&ctx, outcome, &headers),
        Verdict::Answer => NEXT,
    }
}

/// TC ingress of the agent's own device while it tests what the underlay device does to tunnelled packets.
#[classifier]
pub fn self_test(ctx: TcContext) -> i32 {
    let mut headers = zeroed::<Headers>();
    self_test::run(&ctx, &mut headers).unwrap_or(kernel::action::DROP)
}

/// XDP of the underlay device: a cheap shield before an skb exists.
#[xdp]
pub fn xdp_underlay(ctx: XdpContext) -> u32 {
    match xdp_underlay::run(&ctx) {
        None => XDP_PASS,
        Some(outcome) => {
            let len = (ctx.data_end() - ctx.data()) as u64;
            kernel::maps::count(Hook::XdpUnderlay, outcome, 1, len);
            XDP_DROP
        }
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never `unreachable_unchecked`: the build fails when a path to this function is left in the object.
    loop {}
}
