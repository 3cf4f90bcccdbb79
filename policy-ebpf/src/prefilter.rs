//! The XDP prefilter: drops packets whose source lies in a prefix that the
//! operator named. No state; everything that is not plain IP is left to the
//! stack and to the programs on the veths.

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::programs::XdpContext;
use policy_common::abi::{Direction, stats};
use policy_common::packet::PacketBytes;
use policy_common::packet::link;

use crate::{emit, maps, skb};

struct Buffer {
    data: usize,
    data_end: usize,
}

impl PacketBytes for Buffer {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = skb::at(self.data, offset);
        if start + N > self.data_end {
            return None;
        }
        // SAFETY: `start + N` is within the buffer, checked just above.
        Some(unsafe { skb::read::<N>(start) })
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.data_end - self.data
    }
}

/// Whether the packet's source is denied.
#[inline(always)]
pub(crate) fn denies(ctx: &XdpContext) -> bool {
    let buffer = Buffer {
        data: ctx.data(),
        data_end: ctx.data_end(),
    };
    let denied = match link::ether_type(&buffer) {
        Ok((link::IPV4, offset)) => match buffer.load::<4>(offset + 12) {
            Some(source) => maps::DENY4.get(&Key::new(32, source)).is_some(),
            None => false,
        },
        Ok((link::IPV6, offset)) => match buffer.load::<16>(offset + 8) {
            Some(source) => maps::DENY6.get(&Key::new(128, source)).is_some(),
            None => false,
        },
        _ => false,
    };
    if denied {
        emit::count(stats::index(Direction::Ingress, stats::PREFILTER_DROPPED));
    }
    denied
}
