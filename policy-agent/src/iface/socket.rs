//! A route netlink socket for questions: send, collect the whole answer, ask
//! again when the table changed meanwhile.
//!
//! Blocking, but only on the kernel, and with a limit. What the answers mean is
//! decided in `scan`; the bytes are `wire`'s.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    os::unix::fs::MetadataExt,
};

use netlink_packet_core::{DecodeError, NLM_F_DUMP_INTR};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

use super::{
    error::IfaceError,
    scan::{Foreign, Kernel},
    snapshot::{AddressClass, Link, Nsid, OwnAddress},
    wire::{self, Part},
};
use crate::netlink::{self, BUFFER_BYTES};

/// How often a table is read again because it changed under the reader. A node
/// that starts 100 pods at once changes its links every millisecond or so; a
/// read takes less.
const ATTEMPTS: u32 = 20;

/// Rows of another namespace's table that are read: a pod adds as many addresses
/// as it likes.
const FOREIGN_ROWS: usize = 4_096;

/// How often such a table is read again; its pod may change it all the time.
const FOREIGN_ATTEMPTS: u32 = 3;

/// Questions to the kernel about the namespace in which it was opened.
#[derive(Debug)]
pub(super) struct QuestionSocket {
    socket: Socket,
    /// The namespace in which it was opened, by its number in the file system.
    namespace: u64,
    sequence: u32,
    buffer: Vec<u8>,
}

/// The network namespace of the calling thread.
fn own_namespace() -> io::Result<u64> {
    std::fs::metadata("/proc/thread-self/ns/net").map(|namespace| namespace.ino())
}

/// Why a question has no answer.
enum Failure {
    /// The kernel answered with this error number.
    Kernel(Errno),
    /// Anything else.
    Fatal(IfaceError),
}

impl Failure {
    fn or_call(self, what: &'static str) -> IfaceError {
        match self {
            Self::Kernel(errno) => IfaceError::call(what, errno.into()),
            Self::Fatal(error) => error,
        }
    }
}

impl QuestionSocket {
    pub(super) fn open() -> Result<Self, IfaceError> {
        const WHAT: &str = "open a route netlink socket";
        let fail = |source| IfaceError::call(WHAT, source);
        let socket = netlink::open(NETLINK_ROUTE).map_err(fail)?;
        // Without it the kernel ignores IFA_TARGET_NETNSID in a dump and lists
        // the agent's own addresses instead.
        socket
            .set_netlink_get_strict_chk(true)
            .map_err(|source| IfaceError::call("ask netlink to check requests strictly", source))?;
        Ok(Self {
            socket,
            namespace: own_namespace().map_err(fail)?,
            sequence: 0,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Gives up an answer that is not read to its end.
    fn open_again(&mut self) -> Result<(), IfaceError> {
        const WHAT: &str = "open a route netlink socket once more";
        let fresh = Self::open()?;
        if fresh.namespace != self.namespace {
            let source = io::Error::other(
                "the thread is in another network namespace than when it was first opened",
            );
            return Err(IfaceError::call(WHAT, source));
        }
        self.socket = fresh.socket;
        Ok(())
    }

    fn send(
        &mut self,
        what: &'static str,
        question: RouteNetlinkMessage,
        dump: bool,
    ) -> Result<(), Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = wire::encode(question, dump, self.sequence);
        match self.socket.send(&bytes, 0) {
            Ok(_) => Ok(()),
            Err(source) => Err(Failure::Fatal(IfaceError::call(what, source))),
        }
    }

    /// Reads datagrams until `take` says that the answer is complete. Parts of
    /// older, abandoned answers are skipped.
    fn receive(
        &mut self,
        what: &'static str,
        mut take: impl FnMut(&Part<'_>) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let decode = |error: DecodeError| Failure::Fatal(IfaceError::answer(what, error));
        loop {
            let datagram = netlink::receive(&self.socket, &mut self.buffer)
                .map_err(|source| Failure::Fatal(IfaceError::call(what, source)))?;
            for part in wire::parts(datagram) {
                let part = part.map_err(decode)?;
                if part.sequence != self.sequence {
                    continue;
                }
                if matches!(part.kind, wire::NLMSG_ERROR | wire::NLMSG_DONE) {
                    let number = wire::error_number(&part).map_err(decode)?;
                    if number != 0 {
                        return Err(Failure::Kernel(Errno::from_raw_os_error(number)));
                    }
                }
                if take(&part)? {
                    return Ok(());
                }
            }
        }
    }

    /// A whole table of the agent's own namespace, read without an interruption.
    fn own<T>(
        &mut self,
        what: &'static str,
        question: &RouteNetlinkMessage,
        kind: u16,
        decode: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, IfaceError> {
        for _ in 0..ATTEMPTS {
            match self.dump(what, question, kind, &decode, usize::MAX) {
                Ok(Dump::Whole(rows)) => return Ok(rows),
                Ok(Dump::Interrupted | Dump::TooLong) => {}
                Err(failure) => return Err(failure.or_call(what)),
            }
        }
        Err(IfaceError::Interrupted {
            what,
            attempts: ATTEMPTS,
        })
    }

    /// Reads a table once, up to `most` rows.
    fn dump<T>(
        &mut self,
        what: &'static str,
        question: &RouteNetlinkMessage,
        kind: u16,
        decode: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
        most: usize,
    ) -> Result<Dump<T>, Failure> {
        let mut rows = Vec::new();
        let mut interrupted = false;
        self.send(what, question.clone(), true)?;
        self.receive(what, |part| {
            interrupted |= part.flags & NLM_F_DUMP_INTR != 0;
            if part.kind == kind {
                let row = decode(part.payload)
                    .map_err(|error| Failure::Fatal(IfaceError::answer(what, error)))?;
                rows.extend(row);
            }
            Ok(part.kind == wire::NLMSG_DONE || rows.len() > most)
        })?;
        if rows.len() > most {
            // The kernel goes on with an answer for as long as its socket is
            // there, and takes no other question.
            self.open_again().map_err(Failure::Fatal)?;
            return Ok(Dump::TooLong);
        }
        Ok(if interrupted {
            Dump::Interrupted
        } else {
            Dump::Whole(rows)
        })
    }

    /// A table of another namespace; `None`: it is too long, or always changing.
    fn foreign<T>(
        &mut self,
        what: &'static str,
        question: &RouteNetlinkMessage,
        kind: u16,
        decode: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Option<Vec<T>>, Failure> {
        for _ in 0..FOREIGN_ATTEMPTS {
            match self.dump(what, question, kind, &decode, FOREIGN_ROWS)? {
                Dump::Whole(rows) => return Ok(Some(rows)),
                Dump::TooLong => return Ok(None),
                Dump::Interrupted => {}
            }
        }
        Ok(None)
    }
}

/// What came of reading a table.
enum Dump<T> {
    /// All of it, as it was at one moment.
    Whole(Vec<T>),
    /// It changed meanwhile.
    Interrupted,
    /// It has more rows than were asked for.
    TooLong,
}

impl Kernel for QuestionSocket {
    fn links(&mut self) -> Result<BTreeMap<u32, Link>, IfaceError> {
        const WHAT: &str = "list the links (RTM_GETLINK)";
        let decode = |payload: &[u8]| wire::link(payload).map(Some);
        let links = self.own(WHAT, &wire::links_question(None), wire::RTM_NEWLINK, decode)?;
        Ok(links.into_iter().map(|link| (link.index, link)).collect())
    }

    fn link(&mut self, index: u32) -> Result<Option<Link>, IfaceError> {
        const WHAT: &str = "look at a link (RTM_GETLINK)";
        let mut found = None;
        let question = wire::links_question(Some(index));
        let answered = self.send(WHAT, question, false).and_then(|()| {
            self.receive(WHAT, |part| {
                if part.kind == wire::RTM_NEWLINK {
                    let link = wire::link(part.payload)
                        .map_err(|error| Failure::Fatal(IfaceError::answer(WHAT, error)))?;
                    found = Some(link);
                }
                Ok(true)
            })
        });
        match answered {
            Ok(()) => Ok(found),
            Err(Failure::Kernel(Errno::NODEV)) => Ok(None),
            Err(failure) => Err(failure.or_call(WHAT)),
        }
    }

    fn own_addresses(&mut self) -> Result<Vec<OwnAddress>, IfaceError> {
        const WHAT: &str = "list the node's addresses (RTM_GETADDR)";
        let question = wire::addresses_question(None, None);
        let records = self.own(WHAT, &question, wire::RTM_NEWADDR, wire::address)?;
        let mut own: Vec<_> = records
            .into_iter()
            .map(|record| OwnAddress {
                address: record.address,
                interface: record.interface,
                prefix_len: record.prefix_len,
                class: AddressClass::of(record.address),
            })
            .collect();
        own.sort_unstable();
        Ok(own)
    }

    fn addresses_in(
        &mut self,
        namespace: Nsid,
        interface: Option<u32>,
    ) -> Result<Foreign, IfaceError> {
        const WHAT: &str = "list the addresses of another namespace (RTM_GETADDR)";
        let question = wire::addresses_question(Some(namespace), interface);
        let records = match self.foreign(WHAT, &question, wire::RTM_NEWADDR, wire::address) {
            Ok(Some(records)) => records,
            Ok(None) => return Ok(Foreign::Excessive),
            // rtnl_get_net_ns_capable (net/core/rtnetlink.c): an id that nobody
            // has any more is EINVAL, an interface that is gone ENODEV.
            Err(Failure::Kernel(Errno::INVAL | Errno::NODEV | Errno::NXIO)) => {
                return Ok(Foreign::Unsettled);
            }
            Err(Failure::Kernel(Errno::ACCESS | Errno::PERM)) => return Ok(Foreign::Denied),
            Err(failure) => return Err(failure.or_call(WHAT)),
        };
        // The kernel repeats the namespace in each row if it has heeded it.
        // Rows of another namespace would give one pod's address to another.
        if records.iter().any(|row| row.namespace != Some(namespace)) {
            let detail = "the kernel answered for another namespace than was asked; \
                          it must be 4.20 or later";
            return Err(IfaceError::answer(WHAT, detail));
        }
        Ok(Foreign::Addresses(
            records
                .into_iter()
                .filter(|row| interface.is_none_or(|wanted| row.interface == wanted))
                .map(|row| (row.interface, row.address))
                .collect(),
        ))
    }

    fn namespace_of(&mut self, file: BorrowedFd<'_>) -> io::Result<Option<Nsid>> {
        const WHAT: &str = "ask for a namespace's id (RTM_GETNSID)";
        let mut found = None;
        let question = wire::nsid_question(file.as_raw_fd());
        let answered = self.send(WHAT, question, false).and_then(|()| {
            self.receive(WHAT, |part| {
                if part.kind == wire::RTM_NEWNSID {
                    found = wire::nsid(part.payload)
                        .map_err(|error| Failure::Fatal(IfaceError::answer(WHAT, error)))?;
                }
                Ok(true)
            })
        });
        match answered {
            Ok(()) => Ok(found),
            Err(Failure::Kernel(errno)) => Err(errno.into()),
            Err(Failure::Fatal(error)) => Err(io::Error::other(error)),
        }
    }
}
