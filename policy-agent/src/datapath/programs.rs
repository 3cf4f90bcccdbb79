//! The programs, through the verifier. Their maps are `load`'s.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf,
    programs::{Program, ProgramError, ProgramInfo},
};

use super::{load::DatapathError, pin::Hook, sys};

/// The programs, in the kernel.
#[derive(Debug)]
pub(super) struct Programs {
    from: Loaded,
    to: Loaded,
    wire: Loaded,
    arrive: Loaded,
    xdp: Loaded,
}

/// A program in the kernel.
#[derive(Debug)]
pub(super) struct Loaded {
    fd: OwnedFd,
    pub(super) id: u32,
}

impl Loaded {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let id = sys::program_id(fd.as_fd())?;
        Ok(Self { fd, id })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Programs {
    /// All of them; `None`: one is missing.
    pub(super) fn of_all(mut loaded: BTreeMap<Hook, Loaded>) -> Option<Self> {
        Some(Self {
            from: loaded.remove(&Hook::From)?,
            to: loaded.remove(&Hook::To)?,
            wire: loaded.remove(&Hook::Wire)?,
            arrive: loaded.remove(&Hook::Arrive)?,
            xdp: loaded.remove(&Hook::Xdp)?,
        })
    }

    /// The program of a hook.
    pub(super) const fn of(&self, hook: Hook) -> &Loaded {
        match hook {
            Hook::From => &self.from,
            Hook::To => &self.to,
            Hook::Wire => &self.wire,
            Hook::Arrive => &self.arrive,
            Hook::Xdp => &self.xdp,
        }
    }
}

/// Loads the programs of an object whose maps are there.
pub(super) fn load_programs(ebpf: &mut Ebpf) -> Result<Programs, DatapathError> {
    let [from, to, wire, arrive, xdp] = Hook::ALL.map(|hook| load_one(ebpf, hook));
    Ok(Programs {
        from: from?,
        to: to?,
        wire: wire?,
        arrive: arrive?,
        xdp: xdp?,
    })
}

fn load_one(ebpf: &mut Ebpf, hook: Hook) -> Result<Loaded, DatapathError> {
    let name = hook.program();
    let missing = DatapathError::Object {
        what: "program",
        name,
    };
    let rejected = |error: ProgramError| DatapathError::Rejected {
        program: name,
        why: explain(&error),
    };
    let loaded = match ebpf.program_mut(name) {
        Some(Program::SchedClassifier(program)) => {
            insist(|| program.load(), was_interrupted).map_err(rejected)?;
            program.fd()
        }
        Some(Program::Xdp(program)) => {
            insist(|| program.load(), was_interrupted).map_err(rejected)?;
            program.fd()
        }
        _ => return Err(missing),
    };
    let fd = loaded
        .map_err(rejected)?
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| rejected(error.into()))?;
    Loaded::new(fd).map_err(|error| rejected(error.into()))
}

/// How often the verifier is begun at most, as libbpf does.
const ATTEMPTS: usize = 5;

/// Tries again what was interrupted.
fn insist<E>(
    mut load: impl FnMut() -> Result<(), E>,
    was_interrupted: impl Fn(&E) -> bool,
) -> Result<(), E> {
    for _ in 1..ATTEMPTS {
        match load() {
            Err(error) if was_interrupted(&error) => {}
            done => return done,
        }
    }
    load()
}

/// Whether the verifier ended because a signal waits for this thread (EAGAIN; `do_check`,
/// `kernel/bpf/verifier.c`). That need not be one that somebody sent: a container that is
/// paused and the kernel's live patching interrupt threads so.
fn was_interrupted(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { io_error, .. }
        if io_error.kind() == io::ErrorKind::WouldBlock)
}

/// The end of what the verifier says, which is where it gives its reason.
fn explain(error: &ProgramError) -> String {
    const LINES: usize = 4;
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return error.to_string();
    };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let end = lines
        .get(lines.len().saturating_sub(LINES)..)
        .unwrap_or(&lines);
    format!("{io_error}: {}", end.join(" | "))
}

/// What the kernel says of a loaded program.
pub(super) fn program_info(ebpf: &Ebpf, hook: Hook) -> Option<ProgramInfo> {
    match ebpf.program(hook.program())? {
        Program::SchedClassifier(program) => program.info().ok(),
        Program::Xdp(program) => program.info().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it was tried, and what came of it, if these are the answers.
    fn tried(answers: &[Result<(), u8>]) -> (usize, Result<(), u8>) {
        const INTERRUPTED: u8 = 4;
        let mut tries = 0;
        let done = insist(
            || {
                tries += 1;
                answers[tries - 1]
            },
            |error| *error == INTERRUPTED,
        );
        (tries, done)
    }

    #[test]
    fn what_is_interrupted_is_tried_again_and_what_is_refused_is_not() {
        assert_eq!(tried(&[Ok(())]), (1, Ok(())));
        assert_eq!(tried(&[Err(4), Err(4), Ok(())]), (3, Ok(())));
        assert_eq!(tried(&[Err(4), Err(9)]), (2, Err(9)));
        assert_eq!(tried(&[Err(4); ATTEMPTS]), (ATTEMPTS, Err(4)));
    }
}
