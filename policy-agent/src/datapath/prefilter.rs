//! The XDP prefilter on interfaces that the operator named. Whose packets it drops
//! is `deny`'s.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fd::BorrowedFd,
    net::{AddressFamily, SocketType, netdevice::name_to_index, socket},
};

use super::{
    Datapath,
    attach::{self, AttachError, Pinned},
    pin::{Hook, hint},
    sys::{self, link},
};

/// How the prefilter runs on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before anything is allocated for the packet.
    Native,
    /// In the kernel's generic code: works everywhere, and costs more.
    Generic,
    /// Adopted from an earlier agent: as that one attached it.
    Adopted,
}

/// The prefilter is on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefiltered {
    /// The interface's index.
    pub ifindex: u32,
    /// How it runs there.
    pub mode: XdpMode,
    /// It was not there a moment ago, or another program was in its link.
    pub changed: bool,
}

impl Datapath {
    /// Attaches the prefilter to an interface, or adopts it there.
    ///
    /// # Errors
    ///
    /// [`AttachError`]: no such interface, another XDP program there.
    pub fn attach_prefilter(&self, name: &str) -> Result<Prefiltered, AttachError> {
        let ifindex = index_of(name)?;
        let hook = Hook::Xdp;
        let path = self.pins.link(ifindex, hook);
        match attach::open(&path)? {
            Pinned::Link(open) if attach::is_live(&open.facts, ifindex, hook) => {
                let program = self.programs.of(hook);
                attach::replace(&open, program, ifindex, hook)?;
                return Ok(Prefiltered {
                    ifindex,
                    mode: XdpMode::Adopted,
                    changed: open.facts.program_id != program.id,
                });
            }
            Pinned::Link(_) | Pinned::Program(_) => attach::remove(&path)?,
            Pinned::Nothing => {}
        }
        let program = self.programs.of(hook).fd();
        let (link, mode) = create(program, ifindex, name)?;
        sys::obj_pin(link.as_fd(), &path)
            .map_err(|source| AttachError::new(ifindex, hook, "pin", source))?;
        Ok(Prefiltered {
            ifindex,
            mode,
            changed: true,
        })
    }

    /// Takes the prefilter off every interface but these.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn keep_prefilter_on(&self, names: &[String]) -> Result<(), AttachError> {
        let mut keep = BTreeSet::new();
        for name in names {
            keep.insert(index_of(name)?);
        }
        for (ifindex, hook, path) in self.pins.all_links()? {
            if hook == Hook::Xdp && !keep.contains(&ifindex) {
                attach::detach_pin(ifindex, hook, &path)?;
            }
        }
        Ok(())
    }
}

fn create(
    program: BorrowedFd<'_>,
    ifindex: u32,
    name: &str,
) -> Result<(OwnedFd, XdpMode), AttachError> {
    let native = link::create(program, ifindex, link::ATTACH_XDP, link::XDP_NATIVE);
    let result = match native {
        Ok(link) => return Ok((link, XdpMode::Native)),
        // The driver has no XDP, or not for this size of frames.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {
            link::create(program, ifindex, link::ATTACH_XDP, link::XDP_GENERIC)
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(link) => Ok((link, XdpMode::Generic)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
            Err(AttachError::Busy {
                name: name.to_owned(),
            })
        }
        Err(source) => Err(AttachError::new(ifindex, Hook::Xdp, "attach", source)),
    }
}

fn index_of(name: &str) -> Result<u32, AttachError> {
    let unknown = |_| AttachError::Unknown {
        name: name.to_owned(),
    };
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).map_err(|errno| {
        AttachError::Netlink {
            ifindex: 0,
            hook: Hook::Xdp,
            what: "look up the interface for",
            why: format!("{errno}{}", hint(&errno.into())),
        }
    })?;
    name_to_index(any, name).map_err(unknown)
}
