//! The netlink messages of filters: requests in, acknowledgements and filters out.
//!
//! Answers are the kernel's; what is cut short in them is left out.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::{self, BUFFER_BYTES};

pub(super) const RTM_NEWTFILTER: u16 = 44;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
pub(super) const TCA_KIND: u16 = 1;
pub(super) const TCA_OPTIONS: u16 = 2;
pub(super) const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
pub(super) const NESTED: u16 = 1 << 15;
const HEADER: usize = 16;

pub(super) fn terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// An attribute with its padding.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).expect("attributes here are short");
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A request about traffic control (`struct nlmsghdr`, `struct tcmsg`).
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        // Sequence and port: one request a socket, so zero tells them apart.
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes }
    }

    pub(super) fn interface(mut self, ifindex: u32, handle: u32, parent: u32, info: u32) -> Self {
        // Family (unspecified) and padding.
        self.bytes.extend_from_slice(&[0; 4]);
        for word in [ifindex, handle, parent, info] {
            self.bytes.extend_from_slice(&word.to_ne_bytes());
        }
        self
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend_from_slice(&attribute(kind, value));
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let value = terminated(value);
        self.bytes(kind, &value)
    }

    /// Sends it and waits for the kernel's answer.
    pub(super) fn ask(self) -> io::Result<()> {
        self.send(verdict)
    }

    /// Sends it and reads all filters that the kernel tells of.
    pub(super) fn dump(self) -> io::Result<Vec<Filter>> {
        let mut filters = Vec::new();
        self.send(|answer| dumped(answer, &mut filters))?;
        Ok(filters)
    }

    /// Sends it and takes answers until one is the last.
    fn send(mut self, mut take: impl FnMut(&[u8]) -> Option<io::Result<()>>) -> io::Result<()> {
        let length = u32::try_from(self.bytes.len()).expect("requests are short");
        for (place, byte) in self.bytes.iter_mut().zip(length.to_ne_bytes()) {
            *place = byte;
        }
        let socket = netlink::open(NETLINK_ROUTE)?;
        socket.send(&self.bytes, 0)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            if let Some(last) = take(netlink::receive(&socket, &mut buffer)?) {
                return last;
            }
        }
    }
}

/// Messages of an answer: what each is, and what follows its header.
fn messages(mut answer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = word(answer, 0)? as usize;
        let kind = half(answer, 4)?;
        let body = answer.get(HEADER..length.max(HEADER))?;
        let next = length.max(HEADER).next_multiple_of(4);
        answer = answer.get(next..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Attributes one after the other: which, and what it says.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        let kind = half(bytes, 2)?;
        let value = bytes.get(4..length.max(4))?;
        let next = length.max(4).next_multiple_of(4);
        bytes = bytes.get(next..).unwrap_or_default();
        Some((kind & !NESTED, value))
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

/// The acknowledgement in an answer, if it is in this part of it.
fn verdict(answer: &[u8]) -> Option<io::Result<()>> {
    let mut all = messages(answer);
    let (_, body) = all.find(|(kind, _)| *kind == NLMSG_ERROR)?;
    let code = word(body, 0)?.cast_signed();
    Some(match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    })
}

/// A filter, as the kernel tells of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) handle: u32,
    pub(super) priority: u32,
    pub(super) kind: String,
    /// Its program's name and id, if it has one.
    pub(super) name: Option<String>,
    pub(super) program: u32,
}

/// Filters in a part of an answer; the end, if it is in this part.
fn dumped(answer: &[u8], filters: &mut Vec<Filter>) -> Option<io::Result<()>> {
    for (kind, body) in messages(answer) {
        match kind {
            NLMSG_DONE => return Some(Ok(())),
            NLMSG_ERROR => return verdict(answer),
            // Also of the priority as a whole, without a handle.
            RTM_NEWTFILTER => filters.extend(shown(body).filter(|filter| filter.handle != 0)),
            _ => {}
        }
    }
    None
}

/// A filter in a message: `struct tcmsg`, then attributes.
fn shown(body: &[u8]) -> Option<Filter> {
    /// Bytes of `struct tcmsg`, and where in it handle and priority are.
    const HEAD: usize = 20;
    const AT_HANDLE: usize = 8;
    const AT_INFO: usize = 16;
    let text = |value: &[u8]| {
        let bytes = value.iter().take_while(|byte| **byte != 0);
        let text = bytes.copied().map(char::from);
        text.filter(char::is_ascii_graphic).collect::<String>()
    };
    let mut filter = Filter {
        handle: word(body, AT_HANDLE)?,
        priority: word(body, AT_INFO)? >> 16,
        kind: String::new(),
        name: None,
        program: 0,
    };
    for (kind, value) in attributes(body.get(HEAD..)?) {
        match kind {
            TCA_KIND => filter.kind = text(value),
            TCA_OPTIONS => {
                for (kind, value) in attributes(value) {
                    match kind {
                        TCA_BPF_NAME => filter.name = Some(text(value)),
                        TCA_BPF_ID => filter.program = word(value, 0).unwrap_or(0),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    // Options of other kinds have other numbers.
    if filter.kind != "bpf" {
        (filter.name, filter.program) = (None, 0);
    }
    Some(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_say_their_length_without_padding() {
        assert_eq!(
            attribute(1, b"bpf\0x"),
            [9u16.to_ne_bytes(), 1u16.to_ne_bytes()]
                .concat()
                .into_iter()
                .chain(*b"bpf\0x\0\0\0")
                .collect::<Vec<u8>>()
        );
    }

    #[test]
    fn acknowledgement_is_found_behind_other_messages() {
        let message = |kind: u16, body: &[u8]| {
            let mut bytes = u32::try_from(HEADER + body.len())
                .unwrap()
                .to_ne_bytes()
                .to_vec();
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&[0; 10]);
            bytes.extend_from_slice(body);
            bytes
        };
        let other = message(RTM_NEWTFILTER, &[0; 20]);
        let failure = message(NLMSG_ERROR, &(-libc::ENOENT).to_ne_bytes());
        assert!(verdict(&other).is_none());
        let both = [other, failure].concat();
        let error = verdict(&both).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        assert!(
            verdict(&message(NLMSG_ERROR, &0i32.to_ne_bytes()))
                .unwrap()
                .is_ok()
        );
    }
}
