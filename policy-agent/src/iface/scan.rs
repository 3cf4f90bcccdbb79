//! Reads a [`Snapshot`], consistently, while pods come and go.
//!
//! A namespace's number is given to the next namespace when the first is gone,
//! and interface numbers inside pods are all alike, so an answer about "number
//! 5, interface 2" could be another pod's than the veth's that was seen to lead
//! there. A veth is therefore read before **and after** the addresses, and an
//! answer counts only if it leads to the same number and interface in both.
//! That is enough: a living namespace keeps its number, one that is being
//! destroyed has none (the kernel says -1) for as long as its veths exist, and
//! a veth's index is not reused while it exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use super::{
    error::IfaceError,
    netns_dir,
    pace::Change,
    snapshot::{AddressClass, Behind, Link, Nsid, OwnAddress, PeerAddresses, Snapshot},
    socket::QuestionSocket,
};

/// How often veths that changed under the reader are read again in one scan;
/// what is still moving then is reported as unsettled, and the change itself
/// causes the next scan.
const ROUNDS: u32 = 4;

/// What the kernel said about the addresses of another namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Foreign {
    /// Interface index there and address, all that were asked for.
    Addresses(Vec<(u32, IpAddr)>),
    /// No such namespace or interface any more.
    Unsettled,
    /// More than is read, or always changing: what a pod does there must not
    /// keep the node from reading about others.
    Excessive,
    /// Not ours to read.
    Denied,
}

/// The questions a scan asks; the kernel answers, or a table in tests.
pub(super) trait Kernel {
    /// All links of the agent's namespace.
    fn links(&mut self) -> Result<BTreeMap<u32, Link>, IfaceError>;
    /// One of them; `None` if it is gone.
    fn link(&mut self, index: u32) -> Result<Option<Link>, IfaceError>;
    /// All addresses of the agent's namespace, sorted.
    fn own_addresses(&mut self) -> Result<Vec<OwnAddress>, IfaceError>;
    /// The addresses of another namespace, of one interface or of all.
    fn addresses_in(
        &mut self,
        namespace: Nsid,
        interface: Option<u32>,
    ) -> Result<Foreign, IfaceError>;
    /// The number of the namespace that an open file stands for.
    fn namespace_of(&mut self, file: BorrowedFd<'_>) -> io::Result<Option<Nsid>>;
}

/// An answer about a veth, and what it was an answer to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    peer: (Nsid, u32),
    behind: Behind,
    /// The answer before, because the one of now cannot be had.
    excessive: bool,
}

type Answers = BTreeMap<u32, Answer>;

/// Reads the interfaces of one network namespace: that of the thread which
/// created it, and in which scans are to be made too.
///
/// Blocks for the time of the netlink dumps, about a millisecond, longer while
/// somebody else holds the kernel's network configuration lock.
#[derive(Debug)]
pub struct Scanner {
    kernel: QuestionSocket,
    netns_dir: Option<PathBuf>,
    answers: Answers,
    last: Option<Tables>,
}

/// The tables of the agent's own namespace, as last read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tables {
    links: BTreeMap<u32, Link>,
    own_addresses: Vec<OwnAddress>,
}

impl Tables {
    fn read(kernel: &mut impl Kernel) -> Result<Self, IfaceError> {
        Ok(Self {
            links: kernel.links()?,
            own_addresses: kernel.own_addresses()?,
        })
    }

    /// Whether the veths into these namespaces are still what they were.
    fn hold_for(
        &self,
        namespaces: &BTreeSet<Nsid>,
        kernel: &mut impl Kernel,
    ) -> Result<bool, IfaceError> {
        for link in self.links.values() {
            if let Some(peer) = link.foreign_peer()
                && namespaces.contains(&peer.0)
                && !leads_to(kernel, link.index, peer)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Scanner {
    /// Opens the socket. With `netns_dir`, only veths into the namespaces bound
    /// in that folder are looked behind.
    ///
    /// # Errors
    /// [`IfaceError::Call`] when netlink is not to be had.
    pub fn new(netns_dir: Option<PathBuf>) -> Result<Self, IfaceError> {
        Ok(Self {
            kernel: QuestionSocket::open()?,
            netns_dir,
            answers: Answers::new(),
            last: None,
        })
    }

    /// Reads everything.
    ///
    /// # Errors
    /// As [`Scanner::scan`].
    pub fn snapshot(&mut self) -> Result<Snapshot, IfaceError> {
        self.scan(&Change::everything())
    }

    /// Reads what `change` names; the rest is taken from the last scan, what is
    /// behind a veth only if it still leads to the same peer. News from other
    /// namespaces alone costs a few questions, whatever the number of pods.
    ///
    /// # Errors
    /// [`IfaceError`] when links or own addresses cannot be read; keep what is
    /// in force and scan again at the next change. A veth that cannot be looked
    /// behind is no error but [`Behind::Unsettled`] or [`Behind::Denied`].
    pub fn scan(&mut self, change: &Change) -> Result<Snapshot, IfaceError> {
        let mut kept = std::mem::take(&mut self.answers);
        let before = kept.clone();
        if change.everything {
            kept.clear();
        }
        kept.retain(|_, answer| !change.namespaces.contains(&answer.peer.0));
        let reusable = !change.everything && !change.own && self.netns_dir.is_none();
        // Taken, so that an error leaves nothing half true behind.
        let tables = match self.last.take().filter(|_| reusable) {
            Some(last) if last.hold_for(&change.namespaces, &mut self.kernel)? => last,
            _ => Tables::read(&mut self.kernel)?,
        };
        let (snapshot, answers) = look_around(
            &mut self.kernel,
            self.netns_dir.as_deref(),
            tables,
            kept,
            &before,
        )?;
        self.last = Some(Tables {
            links: snapshot.links.clone(),
            own_addresses: snapshot.own_addresses.clone(),
        });
        self.answers = answers;
        Ok(snapshot)
    }
}

/// Completes `tables` with what is behind the veths, asking for what `answers`
/// does not have. What cannot be had is taken from `before`.
fn look_around(
    kernel: &mut impl Kernel,
    netns_dir: Option<&Path>,
    tables: Tables,
    mut answers: Answers,
    before: &Answers,
) -> Result<(Snapshot, Answers), IfaceError> {
    let Tables {
        mut links,
        own_addresses,
    } = tables;
    let mut folder = None;
    for _ in 0..ROUNDS {
        if let Some(dir) = netns_dir {
            // After the links: listing them gives each namespace its number.
            folder = Some(netns_dir::read(dir, |file| kernel.namespace_of(file))?);
        }
        let wanted = folder.as_ref().map(|folder| &folder.namespaces);
        answers.retain(|index, answer| {
            links.get(index).and_then(Link::foreign_peer) == Some(answer.peer)
                && wanted.is_none_or(|wanted| wanted.contains_key(&answer.peer.0))
        });
        let mut open = unanswered(&links, &answers);
        if let Some(wanted) = wanted {
            open.retain(|namespace, _| wanted.contains_key(namespace));
        }
        let mut moved = false;
        for (namespace, veths) in &open {
            look_behind(kernel, *namespace, veths, &mut answers, before)?;
            for (index, peer) in veths {
                if !leads_to(kernel, *index, (*namespace, *peer))? {
                    answers.remove(index);
                }
                moved |= !answers.contains_key(index);
            }
        }
        if !moved {
            break;
        }
        links = kernel.links()?;
    }
    answers
        .retain(|index, answer| links.get(index).and_then(Link::foreign_peer) == Some(answer.peer));
    let behind = links
        .values()
        .filter_map(|link| Some((link.index, link.foreign_peer()?.0)))
        .map(|(index, namespace)| {
            let filtered = folder
                .as_ref()
                .is_some_and(|folder| !folder.namespaces.contains_key(&namespace));
            let behind = match answers.get(&index) {
                Some(answer) => answer.behind.clone(),
                None if filtered => Behind::Filtered,
                None => Behind::Unsettled,
            };
            (index, behind)
        })
        .collect();
    let excessive = answers
        .iter()
        .filter(|(_, answer)| answer.excessive)
        .map(|(index, _)| *index)
        .collect();
    let (named_namespaces, problems) = match folder {
        Some(folder) => (Some(folder.namespaces), folder.problems),
        None => (None, Vec::new()),
    };
    let snapshot = Snapshot {
        links,
        own_addresses,
        behind,
        excessive,
        named_namespaces,
        problems,
    };
    Ok((snapshot, answers))
}

/// Whether the veth leads there now.
fn leads_to(kernel: &mut impl Kernel, index: u32, peer: (Nsid, u32)) -> Result<bool, IfaceError> {
    let link = kernel.link(index)?;
    Ok(link.as_ref().and_then(Link::foreign_peer) == Some(peer))
}

/// The veths that lead elsewhere and have no answer, by namespace: own index
/// and the peer's.
fn unanswered(links: &BTreeMap<u32, Link>, answers: &Answers) -> BTreeMap<Nsid, Vec<(u32, u32)>> {
    let mut open = BTreeMap::<_, Vec<_>>::new();
    for link in links.values() {
        if let Some((namespace, peer)) = link.foreign_peer()
            && !answers.contains_key(&link.index)
        {
            open.entry(namespace).or_default().push((link.index, peer));
        }
    }
    open
}

/// Asks for the addresses behind `veths`, which all lead into `namespace`.
fn look_behind(
    kernel: &mut impl Kernel,
    namespace: Nsid,
    veths: &[(u32, u32)],
    answers: &mut Answers,
    before: &Answers,
) -> Result<(), IfaceError> {
    // The usual case asks for one interface only, so that what a pod builds
    // inside its namespace does not slow down the node. Several veths into one
    // namespace share one answer.
    let mut whole = None;
    let one = match veths {
        [(_, peer)] => Some(kernel.addresses_in(namespace, Some(*peer))?),
        _ => None,
    };
    for (index, peer) in veths {
        let first = match &one {
            Some(answer) => answer,
            None => cached(&mut whole, kernel, namespace)?,
        };
        let behind = match first {
            Foreign::Unsettled => continue,
            Foreign::Denied => Behind::Denied,
            Foreign::Excessive => Behind::Excessive,
            Foreign::Addresses(rows) => {
                let on_peer = sorted(rows.iter().filter(|(at, _)| at == peer));
                let settled = on_peer
                    .iter()
                    .any(|address| AddressClass::of(*address) == AddressClass::Global);
                if settled {
                    let beside = Vec::new();
                    Behind::Addresses(PeerAddresses { on_peer, beside })
                } else {
                    match cached(&mut whole, kernel, namespace)? {
                        Foreign::Addresses(rows) => {
                            let beside = sorted(rows.iter().filter(|(at, _)| at != peer));
                            Behind::Addresses(PeerAddresses { on_peer, beside })
                        }
                        Foreign::Excessive => Behind::Excessive,
                        Foreign::Unsettled | Foreign::Denied => continue,
                    }
                }
            }
        };
        let peer = (namespace, *peer);
        let excessive = behind == Behind::Excessive;
        let known = before.get(index).filter(|known| known.peer == peer);
        let behind = match known {
            Some(known) if excessive => known.behind.clone(),
            _ => behind,
        };
        let answer = Answer {
            peer,
            behind,
            excessive,
        };
        answers.insert(*index, answer);
    }
    Ok(())
}

/// All addresses of `namespace`, asked for once.
fn cached<'a>(
    whole: &'a mut Option<Foreign>,
    kernel: &mut impl Kernel,
    namespace: Nsid,
) -> Result<&'a Foreign, IfaceError> {
    Ok(match whole {
        Some(answer) => answer,
        None => whole.insert(kernel.addresses_in(namespace, None)?),
    })
}

fn sorted<'a>(rows: impl Iterator<Item = &'a (u32, IpAddr)>) -> Vec<IpAddr> {
    rows.map(|(_, address)| *address)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests;
