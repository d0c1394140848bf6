//! The helpers that change, move and describe an skb, each as a safe function. Offsets and lengths are in bytes.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET,
        BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_tunnel_key,
    },
    helpers::generated as helper,
    programs::TcContext,
};
use c2c_common::wire::{ETH_LEN, OVERHEAD, OuterHeaders};

/// `BPF_ADJ_ROOM_MAC` of `enum bpf_adj_room_mode`: adjust behind the Ethernet header.
const BPF_ADJ_ROOM_MAC: u32 = 1;

/// A helper said no.
pub struct Refused;

#[inline(always)]
fn done(result: i64) -> Result<(), Refused> {
    if result == 0 { Ok(()) } else { Err(Refused) }
}

/// The same context, in a way that the compiler cannot see through. To be used at the start of a function that is not
/// inlined and reads packet memory: else the compiler passes it the packet's start and end as integers, which are no
/// pointers to the verifier.
#[inline(always)]
pub fn opaque(ctx: &TcContext) -> TcContext {
    let mut skb = ctx.skb.skb;
    // SAFETY: a register is set to what it holds. (An instruction, because a line of source without one is no line to the
    // kernel's reader of BTF.)
    unsafe { asm!("{skb} = {skb}", skb = inout(reg) skb, options(nostack, preserves_flags)) };
    TcContext::new(skb)
}

/// The same number, of which compiler and verifier forget where it came from.
#[inline(always)]
pub fn unknown(mut number: u64) -> u64 {
    // SAFETY: a register is set to what it holds.
    unsafe { asm!("{n} = {n}", n = inout(reg) number, options(pure, nomem, nostack, preserves_flags)) };
    number
}

/// Index of the device that the packet came in by (TC ingress) or leaves by (TC egress).
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for the program's run and the verifier rewrites the access.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Index of the device that the packet came into this cell by; 0 for a packet that the cell itself made.
#[inline(always)]
pub fn ingress_ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as for `ifindex`.
    unsafe { (*ctx.skb.skb).ingress_ifindex }
}

/// Whether the frame bears a VLAN tag that is kept beside its bytes, where a parser does not see it.
#[inline(always)]
pub fn has_vlan_tag(ctx: &TcContext) -> bool {
    // SAFETY: as for `ifindex`.
    unsafe { (*ctx.skb.skb).vlan_present != 0 }
}

/// The packet's mark, which stays with it inside this cell's stack.
#[inline(always)]
pub fn mark(ctx: &TcContext) -> u32 {
    // SAFETY: as for `ifindex`.
    unsafe { (*ctx.skb.skb).mark }
}

/// Sets the packet's mark.
#[inline(always)]
pub fn set_mark(ctx: &TcContext, mark: u32) {
    // SAFETY: as for `ifindex`; the mark is one of the fields that a TC program may write.
    unsafe { (*ctx.skb.skb).mark = mark };
}

/// Says that the packet is for this host, whatever its destination MAC was: `redirect_peer` keeps what the device said,
/// and the container's stack drops what is for others.
#[inline(always)]
pub fn set_for_this_host(ctx: &TcContext) {
    const PACKET_HOST: u32 = 0;
    // A refusal leaves the packet as it was; the container then ignores it.
    let _ = ctx.change_type(PACKET_HOST);
}

/// Packets that this skb stands for on the wire: more than one for a GRO or GSO aggregate.
#[inline(always)]
pub fn segments(ctx: &TcContext) -> u16 {
    // SAFETY: as for `ifindex`.
    let segments = unsafe { (*ctx.skb.skb).gso_segs };
    if segments == 0 { 1 } else { segments as u16 }
}

/// Payload bytes of each packet that an aggregate is cut into; 0 for a packet that is one already.
#[inline(always)]
pub fn gso_size(ctx: &TcContext) -> u32 {
    // SAFETY: as for `ifindex`.
    unsafe { (*ctx.skb.skb).gso_size }
}

/// The flow's hash, the same for all packets of a flow.
#[inline(always)]
pub fn flow_hash(ctx: &TcContext) -> u32 {
    // SAFETY: the helper takes any skb context.
    unsafe { helper::bpf_get_hash_recalc(ctx.skb.skb) as u32 }
}

/// A number that nobody else has, most likely.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: the helper takes nothing.
    unsafe { helper::bpf_get_prandom_u32() }
}

/// The coarse monotonic clock: as exact as a timer tick, and cheaper than the fine one.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper takes nothing.
    unsafe { helper::bpf_ktime_get_coarse_ns() }
}

/// Makes the first `len` bytes readable directly.
#[inline(always)]
pub fn pull(ctx: &TcContext, len: u32) -> Result<(), Refused> {
    ctx.pull_data(len).map_err(|_| Refused)
}

/// The same where the frame has as many bytes; nothing is done when they are readable, which is nearly always.
#[inline(always)]
pub fn pull_at_least(ctx: &TcContext, len: u32) {
    if ctx.data() + len as usize > ctx.data_end() {
        // A shorter frame is left to who reads it.
        let _short = pull(ctx, len);
    }
}

/// Overwrites bytes at `offset`.
#[inline(always)]
pub fn store<const N: usize>(ctx: &TcContext, offset: u32, bytes: &[u8; N]) -> Result<(), Refused> {
    ctx.store(offset as usize, bytes, 0).map_err(|_| Refused)
}

/// Overwrites the frame's destination and source.
#[inline(always)]
pub fn store_macs(ctx: &TcContext, macs: &[[u8; 6]; 2]) -> Result<(), Refused> {
    ctx.store(0, macs, 0).map_err(|_| Refused)
}

/// Overwrites the frame's start with a tunnel's headers.
#[inline(always)]
pub fn store_outer(ctx: &TcContext, headers: &OuterHeaders) -> Result<(), Refused> {
    ctx.store(0, &headers.0, 0).map_err(|_| Refused)
}

/// Copies bytes from `offset`, wherever in the skb they are.
#[inline(always)]
pub fn load<const N: usize>(ctx: &TcContext, offset: u32) -> Result<[u8; N], Refused> {
    let mut bytes = [0u8; N];
    // SAFETY: the buffer is `N` bytes long and outlives the call.
    let result =
        unsafe { helper::bpf_skb_load_bytes(ctx.as_ptr(), offset, bytes.as_mut_ptr().cast(), N as u32) };
    done(result).map(|()| bytes)
}

/// Copies `len` bytes from `offset` into the start of a buffer; `len` is 1 to `N`.
#[inline(always)]
pub fn load_into<const N: usize>(
    ctx: &TcContext,
    offset: u32,
    len: u32,
    bytes: &mut [u8; N],
) -> Result<(), Refused> {
    if len == 0 || len > N as u32 {
        return Err(Refused);
    }
    // SAFETY: the buffer is at least `len` bytes long and outlives the call.
    done(unsafe { helper::bpf_skb_load_bytes(ctx.as_ptr(), offset, bytes.as_mut_ptr().cast(), len) })
}

/// Which field of a packet is changed, for its checksum.
#[derive(Clone, Copy)]
pub enum Field {
    /// One that only the checksum's own header holds.
    Own,
    /// An address, which TCP and UDP count in without holding it.
    Pseudo,
}

/// Makes the checksum at `offset` of a transport header right for a field that was `from` and is `to`, `size` bytes of
/// it (2 or 4). `zero_is_none` for UDP: a packet without a checksum stays so.
#[inline(always)]
pub fn fix_checksum(
    ctx: &TcContext,
    offset: u32,
    (from, to): (u32, u32),
    size: u64,
    field: Field,
    zero_is_none: bool,
) -> Result<(), Refused> {
    let pseudo = if matches!(field, Field::Pseudo) { BPF_F_PSEUDO_HDR as u64 } else { 0 };
    let zero = if zero_is_none { BPF_F_MARK_MANGLED_0 as u64 } else { 0 };
    // SAFETY: the helper takes any skb context; pointers into the packet are read anew after it.
    done(unsafe {
        helper::bpf_l4_csum_replace(ctx.skb.skb, offset, from as u64, to as u64, size | pseudo | zero)
    })
}

/// Makes an IPv4 header's checksum, at `offset`, right for a field that was `from` and is `to`.
#[inline(always)]
pub fn fix_ipv4_checksum(
    ctx: &TcContext,
    offset: u32,
    (from, to): (u32, u32),
    size: u64,
) -> Result<(), Refused> {
    // SAFETY: as for `fix_checksum`.
    done(unsafe { helper::bpf_l3_csum_replace(ctx.skb.skb, offset, from as u64, to as u64, size) })
}

/// Makes room for the outer headers behind the Ethernet header and marks the packet as a UDP tunnel's, so that device
/// or stack can cut an aggregate into tunnelled segments. The room is to be filled by [`store`].
#[inline(always)]
pub fn grow_for_tunnel(ctx: &TcContext) -> Result<(), Refused> {
    const INNER_MAC_LEN_SHIFT: u32 = 56;
    let flags = (BPF_F_ADJ_ROOM_FIXED_GSO
        | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
        | BPF_F_ADJ_ROOM_ENCAP_L2_ETH) as u64
        | (ETH_LEN as u64) << INNER_MAC_LEN_SHIFT;
    ctx.adjust_room(OVERHEAD as i32, BPF_ADJ_ROOM_MAC, flags).map_err(|_| Refused)
}

/// Takes the outer headers away, keeping what is known of the inner checksum: the level of verified checksums goes down
/// by the outer one, as the kernel's own tunnel receiver does it (`__skb_checksum_validate_needed`).
#[inline(always)]
pub fn shrink_from_tunnel(ctx: &TcContext) -> Result<(), Refused> {
    let flags = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;
    ctx.adjust_room(-(OVERHEAD as i32), BPF_ADJ_ROOM_MAC, flags).map_err(|_| Refused)?;
    // SAFETY: the helper takes any skb context. Its answer says only whether there was a level to lower.
    unsafe { helper::bpf_csum_level(ctx.skb.skb, BPF_CSUM_LEVEL_DEC as u64) };
    Ok(())
}

/// Sets the packet's length, drops its offloads and makes all of it writable.
#[inline(always)]
pub fn set_len(ctx: &TcContext, len: u32) -> Result<(), Refused> {
    // SAFETY: the helper takes any skb context; pointers into the packet are read anew after it.
    done(unsafe { helper::bpf_skb_change_tail(ctx.skb.skb, len, 0) })
}

/// Out of `ifindex`, to the next hop that the kernel's routes and neighbours name for the outer destination.
#[inline(always)]
pub fn redirect_neigh(ifindex: u32) -> i32 {
    // SAFETY: no parameters are passed, so the kernel looks the next hop up itself.
    unsafe { helper::bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

/// Out of `ifindex`, to a neighbour on its link, whose hardware address the kernel knows or asks for.
#[inline(always)]
pub fn redirect_to_neighbour(ifindex: u32, neighbour: u32) -> i32 {
    const AF_INET: u32 = 2;
    let mut hop = [AF_INET, neighbour, 0, 0, 0];
    // SAFETY: `struct bpf_redir_neigh`: the family and room for an IPv6 address, of which IPv4 takes the first word.
    unsafe {
        helper::bpf_redirect_neigh(ifindex, hop.as_mut_ptr().cast(), size_of_val(&hop) as i32, 0) as i32
    }
}

/// Into the container behind the host device `ifindex`, without a pass through the cell's queues.
#[inline(always)]
pub fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: the helper takes plain integers.
    unsafe { helper::bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Out of `ifindex` as it is.
#[inline(always)]
pub fn redirect(ifindex: u32) -> i32 {
    // SAFETY: the helper takes plain integers.
    unsafe { helper::bpf_redirect(ifindex, 0) as i32 }
}

/// What the kernel's VXLAN device says, or is told, of a packet's tunnel. Addresses in host order, as the helpers have
/// them.
pub struct TunnelKey {
    /// The other cell's underlay address.
    pub remote: u32,
    /// VXLAN network identifier.
    pub vni: u32,
    /// The source app's tag; 0 for none.
    pub tag: u16,
}

/// The tunnel that the kernel's VXLAN device took this packet out of.
#[inline(always)]
pub fn tunnel_key(ctx: &TcContext) -> Result<TunnelKey, Refused> {
    // SAFETY: all-zero is a value of this plain C struct.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: the struct is `size` bytes long and outlives the call.
    done(unsafe { helper::bpf_skb_get_tunnel_key(ctx.skb.skb, &mut key, size, 0) })?;
    let mut group = 0u32;
    // SAFETY: as above, 4 bytes: `struct vxlan_metadata`. Fails when the header carries no group.
    let got = unsafe { helper::bpf_skb_get_tunnel_opt(ctx.skb.skb, (&raw mut group).cast(), 4) };
    let tag = if got == 4 { group as u16 } else { 0 };
    // SAFETY: the IPv4 arm of the union is what a tunnel without BPF_F_TUNINFO_IPV6 fills.
    Ok(TunnelKey { remote: unsafe { key.__bindgen_anon_1.remote_ipv4 }, vni: key.tunnel_id, tag })
}

/// Tells the kernel's VXLAN device which tunnel to put this packet in.
#[inline(always)]
pub fn set_tunnel_key(ctx: &TcContext, tunnel: &TunnelKey) -> Result<(), Refused> {
    const BPF_F_ZERO_CSUM_TX: u64 = 1 << 1;
    // SAFETY: all-zero is a value of this plain C struct.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = tunnel.vni;
    key.tunnel_ttl = 64;
    key.__bindgen_anon_1.remote_ipv4 = tunnel.remote;
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: the struct is `size` bytes long and outlives the call.
    done(unsafe { helper::bpf_skb_set_tunnel_key(ctx.skb.skb, &mut key, size, BPF_F_ZERO_CSUM_TX) })?;
    let mut group = tunnel.tag as u32;
    // SAFETY: as above, 4 bytes: `struct vxlan_metadata`.
    done(unsafe { helper::bpf_skb_set_tunnel_opt(ctx.skb.skb, (&raw mut group).cast(), 4) })
}
