//! The generators keep their promises: same seed same result, every shape, and probes that bite.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{
    Change, Class, Rng, Shape, Size, event_trace, random_cluster, random_probes, replay,
    scale_cluster, service_probes,
};
use crate::reference::{Cluster, Feature, Histogram, Outcome, Protocol};

/// Clusters that the statistical tests look at.
const SEEDS: u64 = 16;

#[test]
fn the_generator_is_splitmix64() {
    let mut rng = Rng::new(1_234_567);
    let first: Vec<u64> = (0..3).map(|_| rng.bits()).collect();
    assert_eq!(
        first,
        [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423
        ]
    );
}

#[test]
fn a_seed_means_one_cluster_and_one_list_of_probes() {
    let shape = Shape::default();
    let objects = random_cluster(7, &shape);
    assert_eq!(objects, random_cluster(7, &shape));
    assert_ne!(objects, random_cluster(8, &shape));
    assert_eq!(
        random_probes(1, &objects, 50),
        random_probes(1, &objects, 50)
    );
    assert_ne!(
        random_probes(1, &objects, 50),
        random_probes(2, &objects, 50)
    );
}

#[test]
fn clusters_stay_in_their_shape_and_address_plan() {
    let nets = [
        "10.244.0.0/16",
        "fd00:10:244::/48",
        "172.18.0.0/24",
        "fd00:172:18::/64",
    ]
    .map(|net| net.parse::<IpNet>().expect("a prefix"));
    for seed in 0..SEEDS {
        let objects = random_cluster(seed, &Shape::default());
        let count = |kind: &str| objects.iter().filter(|o| o["kind"] == kind).count();
        assert_eq!(count("Node"), 2);
        assert!((10..=60).contains(&count("Pod")) && (3..=25).contains(&count("NetworkPolicy")));
        for pod in objects.iter().filter(|o| o["kind"] == "Pod") {
            for ip in pod["status"]["podIPs"].as_array().into_iter().flatten() {
                let ip: IpAddr = ip["ip"]
                    .as_str()
                    .and_then(|ip| ip.parse().ok())
                    .expect("an address");
                let host = pod["spec"]["hostNetwork"] == true;
                let allowed = if host { &nets[2..] } else { &nets[..2] };
                assert!(allowed.iter().any(|net| net.contains(&ip)), "{pod}");
            }
        }
    }
}

#[test]
fn clusters_show_every_shape() {
    let text: String = (0..5 * SEEDS)
        .flat_map(|seed| random_cluster(seed, &Shape::default()))
        .map(|object| object.to_string())
        .collect();
    for shape in [
        "\"hostNetwork\":true",
        "\"Succeeded\"",
        "\"Failed\"",
        "\"Pending\"",
        "\"deletionTimestamp\"",
        "\"restartPolicy\":\"Always\"",
        "\"podSelector\":null",
        "\"podSelector\":{}",
        "\"ingress\":null",
        "\"ingress\":[]",
        "\"egress\":null",
        "\"egress\":[]",
        "\"from\":[]",
        "\"from\":null",
        "\"to\":[]",
        "\"to\":null",
        "\"ports\":null",
        "\"ports\":[]",
        "\"policyTypes\":[]",
        "\"policyTypes\":null",
        "\"policyTypes\":[\"Egress\",\"Ingress\"]",
        "\"except\":[]",
        "\"except\":null",
        "\"except\":[\"",
        "\"operator\":\"In\"",
        "\"operator\":\"NotIn\"",
        "\"operator\":\"Exists\"",
        "\"operator\":\"DoesNotExist\"",
        "\"endPort\"",
        "\"port\":\"http\"",
        "\"port\":\"unknown\"",
        "\"protocol\":null",
        "\"SCTP\"",
        "[{}",
        "\"cidr\":\"0.0.0.0/0\"",
        "\"cidr\":\"::/0\"",
        "kubernetes.io/metadata.name",
        "\"serviceSelector\"",
        "\"Matches\"",
        "\"Forward\"",
    ] {
        assert!(text.contains(shape), "no cluster has {shape}");
    }
}

#[test]
fn valid_clusters_have_nothing_that_an_api_server_rejects() {
    for seed in 0..SEEDS {
        for object in random_cluster(seed, &Shape::valid()) {
            let text = object.to_string();
            for spoiled in [
                "serviceSelector",
                "Matches",
                "Forward",
                "::ffff",
                "\"egress\"]",
                "nowhere",
            ] {
                assert!(!text.contains(spoiled), "{text}");
            }
        }
    }
}

/// What the differential tests are for in the first place.
const WANTED: [Feature; 6] = [
    Feature::Except,
    Feature::CidrOverlap,
    Feature::NegativeSelector,
    Feature::NamedPort,
    Feature::PortRange,
    Feature::UnknownPeer,
];

/// Shares are taken over all seeds; each cluster alone must show half of
/// the wanted features, as a policy that allows everything can hide the others.
#[test]
fn probes_are_allowed_often_enough_and_every_feature_decides() {
    let mut total = Histogram::default();
    for seed in 0..SEEDS {
        let objects = random_cluster(seed, &Shape::default());
        let cluster = Cluster::from_objects(&objects);
        let probes = random_probes(seed, &objects, 240);
        assert_eq!(probes.len(), 240);
        let histogram = Histogram::of(&cluster, &probes).expect("every probe is a packet");
        assert!(
            histogram.per_mille(histogram.allowed) >= 300,
            "seed {seed}\n{histogram}"
        );
        assert!(
            histogram.allowed < histogram.probes,
            "seed {seed}\n{histogram}"
        );
        let shown = WANTED
            .into_iter()
            .filter(|feature| histogram.per_mille(histogram.count(*feature)) >= 10);
        assert!(
            shown.count() >= 3,
            "seed {seed}
{histogram}"
        );
        total.merge(&histogram);
    }
    println!("{total}");
    for feature in Feature::ALL {
        assert!(
            total.per_mille(total.count(feature)) >= 10,
            "{feature:?}\n{total}"
        );
    }
}

#[test]
fn probes_come_in_every_family_protocol_and_way_to_name_an_end() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let objects = random_cluster(seed, &Shape::default());
        let cluster = Cluster::from_objects(&objects);
        for probe in random_probes(seed, &objects, 100) {
            let packet = cluster.packet(&probe).expect("every probe is a packet");
            seen.insert(format!(
                "{} v4={}",
                packet.protocol,
                packet.source.is_ipv4()
            ));
            seen.insert(format!("port {:?}", probe.port).chars().take(8).collect());
            seen.insert(format!("from {:?}", probe.from).chars().take(8).collect());
            seen.insert(format!("family {:?}", probe.family));
            assert!(
                packet.protocol != Protocol::UDP || packet.port != Some(67),
                "DHCP always passes"
            );
        }
    }
    let expected = [
        "ICMP v4=true",
        "ICMPv6 v4=false",
        "SCTP v4=false",
        "SCTP v4=true",
        "TCP v4=false",
        "TCP v4=true",
        "UDP v4=false",
        "UDP v4=true",
        "family None",
        "family Some(4)",
        "family Some(6)",
        "from Add",
        "from Pod",
        "port Nam",
        "port Non",
        "port Num",
    ];
    assert_eq!(seen, expected.map(str::to_owned).into());
}

#[test]
fn the_small_scale_has_the_stated_numbers() {
    let objects = scale_cluster(Size::Small, 1);
    let count = |kind: &str| objects.iter().filter(|o| o["kind"] == kind).count();
    let counts = ["Node", "Namespace", "Pod", "NetworkPolicy"].map(count);
    assert_eq!(counts, [10, 20, 1_000, 100]);
    let local = objects
        .iter()
        .filter(|o| o["spec"]["nodeName"] == "node-0")
        .count();
    assert_eq!(local, 100);
    let pods = || objects.iter().filter(|o| o["kind"] == "Pod");
    assert!(pods().all(|pod| pod["metadata"]["labels"].as_object().map(|l| l.len()) == Some(8)));
    assert!(pods().any(|pod| pod["status"]["podIPs"].is_null()));
    assert!(pods().any(|pod| pod["status"]["phase"] == "Succeeded"));
    assert!(pods().any(|pod| pod["spec"]["hostNetwork"] == true));
    let addresses: Vec<&Value> = pods()
        .filter(|pod| pod["spec"]["hostNetwork"].is_null() && pod["status"]["podIP"].is_string())
        .map(|pod| &pod["status"]["podIP"])
        .collect();
    let distinct: BTreeSet<&str> = addresses.iter().filter_map(|ip| ip.as_str()).collect();
    assert_eq!(
        addresses.len(),
        distinct.len(),
        "no two pods share an address at first"
    );
}

#[test]
fn the_share_of_each_kind_of_peer_and_port_is_as_stated() {
    let objects = scale_cluster(Size::Medium, 3);
    let policies: Vec<&Value> = objects
        .iter()
        .filter(|o| o["kind"] == "NetworkPolicy")
        .collect();
    let near = |what: &str, part: usize, whole: usize, percent: usize| {
        let share = part * 100 / whole;
        assert!(
            share.abs_diff(percent) <= percent / 5 + 2,
            "{what}: {share} % instead of {percent}"
        );
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let rules: Vec<Value> = policies
        .iter()
        .flat_map(|p| [list(&p["spec"]["ingress"]), list(&p["spec"]["egress"])].concat())
        .collect();
    let peers: Vec<Value> = rules
        .iter()
        .flat_map(|r| [list(&r["from"]), list(&r["to"])].concat())
        .collect();
    let ports: Vec<Value> = rules.iter().flat_map(|r| list(&r["ports"])).collect();
    assert_eq!(
        (rules.len() * 2, rules.len() * 2),
        (peers.len(), ports.len())
    );
    let deny = policies
        .iter()
        .filter(|p| p["spec"]["ingress"].is_null() && p["spec"]["egress"].is_null());
    near("default deny", deny.count(), policies.len(), 10);
    let blocks: Vec<&Value> = peers.iter().filter(|p| p["ipBlock"].is_object()).collect();
    near("blocks", blocks.len(), peers.len(), 15);
    let excepts = blocks.iter().filter(|b| b["ipBlock"]["except"].is_array());
    near("excepts", excepts.count(), blocks.len(), 30);
    let namespaces = peers.iter().filter(|p| p["namespaceSelector"].is_object());
    near("namespaceSelector", namespaces.count(), peers.len(), 30);
    near(
        "names",
        ports.iter().filter(|p| p["port"].is_string()).count(),
        ports.len(),
        5,
    );
    near(
        "ranges",
        ports.iter().filter(|p| p["endPort"].is_u64()).count(),
        ports.len(),
        5,
    );
}

#[test]
fn a_trace_has_the_stated_mix_and_replays_consistently() {
    let objects = scale_cluster(Size::Small, 1);
    let events = event_trace(Size::Small, 5, &objects, Size::Small.scale().events);
    assert_eq!(events, event_trace(Size::Small, 5, &objects, 2_000));
    let mut counts: BTreeMap<Class, usize> = BTreeMap::new();
    let mut names: BTreeSet<String> = objects.iter().map(name).collect();
    let mut reused = false;
    let mut released = BTreeSet::new();
    for event in &events {
        *counts.entry(event.class).or_default() += 1;
        match &event.change {
            Change::Apply(object) => {
                names.insert(name(object));
                reused |= object["status"]["podIP"]
                    .as_str()
                    .is_some_and(|ip| released.remove(ip));
            }
            Change::Delete(object) => {
                assert!(names.remove(&name(object)), "{object} was there");
                released.extend(object["status"]["podIP"].as_str().map(str::to_owned));
            }
        }
    }
    for (class, percent) in Class::MIX {
        let share = counts[&class] * 100 / events.len();
        assert!(
            share.abs_diff(percent) <= 4,
            "{class:?}: {share} % instead of {percent}"
        );
    }
    assert!(reused, "an address of a deleted pod is used again");
    let after: BTreeSet<String> = replay(&objects, &events).iter().map(name).collect();
    assert_eq!(after, names);
}

#[test]
fn noop_events_change_nothing_that_a_policy_sees() {
    let objects = scale_cluster(Size::Small, 1);
    let mut before: BTreeMap<String, Value> =
        objects.iter().map(|o| (name(o), o.clone())).collect();
    let mut noops = 0;
    for event in event_trace(Size::Small, 9, &objects, 500) {
        let Change::Apply(object) = event.change else {
            continue;
        };
        let old = before.insert(name(&object), object.clone());
        if event.class == Class::Noop {
            let old = old.expect("a pod that exists");
            for part in ["spec", "status"] {
                assert_eq!(old[part], object[part]);
            }
            assert_eq!(old["metadata"]["labels"], object["metadata"]["labels"]);
            assert_ne!(old, object);
            noops += 1;
        }
    }
    assert!(noops > 100);
}

fn name(object: &Value) -> String {
    format!(
        "{} {}/{}",
        object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]
    )
}

#[test]
fn probes_of_services_end_everywhere_and_a_seed_means_one_list() {
    let (mut all, mut open, mut closed, mut both) = (0, 0, 0, 0);
    let (mut plain, mut nowhere) = (0, 0);
    for seed in 0..SEEDS {
        let shape = Shape::with_services();
        let objects = random_cluster(seed, &shape);
        assert_eq!(objects, random_cluster(seed, &shape));
        let without = random_cluster(seed, &Shape::default());
        for (with, without) in objects.iter().zip(&without) {
            assert!(with == without || with["kind"] == "Pod", "{with} {without}");
        }
        let probes = service_probes(seed, &objects, 100);
        assert_eq!(probes, service_probes(seed, &objects, 100));
        assert!(service_probes(seed, &without, 100).is_empty());
        let cluster = Cluster::from_objects(&objects);
        for probe in &probes {
            all += 1;
            match cluster.outcome(probe).expect("a packet") {
                Outcome::Plain(_) => plain += 1,
                Outcome::Translated(ends) if ends.is_empty() => nowhere += 1,
                outcome => match outcome.allowed() {
                    Some(true) => open += 1,
                    Some(false) => closed += 1,
                    None => both += 1,
                },
            }
        }
    }
    for (what, count) in [
        ("allowed", open),
        ("denied", closed),
        ("depends", both),
        ("nowhere", nowhere),
        ("not translated", plain),
    ] {
        assert!(count * 20 >= all, "{what}: {count} of {all}");
    }
}
