//! Asks the loaded programs about a packet, without sending it
//! (`BPF_PROG_TEST_RUN`). Records and counters are made as for a real one.

use aya::{
    TestRun, TestRunOptions,
    programs::{ProgramError, SchedClassifier},
};
use policy_common::abi::Direction;

use super::{Datapath, pin::Hook};

/// `sizeof(struct __sk_buff)`.
const CONTEXT: usize = 192;
/// Offsets of its fields (`include/uapi/linux/bpf.h`).
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
/// `TC_ACT_SHOT`.
const SHOT: u32 = 2;
/// `TCX_NEXT`.
const NEXT: u32 = u32::MAX;

/// Where a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Which program is asked: egress is `from_pod`, ingress `to_pod`.
    pub direction: Direction,
    /// Interface; must exist in the calling thread's network namespace.
    pub ifindex: u32,
    /// Interface by which it came to the node; 0: the node itself sent it.
    pub ingress_ifindex: u32,
}

/// A packet at a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// Which program is asked; not the prefilter.
    pub hook: Hook,
    /// Interface; must exist in the calling thread's network namespace.
    pub ifindex: u32,
    /// Interface by which it came to the node; 0: the node itself sent it.
    pub ingress_ifindex: u32,
    /// The packet's mark.
    pub mark: u32,
}

/// The answer of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// It passes.
    pub passes: bool,
    /// The packet's mark afterwards.
    pub mark: u32,
    /// Mean time of a run, as the kernel measures it.
    pub mean_ns: u64,
}

/// A packet could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum TestRunError {
    /// The kernel refuses: no such interface, or a packet without a whole
    /// Ethernet header.
    #[error("cannot try the packet: {0}")]
    Kernel(#[from] ProgramError),
    /// The program answered neither pass nor drop.
    #[error("the program answered {0}, which is neither pass nor drop")]
    Answer(u32),
}

impl Datapath {
    /// Asks a program about a packet (with its Ethernet header), `repeat` times
    /// (at least once).
    ///
    /// # Errors
    ///
    /// [`TestRunError`].
    pub fn test_run(&self, packet: &[u8], at: At, repeat: u32) -> Result<Answer, TestRunError> {
        let hook = match at.direction {
            Direction::Egress => Hook::From,
            Direction::Ingress => Hook::To,
        };
        let trial = Trial {
            hook,
            ifindex: at.ifindex,
            ingress_ifindex: at.ingress_ifindex,
            mark: 0,
        };
        self.try_packet(packet, trial, repeat)
    }

    /// As [`Self::test_run`], at any hook and with a mark.
    ///
    /// # Errors
    ///
    /// [`TestRunError`].
    pub fn try_packet(
        &self,
        packet: &[u8],
        at: Trial,
        repeat: u32,
    ) -> Result<Answer, TestRunError> {
        let program = SchedClassifier::from_pin(self.pins.program(at.hook))?;
        try_program(&program, packet, at, repeat)
    }
}

/// As [`Datapath::try_packet`], of any program for the hook: one that is on an
/// interface, say.
///
/// # Errors
///
/// [`TestRunError`].
pub fn try_program(
    program: &SchedClassifier,
    packet: &[u8],
    at: Trial,
    repeat: u32,
) -> Result<Answer, TestRunError> {
    let mut context = [0u8; CONTEXT];
    let fields = [
        (MARK, at.mark),
        (INGRESS_IFINDEX, at.ingress_ifindex),
        (IFINDEX, at.ifindex),
    ];
    for (offset, value) in fields {
        if let Some(place) = context.get_mut(offset..offset + 4) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
    }
    let mut after = [0u8; CONTEXT];
    let result = program.test_run(TestRunOptions {
        data_in: Some(packet),
        ctx_in: Some(&context),
        ctx_out: Some(&mut after),
        repeat: repeat.max(1),
        ..TestRunOptions::new()
    })?;
    let passes = match result.return_value {
        NEXT => true,
        SHOT => false,
        other => return Err(TestRunError::Answer(other)),
    };
    let mark = after
        .get(MARK..MARK + 4)
        .and_then(|mark| mark.try_into().ok());
    Ok(Answer {
        passes,
        mark: mark.map_or(0, u32::from_ne_bytes),
        mean_ns: u64::try_from(result.duration.as_nanos()).unwrap_or(u64::MAX),
    })
}
