//! Connections older than the programs on a pod's interface, from what the node's
//! kernel knows of them, into the records.
//!
//! Only that somebody opened them is taken over: a record of no generation is
//! judged by the policy in force at its next packet, in the direction in which it
//! was opened. So a connection that policy does not allow ends here too.

use std::{
    collections::HashSet,
    mem::offset_of,
    net::{IpAddr, SocketAddr},
};

use policy_common::{
    abi::{
        Direction,
        conntrack::{
            CT_ALL_SLOT, CT_CONFIRMED, CT_FIN_OPENER, CT_FIN_REPLIER, CT_OPENED_BY_POD, CT_REPLIED,
            CT_UNDECIDED, CtCount, CtEntry, CtKey,
        },
        endpoint::{Endpoint, PolicyWord},
        family, protocol,
    },
    conntrack::{self, may_confirm},
};

use super::{
    Datapath,
    apply::monotonic_ns,
    map::{MapError, TypedMap},
};
use crate::flows::Flow;

/// Generation of a record that no policy has judged; words start at 1.
const NEVER_JUDGED: u32 = 0;

impl Datapath {
    /// Makes records of the flows that are an endpoint's; those that are there stay.
    /// Returns how many were made. Confirmed ones go where nothing is evicted, as far
    /// as the endpoint's share goes.
    ///
    /// The endpoint may come to be after this: it is known by its number.
    ///
    /// # Errors
    ///
    /// [`MapError`]; what was made until then stays, and does no harm.
    pub fn remember(
        &self,
        slot: u32,
        endpoint: &Endpoint,
        flows: &[Flow],
    ) -> Result<usize, MapError> {
        let now_ns = monotonic_ns();
        let mut confirmed = Vec::new();
        let mut others = Vec::new();
        for (key, flags) in flows.iter().flat_map(|flow| records(endpoint, flow)) {
            if self.is_known(&key)? {
                // The programs made it, and know more than the node's table.
                continue;
            }
            let entry = CtEntry {
                tag: conntrack::tag(&key),
                flags,
                generation: NEVER_JUDGED,
                slot,
                last_seen_ns: now_ns,
            };
            if flags & CT_CONFIRMED != 0 && self.may_have(slot, endpoint, confirmed.len()) {
                confirmed.push((key, entry));
            } else {
                others.push((key, entry));
            }
        }
        // Booked before they are there: whoever ends in between leaves books that say
        // too much, which the next sweep puts right.
        self.book(slot, confirmed.len())?;
        let (made, failure) = insert_all(&self.maps().ct, &confirmed);
        self.unbook(slot, confirmed.len() - made)?;
        if !others.is_empty() {
            // Without it nobody looks into the table of open pods' connections.
            self.store_count(slot, offset_of!(CtCount, opened), 1)?;
        }
        let (more, others_failure) = insert_all(&self.maps().ct_open, &others);
        failure.or(others_failure).map_or(Ok(made + more), Err)
    }

    /// Removes confirmed records that [`Self::remember`] made of flows that are none of
    /// these any longer, unless a packet has come for them: they ended before there was
    /// a program to see it, and would stay for days where nothing gives way. Returns
    /// how many. `made_by` is when the last of them had been made, nanoseconds of
    /// CLOCK_MONOTONIC.
    ///
    /// # Errors
    ///
    /// [`MapError`]; what is left ends by its timeout.
    pub fn forget_ended(
        &self,
        endpoints: &[(u32, Endpoint)],
        flows: &[Flow],
        made_by: u64,
    ) -> Result<usize, MapError> {
        let table = &self.maps().ct;
        let numbers: HashSet<u32> = endpoints.iter().map(|(_, known)| known.number).collect();
        let open: HashSet<CtKey> = endpoints
            .iter()
            .flat_map(|(_, endpoint)| flows.iter().flat_map(|flow| records(endpoint, flow)))
            .map(|(key, _)| key)
            .collect();
        let untouched =
            |entry: &CtEntry| entry.generation == NEVER_JUDGED && entry.last_seen_ns <= made_by;
        let mut removed = 0;
        for (key, entry) in table.entries()? {
            if !numbers.contains(&key.endpoint) || open.contains(&key) || !untouched(&entry) {
                continue;
            }
            match table.take(&key)? {
                Some(taken) if untouched(&taken) => {
                    self.unbook(taken.slot, 1)?;
                    removed += 1;
                }
                // Its packet came in this moment.
                Some(taken) => drop(table.set_new(&key, &taken)?),
                None => {}
            }
        }
        Ok(removed)
    }

    fn is_known(&self, key: &CtKey) -> Result<bool, MapError> {
        let maps = self.maps();
        for table in [&maps.ct, &maps.ct_pending, &maps.ct_open] {
            if table.get(key)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the endpoint may have one more confirmed record beside so many that are
    /// about to be made.
    fn may_have(&self, slot: u32, endpoint: &Endpoint, planned: usize) -> bool {
        let maps = self.maps();
        let used = |slot| {
            let count = maps.ct_count(slot).unwrap_or_default();
            count
                .created
                .wrapping_sub(count.removed)
                .saturating_add(planned as u64)
        };
        let isolated = [Direction::Ingress, Direction::Egress]
            .iter()
            .any(|way| PolicyWord(endpoint.word).policy(*way) != PolicyWord::NOT_ISOLATED);
        may_confirm(used(slot), used(CT_ALL_SLOT), u32::MAX, isolated)
    }

    /// Books confirmed records that the agent makes: as so many fewer removed, which is
    /// its side of the books.
    fn book(&self, slot: u32, made: usize) -> Result<(), MapError> {
        self.change_removed(slot, |removed| removed.wrapping_sub(made as u64))
    }

    fn unbook(&self, slot: u32, gone: usize) -> Result<(), MapError> {
        self.change_removed(slot, |removed| removed.wrapping_add(gone as u64))
    }

    /// In the books of a slot, and in those of all.
    fn change_removed(&self, slot: u32, change: impl Fn(u64) -> u64) -> Result<(), MapError> {
        for slot in [slot, CT_ALL_SLOT] {
            let removed = self.maps().ct_count(slot).unwrap_or_default().removed;
            self.store_count(slot, offset_of!(CtCount, removed), change(removed))?;
        }
        Ok(())
    }

    fn store_count(&self, slot: u32, offset: usize, value: u64) -> Result<(), MapError> {
        let stored = self.maps().ct_count.store(slot, offset, value);
        stored.map_err(|source| MapError {
            map: policy_common::abi::maps::CT_COUNT,
            what: "store",
            source,
        })
    }
}

/// Inserts what is not there yet: how many were, and what ended it.
fn insert_all(
    table: &TypedMap<CtKey, CtEntry>,
    records: &[(CtKey, CtEntry)],
) -> (usize, Option<MapError>) {
    let mut made = 0;
    for (key, entry) in records {
        match table.set_new(key, entry) {
            Ok(is_new) => made += usize::from(is_new),
            Err(error) => return (made, Some(error)),
        }
    }
    (made, None)
}

/// Keys and flags of the records that an endpoint has of a flow: none if it is
/// another's, two if both ends are its own (through a Service, to itself).
fn records(endpoint: &Endpoint, flow: &Flow) -> impl Iterator<Item = (CtKey, u32)> {
    let mut progress = 0;
    if flow.replied {
        progress |= CT_REPLIED;
    }
    if flow.replied && flow.assured {
        progress |= CT_CONFIRMED;
    }
    // Which end that was is not told.
    progress |= match flow.fins {
        0 => 0,
        1 => CT_FIN_OPENER,
        _ => CT_FIN_OPENER | CT_FIN_REPLIER,
    };
    let opened = is_of(endpoint, flow.original.src.ip()).then(|| {
        let translated = flow.original.dst != flow.reply.src;
        let undecided = if translated { CT_UNDECIDED } else { 0 };
        (
            key(
                endpoint,
                flow,
                true,
                flow.original.src.port(),
                flow.original.dst,
            ),
            CT_OPENED_BY_POD | progress | undecided,
        )
    });
    let served = is_of(endpoint, flow.reply.src.ip()).then(|| {
        (
            key(endpoint, flow, false, flow.reply.src.port(), flow.reply.dst),
            progress,
        )
    });
    opened.into_iter().chain(served)
}

fn is_of(endpoint: &Endpoint, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_unspecified() && endpoint.addr4 == v4.octets(),
        IpAddr::V6(v6) => !v6.is_unspecified() && endpoint.addr6 == v6.octets(),
    }
}

/// `local` and `peer` as the pod sees them; `opened`: by the pod.
fn key(endpoint: &Endpoint, flow: &Flow, opened: bool, local: u16, peer: SocketAddr) -> CtKey {
    let (address, family) = match peer.ip() {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped(), family::V4),
        IpAddr::V6(v6) => (v6, family::V6),
    };
    let echo = matches!(flow.protocol, protocol::ICMP | protocol::ICMPV6);
    // An echo has one identifier, which stands for the port of who was asked.
    let (local_port, peer_port) = match (echo, opened) {
        (false, _) => (local, peer.port()),
        (true, true) => (0, peer.port()),
        (true, false) => (local, 0),
    };
    CtKey {
        peer: address.octets(),
        endpoint: endpoint.number,
        local_port,
        peer_port,
        protocol: flow.protocol,
        family,
        pad: [0; 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::Tuple;

    fn flow(original: (&str, &str), reply: (&str, &str)) -> Flow {
        let tuple = |(src, dst): (&str, &str)| Tuple {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
        };
        Flow {
            protocol: 6,
            original: tuple(original),
            reply: tuple(reply),
            replied: true,
            assured: true,
            fins: 0,
        }
    }

    fn endpoint(address: &str) -> Endpoint {
        let mut endpoint = Endpoint {
            number: 7,
            ..Endpoint::EMPTY
        };
        match address.parse().unwrap() {
            IpAddr::V4(v4) => endpoint.addr4 = v4.octets(),
            IpAddr::V6(v6) => endpoint.addr6 = v6.octets(),
        }
        endpoint
    }

    /// Peer, its port, the pod's port, flags.
    fn seen(endpoint: &Endpoint, flow: &Flow) -> Vec<(String, u16, u16, u32)> {
        records(endpoint, flow)
            .map(|(key, flags)| {
                let peer = std::net::Ipv6Addr::from(key.peer).to_canonical();
                (peer.to_string(), key.peer_port, key.local_port, flags)
            })
            .collect()
    }

    const LIVE: u32 = CT_REPLIED | CT_CONFIRMED;

    #[test]
    fn ends_that_have_sent_fin_end_the_record_sooner() {
        let both = CT_FIN_OPENER | CT_FIN_REPLIER;
        for (fins, expected) in [(0, 0), (1, CT_FIN_OPENER), (2, both)] {
            let closing = Flow {
                fins,
                ..flow(
                    ("10.0.0.2:4000", "10.0.0.9:80"),
                    ("10.0.0.9:80", "10.0.0.2:4000"),
                )
            };
            let [(.., flags)] = seen(&endpoint("10.0.0.9"), &closing)[..] else {
                panic!("one record");
            };
            assert_eq!(flags, LIVE | expected, "{fins}");
        }
    }

    #[test]
    fn each_end_sees_the_other_as_it_does_in_its_packets() {
        let service = flow(
            ("10.0.0.2:4000", "10.96.0.1:80"),
            ("10.0.0.9:8080", "10.0.0.2:4000"),
        );
        let opened = LIVE | CT_OPENED_BY_POD | CT_UNDECIDED;
        assert_eq!(
            seen(&endpoint("10.0.0.2"), &service),
            [("10.96.0.1".to_owned(), 80, 4000, opened)]
        );
        assert_eq!(
            seen(&endpoint("10.0.0.9"), &service),
            [("10.0.0.2".to_owned(), 4000, 8080, LIVE)]
        );
        assert!(seen(&endpoint("10.0.0.3"), &service).is_empty());
    }

    #[test]
    fn a_masqueraded_client_is_who_the_server_sees() {
        let masqueraded = flow(
            ("192.0.2.7:5000", "192.0.2.1:30080"),
            ("10.0.0.9:8080", "192.0.2.1:61000"),
        );
        assert_eq!(
            seen(&endpoint("10.0.0.9"), &masqueraded),
            [("192.0.2.1".to_owned(), 61000, 8080, LIVE)]
        );
    }

    #[test]
    fn a_pod_without_an_address_of_a_family_owns_nothing_of_it() {
        let nowhere = flow(("0.0.0.0:68", "10.0.0.1:67"), ("10.0.0.1:67", "0.0.0.0:68"));
        let v6_only = endpoint("fd00::2");
        assert!(seen(&v6_only, &nowhere).is_empty());
    }

    #[test]
    fn an_echo_is_known_by_the_port_of_who_was_asked() {
        let mut echo = flow(("10.0.0.2:9", "10.0.0.9:9"), ("10.0.0.9:9", "10.0.0.2:9"));
        echo.protocol = protocol::ICMP;
        let ports = |address| {
            let (key, _) = records(&endpoint(address), &echo).next().unwrap();
            (key.local_port, key.peer_port)
        };
        assert_eq!(ports("10.0.0.2"), (0, 9));
        assert_eq!(ports("10.0.0.9"), (9, 0));
    }

    #[test]
    fn what_nobody_answered_is_no_more_than_opened() {
        let mut half = flow(
            ("10.0.0.2:4000", "10.0.0.9:80"),
            ("10.0.0.9:80", "10.0.0.2:4000"),
        );
        (half.replied, half.assured) = (false, false);
        assert_eq!(
            seen(&endpoint("10.0.0.2"), &half),
            [("10.0.0.9".to_owned(), 80, 4000, CT_OPENED_BY_POD)]
        );
    }
}
