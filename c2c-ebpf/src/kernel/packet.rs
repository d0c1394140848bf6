//! Reading packet memory: the one place that turns an offset into a load, after checking it against the packet's end.

use core::mem::MaybeUninit;

use aya_ebpf::programs::{TcContext, XdpContext};

use crate::headers::{Headers, OptionBytes};
use crate::kernel::skb::unknown;

/// Memory that holds a packet's start.
pub trait Frame {
    /// Address of the first byte.
    fn start(&self) -> usize;
    /// Address after the last byte that can be read directly.
    fn end(&self) -> usize;

    /// The `T` at `offset` from the frame's start, or `None` when the frame ends before it.
    #[inline(always)]
    fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        let at = self.start() + offset;
        if at + size_of::<T>() > self.end() {
            return None;
        }
        // SAFETY: the bytes lie inside the packet (just checked, and the verifier checks again), every bit pattern is
        // a `T`, and the kernel's machines load unaligned integers (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS).
        Some(unsafe { (at as *const T).read_volatile() })
    }
}

impl Frame for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
}

impl Frame for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
}

/// A value of zeros, written word by word: where the compiler sees that they are zeros it calls `memset`, which on this
/// target is a loop over bytes, and another function on the stack.
#[inline(always)]
pub fn zeroed<T: Words>() -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let words = value.as_mut_ptr().cast::<u64>();
    let zero = unknown(0);
    let mut i = 0;
    while i < size_of::<T>() / 8 {
        // SAFETY: inside the value, which is made of aligned words.
        unsafe { words.add(i).write(zero) };
        i += 1;
    }
    // SAFETY: all of it was written.
    unsafe { value.assume_init() }
}

/// Types made of eight-byte words, of which all zeros is a value.
///
/// # Safety
/// Only structs of integers and arrays of them may implement it, with a size and alignment of eights and no padding.
pub unsafe trait Words: Copy {}

// SAFETY: repr(C), integers and an array of them, aligned to 8 and 32 bytes (asserted there).
unsafe impl Words for Headers {}
// SAFETY: repr(C), an array of 40 bytes, aligned to 8.
unsafe impl Words for OptionBytes {}

/// Types of which every bit pattern is a value.
///
/// # Safety
/// Only integers may implement it.
pub unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for u8 {}
// SAFETY: an integer.
unsafe impl Plain for u16 {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}
