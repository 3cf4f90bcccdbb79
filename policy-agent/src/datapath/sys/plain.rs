//! Layouts of maps as bytes and back.

use policy_common::abi::{
    config::{Config, EventTokens},
    conntrack::{CtCount, CtEntry, CtKey},
    endpoint::{Endpoint, IfindexEntry},
    event::VerdictEvent,
    fragment::{FragEntry, FragKey},
    identity::{Cidr4, Cidr6, Id4, Id6},
    maps::PrefixKey,
    policy::{Interval, PolicyEntry, PolicyKey, PortSet},
    service::{Svc, SvcKey},
};
use policy_common::flow_cache::FlowSet;
use policy_common::memo::{Epoch, Memo};

/// A layout without padding for which any bytes are a value.
///
/// # Safety
///
/// `repr(C)` or a primitive integer, no padding, no pointer, no invalid value.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($layout:ty),+ $(,)?) => { $(
        // SAFETY: integers and arrays of bytes with explicit padding (the rule of
        // `policy_common::abi`, where sizes are asserted).
        unsafe impl Plain for $layout {}
    )+ };
}

plain!(
    u32,
    u64,
    [u8; 4],
    [u8; 16],
    CtCount,
    CtEntry,
    CtKey,
    Cidr4,
    Cidr6,
    Config,
    Endpoint,
    Epoch,
    EventTokens,
    FlowSet,
    FragEntry,
    FragKey,
    Id4,
    Id6,
    IfindexEntry,
    Interval,
    Memo,
    PolicyEntry,
    PolicyKey,
    PortSet,
    PrefixKey<4>,
    PrefixKey<16>,
    Svc,
    SvcKey,
    VerdictEvent,
);

/// The bytes of a value.
pub(in super::super) fn bytes<T: Plain>(value: &T) -> &[u8] {
    slice_bytes(std::slice::from_ref(value))
}

/// The bytes of values.
pub(in super::super) fn slice_bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: no padding, so every byte is initialised.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The value that these bytes are; `None` unless there are exactly as many.
pub(in super::super) fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    // SAFETY: as many bytes as a `T` has, and any bytes are one.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_back_and_other_lengths_do_not() {
        let key = PolicyKey {
            policy: 7,
            identity: 0x0102_0304,
        };
        assert_eq!(read::<PolicyKey>(bytes(&key)), Some(key));
        assert_eq!(read::<PolicyKey>(&bytes(&key)[1..]), None);
        assert_eq!(slice_bytes(&[1u32, 2]).len(), 8);
    }
}
