//! The frame that a series of runs starts from; the driver puts peers and ports into it.

use super::world::{Family, POD4, POD6};
use policy_common::abi::Direction;

/// What kind of TCP segment it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Opens a connection.
    Syn,
    /// Belongs to one, or to nothing.
    Data,
}

/// Bytes of data behind the TCP header.
const DATA: u16 = 32;

/// An Ethernet frame without options, so that the driver knows where things are. The peer's
/// address and both ports are zero, as are the checksums.
pub(super) fn frame(family: Family, direction: Direction, segment: Segment) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    let payload = 20 + DATA;
    match family {
        Family::V4 => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((20 + payload).to_be_bytes());
            // Identification, "do not fragment", hops, TCP, checksum.
            frame.extend([0, 1, 0x40, 0, 63, 6, 0, 0]);
            let (mut src, mut dst) = ([0; 4], [0; 4]);
            match direction {
                Direction::Ingress => dst = POD4.octets(),
                Direction::Egress => src = POD4.octets(),
            }
            frame.extend(src);
            frame.extend(dst);
        }
        Family::V6 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(payload.to_be_bytes());
            frame.extend([6, 63]);
            let (mut src, mut dst) = ([0; 16], [0; 16]);
            match direction {
                Direction::Ingress => dst = POD6.octets(),
                Direction::Egress => src = POD6.octets(),
            }
            frame.extend(src);
            frame.extend(dst);
        }
    }
    let flags = match segment {
        Segment::Syn => 0x02,
        Segment::Data => 0x10,
    };
    // Ports, sequence and acknowledgement numbers; header length, flags, window; the rest.
    frame.extend([0; 12]);
    frame.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(frame.len() + usize::from(DATA), 0);
    frame
}
