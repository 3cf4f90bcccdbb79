//! A program that hands every packet to another one.
//!
//! The kernel takes a program once on each hook of an interface, and never moves
//! what is attached. So whoever is to come first once more needs a stand-in while
//! the old attachment is taken away; this one judges what the program judges,
//! because it is that program that answers (a tail call). Without an answer it
//! drops.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use super::{Command, address, bpf_fd, elem, raw};

/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;
/// `BPF_MAP_TYPE_PROG_ARRAY`.
const PROG_ARRAY: u32 = 3;
/// As the kernel shows it.
const NAME: &[u8; 16] = b"pa_relay\0\0\0\0\0\0\0\0";
/// As our programs; a tail call asks for none.
const LICENSE: &[u8; 4] = b"GPL\0";

/// The stand-in, and what it needs for as long as it is attached.
#[derive(Debug)]
pub(in super::super) struct Relay {
    program: OwnedFd,
    /// The table with the one program. The kernel empties it when nobody in user
    /// space, no descriptor and no pin, refers to it any more.
    table: OwnedFd,
}

impl Relay {
    /// A stand-in for this program of a tc hook.
    pub(in super::super) fn load(target: BorrowedFd<'_>) -> io::Result<Self> {
        let table = super::create(PROG_ARRAY, None)?;
        let value = target.as_raw_fd().to_ne_bytes();
        elem::update(table.as_fd(), &0u32.to_ne_bytes(), &value, 0)?;
        let code = code(raw(table.as_fd()));
        let mut attr = LoadAttr {
            prog_type: SCHED_CLS,
            insn_cnt: u32::try_from(code.len()).expect("a few instructions"),
            insns: address(&code),
            license: address(LICENSE),
            name: *NAME,
            ..LoadAttr::default()
        };
        // SAFETY: `code` and `LICENSE` outlive the call and have the lengths that
        // are told, or end with zero.
        let program = unsafe { bpf_fd(Command::ProgLoad, &mut attr) }?;
        Ok(Self { program, table })
    }

    pub(in super::super) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    pub(in super::super) fn table(&self) -> BorrowedFd<'_> {
        self.table.as_fd()
    }
}

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    name: [u8; 16],
}

/// An instruction (`struct bpf_insn`): operation, registers, offset, constant.
const fn instruction(code: u8, registers: u8, constant: u32) -> u64 {
    let [a, b, c, d] = constant.to_ne_bytes();
    u64::from_ne_bytes([code, registers, 0, 0, a, b, c, d])
}

/// `bpf_tail_call(context, table, 0)`, then drop. The context is in r1 already.
const fn code(table: u32) -> [u64; 6] {
    /// `BPF_LD | BPF_IMM | BPF_DW`, of two instructions.
    const LOAD: u8 = 0x18;
    /// `BPF_ALU64 | BPF_MOV | BPF_K`.
    const MOVE: u8 = 0xb7;
    /// `BPF_JMP | BPF_CALL`, `BPF_JMP | BPF_EXIT`.
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    /// r2, and that the constant is a map's descriptor (`BPF_PSEUDO_MAP_FD`).
    const R2_MAP: u8 = if cfg!(target_endian = "little") {
        0x12
    } else {
        0x21
    };
    const R3: u8 = if cfg!(target_endian = "little") {
        0x03
    } else {
        0x30
    };
    /// `BPF_FUNC_tail_call`.
    const TAIL_CALL: u32 = 12;
    /// `TC_ACT_SHOT`.
    const SHOT: u32 = 2;
    [
        instruction(LOAD, R2_MAP, table),
        instruction(0, 0, 0),
        instruction(MOVE, R3, 0),
        instruction(CALL, 0, TAIL_CALL),
        instruction(MOVE, 0, SHOT),
        instruction(EXIT, 0, 0),
    ]
}
