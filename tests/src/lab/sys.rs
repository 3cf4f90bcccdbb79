//! The system calls that no safe wrapper offers: packet sockets, time stamps and
//! loss counters of sockets, `TCP_INFO`, interface flags, `unshare`.
//!
//! The only file of the lab with `unsafe` but `foreign`. Everything here takes and returns
//! values; who calls decides in which namespace.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// Bytes for control messages of one packet: a time stamp needs 32.
const CONTROL_WORDS: usize = 8;

/// Gives the calling thread a fresh network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: only the network namespace is unshared, not the table of open
    // files, whose sharing other threads rely on.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET)? };
    Ok(())
}

/// A non-blocking packet socket that sees and sends whole frames of one interface.
///
/// `protocol` is an ethertype in host byte order; 0 receives nothing.
pub(crate) fn packet_socket(interface: u32, protocol: u16) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: a plain system call without pointers.
    let raw = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the descriptor was opened just now and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // Bound only now: a socket opened with a protocol sees all interfaces first.
    // SAFETY: `sockaddr_ll` consists of integers, for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::c_ushort::try_from(libc::AF_PACKET).expect("it is 17");
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = libc::c_int::try_from(interface).map_err(io::Error::other)?;
    // SAFETY: pointer and length describe `address`, which outlives the call.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            socklen::<libc::sockaddr_ll>(),
        )
    })?;
    Ok(socket)
}

/// Packets that a packet socket had no room for since the last call.
pub(crate) fn packet_drops(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let statistics: libc::tpacket_stats =
        get_option(socket, libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
    Ok(u64::from(statistics.tp_drops))
}

/// Asks for a receive time stamp with each packet.
pub(crate) fn enable_timestamps(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)
}

/// Packets that a socket's receive queue had no room for, since it was opened.
pub(crate) fn queue_drops(socket: BorrowedFd<'_>) -> io::Result<u64> {
    // include/uapi/linux/sock_diag.h: nine values, SK_MEMINFO_DROPS the last.
    let memory: [u32; 9] = get_option(socket, libc::SOL_SOCKET, libc::SO_MEMINFO)?;
    Ok(u64::from(memory[8]))
}

/// What a TCP socket sent more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Repeats {
    /// Segments sent again, SYNs included.
    pub(crate) segments: u64,
    /// Those of them that the peer reports to have had already (RFC 2883).
    pub(crate) needless: u64,
}

/// What a TCP socket sent more than once so far.
pub(crate) fn tcp_repeats(socket: BorrowedFd<'_>) -> io::Result<Repeats> {
    // include/uapi/linux/tcp.h, struct tcp_info, of which libc has the start:
    // tcpi_total_retrans at byte 100, tcpi_dsack_dups at byte 216 (since 4.19).
    let info: [u32; 64] = get_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    Ok(Repeats {
        segments: u64::from(info[25]),
        needless: u64::from(info[54]),
    })
}

/// Whether an interface of the calling thread's namespace is up and its link too.
pub(crate) fn is_running(name: &str) -> io::Result<bool> {
    let flags = interface_flags(name, libc::SIOCGIFFLAGS, None)?;
    let wanted = libc::IFF_UP | libc::IFF_RUNNING;
    Ok(libc::c_int::from(flags) & wanted == wanted)
}

/// Waits for all that the kernel is doing about an interface under its lock.
///
/// A link's state is readable before the kernel has told it to queues, bridge
/// and IPv6, which it does in the same critical section.
pub(crate) fn settle(name: &str) -> io::Result<()> {
    let flags = interface_flags(name, libc::SIOCGIFFLAGS, None)?;
    // Setting the flags that are set changes nothing, and takes the lock.
    interface_flags(name, libc::SIOCSIFFLAGS, Some(flags))?;
    Ok(())
}

fn interface_flags(
    name: &str,
    request: libc::Ioctl,
    set: Option<libc::c_short>,
) -> io::Result<libc::c_short> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: `ifreq` consists of integers and a union of such; zero is valid.
    let mut interface: libc::ifreq = unsafe { zeroed() };
    if name.len() >= interface.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in interface.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    interface.ifr_ifru.ifru_flags = set.unwrap_or(0);
    // SAFETY: both requests read the name and read or write the flags of the
    // `ifreq` that the pointer names, which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut interface) })?;
    // SAFETY: the flags of the union were written above and perhaps by the kernel.
    Ok(unsafe { interface.ifr_ifru.ifru_flags })
}

/// Where a received packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A packet socket's: `PACKET_HOST`, `PACKET_OUTGOING` and so on.
    Link(u8),
    /// The peer of an IP socket.
    Peer(SocketAddr),
    /// Nothing known.
    Unknown,
}

/// One packet of a [`Batch`].
pub(crate) struct Received<'a> {
    /// What fitted into the buffer.
    pub(crate) data: &'a [u8],
    /// Length in bytes on the wire.
    pub(crate) length: usize,
    /// `CLOCK_REALTIME` in nanoseconds, if the kernel stamped the packet.
    pub(crate) realtime_ns: Option<u64>,
    /// The sender.
    pub(crate) origin: Origin,
}

/// Buffers to receive several packets with one system call.
pub(crate) struct Batch {
    size: usize,
    buffers: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<[u64; CONTROL_WORDS]>,
    results: Vec<Slot>,
}

#[derive(Clone, Copy)]
struct Slot {
    length: usize,
    realtime_ns: Option<u64>,
    origin: Origin,
}

impl Batch {
    /// Room for `packets` packets of `size` bytes each; longer ones are cut.
    pub(crate) fn new(packets: usize, size: usize) -> Self {
        // SAFETY: `sockaddr_storage` consists of integers; zero is valid.
        let name: libc::sockaddr_storage = unsafe { zeroed() };
        Self {
            size,
            buffers: vec![0; packets * size],
            names: vec![name; packets],
            controls: vec![[0; CONTROL_WORDS]; packets],
            results: Vec::with_capacity(packets),
        }
    }

    /// Receives what is waiting, without blocking; false when nothing is.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        self.results.clear();
        let mut vectors: Vec<libc::iovec> = self
            .buffers
            .chunks_exact_mut(self.size)
            .map(|buffer| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .zip(&mut self.names)
            .zip(&mut self.controls)
            .map(|((vector, name), control)| {
                // SAFETY: null pointers and zero lengths are a valid `mmsghdr`.
                let mut header: libc::mmsghdr = unsafe { zeroed() };
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_name = ptr::from_mut(name).cast();
                header.msg_hdr.msg_namelen = socklen::<libc::sockaddr_storage>();
                header.msg_hdr.msg_control = control.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = size_of::<[u64; CONTROL_WORDS]>();
                header
            })
            .collect();
        let count = libc::c_uint::try_from(headers.len()).map_err(io::Error::other)?;
        // SAFETY: every header points to a buffer, a name and a control area of
        // the stated lengths, all alive and borrowed by nobody else until the
        // results are read below.
        let received = check(unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                ptr::null_mut(),
            )
        });
        let received = match received {
            Ok(received) => usize::try_from(received).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        for header in &headers[..received] {
            self.results.push(Slot {
                length: header.msg_len as usize,
                realtime_ns: timestamp_of(&header.msg_hdr),
                origin: origin_of(&header.msg_hdr),
            });
        }
        Ok(received > 0)
    }

    /// The packets of the last [`Batch::receive`].
    pub(crate) fn packets(&self) -> impl Iterator<Item = Received<'_>> {
        self.results
            .iter()
            .zip(self.buffers.chunks_exact(self.size))
            .map(|(slot, buffer)| Received {
                data: &buffer[..slot.length.min(buffer.len())],
                length: slot.length,
                realtime_ns: slot.realtime_ns,
                origin: slot.origin,
            })
    }
}

fn timestamp_of(header: &libc::msghdr) -> Option<u64> {
    // SAFETY: the kernel filled `header`, whose control area is still alive.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: the walk yields aligned, complete headers or null.
        let (level, kind) = unsafe { ((*control).cmsg_level, (*control).cmsg_type) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_TIMESTAMPNS {
            // SAFETY: the data of a message of this type is a `timespec`, but its
            // alignment is not promised.
            let time: libc::timespec = unsafe {
                libc::CMSG_DATA(control)
                    .cast::<libc::timespec>()
                    .read_unaligned()
            };
            let seconds = u64::try_from(time.tv_sec).ok()?;
            return Some(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).ok()?);
        }
        // SAFETY: both pointers belong to the same filled header.
        control = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    None
}

fn origin_of(header: &libc::msghdr) -> Origin {
    if header.msg_name.is_null() {
        return Origin::Unknown;
    }
    let name = header.msg_name;
    // SAFETY: every name area is a whole `sockaddr_storage`, zeroed at first and
    // aligned for each of the types below, all of which start with the family.
    let family = libc::c_int::from(unsafe { (*name.cast::<libc::sockaddr>()).sa_family });
    match family {
        libc::AF_PACKET => {
            // SAFETY: the family says which type the kernel wrote.
            Origin::Link(unsafe { (*name.cast::<libc::sockaddr_ll>()).sll_pkttype })
        }
        libc::AF_INET => {
            // SAFETY: as above.
            let address = unsafe { *name.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes());
            let port = u16::from_be(address.sin_port);
            Origin::Peer(SocketAddrV4::new(ip, port).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { *name.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            let port = u16::from_be(address.sin6_port);
            Origin::Peer(SocketAddrV6::new(ip, port, 0, address.sin6_scope_id).into())
        }
        _ => Origin::Unknown,
    }
}

/// Types whose every bit pattern is valid, so that the kernel may fill them.
trait Plain: Copy {}
impl Plain for libc::tpacket_stats {}
impl Plain for [u32; 64] {}
impl Plain for [u32; 9] {}

fn get_option<T: Plain>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<T> {
    // SAFETY: `Plain` types consist of integers; zero is valid.
    let mut value: T = unsafe { zeroed() };
    let mut length = socklen::<T>();
    // SAFETY: pointer and length describe `value`; the kernel writes at most
    // `length` bytes, and any bytes make a valid `Plain`.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    })?;
    Ok(value)
}

fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            socklen::<libc::c_int>(),
        )
    })?;
    Ok(())
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("types of the kernel are small")
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
