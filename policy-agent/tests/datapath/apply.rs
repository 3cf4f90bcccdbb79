//! Operations in, maps out.

use std::net::IpAddr;

use ipnet::IpNet;
use policy_agent::datapath::apply::{OpError, monotonic_ns};
use policy_common::abi::{
    config::{FLAG_CIDR4, FLAG_CIDR6, FLAG_EGRESS, FLAG_ENFORCE_OFF, FLAG_SERVICES},
    endpoint::PolicyWord,
    maps::{IFINDEX_ENTRIES, IFINDEX_MORE_ENTRIES},
    policy::{ACTION_ALLOW, Interval, PolicyKey, PortSet},
    service::{Svc, SvcKey},
};
use policy_core::{ops::Op, plan::Mirror};

use crate::bed::{POLICY, SLOT, apply, on_bed, row, word};

fn host(address: &str, identity: u32, node: bool) -> Op {
    Op::Host {
        address: address.parse().unwrap(),
        identity,
        node,
        slot: 0,
    }
}

/// The address of a pod of this node.
fn local(address: &str, identity: u32, slot: u32) -> Op {
    Op::Host {
        address: address.parse().unwrap(),
        identity,
        node: false,
        slot,
    }
}

/// TCP port 80 of an address.
fn service_key(address: &str) -> SvcKey {
    let address: IpAddr = address.parse().unwrap();
    let (octets, family) = match address {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped().octets(), 4),
        IpAddr::V6(v6) => (v6.octets(), 6),
    };
    SvcKey {
        address: octets,
        port: 80,
        protocol: 6,
        family,
    }
}

fn service(address: &str, pairs: &[(u32, u16)]) -> Op {
    let mut value = Svc {
        key: service_key(address),
        flags: 0,
        count: u32::try_from(pairs.len()).unwrap(),
        backends: Default::default(),
    };
    for (backend, (identity, port)) in value.backends.iter_mut().zip(pairs) {
        (backend.identity, backend.port) = (*identity, *port);
    }
    Op::Service { value }
}

fn prefix(prefix: &str, identity: u32) -> Op {
    Op::Prefix {
        prefix: prefix.parse().unwrap(),
        identity,
    }
}

fn delete_prefix(prefix: &str) -> Op {
    Op::DeletePrefix {
        prefix: prefix.parse::<IpNet>().unwrap(),
    }
}

/// A port set of many intervals, in an extent.
fn large(start: u32, count: u16) -> [Op; 2] {
    let interval = |i: u16| Interval {
        first: u32::from(i) * 10,
        last: u32::from(i) * 10 + 5,
        rule: u32::from(i) + 1,
        action: ACTION_ALLOW,
    };
    [
        Op::Extent {
            start,
            intervals: (0..count).map(interval).collect(),
        },
        Op::PortSet {
            id: 9,
            value: PortSet {
                count: u32::from(count),
                extent: start,
                default_rule: 4,
                default_action: 0,
                inline: [Interval::default(); 3],
            },
        },
    ]
}

#[test]
fn what_is_applied_reads_back_equal() {
    on_bed(|bed| {
        let datapath = bed.open();
        assert_eq!(datapath.read_back().unwrap(), Mirror::default());
        let mut ops = bed.pod();
        ops.extend(large(1, 50));
        ops.extend([
            host("10.0.0.1", 0, true),
            host("fd00::9", 5, false),
            host("fd00::1", 0, true),
            host("10.0.0.10", 6, false),
            local("10.0.0.2", 0, SLOT),
            local("fd00::2", 6, 4_095),
            service("10.96.0.1", &[(5, 8080), (6, 8081)]),
            service("fd00:96::1", &[]),
            prefix("192.168.0.0/16", 7),
            prefix("192.168.3.0/24", 8),
            prefix("0.0.0.0/0", 9),
            prefix("2001:db8::/32", 7),
            Op::Attach {
                ifindex: bed.ifindex,
            },
            Op::LinkLocal {
                slot: SLOT,
                address: "fe80::1234:56ff:fe78:9abc".parse().unwrap(),
            },
            Op::Word {
                slot: SLOT,
                word: word(12, POLICY),
            },
            Op::Grace,
        ]);
        let mut mirror = Mirror::default();
        ops.iter().for_each(|op| mirror.apply(op));
        apply(&datapath, &ops);
        assert_eq!(datapath.read_back().unwrap(), mirror);

        let undo = [
            Op::DeleteHost {
                address: "10.0.0.10".parse().unwrap(),
            },
            Op::DeleteHost {
                address: "fd00::9".parse().unwrap(),
            },
            Op::DeleteService {
                key: service_key("10.96.0.1"),
            },
            delete_prefix("192.168.3.0/24"),
            delete_prefix("2001:db8::/32"),
            Op::DeleteRow {
                key: PolicyKey {
                    policy: u32::from(POLICY),
                    identity: 0,
                },
            },
            Op::Detach {
                ifindex: bed.ifindex,
            },
            Op::DeleteInterface {
                ifindex: bed.ifindex,
            },
            Op::DeleteEndpoint { slot: SLOT },
        ];
        undo.iter().for_each(|op| mirror.apply(op));
        apply(&datapath, &undo);
        assert_eq!(datapath.read_back().unwrap(), mirror);
        assert_eq!(mirror.generation, 12, "never set back");
        assert_eq!(mirror.endpoint_number, crate::bed::NUMBER);
    });
}

#[test]
fn batches_larger_than_one_call_are_whole() {
    const COUNT: u32 = 40_000;
    on_bed(|bed| {
        let datapath = bed.open();
        let ops: Vec<Op> = (0..COUNT)
            .map(|identity| row(1, identity, identity))
            .collect();
        apply(&datapath, &ops);
        let rows = datapath.read_back().unwrap().rows;
        assert_eq!(rows.len(), COUNT as usize);
        assert!(
            rows.iter()
                .all(|(key, set)| key.policy == 1 && key.identity == *set)
        );

        // Every second one is gone before: the batch goes on behind it.
        let delete = |identity| Op::DeleteRow {
            key: PolicyKey {
                policy: 1,
                identity,
            },
        };
        let evens: Vec<Op> = (0..COUNT).step_by(2).map(delete).collect();
        apply(&datapath, &evens);
        assert_eq!(datapath.read_back().unwrap().rows.len(), COUNT as usize / 2);
        let all: Vec<Op> = (0..COUNT - 1).map(delete).collect();
        apply(&datapath, &all);
        let left: Vec<_> = datapath.read_back().unwrap().rows.into_keys().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].identity, COUNT - 1);
    });
}

#[test]
fn interfaces_that_share_an_element_all_find_their_slot() {
    let far = u32::try_from(IFINDEX_ENTRIES).unwrap();
    on_bed(|bed| {
        let datapath = bed.open();
        let lead = |ifindex, slot| Op::Interface { ifindex, slot };
        apply(
            &datapath,
            &[lead(7, 1), lead(7 + far, 2), lead(7 + 2 * far, 3)],
        );
        let interfaces = || datapath.read_back().unwrap().interfaces;
        assert_eq!(
            interfaces().into_iter().collect::<Vec<_>>(),
            [(7, 1), (7 + far, 2), (7 + 2 * far, 3)]
        );
        // The first goes; the others stay, and one that is led again moves into
        // its element.
        apply(
            &datapath,
            &[Op::DeleteInterface { ifindex: 7 }, lead(7 + far, 4)],
        );
        assert_eq!(
            interfaces().into_iter().collect::<Vec<_>>(),
            [(7 + far, 4), (7 + 2 * far, 3)]
        );
        let more = datapath.maps().ifindex_more.entries().unwrap();
        assert_eq!(more, [(7 + 2 * far, 3)]);
    });
}

#[test]
fn interface_that_is_gone_holds_up_nothing() {
    on_bed(|bed| {
        let datapath = bed.open();
        let applied = datapath.apply(&[Op::Attach { ifindex: 9_999 }, row(1, 3, 1)]);
        assert_eq!(applied.done, 2);
        assert!(applied.failure.is_none());
        assert_eq!(datapath.read_back().unwrap().rows.len(), 1);
        assert!(datapath.attached().unwrap().is_empty());
    });
}

#[test]
fn first_failure_ends_it_and_says_which_operation_and_why() {
    on_bed(|bed| {
        let datapath = bed.open();
        let beyond = Op::Word {
            slot: 1 << 20,
            word: word(1, 1),
        };
        let ops = [row(1, 1, 1), row(1, 2, 1), beyond, row(1, 3, 1)];
        let applied = datapath.apply(&ops);
        assert_eq!(applied.done, 2);
        let failure = applied.failure.unwrap();
        assert_eq!(failure.index, 2);
        assert!(failure.to_string().contains("slot 1048576"), "{failure}");
        assert_eq!(datapath.read_back().unwrap().rows.len(), 2);

        let slot = Op::Word {
            slot: 1 << 20,
            word: word(1, 1),
        };
        let applied = datapath.apply(&[slot]);
        assert_eq!(applied.done, 0);
        assert!(applied.words.is_empty());
        assert!(
            applied
                .failure
                .unwrap()
                .to_string()
                .contains("slot 1048576")
        );
    });
}

#[test]
fn map_without_room_is_said_to_be_full_where_it_was() {
    let far = u32::try_from(IFINDEX_ENTRIES).unwrap();
    let room = u32::try_from(IFINDEX_MORE_ENTRIES).unwrap();
    on_bed(|bed| {
        let datapath = bed.open();
        let lead = |i: u32| Op::Interface {
            ifindex: 7 + i * far,
            slot: 1,
        };
        let applied = datapath.apply(&(0..room + 2).map(lead).collect::<Vec<_>>());
        assert_eq!(applied.done, IFINDEX_MORE_ENTRIES + 1);
        let cause = applied.failure.unwrap().cause;
        assert!(matches!(cause, OpError::Full { .. }), "{cause}");
    });
}

#[test]
fn prefixes_are_looked_at_as_long_as_there_are_any() {
    on_bed(|bed| {
        let datapath = bed.open();
        let flags = || datapath.maps().config().flags & (FLAG_CIDR4 | FLAG_CIDR6);
        assert_eq!(flags(), 0);
        apply(
            &datapath,
            &[prefix("10.0.0.0/8", 1), prefix("10.1.0.0/16", 2)],
        );
        assert_eq!(flags(), FLAG_CIDR4);
        apply(
            &datapath,
            &[prefix("fd00::/8", 1), delete_prefix("10.0.0.0/8")],
        );
        assert_eq!(flags(), FLAG_CIDR4 | FLAG_CIDR6);
        apply(&datapath, &[delete_prefix("10.1.0.0/16")]);
        assert_eq!(flags(), FLAG_CIDR6);
        apply(&datapath, &[delete_prefix("fd00::/8")]);
        assert_eq!(flags(), 0);
    });
}

#[test]
fn settings_are_stored_each_on_its_own() {
    on_bed(|bed| {
        let datapath = bed.open();
        let maps = datapath.maps();
        maps.configure(123, 456).unwrap();
        maps.set_enforce(false).unwrap();
        let config = maps.config();
        assert_eq!((config.ct_budget, config.events_per_tick), (123, 456));
        assert_ne!(config.flags & FLAG_ENFORCE_OFF, 0);
        maps.set_enforce(true).unwrap();
        assert_eq!(maps.config().flags & FLAG_ENFORCE_OFF, 0);
    });
}

#[test]
fn words_come_back_with_the_time_of_their_store() {
    on_bed(|bed| {
        let datapath = bed.open();
        apply(&datapath, &bed.pod());
        let before = monotonic_ns();
        let store = |generation| Op::Word {
            slot: SLOT,
            word: word(generation, POLICY),
        };
        let applied = datapath.apply(&[store(5), Op::Grace, store(6)]);
        let after = monotonic_ns();
        let [first, second] = applied.words[..] else {
            panic!("{:?}", applied.words);
        };
        assert!(applied.failure.is_none());
        assert_eq!(
            (first.word, second.word),
            (word(5, POLICY), word(6, POLICY))
        );
        assert!(before <= first.at_ns && first.at_ns < second.at_ns && second.at_ns <= after);
        assert_eq!(datapath.maps().config().generation, 6);
        let older = datapath.apply(&[store(4)]);
        assert!(older.failure.is_none());
        assert_eq!(datapath.maps().config().generation, 6, "never set back");
    });
}

#[test]
fn programs_look_at_services_and_senders_only_while_there_are_some() {
    on_bed(|bed| {
        let datapath = bed.open();
        let flags = || datapath.maps().config().flags & (FLAG_SERVICES | FLAG_EGRESS);
        assert_eq!(flags(), 0);
        apply(&datapath, &bed.pod());
        assert_eq!(flags(), FLAG_EGRESS, "the pod's egress is isolated");
        apply(
            &datapath,
            &[service("10.96.0.1", &[]), service("10.96.0.2", &[])],
        );
        assert_eq!(flags(), FLAG_EGRESS | FLAG_SERVICES);
        let delete = |address| Op::DeleteService {
            key: service_key(address),
        };
        apply(&datapath, &[delete("10.96.0.1")]);
        assert_eq!(flags(), FLAG_EGRESS | FLAG_SERVICES);
        let ingress_only = Op::Word {
            slot: SLOT,
            word: PolicyWord::new(9, POLICY, 0),
        };
        apply(&datapath, &[delete("10.96.0.2"), ingress_only]);
        assert_eq!(flags(), 0);
        apply(
            &datapath,
            &[Op::Word {
                slot: SLOT,
                word: word(10, POLICY),
            }],
        );
        assert_eq!(flags(), FLAG_EGRESS);
        apply(&datapath, &[Op::DeleteEndpoint { slot: SLOT }]);
        assert_eq!(flags(), 0);
    });
}
