//! Scans of a kernel made of tables, which changes between two questions.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::IpAddr,
    os::fd::BorrowedFd,
};

use super::{Answers, Foreign, Kernel, Tables, look_around};
use crate::iface::{
    error::IfaceError,
    snapshot::{Behind, Link, LinkKind, Nsid, OwnAddress, Peer, PeerAddresses, Snapshot},
};

/// Answers from tables. Each listing of links takes the next list, and the one
/// after it is what is true from then on; the last one stays.
#[derive(Default)]
struct Script {
    links: VecDeque<Vec<Link>>,
    addresses: BTreeMap<Nsid, Vec<(u32, IpAddr)>>,
    denied: Vec<Nsid>,
    excessive: Vec<Nsid>,
    asked: Vec<(Nsid, Option<u32>)>,
}

impl Kernel for Script {
    fn links(&mut self) -> Result<BTreeMap<u32, Link>, IfaceError> {
        let now = if self.links.len() > 1 {
            self.links.pop_front()
        } else {
            self.links.front().cloned()
        };
        let links = now.unwrap_or_default();
        Ok(links.into_iter().map(|link| (link.index, link)).collect())
    }

    fn link(&mut self, index: u32) -> Result<Option<Link>, IfaceError> {
        let mut now = self.links.front().into_iter().flatten();
        Ok(now.find(|link| link.index == index).cloned())
    }

    fn own_addresses(&mut self) -> Result<Vec<OwnAddress>, IfaceError> {
        Ok(Vec::new())
    }

    fn addresses_in(
        &mut self,
        namespace: Nsid,
        interface: Option<u32>,
    ) -> Result<Foreign, IfaceError> {
        self.asked.push((namespace, interface));
        if self.denied.contains(&namespace) {
            return Ok(Foreign::Denied);
        }
        if self.excessive.contains(&namespace) {
            return Ok(Foreign::Excessive);
        }
        Ok(match self.addresses.get(&namespace) {
            None => Foreign::Unsettled,
            Some(rows) => Foreign::Addresses(
                rows.iter()
                    .filter(|(at, _)| interface.is_none_or(|wanted| *at == wanted))
                    .copied()
                    .collect(),
            ),
        })
    }

    fn namespace_of(&mut self, _file: BorrowedFd<'_>) -> io::Result<Option<Nsid>> {
        Ok(None)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn veth(index: u32, namespace: u32, peer: u32) -> Link {
    Link {
        index,
        name: format!("veth{index}"),
        kind: LinkKind::Veth,
        peer: Peer::Elsewhere {
            namespace: Nsid(namespace),
            index: peer,
        },
        master: None,
        up: true,
    }
}

fn on_peer(addresses: &[&str]) -> Behind {
    Behind::Addresses(PeerAddresses {
        on_peer: addresses.iter().map(|text| ip(text)).collect(),
        beside: Vec::new(),
    })
}

fn behind(script: &mut Script) -> BTreeMap<u32, Behind> {
    let (snapshot, _) = scan(script, Answers::new());
    snapshot.behind
}

fn scan(script: &mut Script, kept: Answers) -> (Snapshot, Answers) {
    let tables = Tables::read(script).expect("scripts do not fail");
    look_around(script, None, tables, kept, &Answers::new()).expect("scripts do not fail")
}

#[test]
fn one_veth_asks_for_its_peer_alone() {
    let mut script = Script {
        links: [vec![veth(5, 0, 2)]].into(),
        addresses: [(Nsid(0), vec![(1, ip("127.0.0.1")), (2, ip("10.0.0.2"))])].into(),
        ..Script::default()
    };
    assert_eq!(behind(&mut script), [(5, on_peer(&["10.0.0.2"]))].into());
    assert_eq!(script.asked, [(Nsid(0), Some(2))]);
}

#[test]
fn several_veths_into_one_namespace_share_one_question() {
    let mut script = Script {
        links: [vec![veth(5, 0, 2), veth(6, 0, 3)]].into(),
        addresses: [(Nsid(0), vec![(2, ip("10.0.0.2")), (3, ip("10.0.0.3"))])].into(),
        ..Script::default()
    };
    let expect = [(5, on_peer(&["10.0.0.2"])), (6, on_peer(&["10.0.0.3"]))];
    assert_eq!(behind(&mut script), expect.into());
    assert_eq!(script.asked, [(Nsid(0), None)]);
}

#[test]
fn a_peer_without_a_global_address_shows_what_is_beside_it() {
    let rows = vec![(1, ip("::1")), (2, ip("fe80::2")), (3, ip("10.0.0.2"))];
    let mut script = Script {
        links: [vec![veth(5, 0, 2)]].into(),
        addresses: [(Nsid(0), rows)].into(),
        ..Script::default()
    };
    let expect = Behind::Addresses(PeerAddresses {
        on_peer: vec![ip("fe80::2")],
        beside: vec![ip("10.0.0.2"), ip("::1")],
    });
    assert_eq!(behind(&mut script), [(5, expect)].into());
}

#[test]
fn an_answer_for_a_number_that_changed_hands_does_not_count() {
    // Veth 5 led to number 0, which then became another pod's.
    let dying = Link {
        peer: Peer::Unknown,
        ..veth(5, 0, 2)
    };
    let mut script = Script {
        links: [
            vec![veth(5, 0, 2)],
            vec![dying.clone(), veth(6, 0, 2)],
            vec![dying, veth(6, 0, 2)],
        ]
        .into(),
        addresses: [(Nsid(0), vec![(2, ip("10.0.0.66"))])].into(),
        ..Script::default()
    };
    assert_eq!(behind(&mut script), [(6, on_peer(&["10.0.0.66"]))].into());
}

#[test]
fn a_veth_that_dies_during_the_scan_is_gone_and_the_others_keep_their_answers() {
    let mut script = Script {
        links: [vec![veth(5, 0, 2), veth(6, 1, 2)], vec![veth(6, 1, 2)]].into(),
        addresses: [(Nsid(1), vec![(2, ip("10.0.0.3"))])].into(),
        ..Script::default()
    };
    assert_eq!(behind(&mut script), [(6, on_peer(&["10.0.0.3"]))].into());
    assert_eq!(script.asked.len(), 2);
}

#[test]
fn old_tables_hold_only_while_the_veths_lead_where_they_did() {
    let mut script = Script {
        links: [vec![veth(5, 0, 2), veth(6, 1, 2)]].into(),
        ..Script::default()
    };
    let tables = Tables::read(&mut script).expect("scripts do not fail");
    script.links = [vec![veth(5, 0, 2), veth(6, 1, 3)]].into();
    let mut hold = |namespace: u32| {
        tables
            .hold_for(&[Nsid(namespace)].into(), &mut script)
            .expect("scripts do not fail")
    };
    assert!(hold(0));
    assert!(!hold(1));
    assert!(hold(7));
}

#[test]
fn what_never_settles_is_said_to_be_unsettled_and_others_are_not_harmed() {
    let mut script = Script {
        links: [vec![veth(5, 0, 2), veth(6, 1, 2)]].into(),
        addresses: [(Nsid(1), vec![(2, ip("10.0.0.3"))])].into(),
        ..Script::default()
    };
    let expect = [(5, Behind::Unsettled), (6, on_peer(&["10.0.0.3"]))];
    assert_eq!(behind(&mut script), expect.into());
}

#[test]
fn a_refusal_concerns_one_namespace_and_is_asked_once() {
    let mut script = Script {
        links: [vec![veth(5, 0, 2), veth(6, 1, 2)]].into(),
        addresses: [(Nsid(1), vec![(2, ip("10.0.0.3"))])].into(),
        denied: vec![Nsid(0)],
        ..Script::default()
    };
    let expect = [(5, Behind::Denied), (6, on_peer(&["10.0.0.3"]))];
    assert_eq!(behind(&mut script), expect.into());
    assert_eq!(script.asked.len(), 2);
}

#[test]
fn links_without_a_foreign_end_are_not_looked_behind() {
    let here = Link {
        peer: Peer::Here(6),
        ..veth(5, 0, 2)
    };
    let vlan = Link {
        kind: LinkKind::Other("vlan".into()),
        ..veth(7, 0, 2)
    };
    let mut script = Script {
        links: [vec![here, vlan]].into(),
        ..Script::default()
    };
    assert_eq!(behind(&mut script), BTreeMap::new());
    assert_eq!(script.asked, []);
}

#[test]
fn kept_answers_are_not_asked_again_unless_the_veth_leads_elsewhere() {
    let mut script = Script {
        links: [vec![veth(5, 0, 2), veth(6, 1, 2)]].into(),
        addresses: [
            (Nsid(0), vec![(2, ip("10.0.0.2"))]),
            (Nsid(1), vec![(2, ip("10.0.0.3"))]),
            (Nsid(2), vec![(2, ip("10.0.0.4"))]),
        ]
        .into(),
        ..Script::default()
    };
    let (_, kept) = scan(&mut script, Answers::new());
    script.asked.clear();
    script.links = [vec![veth(5, 0, 2), veth(6, 2, 2)]].into();
    let (snapshot, _) = scan(&mut script, kept);
    let expect = [(5, on_peer(&["10.0.0.2"])), (6, on_peer(&["10.0.0.4"]))];
    assert_eq!(snapshot.behind, expect.into());
    assert_eq!(script.asked, [(Nsid(2), Some(2))]);
}

#[test]
fn what_is_too_much_to_read_is_asked_once_and_what_was_known_of_it_stays() {
    let mut script = Script {
        links: [vec![veth(5, 0, 2), veth(6, 1, 2)]].into(),
        addresses: [
            (Nsid(0), vec![(2, ip("10.0.0.2"))]),
            (Nsid(1), vec![(2, ip("10.0.0.3"))]),
        ]
        .into(),
        ..Script::default()
    };
    let (snapshot, before) = scan(&mut script, Answers::new());
    assert_eq!(snapshot.excessive, [].into());
    script.asked.clear();
    script.excessive = vec![Nsid(0)];
    let scan_after = |script: &mut Script, before: &Answers| {
        let tables = Tables::read(script).expect("scripts do not fail");
        look_around(script, None, tables, Answers::new(), before).expect("scripts do not fail")
    };
    let (snapshot, again) = scan_after(&mut script, &before);
    let expect = [(5, on_peer(&["10.0.0.2"])), (6, on_peer(&["10.0.0.3"]))];
    assert_eq!(snapshot.behind, expect.clone().into());
    assert_eq!(snapshot.excessive, [5].into());
    assert_eq!(script.asked.len(), 2);
    // And for as long as that lasts.
    let (snapshot, _) = scan_after(&mut script, &again);
    assert_eq!(snapshot.behind, expect.into());
    // Nothing was known of it, or it is another one now.
    let (snapshot, _) = scan_after(&mut script, &Answers::new());
    assert_eq!(snapshot.behind[&5], Behind::Excessive);
    script.links = [vec![veth(5, 0, 3), veth(6, 1, 2)]].into();
    let (snapshot, after) = scan_after(&mut script, &before);
    assert_eq!(snapshot.behind[&5], Behind::Excessive);
    script.excessive.clear();
    script.addresses.insert(Nsid(0), vec![(3, ip("10.0.0.9"))]);
    let (snapshot, _) = scan_after(&mut script, &after);
    assert_eq!(snapshot.behind[&5], on_peer(&["10.0.0.9"]));
    assert_eq!(snapshot.excessive, [].into());
}
