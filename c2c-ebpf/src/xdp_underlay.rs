//! The shield: tunnel packets that no policy could ever let in are dropped before the kernel spends an skb on them.
//! It never decides about anything that is not our tunnel's, and never lets in: `from_underlay` looks at all that passes.

use aya_ebpf::programs::XdpContext;
use c2c_common::counter::Outcome;
use c2c_common::layout::Config;
use c2c_common::self_test;
use c2c_common::wire::VXLAN_FLAG_VNI;

use crate::headers::is_tunnel;
use crate::kernel::maps;
use crate::kernel::packet::Frame;

/// The program. `Some` is a drop.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> Option<Outcome> {
    let config = maps::config()?;
    if !is_tunnel(ctx, config.underlay_addr, config.udp_port)? {
        return None;
    }
    Some(shield(ctx, config).unwrap_or(Err(Outcome::Malformed))).and_then(Result::err)
}

/// `None` when the frame ends too soon.
#[inline(always)]
fn shield(ctx: &XdpContext, config: &Config) -> Option<Result<(), Outcome>> {
    const OUTER_SOURCE: usize = 26;
    const VXLAN: usize = 42;
    const INNER_SOURCE: usize = 64 + 12;
    if ctx.read::<u8>(VXLAN)? & VXLAN_FLAG_VNI == 0 {
        return Some(Err(Outcome::Malformed));
    }
    let vni = u32::from_be(ctx.read::<u32>(VXLAN + 4)?) >> 8;
    if vni != config.vni && vni != self_test::vni(config.vni) {
        return Some(Err(Outcome::WrongVni));
    }
    ctx.read::<u32>(INNER_SOURCE)?;
    let known = maps::is_cell(ctx.read::<u32>(OUTER_SOURCE)?);
    Some(if known { Ok(()) } else { Err(Outcome::UnknownCell) })
}
