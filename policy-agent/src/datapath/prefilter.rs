//! The XDP prefilter: an interface that the operator named, and the prefixes
//! whose packets it drops.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, OwnedFd},
};

use ipnet::IpNet;
use policy_common::abi::maps::{DENY_ENTRIES, PrefixKey};
use rustix::{
    fd::BorrowedFd,
    net::{AddressFamily, SocketType, netdevice::name_to_index, socket},
};

use super::{
    Datapath, Plain, TypedMap,
    attach::{self, AttachError, Pinned},
    encode::{key4, key6},
    map::MapError,
    maps::Maps,
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

/// What a new list changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DenyChange {
    /// Prefixes that were not there.
    pub added: usize,
    /// Prefixes that are no longer there.
    pub removed: usize,
}

/// The list of prefixes cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum DenyError {
    /// Too long.
    #[error(
        "{needed} {family} prefixes to deny, and there is room for {DENY_ENTRIES} together with \
         those they replace; shorten the list"
    )]
    TooMany {
        /// IPv4 or IPv6.
        family: &'static str,
        /// Old and new ones together.
        needed: usize,
    },
    /// A map refuses.
    #[error(transparent)]
    Map(#[from] MapError),
}

impl Datapath {
    /// Attaches the prefilter to an interface, or adopts it there.
    ///
    /// # Errors
    ///
    /// [`AttachError`]: no such interface, another XDP program there.
    pub fn attach_prefilter(&self, name: &str) -> Result<XdpMode, AttachError> {
        let ifindex = index_of(name)?;
        let hook = Hook::Xdp;
        let path = self.pins.link(ifindex, hook);
        match attach::open(&path)? {
            Pinned::Link(open) if attach::is_live(&open.facts, ifindex, hook) => {
                attach::replace(&open, self.programs.of(hook), ifindex, hook)?;
                return Ok(XdpMode::Adopted);
            }
            Pinned::Link(_) | Pinned::Program(_) => attach::remove(&path)?,
            Pinned::Nothing => {}
        }
        let program = self.programs.of(hook).fd();
        let (link, mode) = create(program, ifindex, name)?;
        sys::obj_pin(link.as_fd(), &path)
            .map_err(|source| AttachError::new(ifindex, hook, "pin", source))?;
        Ok(mode)
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

impl Maps {
    /// Puts a list of prefixes in force in place of the one that was: what is
    /// new is added before anything is removed, so that what both name is
    /// dropped throughout.
    ///
    /// # Errors
    ///
    /// [`DenyError`]; with `TooMany` nothing has changed.
    pub fn deny(&self, prefixes: &[IpNet]) -> Result<DenyChange, DenyError> {
        let mut wanted4 = BTreeSet::new();
        let mut wanted6 = BTreeSet::new();
        for prefix in prefixes {
            match prefix {
                IpNet::V4(prefix) => wanted4.insert(key4(prefix)),
                IpNet::V6(prefix) => wanted6.insert(key6(prefix)),
            };
        }
        let change4 = Change::plan(&self.deny4, &wanted4, "IPv4")?;
        let change6 = Change::plan(&self.deny6, &wanted6, "IPv6")?;
        change4.add(&self.deny4)?;
        change6.add(&self.deny6)?;
        change4.remove(&self.deny4)?;
        change6.remove(&self.deny6)?;
        Ok(DenyChange {
            added: change4.add.len() + change6.add.len(),
            removed: change4.remove.len() + change6.remove.len(),
        })
    }
}

/// What one family's list changes.
struct Change<const N: usize> {
    add: Vec<PrefixKey<N>>,
    remove: Vec<PrefixKey<N>>,
}

impl<const N: usize> Change<N>
where
    PrefixKey<N>: Plain,
{
    fn plan(
        map: &TypedMap<PrefixKey<N>, u32>,
        wanted: &BTreeSet<PrefixKey<N>>,
        family: &'static str,
    ) -> Result<Self, DenyError> {
        let there: BTreeSet<_> = map.entries()?.into_iter().map(|(key, _)| key).collect();
        let add: Vec<_> = wanted.difference(&there).copied().collect();
        let needed = there.len() + add.len();
        if needed > DENY_ENTRIES {
            return Err(DenyError::TooMany { family, needed });
        }
        let remove = there.difference(wanted).copied().collect();
        Ok(Self { add, remove })
    }

    fn add(&self, map: &TypedMap<PrefixKey<N>, u32>) -> Result<(), MapError> {
        map.set_all(&self.add, &vec![1; self.add.len()])
            .map_err(|stopped| stopped.error)
    }

    fn remove(&self, map: &TypedMap<PrefixKey<N>, u32>) -> Result<(), MapError> {
        map.remove_all(&self.remove)
            .map_err(|stopped| stopped.error)
    }
}
