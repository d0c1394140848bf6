//! What leaves by a container's host device: the cell's own packets, and those that the other programs send through its
//! queue. A packet that the cell's stack forwards there came around the other programs and is dropped.

use aya_ebpf::programs::TcContext;
use c2c_common::counter::{Hook, Outcome};
use c2c_common::wire::ETH_LEN;

use crate::Verdict;
use crate::deliver::DELIVERED_MARK;
use crate::flows;
use crate::headers::Headers;
use crate::kernel::{action::NEXT, skb};

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext, h: &mut Headers) -> Verdict {
    if skb::mark(ctx) == DELIVERED_MARK {
        return Verdict::NotOurs;
    }
    if skb::ingress_ifindex(ctx) != 0 {
        return Verdict::Drop(Outcome::NotFromCell);
    }
    if let Err(outcome) = h.read(ctx, ETH_LEN) {
        return Verdict::Drop(outcome);
    }
    flows::keep_from_cell(Hook::ToContainer, h);
    Verdict::Deliver(Outcome::ToEndpoint, NEXT)
}
