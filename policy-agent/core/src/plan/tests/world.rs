//! Small desired states, random ones too, and what they mean, worked out the
//! slow and obvious way.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use policy_common::abi::Direction;
use policy_common::abi::policy::{ACTION_ALLOW, ACTION_DENY, Interval, point};
use policy_common::abi::protocol::TCP;

use crate::desired::{
    Backend, Backends, ClassId, CompiledPolicy, DesiredState, EndpointSpec, Frontend, HostSpec,
    PodRef, PolicyRef, PortSetSpec, Provenance,
};
use crate::model::{PolicyId, Protocol};
use crate::plan::{Attachment, Attachments};

/// xorshift64*, Vigna 2016.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, end: u32) -> u32 {
        u32::try_from((self.next() >> 33) % u64::from(end)).unwrap()
    }

    pub(super) fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }
}

/// Everything that is put in force together.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) desired: DesiredState,
    pub(super) attachments: Attachments,
}

pub(super) fn pod(name: &str) -> PodRef {
    PodRef {
        namespace: "ns".into(),
        name: name.into(),
    }
}

/// A set that allows these runs of TCP ports, one rule for all.
pub(super) fn ports(runs: &[(u16, u16)], rule: u32) -> Arc<PortSetSpec> {
    let interval = |(first, last): &(u16, u16)| Interval {
        first: point(TCP, *first),
        last: point(TCP, *last),
        rule,
        action: ACTION_ALLOW,
    };
    Arc::new(PortSetSpec {
        intervals: runs.iter().map(interval).collect(),
        default_rule: 1000,
        default_action: ACTION_DENY,
    })
}

pub(super) fn deny() -> Arc<PortSetSpec> {
    ports(&[], 0)
}

pub(super) fn allow(rule: u32) -> Arc<PortSetSpec> {
    Arc::new(PortSetSpec {
        intervals: Vec::new(),
        default_rule: rule,
        default_action: ACTION_ALLOW,
    })
}

impl World {
    pub(super) fn host(mut self, address: &str, class: u32) -> Self {
        let class = ClassId(class);
        let spec = HostSpec { class, node: false };
        self.desired.hosts.insert(address.parse().unwrap(), spec);
        self
    }

    pub(super) fn prefix(mut self, prefix: &str, class: u32) -> Self {
        let prefix: IpNet = prefix.parse().unwrap();
        self.desired.prefixes.insert(prefix, ClassId(class));
        self
    }

    pub(super) fn policy(
        mut self,
        number: u32,
        default: Arc<PortSetSpec>,
        rows: &[(u32, Arc<PortSetSpec>)],
    ) -> Self {
        let rows = rows
            .iter()
            .map(|(class, set)| (ClassId(*class), set.clone()));
        let policy = CompiledPolicy {
            direction: Direction::Ingress,
            default,
            rows: rows.collect(),
        };
        self.desired
            .policies
            .insert(PolicyRef(number), Arc::new(policy));
        let policies = vec![PolicyId {
            kind: "NetworkPolicy".into(),
            namespace: Some("ns".into()),
            name: "rule".into(),
        }];
        let direction = Direction::Ingress;
        let provenance = Provenance::Isolated {
            policies,
            direction,
        };
        self.desired.rules.insert(1000, provenance);
        self
    }

    /// A Service's address, TCP port 80, and what is behind it, as `address:port`.
    pub(super) fn service(mut self, address: &str, backends: &[&str]) -> Self {
        let backends = backends.iter().map(|text| {
            let (address, port) = text.rsplit_once(':').unwrap();
            Backend {
                address: address.parse().unwrap(),
                port: port.parse().unwrap(),
            }
        });
        let services = &mut self.desired.services;
        services.insert(frontend(address), Arc::new(backends.collect()));
        self
    }

    /// A pod; policies are numbers, 0 for none.
    pub(super) fn pod(
        mut self,
        name: &str,
        ifindex: u32,
        last: u8,
        [ingress, egress]: [u32; 2],
    ) -> Self {
        let spec = EndpointSpec {
            uid: name.into(),
            ipv4: Some(Ipv4Addr::new(10, 244, 0, last)),
            ipv6: None,
            ingress: (ingress != 0).then_some(PolicyRef(ingress)),
            egress: (egress != 0).then_some(PolicyRef(egress)),
        };
        self.desired.endpoints.insert(pod(name), spec);
        let link_local6 = None;
        let attachment = Attachment {
            ifindex,
            link_local6,
        };
        self.attachments.insert(pod(name), attachment);
        self
    }

    /// The class of an address.
    fn class(&self, address: IpAddr) -> ClassId {
        if let Some(host) = self.desired.hosts.get(&address) {
            return host.class;
        }
        let around = self.desired.prefixes.iter();
        let around = around.filter(|(prefix, _)| prefix.contains(&address));
        let longest = around.max_by_key(|(prefix, _)| prefix.prefix_len());
        longest.map_or(ClassId::OTHER, |(_, class)| *class)
    }

    /// What must be said to a question about the pod: allowed, and the rule.
    pub(super) fn answer(&self, pod: &PodRef, question: &Question) -> Option<(bool, u32)> {
        let spec = &self.desired.endpoints[pod];
        let policy = match question.direction {
            Direction::Ingress => spec.ingress,
            Direction::Egress => spec.egress,
        };
        let policy = &self.desired.policies[&policy?];
        let set = policy.rows.get(&self.class(question.peer));
        let set = set.unwrap_or(&policy.default);
        let point = point(question.protocol, question.port);
        let hit = set
            .intervals
            .iter()
            .find(|i| i.first <= point && point <= i.last);
        Some(match hit {
            Some(interval) => (interval.action == ACTION_ALLOW, interval.rule),
            None => (set.default_action == ACTION_ALLOW, set.default_rule),
        })
    }
}

/// TCP port 80 of an address.
pub(super) fn frontend(address: &str) -> Frontend {
    Frontend {
        address: address.parse().unwrap(),
        protocol: Protocol::Tcp,
        port: 80,
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    pub(super) direction: Direction,
    pub(super) peer: IpAddr,
    pub(super) protocol: u8,
    pub(super) port: u16,
}

/// Addresses that worlds are about, and some that none names.
pub(super) fn addresses() -> Vec<IpAddr> {
    let v4 = (0..12).map(|n: u8| IpAddr::V4(Ipv4Addr::new(10, 0, n / 4, n * 5)));
    let v6 = (0..4).map(|n| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, n / 2, 0, 0, 0, n)));
    let far = ["192.0.2.1", "10.9.9.9", "2001:db8::1"].map(|far| far.parse().unwrap());
    v4.chain(v6).chain(far).collect()
}

/// Every question, those of an address together.
pub(super) fn questions() -> Vec<Question> {
    let mut all = Vec::new();
    for peer in addresses() {
        for direction in [Direction::Ingress, Direction::Egress] {
            for (protocol, port) in [(TCP, 80), (TCP, 85), (TCP, 9000)] {
                all.push(Question {
                    direction,
                    peer,
                    protocol,
                    port,
                });
            }
        }
    }
    all
}

const PREFIXES: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.0.0/24",
    "10.0.0.0/28",
    "10.0.1.0/24",
    "10.0.2.48/28",
    "fd00::/16",
    "fd00::/64",
];

fn sets() -> Vec<Arc<PortSetSpec>> {
    let many = |rule| {
        ports(
            &[
                (80, 80),
                (443, 443),
                (8000, 8100),
                (9000, 9000),
                (9100, 9200),
            ],
            rule,
        )
    };
    vec![
        deny(),
        allow(7),
        ports(&[(80, 80)], 1),
        ports(&[(80, 90)], 2),
        ports(&[(443, 443), (9000, 9000)], 3),
        many(4),
        many(5),
        ports(&[(80, 80), (85, 85), (443, 443), (9000, 9000)], 6),
    ]
}

const POLICIES: u32 = 5;

fn class(rng: &mut Rng) -> ClassId {
    ClassId(rng.below(6))
}

fn compiled(rng: &mut Rng) -> Arc<CompiledPolicy> {
    let sets = sets();
    let any = |rng: &mut Rng| sets[rng.below(8) as usize].clone();
    let default = if rng.one_in(3) { any(rng) } else { deny() };
    let mut rows = BTreeMap::new();
    for class in 1..6 {
        if !rng.one_in(3) {
            rows.insert(ClassId(class), any(rng));
        }
    }
    Arc::new(CompiledPolicy {
        direction: Direction::Ingress,
        default,
        rows,
    })
}

fn policy_of(rng: &mut Rng) -> Option<PolicyRef> {
    (!rng.one_in(3)).then(|| PolicyRef(1 + rng.below(POLICIES)))
}

fn change_endpoint(world: &mut World, rng: &mut Rng) {
    let n = rng.below(6);
    let pod = pod(&format!("p{n}"));
    if rng.one_in(4) {
        world.desired.endpoints.remove(&pod);
        world.attachments.remove(&pod);
        return;
    }
    let last = u8::try_from(1 + n * 2 + rng.below(2)).unwrap();
    let spec = EndpointSpec {
        uid: "uid".into(),
        ipv4: Some(Ipv4Addr::new(10, 0, 3, last)),
        ipv6: None,
        ingress: policy_of(rng),
        egress: policy_of(rng),
    };
    world.desired.endpoints.insert(pod.clone(), spec);
    let link_local6 = rng
        .one_in(2)
        .then(|| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
    let ifindex = 10 + n;
    let attachment = Attachment {
        ifindex,
        link_local6,
    };
    world.attachments.insert(pod, attachment);
}

fn change_host(world: &mut World, rng: &mut Rng) {
    let all = addresses();
    let address = all[rng.below(16) as usize];
    if rng.one_in(3) {
        world.desired.hosts.remove(&address);
    } else {
        let node = rng.one_in(6);
        let class = class(rng);
        world
            .desired
            .hosts
            .insert(address, HostSpec { class, node });
    }
}

fn change_prefix(world: &mut World, rng: &mut Rng) {
    let prefix: IpNet = PREFIXES[rng.below(9) as usize].parse().unwrap();
    if rng.one_in(3) {
        world.desired.prefixes.remove(&prefix);
    } else {
        world.desired.prefixes.insert(prefix, class(rng));
    }
}

fn change_service(world: &mut World, rng: &mut Rng) {
    let address = format!("10.96.0.{}", rng.below(5));
    if rng.one_in(4) {
        world.desired.services.remove(&frontend(&address));
        return;
    }
    let all = addresses();
    let most = if rng.one_in(4) { 14 } else { 4 };
    let backend = |rng: &mut Rng| Backend {
        address: all[rng.below(19) as usize],
        port: [80, 85, 9000][rng.below(3) as usize],
    };
    let backends: Backends = (0..rng.below(most)).map(|_| backend(rng)).collect();
    let services = &mut world.desired.services;
    services.insert(frontend(&address), Arc::new(backends));
}

fn change_policy(world: &mut World, rng: &mut Rng) {
    let number = PolicyRef(1 + rng.below(POLICIES));
    world.desired.policies.insert(number, compiled(rng));
}

/// A world with something of everything.
pub(super) fn random(rng: &mut Rng) -> World {
    let mut world = World::default();
    for number in 1..=POLICIES {
        let policy = compiled(rng);
        world.desired.policies.insert(PolicyRef(number), policy);
    }
    for _ in 0..8 {
        change_host(&mut world, rng);
        change_endpoint(&mut world, rng);
    }
    for _ in 0..rng.below(8) {
        change_prefix(&mut world, rng);
        change_service(&mut world, rng);
    }
    world
}

/// A world like this one: one change of one kind, a few of all, or a new world.
pub(super) fn like(world: &World, rng: &mut Rng) -> World {
    let mut next = world.clone();
    match rng.below(9) {
        8 => change_service(&mut next, rng),
        0 | 1 => change_host(&mut next, rng),
        2 => change_prefix(&mut next, rng),
        3 => change_policy(&mut next, rng),
        4 => change_endpoint(&mut next, rng),
        5 => {
            for _ in 0..3 {
                change_host(&mut next, rng);
                change_prefix(&mut next, rng);
            }
        }
        6 => {
            change_policy(&mut next, rng);
            change_host(&mut next, rng);
            change_prefix(&mut next, rng);
            change_endpoint(&mut next, rng);
            change_service(&mut next, rng);
        }
        _ => next = random(rng),
    }
    if rng.one_in(2) {
        renumbered(&next)
    } else {
        next
    }
}

/// The same with other class numbers: they must have no meaning.
fn renumbered(world: &World) -> World {
    let other = |class: ClassId| match class {
        ClassId(0) => class,
        ClassId(n) => ClassId(1 + n % 5),
    };
    let mut next = world.clone();
    for host in next.desired.hosts.values_mut() {
        host.class = other(host.class);
    }
    for class in next.desired.prefixes.values_mut() {
        *class = other(*class);
    }
    for policy in next.desired.policies.values_mut() {
        let rows = policy.rows.iter();
        let rows = rows.map(|(class, set)| (other(*class), set.clone()));
        *policy = Arc::new(CompiledPolicy {
            rows: rows.collect(),
            ..CompiledPolicy::clone(policy)
        });
    }
    next
}
