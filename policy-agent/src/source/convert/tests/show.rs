//! A policy on one line, for expectations that can be read.

use policy_core::model::{
    NamespaceMatch, Peer, Peers, Policy, PortMatch, Ports, Requirement, Rule, Selector, Tier,
};

/// As in `{app=db} ingress[0:{}@a,10.0.0.0/8 TCP:80] egress[]`.
pub(super) fn policy(policy: &Policy) -> String {
    assert_eq!((policy.tier, policy.order), (Tier::NetworkPolicy, 0));
    let own = policy.id.namespace.clone().unwrap();
    assert_eq!(policy.subject.namespaces, NamespaceMatch::Name(own));
    let mut text = selector(&policy.subject.pods);
    for (name, rules) in [("ingress", &policy.ingress), ("egress", &policy.egress)] {
        if let Some(rules) = rules {
            let rules: Vec<_> = rules.iter().map(rule).collect();
            text += &format!(" {name}[{}]", rules.join(" | "));
        }
    }
    text
}

fn rule(rule: &Rule) -> String {
    let peers = match &rule.peers {
        Peers::Any => "any".to_owned(),
        Peers::Of(peers) if peers.is_empty() => "nobody".to_owned(),
        Peers::Of(peers) => peers.iter().map(peer).collect::<Vec<_>>().join(","),
    };
    let ports = match &rule.ports {
        Ports::Any => "any".to_owned(),
        Ports::Of(ports) if ports.is_empty() => "nothing".to_owned(),
        Ports::Of(ports) => ports.iter().map(port).collect::<Vec<_>>().join(","),
    };
    format!("{}:{peers} {ports}", rule.index)
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Pods { namespaces, pods } => match namespaces {
            NamespaceMatch::Name(name) => format!("{}@{name}", selector(pods)),
            NamespaceMatch::Labels(labels) => format!("{}@{}", selector(pods), selector(labels)),
        },
        Peer::IpBlock(block) => {
            let except = block.except.iter().map(|e| format!("-{e}"));
            format!("{}{}", block.cidr, except.collect::<String>())
        }
    }
}

fn selector(selector: &Selector) -> String {
    let list = |values: &std::collections::BTreeSet<std::sync::Arc<str>>| {
        values.iter().map(|v| &**v).collect::<Vec<_>>().join("+")
    };
    let requirements = selector
        .requirements()
        .iter()
        .map(|requirement| match requirement {
            Requirement::In(key, values) => format!("{key}={}", list(values)),
            Requirement::NotIn(key, values) => format!("{key}!={}", list(values)),
            Requirement::Exists(key) => format!("{key}"),
            Requirement::DoesNotExist(key) => format!("!{key}"),
        });
    format!("{{{}}}", requirements.collect::<Vec<_>>().join(" "))
}

fn port(port: &PortMatch) -> String {
    match port {
        PortMatch::Range {
            protocol,
            first: 0,
            last: 65535,
        } => protocol.name().to_owned(),
        PortMatch::Range {
            protocol,
            first,
            last,
        } if first == last => format!("{}:{first}", protocol.name()),
        PortMatch::Range {
            protocol,
            first,
            last,
        } => format!("{}:{first}-{last}", protocol.name()),
        PortMatch::Named { protocol, name } => {
            format!("{}:{name}", protocol.map_or("*", |p| p.name()))
        }
    }
}
