//! Random clusters and what happens to them, from a fixed seed.
//!
//! Few names, labels, addresses and prefixes, so that everything meets
//! everything: pods share and pass on addresses, blocks cover pods and nodes.

use std::sync::Arc;

use super::{namespace, node, on_node, ordered, pod, pod_ref, policy, service, slice};
use crate::engine::NodeContext;
use crate::model::{EndpointSlice, Pod, Policy, Service, Tier};
use crate::store::{Key, Object, SourceEvent};

/// Numbers that look random: xorshift64* (Vigna).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Less than `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).expect("31 bits") % end
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }

    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }

    /// Up to `most` of a list, joined.
    fn some(&mut self, list: &[&str], most: usize, between: &str) -> String {
        let count = 1 + self.below(most);
        let chosen: Vec<_> = (0..count).map(|_| self.pick(list)).collect();
        chosen.join(between)
    }
}

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const LABELS: [&str; 5] = ["app=x", "app=y", "tier=p", "tier=q", "odd=1"];
const PORTS: [&str; 5] = [
    "http=TCP/80",
    "http=TCP/81",
    "http=UDP/80",
    "dns=UDP/53",
    "dns=TCP/53",
];
const NODES: [&str; 2] = ["here", "there"];
const BLOCKS: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/28 !10.0.0.4/30",
    "10.0.0.4/30 !10.0.0.5/32",
    "10.0.0.0/8 !10.0.0.0/29 !10.0.0.12/32",
    "10.0.0.5/32",
    "192.168.0.0/24 !192.168.0.1/32",
    "::/0 !fd00::/16",
    "fd00::/120 !fd00::4/126",
];

pub(crate) fn random_pod(random: &mut Random) -> Pod {
    let name = format!("{}/p{}", random.pick(&NAMESPACES), random.below(7));
    let mut addresses = String::new();
    if random.chance(85) {
        addresses += &format!("10.0.0.{}", random.below(14));
    }
    if random.chance(50) {
        addresses += &format!(" fd00::{:x}", random.below(10));
    }
    let labels = random.some(&LABELS, 3, " ");
    let ports = if random.chance(40) {
        random.some(&PORTS, 3, " ")
    } else {
        String::new()
    };
    let mut pod = pod(&name, &addresses, &labels, &ports);
    pod.created = i64::try_from(random.below(3)).expect("small");
    pod.host_network = random.chance(6);
    pod.finished = random.chance(8);
    match random.below(8) {
        0 => Pod { node: None, ..pod },
        1..=3 => on_node("there", pod),
        _ => pod,
    }
}

fn random_rule(random: &mut Random, actions: &[&str]) -> String {
    let selectors = [
        "app=x",
        "app=y",
        "app=x,y",
        "app!=x",
        "tier",
        "!tier",
        "{}",
        "app=x tier=p",
        "odd=1",
        "ns:team=1",
        "ns:team=1 app=y",
        "ns:{} app=x",
        "ns:team!=2 tier",
        "ns:{} {}",
        "ns:!team",
    ];
    let ports = [
        "TCP/80",
        "TCP/80-90",
        "UDP/53",
        "TCP/http",
        "*/http",
        "UDP/dns",
        "TCP/none",
        "SCTP",
        "TCP/1-65535",
        "TCP/79",
        "UDP",
    ];
    let peers = match random.below(10) {
        0 => "*".to_owned(),
        1..=3 => random.some(&BLOCKS, 2, " | "),
        4 => format!("{} | {}", random.pick(&BLOCKS), random.pick(&selectors)),
        _ => random.some(&selectors, 2, " | "),
    };
    let ports = if random.chance(20) {
        "*".to_owned()
    } else {
        random.some(&ports, 3, " ")
    };
    format!("{} {peers} : {ports}", random.pick(actions))
}

fn lines(rules: &Option<Vec<String>>) -> Option<Vec<&str>> {
    Some(rules.as_ref()?.iter().map(String::as_str).collect())
}

pub(crate) fn random_policy(random: &mut Random) -> Policy {
    let in_order = random.chance(25);
    let actions: &[&str] = if in_order {
        &["allow", "deny", "pass", "log"]
    } else {
        &["allow"]
    };
    let mut direction = |percent| {
        let rules = 0..random.below(4);
        let rules: Vec<_> = rules.map(|_| random_rule(random, actions)).collect();
        random.chance(percent).then_some(rules)
    };
    let (ingress, egress) = (direction(75), direction(55));
    let (ingress, egress) = (lines(&ingress), lines(&egress));
    if in_order {
        let tier = if random.chance(50) {
            Tier::Admin
        } else {
            Tier::Baseline
        };
        let order = i64::try_from(random.below(3)).expect("small");
        let name = format!("o{}", random.below(4));
        let mut policy = ordered(tier, order, &name, ingress.as_deref(), egress.as_deref());
        if random.chance(50) {
            policy.subject.pods = super::selector(random.pick(&["app=x", "tier", "!odd"]));
        }
        if random.chance(50) {
            let namespaces = super::selector(random.pick(&["team=1", "team!=1"]));
            policy.subject.namespaces = crate::model::NamespaceMatch::Labels(namespaces);
        }
        return policy;
    }
    let name = format!("{}/n{}", random.pick(&NAMESPACES), random.below(4));
    let subject = random.pick(&["{}", "app=x", "app=y", "tier!=p", "app tier", "odd=1"]);
    policy(&name, subject, ingress.as_deref(), egress.as_deref())
}

const SERVICE_PORTS: [&str; 5] = [
    "web=TCP/80@30080",
    "web=TCP/8080",
    "dns=UDP/53",
    "dns=TCP/53@30053",
    "UDP/53@30053",
];

pub(crate) fn random_service(random: &mut Random) -> Service {
    let name = format!("{}/s{}", random.pick(&NAMESPACES), random.below(3));
    let addresses = [
        "10.96.0.1",
        "10.96.0.2",
        "10.96.0.3",
        "fd00:96::1",
        "fd00:96::2",
    ];
    let cluster = if random.chance(85) {
        random.some(&addresses, 2, " ")
    } else {
        String::new()
    };
    let external = if random.chance(30) {
        random.some(&["192.0.2.1", "10.96.0.1", "10.0.0.5"], 2, " ")
    } else {
        String::new()
    };
    let ports = random.some(&SERVICE_PORTS, 2, " ");
    let mut service = service(&name, &cluster, &external, &ports);
    service.internal_local = random.chance(20);
    service.external_local = random.chance(20);
    service
}

pub(crate) fn random_slice(random: &mut Random) -> EndpointSlice {
    let name = format!("{}/e{}", random.pick(&NAMESPACES), random.below(4));
    let behind = format!("s{}", random.below(3));
    let endpoints = (0..random.below(5)).map(|_| {
        let address = match random.below(8) {
            0 => format!("fd00::{:x}", random.below(10)),
            1 => "192.168.0.1".to_owned(),
            _ => format!("10.0.0.{}", random.below(14)),
        };
        let node = random.pick(&["@here", "@there", ""]);
        let state = random.pick(&["", "", "", "-", "?"]);
        format!("{address}{node}{state}")
    });
    let endpoints = endpoints.collect::<Vec<_>>().join(" ");
    let ports = [
        "web=TCP/80",
        "web=TCP/81",
        "dns=UDP/53",
        "dns=TCP/53",
        "UDP/53",
    ];
    let ports = random.some(&ports, 2, " ");
    slice(&name, &behind, &endpoints, &ports)
}

/// Something that happens.
pub(crate) fn random_event(random: &mut Random) -> SourceEvent {
    let apply = |object| SourceEvent::Apply(object);
    match random.below(100) {
        0..=31 => apply(Object::Pod(Arc::new(random_pod(random)))),
        32..=36 => apply(Object::Service(Arc::new(random_service(random)))),
        37..=41 => apply(Object::EndpointSlice(Arc::new(random_slice(random)))),
        42 => SourceEvent::Delete(Key::Service(random_service(random).key())),
        43 => SourceEvent::Delete(Key::EndpointSlice(random_slice(random).key())),
        44..=51 => {
            let name = format!("{}/p{}", random.pick(&NAMESPACES), random.below(7));
            SourceEvent::Delete(Key::Pod(pod_ref(&name)))
        }
        52..=75 => apply(Object::Policy(Arc::new(random_policy(random)))),
        76..=85 => SourceEvent::Delete(Key::Policy(random_policy(random).id)),
        86..=95 => {
            let labels = random.pick(&["team=1", "team=2", "", "team=1 x=y"]);
            let name = random.pick(&NAMESPACES);
            apply(Object::Namespace(Arc::new(namespace(name, labels))))
        }
        96 => SourceEvent::Delete(Key::Namespace(random.pick(&NAMESPACES).into())),
        _ => {
            let address = format!("192.168.0.{}", random.below(4));
            apply(Object::Node(Arc::new(node(random.pick(&NODES), &address))))
        }
    }
}

/// Node `here`, seldom another, with some addresses; one may be a pod's.
pub(crate) fn random_node(random: &mut Random) -> NodeContext {
    let all = [
        "192.168.0.1",
        "192.168.0.2",
        "10.0.0.1",
        "10.0.0.5",
        "fd00::1",
        "fd00::f",
    ];
    let mut here = super::here("");
    for address in all {
        if random.chance(40) {
            here.addresses.insert(super::ip(address));
        }
    }
    if random.chance(15) {
        here.name = "there".into();
    }
    here
}
