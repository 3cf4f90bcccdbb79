//! Where a packet's bytes come from: the seam between the parser and an skb, an
//! XDP buffer or a slice.

/// A packet's bytes.
pub trait PacketBytes: Sized {
    /// `N` bytes from `offset` on; `None` if the packet is shorter.
    ///
    /// Offsets are at most [`MAX_OFFSET`]: an implementation may rely on it to
    /// show the verifier that an access is bounded.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Length of the whole packet, bytes.
    fn len(&self) -> usize;

    /// Walks IPv6 extension headers; see [`super::ip::walk_extensions`], which an
    /// implementation calls wherever it suits it best.
    #[inline(always)]
    fn extensions(&self, start: usize, next: u8, end: usize) -> u64 {
        super::ip::walk_extensions(self, start, next, end)
    }

    /// Whether there is nothing in it.
    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The largest offset that the parser asks for, bytes.
pub const MAX_OFFSET: usize = 0x3ff;

impl PacketBytes for &[u8] {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
}
