//! The node's end of the interface of one namespace, which is given by its path:
//! what a CNI plugin needs to know, without reading the whole node.

use std::{fs::File, net::IpAddr, os::fd::AsFd, path::Path};

use super::{
    error::IfaceError,
    scan::{Foreign, Kernel},
    snapshot::{Link, LinkKind},
    socket::QuestionSocket,
};

/// The index of the veth of the caller's network namespace that leads to the
/// namespace at `path`, and of several the one behind which one of `addresses`
/// is; `None`: there is none. The namespace is not entered.
///
/// # Errors
/// [`IfaceError`]: the path is no network namespace, or netlink is not to be had.
pub fn node_side(path: &Path, addresses: &[IpAddr]) -> Result<Option<u32>, IfaceError> {
    const WHAT: &str = "look for the interface of a namespace";
    let file = File::open(path).map_err(|source| IfaceError::call(WHAT, source))?;
    let mut kernel = QuestionSocket::open()?;
    find(&mut kernel, &file, addresses)
}

/// Whether an interface of the calling thread's network namespace is up, besides
/// the loopback. The kernel makes some by itself in a new one (`tunl0`, `sit0`);
/// those are down.
///
/// # Errors
/// [`IfaceError`]: netlink is not to be had.
pub fn any_up() -> Result<bool, IfaceError> {
    let links = QuestionSocket::open()?.links()?;
    Ok(links.values().any(|link| link.up && link.name != "lo"))
}

fn find(
    kernel: &mut impl Kernel,
    file: &impl AsFd,
    addresses: &[IpAddr],
) -> Result<Option<u32>, IfaceError> {
    const WHAT: &str = "ask for the id of the pod's namespace";
    // Listing the links gives each namespace that they lead to its number.
    let links = kernel.links()?;
    let namespace = kernel
        .namespace_of(file.as_fd())
        .map_err(|source| IfaceError::call(WHAT, source))?;
    let Some(namespace) = namespace else {
        return Ok(None);
    };
    let leading: Vec<(u32, u32)> = links
        .values()
        .filter(|link| link.kind == LinkKind::Veth)
        .filter_map(|link| Some((link.index, Link::foreign_peer(link)?)))
        .filter(|(_, (of, _))| *of == namespace)
        .map(|(index, (_, peer))| (index, peer))
        .collect();
    if let [_, _, ..] = leading[..] {
        for (index, peer) in &leading {
            if let Foreign::Addresses(rows) = kernel.addresses_in(namespace, Some(*peer))?
                && rows.iter().any(|(_, address)| addresses.contains(address))
            {
                return Ok(Some(*index));
            }
        }
    }
    Ok(leading.first().map(|(index, _)| *index))
}
