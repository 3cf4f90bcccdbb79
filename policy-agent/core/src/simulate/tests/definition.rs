//! Random packets against a brute-force reading of the model: no index, no
//! compiler, no tables.

use super::*;

/// One side by definition: tiers, policies and rules in order, no tables.
fn by_definition(store: &Store, packet: &Packet, direction: Direction) -> Option<bool> {
    let (subject, peer) = match direction {
        Direction::Ingress => (packet.destination, packet.source),
        Direction::Egress => (packet.source, packet.destination),
    };
    let pod_at = |address| store.owner(address).and_then(|owner| store.pod(owner));
    let pod = pod_at(subject)?;
    let in_namespaces = |namespaces: &NamespaceMatch, pod: &Pod| match namespaces {
        NamespaceMatch::Name(name) => *name == pod.namespace,
        NamespaceMatch::Labels(selector) => {
            selector.matches(&store.namespace_labels(&pod.namespace))
        }
    };
    let is_peer = |wanted: &Peer| match wanted {
        Peer::IpBlock(block) => {
            block.cidr.contains(&peer) && !block.except.iter().any(|e| e.contains(&peer))
        }
        Peer::Pods { namespaces, pods } => pod_at(peer)
            .is_some_and(|peer| in_namespaces(namespaces, peer) && pods.matches(&peer.labels)),
    };
    let is_port = |wanted: &PortMatch| match wanted {
        PortMatch::Range {
            protocol,
            first,
            last,
        } => protocol.number() == packet.protocol && (*first..=*last).contains(&packet.port),
        PortMatch::Named { protocol, name } => pod_at(packet.destination).is_some_and(|pod| {
            pod.ports.iter().any(|port| {
                port.name == *name
                    && port.port == packet.port
                    && port.protocol.number() == packet.protocol
                    && protocol.is_none_or(|wanted| wanted == port.protocol)
            })
        }),
    };
    let node = pod.node.as_ref().and_then(|name| store.nodes().get(name));
    let own_node = node.is_some_and(|node| node.addresses.contains(&peer));
    if own_node && direction == Direction::Ingress {
        return Some(true);
    }
    let mut policies: Vec<_> = store.policies().values().collect();
    policies.sort_by_key(|policy| (policy.tier, policy.order, &policy.id));
    for tier in Tier::ALL {
        let mut isolated = false;
        let mut passed = false;
        for policy in policies.iter().filter(|policy| policy.tier == tier) {
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            let applies = in_namespaces(&policy.subject.namespaces, pod)
                && policy.subject.pods.matches(&pod.labels);
            let Some(rules) = rules.as_ref().filter(|_| applies) else {
                continue;
            };
            isolated |= tier.denies_by_default();
            for rule in rules {
                let peers = match &rule.peers {
                    Peers::Any => true,
                    Peers::Of(peers) => peers.iter().any(is_peer),
                };
                let ports = match &rule.ports {
                    Ports::Any => true,
                    Ports::Of(ports) => ports.iter().any(is_port),
                };
                match rule.action {
                    _ if passed || !peers || !ports => {}
                    Action::Allow => return Some(true),
                    Action::Deny => return Some(false),
                    Action::Pass => passed = true,
                    Action::Log => {}
                }
            }
        }
        if isolated && !passed {
            return Some(own_node);
        }
    }
    Some(true)
}

#[test]
fn random_packets_get_the_verdict_of_the_definition() {
    let (mut allowed, mut denied) = (0, 0);
    for seed in 300..360 {
        let mut random = Random::new(seed);
        let mut store = Store::new();
        for _ in 0..90 {
            store.apply(random_event(&mut random));
        }
        let mut simulator = Simulator::new(&store);
        for _ in 0..400 {
            let v6 = random.chance(30);
            let mut address = || match (v6, random.below(10)) {
                (false, 0) => ip(&format!("192.168.0.{}", random.below(4))),
                (false, 1) => ip("9.9.9.9"),
                (false, _) => ip(&format!("10.0.0.{}", random.below(16))),
                (true, 0) => ip("2001::1"),
                (true, _) => ip(&format!("fd00::{:x}", random.below(12))),
            };
            let (source, destination) = (address(), address());
            let protocol = [TCP, TCP, UDP, SCTP, ICMP][random.below(5)];
            let port = [80, 80, 81, 53, 90, 0][random.below(6)];
            let packet = Packet {
                source,
                destination,
                protocol,
                port: if protocol == ICMP { 0 } else { port },
            };
            let answer = simulator.judge(&packet);
            // Translated ones are asked about in `services`.
            let translated = answer.reason.starts_with("Service ");
            if translated || answer.reason == "a pod reaches itself" {
                continue;
            }
            for (side, direction) in [
                (&answer.egress, Direction::Egress),
                (&answer.ingress, Direction::Ingress),
            ] {
                let verdict = side.as_ref().map(|side| side.verdict == Verdict::Allow);
                let expected = by_definition(&store, &packet, direction);
                assert_eq!(verdict, expected, "seed {seed} {packet:?}: {answer:#?}");
            }
            match answer.verdict {
                Verdict::Allow => allowed += 1,
                Verdict::Deny => denied += 1,
                Verdict::Depends => unreachable!("one packet has one way"),
            }
        }
    }
    assert!(
        allowed > 2_000 && denied > 2_000,
        "{allowed} allowed, {denied} denied"
    );
}
