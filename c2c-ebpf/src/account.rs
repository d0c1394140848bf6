//! Counting and tracing what became of a packet. Tracing is aya-log's: the level is a constant that the agent sets when
//! it loads the programs, so that with tracing off the verifier removes the code.

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::info;
use aya_log_ebpf::macro_support::{Level, level_enabled};
use c2c_common::addr::Addr;
use c2c_common::counter::{Hook, Outcome};

use crate::headers::Headers;
use crate::kernel::{action::DROP, maps, skb};

/// A packet as it came in. Small numbers: this is on the stack of every program, below which there must be room.
pub struct Account {
    hook: Hook,
    packets: u16,
    bytes: u32,
}

impl Account {
    /// Takes the packet's measure before anything is changed.
    #[inline(always)]
    pub fn of(ctx: &TcContext, hook: Hook) -> Self {
        Self { hook, packets: skb::segments(ctx), bytes: ctx.len() }
    }

    /// Counts a delivery and answers with its action. The end of a flow is delivered, and is a drop all the same.
    #[inline(always)]
    pub fn deliver(&self, ctx: &TcContext, outcome: Outcome, h: &Headers, action: i32) -> i32 {
        maps::count(self.hook, outcome, self.packets as u64, self.bytes as u64);
        if level_enabled(Level::Debug) || (outcome.is_drop() && level_enabled(Level::Info)) {
            tell(ctx, self.hook, outcome, &{ *h });
        }
        action
    }

    /// Counts a drop and answers with it.
    #[inline(always)]
    pub fn drop(&self, ctx: &TcContext, outcome: Outcome, h: &Headers) -> i32 {
        maps::count(self.hook, outcome, self.packets as u64, self.bytes as u64);
        if level_enabled(Level::Info) {
            tell(ctx, self.hook, outcome, &{ *h });
        }
        DROP
    }

    /// Counts what is neither a delivery nor a drop: an answer sent or kept back.
    #[inline(always)]
    pub fn note(&self, outcome: Outcome) {
        maps::count(self.hook, outcome, 1, 0);
    }
}

/// Hook and outcome go as numbers, which the agent names: text of changing length costs the verifier more states than
/// Linux 6.1 has. The headers come as a copy, or the packet path would have to keep them in memory instead of registers.
#[inline(never)]
fn tell(ctx: &TcContext, hook: Hook, outcome: Outcome, h: &Headers) {
    info!(
        ctx,
        "{} {} {:i}:{} > {:i}:{} protocol {}",
        hook as u8,
        outcome as u8,
        host(h.source),
        u16::from_be(h.source_port),
        host(h.destination),
        u16::from_be(h.destination_port),
        h.protocol
    );
}

/// aya-log prints addresses from host order.
#[inline(always)]
fn host(addr: Addr) -> u32 {
    u32::from_be(addr)
}
