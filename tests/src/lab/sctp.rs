//! As much of SCTP (RFC 9260) as a probe needs: the kernel of a test machine may
//! have none, so INIT, INIT ACK and ABORT are made and read here.

/// SCTP's number as a protocol of IP.
pub(crate) const PROTOCOL: u8 = 132;

const COMMON_HEADER: usize = 12;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
/// The parameter of an INIT ACK that the opener has to send back.
const STATE_COOKIE: u16 = 7;

/// A packet as far as a probe or a server looks at it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) tag: u32,
    pub(crate) chunk: Chunk,
}

/// The first chunk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Opens an association.
    Init {
        /// What the other side has to put into its packets.
        tag: u32,
    },
    /// Accepts it.
    InitAck {
        /// Opaque to the opener; our servers put their banner there.
        cookie: Vec<u8>,
    },
    /// Refuses it.
    Abort,
    /// Anything else.
    Other,
}

/// A packet with an INIT chunk proposing `tag`.
pub(crate) fn init(source: u16, destination: u16, tag: u32) -> Vec<u8> {
    packet(source, destination, 0, INIT, &init_body(tag))
}

/// The answer to an INIT that proposed `tag`, from `source` to `destination`.
pub(crate) fn init_ack(source: u16, destination: u16, tag: u32, cookie: &[u8]) -> Vec<u8> {
    let mut body = init_body(!tag);
    let length = u16::try_from(cookie.len() + 4).expect("a banner is short");
    body.extend(STATE_COOKIE.to_be_bytes());
    body.extend(length.to_be_bytes());
    body.extend(cookie);
    packet(source, destination, tag, INIT_ACK, &body)
}

/// The refusal of an INIT that proposed `tag`.
pub(crate) fn abort(source: u16, destination: u16, tag: u32) -> Vec<u8> {
    packet(source, destination, tag, ABORT, &[])
}

/// Reads a packet from its common header on; none when it is too short or its
/// checksum is wrong.
pub(crate) fn parse(bytes: &[u8]) -> Option<Packet> {
    let mut zeroed = bytes.to_vec();
    zeroed.get_mut(8..12)?.fill(0);
    if crc32c(&zeroed).to_le_bytes() != bytes[8..12] {
        return None;
    }
    let chunk = bytes.get(COMMON_HEADER..)?;
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_be_bytes(chunk.get(at..at + 4)?.try_into().ok()?))
    };
    Some(Packet {
        source: u16::from_be_bytes([bytes[0], bytes[1]]),
        destination: u16::from_be_bytes([bytes[2], bytes[3]]),
        tag: u32::from_be_bytes(bytes[4..8].try_into().ok()?),
        chunk: match *chunk.first()? {
            INIT => Chunk::Init { tag: word(4)? },
            INIT_ACK => {
                // Chunk header and the fixed part take 20 bytes.
                let length = usize::try_from(word(20)? & 0xffff).ok()?;
                Chunk::InitAck {
                    cookie: chunk.get(24..20 + length)?.to_vec(),
                }
            }
            ABORT => Chunk::Abort,
            _ => Chunk::Other,
        },
    })
}

/// Tag, window of 64 KiB, one stream each way, first sequence number.
fn init_body(tag: u32) -> Vec<u8> {
    let mut body = Vec::from(tag.to_be_bytes());
    body.extend([0, 1, 0, 0, 0, 1, 0, 1]);
    body.extend(tag.to_be_bytes());
    body
}

fn packet(source: u16, destination: u16, tag: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([kind, 0]);
    let length = u16::try_from(4 + body.len()).expect("probes are short");
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let sum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// CRC-32C (RFC 9260 appendix A), bit by bit: probes are few.
fn crc32c(bytes: &[u8]) -> u32 {
    const REVERSED_POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let carry = if crc & 1 == 1 { REVERSED_POLYNOMIAL } else { 0 };
            crc = crc >> 1 ^ carry;
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720 appendix B.4: 32 bytes of zeroes.
    #[test]
    fn checksum_of_a_published_vector() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn what_is_built_is_read_back_and_damage_is_noticed() {
        let mut bytes = init_ack(7, 8, 0x0102_0304, b"banner");
        let read = parse(&bytes).expect("the packet is whole");
        assert_eq!(
            (read.source, read.destination, read.tag),
            (7, 8, 0x0102_0304)
        );
        let cookie = b"banner".to_vec();
        assert_eq!(read.chunk, Chunk::InitAck { cookie });
        bytes[1] ^= 1;
        assert_eq!(parse(&bytes), None);
    }

    #[test]
    fn an_init_carries_its_tag() {
        let read = parse(&init(7, 8, 9)).expect("the packet is whole");
        assert_eq!(read.chunk, Chunk::Init { tag: 9 });
        assert_eq!(
            parse(&abort(8, 7, 9)).map(|p| (p.chunk, p.tag)),
            Some((Chunk::Abort, 9))
        );
    }
}
