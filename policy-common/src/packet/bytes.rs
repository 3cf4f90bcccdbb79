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

/// Bytes whose beginning can be read as it lies there.
pub trait Beginning: PacketBytes {
    /// The first `N` bytes.
    type Head<const N: usize>: Head<N>;

    /// The first `N` bytes, where they can be read without another look at the length;
    /// `None`: they cannot, which says nothing about how long the packet is.
    fn head<const N: usize>(&self) -> Option<Self::Head<N>>;
}

/// The first `N` bytes of a packet.
pub trait Head<const N: usize> {
    /// `L` bytes from offset `O` on, all of them among the `N`: else it does not compile.
    fn at<const O: usize, const L: usize>(&self) -> [u8; L];
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

impl Beginning for &[u8] {
    type Head<const N: usize> = [u8; N];

    fn head<const N: usize>(&self) -> Option<[u8; N]> {
        self.first_chunk().copied()
    }
}

impl<const N: usize> Head<N> for [u8; N] {
    fn at<const O: usize, const L: usize>(&self) -> [u8; L] {
        const { assert!(O + L <= N) };
        let mut bytes = [0; L];
        bytes.copy_from_slice(&self[O..O + L]);
        bytes
    }
}
