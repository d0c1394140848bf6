//! What tells packets of the cells' offload self-test from those of containers. They travel in the same tunnel, under
//! a network identifier of their own, and end in the agent: no container can send or get one.

/// The bit of the VNI that differs from the overlay's: so it is never the overlay's, whichever that is.
const VNI_BIT: u32 = 0x80_0000;

/// The VNI of the self-test beside an overlay's.
#[inline(always)]
#[must_use]
pub const fn vni(overlay: u32) -> u32 {
    overlay ^ VNI_BIT
}

/// The mark of a packet that was found to be a leased cell's, on its way through the kernel's VXLAN device, where the
/// agent hears it.
pub const MARK: u32 = 0xc2c2_0000;
