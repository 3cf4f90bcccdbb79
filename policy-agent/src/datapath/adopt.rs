//! New programs into the links and filters that are there already, in place:
//! all of them, or none.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use super::{
    attach::{self, AttachError, Pinned},
    clsact,
    pin::{Hook, Pins},
    programs::Programs,
    sys,
};

/// A program that was replaced, and the one that was there.
struct Replaced {
    ifindex: u32,
    hook: Hook,
    path: PathBuf,
    /// `None`: a filter.
    link: Option<OwnedFd>,
    old: OwnedFd,
}

/// Puts the new programs into every live link, and the old ones back if any of
/// them cannot be replaced.
pub(super) fn adopt(pins: &Pins, programs: &Programs) -> Result<(), AttachError> {
    let mut done = Vec::new();
    for (ifindex, hook, path) in pins.all_links()? {
        match adopt_one(ifindex, hook, path, programs) {
            Ok(replaced) => done.extend(replaced),
            Err(error) => {
                for replaced in done {
                    restore(&replaced, programs);
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

fn adopt_one(
    ifindex: u32,
    hook: Hook,
    path: PathBuf,
    programs: &Programs,
) -> Result<Option<Replaced>, AttachError> {
    let program = programs.of(hook);
    let (link, old) = match attach::open(&path)? {
        Pinned::Nothing => return Ok(None),
        Pinned::Link(link) if !attach::is_live(&link.facts, ifindex, hook) => return Ok(None),
        Pinned::Link(link) => {
            let old = attach::replace(&link, program, ifindex, hook)?;
            (Some(link.fd), old)
        }
        Pinned::Program(id) => {
            let old = attach::program_by_id(id)
                .map_err(|source| AttachError::new(ifindex, hook, "find the program of", source))?;
            let replaced = clsact::replace(ifindex, hook, program.fd(), &path)?;
            (None, old.filter(|_| replaced))
        }
    };
    Ok(old.map(|old| Replaced {
        ifindex,
        hook,
        path,
        link,
        old,
    }))
}

/// Puts an old program back. Either program judges correctly, so one that cannot
/// be put back (its interface went away, most likely) is no harm.
fn restore(replaced: &Replaced, programs: &Programs) {
    let Replaced {
        ifindex, hook, old, ..
    } = replaced;
    let new = programs.of(*hook).fd();
    match &replaced.link {
        Some(link) => drop(sys::link::update(link.as_fd(), old.as_fd(), Some(new))),
        None => drop(clsact::replace(
            *ifindex,
            *hook,
            old.as_fd(),
            &replaced.path,
        )),
    }
}
