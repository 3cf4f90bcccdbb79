//! The XDP prefilter and its list.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use aya::{TestRun, TestRunOptions, programs::Xdp};
use aya_obj::programs::XdpAttachType;
use policy_agent::datapath::{
    AttachError, Datapath, Hook,
    deny::{DenyChange, DenyError},
    prefilter::XdpMode,
};
use policy_common::abi::{Direction, maps::DENY_ENTRIES, stats};

use crate::bed::{eventually, ip, on_bed};
use crate::crafted::{UDP, frame, udp};

#[test]
fn list_is_changed_by_what_differs() {
    on_bed(|bed| {
        let datapath = bed.open();
        let maps = datapath.maps();
        let list = |prefixes: &[&str]| {
            let prefixes: Vec<_> = prefixes.iter().map(|p| p.parse().unwrap()).collect();
            let DenyChange { added, removed, .. } = maps.deny(&prefixes).unwrap();
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
        assert_eq!(
            datapath.attach_prefilter("h0").unwrap().mode,
            XdpMode::Native
        );
        assert_eq!(
            datapath.attach_prefilter("h0").unwrap().mode,
            XdpMode::Adopted
        );
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
        assert_eq!(
            datapath.attach_prefilter("lo").unwrap().mode,
            XdpMode::Generic
        );
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

/// Tags of IEEE 802.1Q and 802.1ad, as they stand in a frame.
const TAG: [u8; 4] = [0x81, 0, 0, 7];
const SERVICE_TAG: [u8; 4] = [0x88, 0xa8, 0, 9];
/// Where they stand.
const TAGS: usize = 12;

/// The prefilter that is loaded, asked without an interface.
struct Asked<'d> {
    datapath: &'d Datapath,
    program: Xdp,
}

impl<'d> Asked<'d> {
    fn new(datapath: &'d Datapath) -> Self {
        let pin = datapath.pins().program(Hook::Xdp);
        let program = Xdp::from_pin(pin, XdpAttachType::Interface).unwrap();
        Self { datapath, program }
    }

    /// Whether it drops a frame, which is counted then and only then.
    fn drops(&self, frame: &[u8]) -> bool {
        let counted = || {
            let counters = self.datapath.maps().counters().unwrap();
            counters.get(Direction::Ingress, stats::PREFILTER_DROPPED)
        };
        let before = counted();
        let result = self.program.test_run(TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::new()
        });
        let drops = match result.unwrap().return_value {
            // `XDP_DROP`, `XDP_PASS`.
            1 => true,
            2 => false,
            other => panic!("it answers {other}"),
        };
        assert_eq!(counted(), before + u64::from(drops));
        drops
    }
}

/// A frame from an address, behind tags.
fn tagged(from: &str, tags: &[[u8; 4]]) -> Vec<u8> {
    let from: IpAddr = from.parse().unwrap();
    let to: &str = if from.is_ipv4() {
        "10.0.0.2"
    } else {
        "fd00::2"
    };
    let mut frame = frame(from, to.parse().unwrap(), UDP, &udp(1, 2, 16));
    frame.splice(TAGS..TAGS, tags.concat());
    frame
}

/// Sources that lie in the list below, and such that lie beside it.
const LISTED: [&str; 6] = [
    "192.0.2.0",
    "192.0.2.255",
    "198.51.100.7",
    "2001:db8:1::",
    "2001:db8:1:ffff:ffff:ffff:ffff:ffff",
    "2001:db8:2::7",
];
const OTHERS: [&str; 6] = [
    "192.0.1.255",
    "192.0.3.0",
    "198.51.100.6",
    "2001:db8::",
    "2001:db8:2::",
    "2001:db8:2::8",
];

fn list(datapath: &Datapath) {
    let prefixes = [
        "192.0.2.0/24",
        "198.51.100.7/32",
        "2001:db8:1::/48",
        "2001:db8:2::7/128",
    ];
    let prefixes: Vec<_> = prefixes.iter().map(|p| p.parse().unwrap()).collect();
    datapath.maps().deny(&prefixes).unwrap();
}

#[test]
fn listed_sources_are_dropped_behind_up_to_two_tags_and_others_never() {
    on_bed(|bed| {
        let datapath = bed.open();
        let asked = Asked::new(&datapath);
        let stacks: [&[[u8; 4]]; 4] = [&[], &[TAG], &[SERVICE_TAG], &[SERVICE_TAG, TAG]];
        for tags in stacks {
            for from in LISTED {
                assert!(
                    !asked.drops(&tagged(from, tags)),
                    "{from}: nothing is listed"
                );
            }
        }
        list(&datapath);
        for tags in stacks {
            for from in LISTED {
                assert!(asked.drops(&tagged(from, tags)), "{from} {tags:?}");
            }
            for from in OTHERS {
                assert!(!asked.drops(&tagged(from, tags)), "{from} {tags:?}");
            }
        }
        // No stack takes these for IP: the programs of pods have them.
        for from in LISTED {
            let tags = [SERVICE_TAG, TAG, TAG];
            assert!(!asked.drops(&tagged(from, &tags)), "{from} behind three");
        }
    });
}

#[test]
fn frame_that_ends_before_its_source_does_is_left_to_others() {
    on_bed(|bed| {
        let datapath = bed.open();
        list(&datapath);
        let asked = Asked::new(&datapath);
        // Least that the kernel takes for a frame.
        const HEADER: usize = 14;
        for tags in [&[][..], &[TAG], &[SERVICE_TAG, TAG]] {
            for from in LISTED {
                let whole = tagged(from, tags);
                let source = if from.contains(':') { 8 + 16 } else { 12 + 4 };
                let end = HEADER + 4 * tags.len() + source;
                assert!(end < whole.len());
                for length in HEADER..=whole.len() {
                    let drops = asked.drops(&whole[..length]);
                    assert_eq!(drops, length >= end, "{from} {tags:?}, {length} bytes");
                }
            }
        }
    });
}
