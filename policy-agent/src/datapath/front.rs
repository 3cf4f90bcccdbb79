//! Who runs before us, and how our programs come first again.
//!
//! A program that runs before ours may pass packets on by itself (`TCX_PASS`, or
//! any verdict of a clsact filter ends the chain), so nobody may. Whether and how
//! often that is put right is the agent's to decide (`agent/rivals.rs`).
//!
//! At no moment is the interface without a judge: what comes first is attached
//! before what came later is taken away. For a moment both judge, which changes
//! no verdict. A crash between any two steps leaves what judges pinned; the next
//! start puts the agent's program into it and sweeps up the rest.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::{
    Datapath,
    attach::{self, AttachError, OpenLink, Pinned, attach_type, is_live},
    clsact,
    pin::{self, Hook, PinError, Pins},
    programs::Loaded,
    sys::{
        self,
        link::{self, IdOf},
        relay::Relay,
    },
};

/// Somebody else's program, or filter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rival {
    /// Its name, as the kernel knows it, at most 15 bytes; of a filter without a
    /// program its kind. Others choose it.
    pub name: String,
    /// The program's id; 0: it has none, or it may not be known.
    pub program: u32,
}

/// A hook on which others run before us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Displaced {
    /// The interface.
    pub ifindex: u32,
    /// Whose place on it.
    pub hook: Hook,
    /// Who runs before, in that order.
    pub by: Vec<Rival>,
}

impl Datapath {
    /// Every hook where our program is, and others run before it.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn displaced(&self) -> Result<Vec<Displaced>, AttachError> {
        let mut all = Vec::new();
        for (ifindex, hook, path) in self.pins.all_links()? {
            let by = match attach::open(&path)? {
                Pinned::Link(link) if is_live(&link.facts, ifindex, hook) => {
                    self.before(ifindex, hook, link.facts.id)
                }
                Pinned::Program(_) => clsact::before(ifindex, hook),
                Pinned::Link(_) | Pinned::Nothing => continue,
            };
            let by = match by {
                // The interface went meanwhile: nobody is on it.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => continue,
                by => by.map_err(|e| AttachError::new(ifindex, hook, "find who is before", e))?,
            };
            if !by.is_empty() {
                all.push(Displaced { ifindex, hook, by });
            }
        }
        Ok(all)
    }

    /// Others' programs before a link of ours on its hook.
    pub(super) fn before(&self, ifindex: u32, hook: Hook, link: u32) -> io::Result<Vec<Rival>> {
        if hook == Hook::Xdp {
            // There is no more than one.
            return Ok(Vec::new());
        }
        let all = link::tcx_programs(ifindex, attach_type(hook))?;
        let before = all.iter().take_while(|on| on.link_id != link);
        let is_ours = |id: u32| {
            Hook::ALL
                .iter()
                .any(|hook| self.programs.of(*hook).id == id)
        };
        let others = before.filter(|on| !is_ours(on.program_id));
        Ok(others.map(|on| rival(on.program_id)).collect())
    }

    /// Makes our program on a hook the first one. Does nothing where ours is not:
    /// that is for [`Self::attach`].
    ///
    /// # Errors
    ///
    /// [`AttachError`]; the interface is judged as before, or by both places.
    pub fn put_in_front(&self, ifindex: u32, hook: Hook) -> Result<(), AttachError> {
        let path = self.pins.link(ifindex, hook);
        match attach::open(&path)? {
            Pinned::Link(link) if hook != Hook::Xdp && is_live(&link.facts, ifindex, hook) => {
                link_in_front(&link, self.programs.of(hook), ifindex, hook, &path)
            }
            Pinned::Program(_) => clsact::put_in_front(ifindex, hook, self.programs.of(hook).fd()),
            Pinned::Link(_) | Pinned::Nothing => Ok(()),
        }
    }
}

fn rival(program: u32) -> Rival {
    let name = link::by_id(IdOf::Program, program)
        .and_then(|fd| sys::program_name(fd.as_fd()))
        .unwrap_or_default();
    Rival { name, program }
}

/// A new link in front takes the place of the one that is there.
fn link_in_front(
    old: &OpenLink,
    program: &Loaded,
    ifindex: u32,
    hook: Hook,
    path: &Path,
) -> Result<(), AttachError> {
    let error = |what| move |source| AttachError::new(ifindex, hook, what, source);
    // The kernel takes a program once on a hook.
    let relay = Relay::load(program.fd()).map_err(error("stand in for"))?;
    let [next, table] = [NEXT, TABLE].map(|end| with_end(path, end));
    for stray in [&next, &table] {
        attach::remove(stray)?;
    }
    sys::obj_pin(relay.table(), &table).map_err(error("pin"))?;
    let new = link::create(relay.program(), ifindex, attach_type(hook), link::FRONT);
    let new = new.map_err(error("put in front"))?;
    sys::obj_pin(new.as_fd(), &next).map_err(error("pin"))?;
    fs::rename(&next, path).map_err(error("pin"))?;
    // Whether or not it can be detached, its last descriptor is closed soon.
    let detached = link::detach(old.fd.as_fd());
    let updated = detached
        .and_then(|()| link::update(new.as_fd(), program.fd(), Some(relay.program())))
        .map_err(error("put in front"));
    // While the relay is in the link, it needs its table.
    if updated.is_ok() {
        attach::remove(&table)?;
    }
    updated
}

/// Ends of the names of pins that are there for a moment. (The file system
/// reserves names with a dot.)
const NEXT: &str = "-next";
const TABLE: &str = "-table";

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Removes what a crash between two steps left, once every link has its program.
pub(super) fn sweep(pins: &Pins) -> Result<(), PinError> {
    for path in pin::list(&pins.links())? {
        let is_stray = |end: &str| {
            path.as_os_str()
                .as_encoded_bytes()
                .ends_with(end.as_bytes())
        };
        if is_stray(NEXT) || is_stray(TABLE) {
            fs::remove_file(&path).map_err(|source| PinError::Io {
                what: "remove",
                path: path.clone(),
                source,
            })?;
        }
    }
    Ok(())
}
