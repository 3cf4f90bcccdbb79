//! Holds a pod's network namespace from before its interface exists until its
//! policies are in force.
//!
//! Programs come onto an interface that is there, and the network's plugin makes
//! interface and route at once, so the first packets of a flood would meet the
//! namespace's kernel, which answers what policy denies with resets and ICMP
//! errors. The plugin's first stage, before the network's plugins, puts a table
//! into the new namespace that drops whatever arrives but neighbour discovery;
//! its last stage takes the table away. Nothing runs in the namespace meanwhile,
//! and a namespace whose ADD failed is deleted with its table.
//!
//! nftables, and not a rule of the routing policy: that would take ARP with it,
//! and leave every later lookup of the pod on the slower path.
//!
//! `wire` builds the messages; here are the namespace and the conversation.

mod wire;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::iface;
use crate::netlink::{self, BUFFER_BYTES};

/// What [`hold`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Nothing but neighbour discovery is received until [`release`].
    Yes,
    /// The namespace has had an interface before: somebody may be at work in it.
    /// Nothing was changed.
    InUse,
}

/// Why a namespace cannot be held, or let go.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The path is no network namespace, or may not be entered.
    #[error("cannot enter the network namespace: {0}")]
    Enter(#[source] io::Error),
    /// Its interfaces cannot be listed.
    #[error(transparent)]
    Interfaces(#[from] iface::IfaceError),
    /// nftables' answer.
    #[error("nftables in the pod's network namespace: {0}")]
    Refused(#[source] io::Error),
}

/// Holds the namespace at `netns`, unless an interface of it is up already.
///
/// # Errors
/// [`HoldError`]; it may be held then.
pub fn hold(netns: &Path) -> Result<Held, HoldError> {
    within(netns, || {
        if iface::any_up()? {
            return Ok(Held::InUse);
        }
        talk(&wire::hold()).map_err(HoldError::Refused)?;
        Ok(Held::Yes)
    })
}

/// Lets a namespace go; one that is not held stays as it is.
///
/// # Errors
/// [`HoldError`]; it is held as before then.
pub fn release(netns: &Path) -> Result<(), HoldError> {
    within(netns, || match talk(&wire::release()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Without nftables nothing can be held.
        Err(error) if is_missing(&error) => Ok(()),
        answer => answer.map_err(HoldError::Refused),
    })
}

/// Whether a namespace is held.
///
/// # Errors
/// [`HoldError`].
pub fn is_held(netns: &Path) -> Result<bool, HoldError> {
    within(netns, || match talk(&wire::question()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(HoldError::Refused(error)),
    })
}

/// Whether this kernel can hold namespaces: it has nftables. Read-only; needs
/// `CAP_NET_ADMIN`, and loads the kernel's module where that is needed.
///
/// # Errors
/// The kernel's answer.
pub fn is_possible() -> io::Result<bool> {
    match talk(&wire::generation()) {
        Ok(()) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// nfnetlink has no such subsystem, or there is no nfnetlink
/// (net/netfilter/nfnetlink.c, net/netlink/af_netlink.c).
fn is_missing(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    [libc::EINVAL, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT]
        .map(Some)
        .contains(&number)
}

/// Runs something in another network namespace, on a thread that ends with it.
fn within<T: Send>(
    netns: &Path,
    run: impl FnOnce() -> Result<T, HoldError> + Send,
) -> Result<T, HoldError> {
    let file = File::open(netns).map_err(HoldError::Enter)?;
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new().spawn_scoped(scope, || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|errno| HoldError::Enter(errno.into()))?;
            run()
        });
        let joined = inside.map_err(HoldError::Enter)?.join();
        joined.unwrap_or_else(|_| Err(HoldError::Enter(io::Error::other("the thread panicked"))))
    })
}

/// Sends messages to nftables in the calling thread's namespace; what comes of the
/// last of them, or of the first that is refused.
fn talk(request: &wire::Request) -> io::Result<()> {
    let socket = netlink::open(NETLINK_NETFILTER)?;
    socket.send(&request.bytes, 0)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let answer = netlink::receive(&socket, &mut buffer)?;
        if let Some(answer) = wire::answer(answer, request.last)? {
            return answer;
        }
    }
}
