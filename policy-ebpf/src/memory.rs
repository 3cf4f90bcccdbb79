//! What a program knows of its packet, in memory that its functions share.

use policy_common::packet::Frame;

/// A [`Frame`] as the verifier sees it where it crosses a function's border. (It
/// rejects the BTF that an enum with data becomes in a signature.)
#[repr(C)]
pub(crate) struct FrameMemory {
    words: [u64; 8],
}

/// What it is: a [`Frame`], and what was found out on the way.
#[repr(C)]
pub(crate) struct Memory {
    pub(crate) frame: Frame,
    /// Who the source is, as `pa_peer` answers, with [`SOURCE_KNOWN`], if that was
    /// asked; [`SENDER_ASKED`].
    pub(crate) source: u64,
}

/// Bit of [`Memory::source`] that no answer has.
pub(crate) const SOURCE_KNOWN: u64 = 1 << 63;
/// Likewise: the policy of the pod that sent it was asked, and will be about the next
/// packet of its flow.
pub(crate) const SENDER_ASKED: u64 = 1 << 62;

impl Memory {
    /// Nothing parsed, nothing asked.
    pub(crate) const EMPTY: Self = Self {
        frame: Frame::EMPTY,
        source: 0,
    };
}

const _: () = assert!(size_of::<FrameMemory>() == size_of::<Memory>());
