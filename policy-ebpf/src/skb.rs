//! A packet on a tc hook: its bytes and its metadata.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::generated::{
    bpf_skb_load_bytes, bpf_skb_load_bytes_relative, bpf_skb_pull_data,
};
use aya_ebpf::programs::TcContext;
use policy_common::abi::mark;
use policy_common::packet::PacketBytes;
use policy_common::packet::bytes::{Beginning, Head, MAX_OFFSET};
use policy_common::packet::ip;

/// A packet on a tc hook.
pub(crate) struct Skb {
    skb: *mut __sk_buff,
    data: usize,
    data_end: usize,
}

impl Skb {
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        Self {
            skb: ctx.skb.skb,
            data: ctx.data(),
            data_end: ctx.data_end(),
        }
    }

    /// Interface on whose hook the packet is.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the kernel hands the program a valid context for its whole run.
        unsafe { (*self.skb).ifindex }
    }

    /// Interface by which the packet came in; 0: none, the node made it.
    #[inline(always)]
    pub(crate) fn ingress_ifindex(&self) -> u32 {
        // The verifier takes no field's address that was worked out once for two reads.
        let skb = opaque(self.skb);
        // SAFETY: as in `ifindex`.
        unsafe { (*skb).ingress_ifindex }
    }

    /// The context, for a function of its own.
    #[inline(always)]
    pub(crate) fn raw(&self) -> *mut __sk_buff {
        self.skb
    }

    /// The packet's mark.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb).mark }
    }

    /// Replaces the packet's mark.
    #[inline(always)]
    pub(crate) fn set_mark(&self, mark: u32) {
        // SAFETY: as in `ifindex`; a classifier may write this field.
        unsafe { (*self.skb).mark = mark }
    }

    /// EtherType of what the packet carries.
    #[inline(always)]
    pub(crate) fn ether_type(&self) -> u16 {
        // SAFETY: as in `ifindex`. The field holds 16 bits in wire order.
        u16::from_be(unsafe { (*self.skb).protocol } as u16)
    }

    /// Makes more of the packet directly readable; false: all of it is, or it
    /// cannot be had.
    ///
    /// Nothing read or found before holds any longer.
    #[inline(always)]
    pub(crate) fn pull(&mut self, ctx: &TcContext) -> bool {
        let linear = self.data_end - self.data;
        let wanted = self.len().min(MAX_OFFSET);
        if linear >= wanted {
            return false;
        }
        // SAFETY: the helper checks the length; pointers are read anew below.
        let failed = unsafe { bpf_skb_pull_data(self.skb, wanted as u32) };
        self.data = ctx.data();
        self.data_end = ctx.data_end();
        failed == 0
    }
}

/// Walks IPv6 extension headers. A global function, so that the verifier looks
/// at it once, not once for each way in which a packet may have come here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_extensions(skb: *mut __sk_buff, start_and_next: u32, end: u32) -> u64 {
    let skb = Skb::new(&TcContext::new(skb));
    let next = (start_and_next & 0xff) as u8;
    ip::walk_extensions(&skb, (start_and_next >> 8) as usize, next, end as usize)
}

/// Whether a mark says that the packet is from the pod in this slot.
#[inline(always)]
pub(crate) fn is_marked_by(mark: u32, shift: u32, slot: u32) -> bool {
    mark::state(mark, shift) != mark::NONE && slot != 0 && mark::slot(mark, shift) == slot
}

/// A packet of which nothing needs to be directly readable. Slower than [`Skb`].
pub(crate) struct Copied {
    skb: *mut __sk_buff,
    start: u32,
}

/// Offsets count from where the packet's directly readable part begins.
pub(crate) const FROM_FRAME: u32 = 0;
/// Offsets count from the network header, whatever the interface puts before it:
/// tunnels have no Ethernet header.
pub(crate) const FROM_NETWORK: u32 = 1;

impl Copied {
    #[inline(always)]
    pub(crate) fn new(skb: *mut __sk_buff, start: u32) -> Self {
        Self { skb, start }
    }
}

/// Walks IPv6 extension headers, as [`walk_extensions`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_copied(skb: *mut __sk_buff, from: u32, start_and_next: u32, end: u32) -> u64 {
    let copied = Copied::new(skb, from);
    let next = (start_and_next & 0xff) as u8;
    ip::walk_extensions(&copied, (start_and_next >> 8) as usize, next, end as usize)
}

impl PacketBytes for Copied {
    #[inline(always)]
    fn extensions(&self, start: usize, next: u8, end: usize) -> u64 {
        let start_and_next = (start as u32) << 8 | u32::from(next);
        walk_copied(self.skb, self.start, start_and_next, end as u32)
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0u8; N];
        let to = bytes.as_mut_ptr().cast();
        let (skb, offset) = (self.skb.cast(), offset as u32);
        // SAFETY: the helpers check offset and length against the packet, and
        // write no more than the bytes given.
        let failed = unsafe {
            if self.start == FROM_NETWORK {
                bpf_skb_load_bytes_relative(skb, offset, to, N as u32, BPF_HDR_START_NET)
            } else {
                bpf_skb_load_bytes(skb, offset, to, N as u32)
            }
        };
        if failed == 0 { Some(bytes) } else { None }
    }

    /// With what is before the network header: enough to find a packet truncated
    /// that is, and each load checks for itself.
    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: the kernel hands the program a valid context for its whole run.
        unsafe { (*self.skb).len as usize }
    }
}

impl PacketBytes for Skb {
    #[inline(always)]
    fn extensions(&self, start: usize, next: u8, end: usize) -> u64 {
        walk_extensions(self.skb, (start as u32) << 8 | u32::from(next), end as u32)
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = at(self.data, offset);
        if start + N > self.data_end {
            return None;
        }
        // SAFETY: `start + N` is within the linear part, checked just above.
        Some(unsafe { read::<N>(start) })
    }

    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb).len as usize }
    }
}

impl Beginning for Skb {
    type Head<const N: usize> = SkbHead<N>;

    #[inline(always)]
    fn head<const N: usize>(&self) -> Option<SkbHead<N>> {
        if self.data + N > self.data_end {
            return None;
        }
        Some(SkbHead { start: self.data })
    }
}

/// The first bytes of a packet, which are in its linear part: [`Skb::head`] makes none
/// else. Good until [`Skb::pull`], after which the verifier lets nobody read them.
pub(crate) struct SkbHead<const N: usize> {
    start: usize,
}

impl<const N: usize> Head<N> for SkbHead<N> {
    #[inline(always)]
    fn at<const O: usize, const L: usize>(&self) -> [u8; L] {
        const { assert!(O + L <= N) };
        // SAFETY: within the first `N` bytes, which are there.
        unsafe { read::<L>(self.start + O) }
    }
}

/// Address of an offset, bounded, in one register that the compiler does not look
/// through: the comparison with the packet's end must be about the very register
/// that is read from, or the verifier does not connect the two.
#[inline(always)]
pub(crate) fn at(data: usize, offset: usize) -> usize {
    let mut start = data;
    // SAFETY: arithmetic on two registers, nothing else.
    unsafe {
        core::arch::asm!(
            "{1} &= {2}",
            "{0} += {1}",
            inout(reg) start,
            inout(reg) offset => _,
            const MAX_OFFSET,
            options(pure, nomem, nostack)
        );
    }
    start
}

/// The same pointer, in a register that the compiler does not look through.
/// What is written through it goes to memory at once, instead of being spilled
/// there piece by piece because the registers ran out.
#[inline(always)]
pub(crate) fn opaque<T>(pointer: *mut T) -> *mut T {
    let mut same = pointer;
    // SAFETY: a move of a register onto itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) same, options(nostack)) };
    same
}

/// Reads N bytes in the widest pieces that divide N.
///
/// Packet headers are not aligned. Reading them byte by byte, which is what an
/// unaligned read compiles to for BPF, costs more than judging the packet.
///
/// # Safety
///
/// `start..start + N` must be readable. The target must do unaligned loads: every
/// architecture with a BPF JIT that we build for does, and the verifier refuses
/// the program elsewhere.
#[inline(always)]
pub(crate) unsafe fn read<const N: usize>(start: usize) -> [u8; N] {
    let mut bytes = [0u8; N];
    let mut at = 0;
    if N.is_multiple_of(8) {
        while at < N {
            // SAFETY: within the range that the caller vouches for.
            let word = unsafe { *((start + at) as *const u64) }.to_ne_bytes();
            bytes[at..at + 8].copy_from_slice(&word);
            at += 8;
        }
    } else if N.is_multiple_of(4) {
        while at < N {
            // SAFETY: as above.
            let word = unsafe { *((start + at) as *const u32) }.to_ne_bytes();
            bytes[at..at + 4].copy_from_slice(&word);
            at += 4;
        }
    } else if N.is_multiple_of(2) {
        while at < N {
            // SAFETY: as above.
            let word = unsafe { *((start + at) as *const u16) }.to_ne_bytes();
            bytes[at..at + 2].copy_from_slice(&word);
            at += 2;
        }
    } else {
        while at < N {
            // SAFETY: as above.
            bytes[at] = unsafe { *((start + at) as *const u8) };
            at += 1;
        }
    }
    bytes
}
