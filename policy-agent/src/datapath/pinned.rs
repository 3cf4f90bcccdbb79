//! Programs onto an interface without an agent: those that the last one pinned.
//!
//! For the CNI plugin, which must not wait for an agent that is away. Nothing is
//! loaded, no map is written, and what is attached already stays as it is: an
//! interface without an endpoint passes the node's own traffic only, until an
//! agent says whose it is.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
};

use super::{
    attach::{self, AttachError, Backend, Pinned},
    clsact,
    pin::{Hook, PinError, Pins},
    reuse,
    sys::{self, Kind},
};

/// Hooks of a pod's interface: what the pod receives first, see
/// [`Datapath::attach`](super::Datapath::attach).
const HOOKS: [Hook; 2] = [Hook::To, Hook::From];

/// Puts the pinned programs on an interface, unless there are programs of ours.
///
/// # Errors
///
/// [`PinError::NotThere`]: no agent has run since the node started. Otherwise
/// [`AttachError`].
pub fn attach(pins: &Pins, ifindex: u32) -> Result<(), AttachError> {
    for hook in HOOKS {
        if is_on(pins, ifindex, hook)? {
            continue;
        }
        let path = pins.program(hook);
        let program = match sys::obj_get(&path) {
            Ok(program) => program,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PinError::NotThere { path }.into());
            }
            Err(source) => {
                let what = "open";
                return Err(PinError::Io { what, path, source }.into());
            }
        };
        let is_program = sys::kind_of(program.as_fd()).is_ok_and(|kind| kind == Kind::Program);
        if !is_program {
            return Err(AttachError::Foreign { path });
        }
        let link = pins.link(ifindex, hook);
        attach::remove(&link)?;
        match Backend::best() {
            Backend::Tcx => attach::attach_tcx(program.as_fd(), ifindex, hook, &link)?,
            Backend::Clsact => clsact::attach(ifindex, hook, program.as_fd(), &link)?,
        }
    }
    Ok(())
}

/// Whether an interface has both programs.
///
/// # Errors
///
/// [`AttachError`].
pub fn is_attached(pins: &Pins, ifindex: u32) -> Result<bool, AttachError> {
    for hook in HOOKS {
        if !is_on(pins, ifindex, hook)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_on(pins: &Pins, ifindex: u32, hook: Hook) -> Result<bool, AttachError> {
    match attach::open(&pins.link(ifindex, hook))? {
        Pinned::Nothing => Ok(false),
        Pinned::Link(link) => Ok(attach::is_live(&link.facts, ifindex, hook)),
        Pinned::Program(_) => clsact::is_attached(ifindex, hook),
    }
}

/// Pins programs for [`attach()`] and for the next agent, in place of those that an
/// earlier agent pinned.
pub(super) fn pin<'p>(
    pins: &Pins,
    program: impl Fn(Hook) -> BorrowedFd<'p>,
) -> Result<(), PinError> {
    reuse::break_seal(pins).map_err(|source| PinError::Io {
        what: "clean",
        path: pins.programs(),
        source,
    })?;
    for hook in Hook::ALL {
        let path = pins.program(hook);
        let mut next = path.clone().into_os_string();
        // The file system reserves names with a dot.
        next.push("-next");
        let error = |what| {
            let path = path.clone();
            move |source| PinError::Io { what, path, source }
        };
        match fs::remove_file(&next) {
            // Left by a crash between the steps below.
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(error("replace")(source));
            }
            _ => {}
        }
        sys::obj_pin(program(hook), next.as_ref()).map_err(error("pin"))?;
        fs::rename(&next, &path).map_err(error("replace"))?;
    }
    Ok(())
}

/// Removes the pins that stand for nothing any more: their interfaces went while
/// no agent ran.
pub(super) fn sweep(pins: &Pins) -> Result<(), AttachError> {
    for (ifindex, hook, path) in pins.all_links()? {
        if HOOKS.contains(&hook) && !is_on(pins, ifindex, hook)? {
            attach::remove(&path)?;
        }
    }
    Ok(())
}
