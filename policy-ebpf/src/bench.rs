//! Programs that drive benchmarks; only in an object built with `bench`.
//!
//! A benchmark runs `pb_drive` many times on one packet. Each run takes one of
//! the flows that user space wrote down, puts its address and ports into the
//! packet (checksums are nobody's concern here), and goes on to the one program
//! in `pb_progs`: the program under test, or one of those to compare it with,
//! `pb_empty`, `pb_lru` and `pb_lpm`. Which flows, and what the tables say about them, is
//! for user space (`tests/src/bench`), which knows the two structs below.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, LruHashMap, ProgramArray};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use policy_common::abi::conntrack::{CtEntry, CtKey};
use policy_common::abi::maps::FLOW_SETS;

use crate::records::at_once;
use crate::{NEXT, maps};

/// What a driver that cannot go on returns; no program of ours does.
const STUCK: i32 = 99;

/// The drive's settings and what it keeps between runs.
#[repr(C)]
struct Drive {
    /// State of the generator that picks flows: any number.
    random: u64,
    /// Runs so far.
    runs: u64,
    /// Rows of `pb_flows` to pick from, 1 at least.
    flows: u32,
    /// [`FRESH`], [`FORGET`].
    flags: u32,
    /// Where the peer's address goes: 0 source of IPv4, 1 destination of IPv4,
    /// 2 source of IPv6, 3 destination of IPv6. The packet has no options.
    place: u32,
    /// The row of this run.
    picked: u32,
}

/// Every run is a new flow: the client's port is numbered through, and when that
/// is exhausted the server's moves on, within 256. The peer is the client where
/// its address is the source.
const FRESH: u32 = 1;
/// The flow cache forgets the flow before the packet comes.
const FORGET: u32 = 2;

/// A flow.
#[repr(C, align(8))]
struct Flow {
    /// The peer's address, wire order; IPv4 in the last four bytes.
    peer: [u8; 16],
    /// Port of the peer, wire order.
    peer_port: u16,
    /// Port of the pod, wire order.
    local_port: u16,
    /// Its set in the flow cache.
    set: u32,
    /// Zero.
    pad: [u32; 2],
}

#[btf_map(name = "pb_config")]
static DRIVE: Array<Drive, 1> = Array::new();

#[btf_map(name = "pb_flows")]
static FLOWS: Array<Flow, 131_072> = Array::new();

#[btf_map(name = "pb_table")]
static TABLE: LruHashMap<CtKey, CtEntry, 131_072> = LruHashMap::new();

#[btf_map(name = "pb_progs")]
static PROGS: ProgramArray<1> = ProgramArray::new();

/// Makes the next packet and hands it to the program in `pb_progs`.
#[classifier]
pub(crate) fn pb_drive(ctx: TcContext) -> i32 {
    if prepare(&ctx).is_some() {
        // SAFETY: nothing here needs to be dropped.
        unsafe { PROGS.tail_call(&ctx, 0) }
    }
    STUCK
}

/// What the least program costs.
#[classifier]
pub(crate) fn pb_empty(_ctx: TcContext) -> i32 {
    NEXT
}

/// What one lookup costs, in a table as large as the flows, of the kind and with
/// the key that connection tables have.
#[classifier]
pub(crate) fn pb_lru(_ctx: TcContext) -> i32 {
    let found = picked().and_then(|flow| {
        // SAFETY: array elements stay, and only user space writes them.
        let flow = unsafe { &*flow };
        let key = CtKey {
            peer: flow.peer,
            endpoint: 1,
            local_port: flow.local_port,
            peer_port: flow.peer_port,
            protocol: 0,
            family: 0,
            pad: [0; 2],
        };
        TABLE.get_ptr(&at_once(&key))
    });
    if found.is_some() { NEXT } else { STUCK }
}

/// What one lookup of the longest prefix costs, in the tables of the product.
#[classifier]
pub(crate) fn pb_lpm(_ctx: TcContext) -> i32 {
    let found = picked().is_some_and(|flow| {
        // SAFETY: as in `pb_lru`.
        let peer = unsafe { (*flow).peer };
        let [.., a, b, c, d] = peer;
        match DRIVE.get(0) {
            Some(drive) if drive.place < 2 => {
                maps::CIDR4.get(&Key::new(32, [a, b, c, d])).is_some()
            }
            Some(_) => maps::CIDR6.get(&Key::new(128, peer)).is_some(),
            None => false,
        }
    });
    if found { NEXT } else { STUCK }
}

#[inline(always)]
fn picked() -> Option<*const Flow> {
    let drive = DRIVE.get_ptr(0)?;
    // SAFETY: one aligned load from an array element, which stays.
    FLOWS.get_ptr(unsafe { addr_of!((*drive).picked).read() })
}

#[inline(always)]
fn prepare(ctx: &TcContext) -> Option<()> {
    let drive = DRIVE.get_ptr_mut(0)?;
    // SAFETY: array elements stay, and the benchmark runs on one CPU.
    let drive = unsafe { &mut *drive };
    // Knuth's MMIX generator; its high half is good.
    drive.random = drive
        .random
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    let picked = ((drive.random >> 32) * u64::from(drive.flows)) >> 32;
    drive.picked = (picked & 0xffff_ffff) as u32;
    drive.runs = drive.runs.wrapping_add(1);
    let flow = FLOWS.get_ptr(drive.picked)?;
    // SAFETY: array elements stay, and only user space writes them.
    let flow = unsafe { &*flow };
    if drive.flags & FORGET != 0 {
        forget(flow.set)?;
    }
    let (mut peer_port, mut local_port) = (flow.peer_port, flow.local_port);
    if drive.flags & FRESH != 0 {
        let [low, high, next, ..] = drive.runs.to_le_bytes();
        let number = u16::from_le_bytes([low, high]);
        let (client, server) = if drive.place & 1 == 0 {
            (&mut peer_port, &mut local_port)
        } else {
            (&mut local_port, &mut peer_port)
        };
        *client = number;
        *server = u16::from_be(*server).wrapping_add(u16::from(next)).to_be();
    }
    match drive.place {
        0 => write::<4, 26, 34, 36>(ctx, flow, peer_port, local_port),
        1 => write::<4, 30, 36, 34>(ctx, flow, peer_port, local_port),
        2 => write::<16, 22, 54, 56>(ctx, flow, peer_port, local_port),
        _ => write::<16, 38, 56, 54>(ctx, flow, peer_port, local_port),
    }
}

/// Puts a flow into the packet: an address of `LEN` bytes and both ports, at
/// these offsets. In the pieces in which programs read them: a processor waits where a
/// load spans two stores, and no packet comes from a network card like that.
#[inline(always)]
fn write<const LEN: usize, const ADDRESS: usize, const PEER: usize, const LOCAL: usize>(
    ctx: &TcContext,
    flow: &Flow,
    peer_port: u16,
    local_port: u16,
) -> Option<()> {
    let start = ctx.data();
    // The ports are behind the addresses, one behind the other.
    let (first, ports) = if PEER > LOCAL {
        (LOCAL, pair(local_port, peer_port))
    } else {
        (PEER, pair(peer_port, local_port))
    };
    if start + first + 4 > ctx.data_end() {
        return None;
    }
    // SAFETY: within the packet, checked just above; the targets that these
    // programs are built for load and store unaligned words. `Flow` begins with the
    // address.
    unsafe {
        let address = addr_of!(flow.peer);
        if LEN == 4 {
            let address = address.cast::<u32>().add(3).read();
            *((start + ADDRESS) as *mut u32) = address;
        } else {
            let address = address.cast::<u64>();
            *((start + ADDRESS) as *mut u64) = address.read();
            *((start + ADDRESS + 8) as *mut u64) = address.add(1).read();
        }
        *((start + first) as *mut u32) = ports;
    }
    Some(())
}

/// Two ports in wire order as they lie in a packet.
#[inline(always)]
const fn pair(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Makes both entries of a set of the flow cache stale.
#[inline(always)]
fn forget(set: u32) -> Option<()> {
    let set = maps::FLOWS.get_ptr_mut(set & (FLOW_SETS as u32 - 1))?;
    // SAFETY: this CPU's element, and no other program runs on it meanwhile.
    unsafe {
        addr_of_mut!((*set).ways[0].expiry).write(0);
        addr_of_mut!((*set).ways[1].expiry).write(0);
    }
    Some(())
}
