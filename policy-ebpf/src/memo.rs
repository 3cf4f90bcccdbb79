//! What this CPU was told a moment ago, in its maps; `policy_common::memo` says how
//! long it is good.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::btf_maps::PerCpuArray;
use policy_common::memo::{self, Epoch, Memo};
use policy_common::packet::Words;

use crate::{clock, maps};

/// The stamp of now; to be read before what is to be noted under it is asked.
#[inline(always)]
pub(crate) fn stamp() -> u64 {
    // Element 0 of an array of one is always there.
    let epoch = maps::EPOCH.get_ptr(0).map_or(0, |epoch| {
        let epoch: *const Epoch = epoch;
        // SAFETY: array elements stay; one aligned load.
        unsafe { addr_of!((*epoch).changes).read_volatile() }
    });
    memo::stamp(epoch, clock::ticks64())
}

/// The answer to a question that was asked under the stamp of now.
#[inline(always)]
pub(crate) fn recalled<const N: usize>(
    table: &'static PerCpuArray<Memo, N>,
    key: Words,
    stamp: u64,
) -> Option<u64> {
    let entry: *const Memo = table.get_ptr(memo::index(key, N))?;
    // SAFETY: this CPU's element, which stays. A program that interrupts this one may
    // write it between any two of these loads: then the answer, read before the key
    // and after, is not the same, or is that of the key.
    unsafe {
        let answer = addr_of!((*entry).answer).read_volatile();
        let known = addr_of!((*entry).stamp).read_volatile() == stamp
            && addr_of!((*entry).key[0]).read_volatile() == key[0]
            && addr_of!((*entry).key[1]).read_volatile() == key[1]
            && addr_of!((*entry).answer).read_volatile() == answer;
        if known { Some(answer) } else { None }
    }
}

/// Notes the answer to a question that was asked under a stamp.
#[inline(always)]
pub(crate) fn note<const N: usize>(
    table: &'static PerCpuArray<Memo, N>,
    key: Words,
    answer: u64,
    stamp: u64,
) {
    let key = key.map(anew);
    let Some(entry) = table.get_ptr_mut(memo::index(key, N)) else {
        return;
    };
    // SAFETY: as in `recalled`. A program that interrupts this one finds no stamp
    // while the entry is half written.
    unsafe {
        addr_of_mut!((*entry).stamp).write_volatile(0);
        addr_of_mut!((*entry).key[0]).write_volatile(key[0]);
        addr_of_mut!((*entry).key[1]).write_volatile(key[1]);
        addr_of_mut!((*entry).answer).write_volatile(answer);
        addr_of_mut!((*entry).stamp).write_volatile(stamp);
    }
}

/// The same number, of which the compiler does not know that it has worked with it
/// before: it would keep what it found out then on a stack that is short.
#[inline(always)]
fn anew(number: u64) -> u64 {
    let mut same = number;
    // SAFETY: a move of a register onto itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) same, options(pure, nomem, nostack)) };
    same
}
