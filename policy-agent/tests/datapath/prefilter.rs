//! The XDP prefilter and its list.

use std::net::{Ipv4Addr, UdpSocket};

use policy_agent::datapath::{
    AttachError, Hook,
    prefilter::{DenyChange, DenyError, XdpMode},
};
use policy_common::abi::{Direction, maps::DENY_ENTRIES, stats};

use crate::bed::{eventually, ip, on_bed};

#[test]
fn list_is_changed_by_what_differs() {
    on_bed(|bed| {
        let datapath = bed.open();
        let maps = datapath.maps();
        let list = |prefixes: &[&str]| {
            let prefixes: Vec<_> = prefixes.iter().map(|p| p.parse().unwrap()).collect();
            let DenyChange { added, removed } = maps.deny(&prefixes).unwrap();
            (added, removed)
        };
        assert_eq!(list(&["10.0.0.0/8", "10.1.2.3/8", "fd00::/8"]), (2, 0));
        assert_eq!(list(&["10.0.0.0/8", "192.0.2.0/24"]), (1, 1));
        assert_eq!(maps.deny4.entries().unwrap().len(), 2);
        assert!(maps.deny6.is_empty().unwrap());
        assert_eq!(list(&[]), (0, 2));
        assert!(maps.deny4.is_empty().unwrap());
    });
}

#[test]
fn list_that_is_too_long_changes_nothing() {
    on_bed(|bed| {
        let datapath = bed.open();
        let maps = datapath.maps();
        let count = u32::try_from(DENY_ENTRIES).unwrap();
        let long: Vec<_> = (0..=count)
            .map(|i| ipnet::IpNet::new(Ipv4Addr::from(i).into(), 32).unwrap())
            .collect();
        let error = maps.deny(&long).unwrap_err();
        assert!(matches!(error, DenyError::TooMany { .. }), "{error}");
        assert!(maps.deny4.is_empty().unwrap());
    });
}

#[test]
fn denied_source_is_dropped_before_the_stack_and_another_is_not() {
    on_bed(|bed| {
        let datapath = bed.open();
        assert_eq!(datapath.attach_prefilter("h0").unwrap(), XdpMode::Native);
        assert_eq!(datapath.attach_prefilter("h0").unwrap(), XdpMode::Adopted);
        let dropped = || {
            let counters = datapath.maps().counters().unwrap();
            counters.get(Direction::Ingress, stats::PREFILTER_DROPPED)
        };
        // The peer's own IPv6 greetings are the packets.
        let greet = || {
            ip("link set p0 down");
            ip("link set p0 up");
        };
        let received = || -> u64 {
            let text = crate::bed::run("ip", "-s -j link show h0");
            let (_, rest) = text.split_once("\"packets\":").unwrap();
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap()
        };
        let before = received();
        greet();
        eventually("packets arrive", || received() > before);
        assert_eq!(dropped(), 0, "nothing is denied yet");
        let everything = ["::/0".parse().unwrap()];
        datapath.maps().deny(&everything).unwrap();
        greet();
        eventually("packets are dropped", || dropped() > 0);
    });
}

#[test]
fn interface_that_is_not_there_or_has_another_program_is_refused() {
    on_bed(|bed| {
        let datapath = bed.open();
        let error = datapath.attach_prefilter("nope").unwrap_err();
        assert!(matches!(error, AttachError::Unknown { .. }), "{error}");
        datapath.attach_prefilter("h0").unwrap();
        let pin = datapath.pins().link(bed.ifindex, Hook::Xdp);
        let aside = datapath.pins().version().join("aside");
        std::fs::rename(&pin, &aside).unwrap();
        let error = datapath.attach_prefilter("h0").unwrap_err();
        assert!(matches!(error, AttachError::Busy { .. }), "{error}");
        std::fs::rename(&aside, &pin).unwrap();
        datapath.keep_prefilter_on(&["h0".to_owned()]).unwrap();
        assert!(pin.exists());
        datapath.keep_prefilter_on(&[]).unwrap();
        assert!(!pin.exists());
        datapath.attach_prefilter("h0").unwrap();
    });
}

#[test]
fn where_the_driver_has_no_xdp_the_generic_mode_drops_the_same() {
    on_bed(|bed| {
        let datapath = bed.open();
        assert_eq!(datapath.attach_prefilter("lo").unwrap(), XdpMode::Generic);
        let dropped = || {
            let counters = datapath.maps().counters().unwrap();
            counters.get(Direction::Ingress, stats::PREFILTER_DROPPED)
        };
        let bind = |address: [u8; 4]| {
            let socket = UdpSocket::bind((Ipv4Addr::from(address), 0)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let (receiver, denied, other) = (
            bind([127, 0, 0, 1]),
            bind([127, 9, 0, 1]),
            bind([127, 8, 0, 1]),
        );
        let to = receiver.local_addr().unwrap();
        datapath
            .maps()
            .deny(&["127.9.0.0/16".parse().unwrap()])
            .unwrap();
        let mut buffer = [0; 8];
        for round in 1..=3 {
            denied.send_to(b"denied", to).unwrap();
            eventually("the drop is counted", || dropped() == round);
            other.send_to(b"allowed", to).unwrap();
            eventually("the other arrives", || {
                let arrived = receiver.recv_from(&mut buffer);
                arrived.is_ok_and(|(_, from)| from == other.local_addr().unwrap())
            });
        }
        datapath.maps().deny(&[]).unwrap();
        denied.send_to(b"denied", to).unwrap();
        eventually("it is not denied any more", || {
            let arrived = receiver.recv_from(&mut buffer);
            arrived.is_ok_and(|(_, from)| from == denied.local_addr().unwrap())
        });
        assert_eq!(dropped(), 3);
    });
}
