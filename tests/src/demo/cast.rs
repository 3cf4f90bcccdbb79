//! Who takes part: the pods, the hosts outside, what they serve, and the
//! manifests that say so.
//!
//! The lab wires them; the policies are `policies.yaml`. What is asked of whom
//! is one table here, from which servers, probes and columns follow.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::lab::{Family, Host, Lab, Proto, ServeSpec, Server};

/// The node, as its Node object and the agent call it.
pub(super) const NODE: &str = "demo-node";

/// A pod of the demo.
pub(super) struct Pod {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    app: &'static str,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    /// Name and number of a TCP port.
    port: Option<(&'static str, u16)>,
}

/// A host outside the node.
pub(super) struct Outsider {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

const fn v6(a: u16, b: u16, c: u16, d: u16, last: u16) -> Ipv6Addr {
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, last)
}

/// The pods.
pub(super) const PODS: [Pod; 4] = [
    Pod {
        name: "shop/web",
        about: "the frontend",
        app: "web",
        v4: Ipv4Addr::new(10, 244, 0, 11),
        v6: v6(0xfd10, 0x244, 0, 0, 0x11),
        port: Some(("http", 8080)),
    },
    Pod {
        name: "shop/db",
        about: "the database",
        app: "db",
        v4: Ipv4Addr::new(10, 244, 0, 12),
        v6: v6(0xfd10, 0x244, 0, 0, 0x12),
        port: Some(("sql", 5432)),
    },
    Pod {
        name: "shop/stranger",
        about: "no policy mentions it",
        app: "stranger",
        v4: Ipv4Addr::new(10, 244, 0, 13),
        v6: v6(0xfd10, 0x244, 0, 0, 0x13),
        port: None,
    },
    Pod {
        name: "partner/client",
        about: "in a partner's namespace",
        app: "client",
        v4: Ipv4Addr::new(10, 244, 0, 21),
        v6: v6(0xfd10, 0x244, 0, 0, 0x21),
        port: None,
    },
];

/// The hosts outside.
pub(super) const OUTSIDERS: [Outsider; 2] = [
    Outsider {
        name: "office",
        about: "outside the cluster",
        v4: Ipv4Addr::new(198, 51, 100, 20),
        v6: v6(0x2001, 0xdb8, 0x100, 1, 0x20),
    },
    Outsider {
        name: "guest",
        about: "outside, for guests",
        v4: Ipv4Addr::new(198, 51, 100, 200),
        v6: v6(0x2001, 0xdb8, 0x100, 0xff, 0x200),
    },
];

/// What everybody asks: host, port (0 where the protocol has none), protocol.
pub(super) const COLUMNS: [(&str, u16, Proto); 9] = [
    ("shop/web", 8080, Proto::Tcp),
    ("shop/web", 9090, Proto::Tcp),
    ("shop/db", 5432, Proto::Tcp),
    ("shop/db", 0, Proto::Icmp),
    ("shop/stranger", 53, Proto::Udp),
    ("partner/client", 8080, Proto::Tcp),
    ("office", 9005, Proto::Tcp),
    ("office", 9011, Proto::Tcp),
    ("guest", 9005, Proto::Tcp),
];

/// A host of the lab, as the agent knows it.
#[derive(Clone)]
pub(super) struct Actor {
    pub(super) host: Host,
    pub(super) is_pod: bool,
}

impl Actor {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        self.host.name()
    }

    /// How a question to `simulate` names it.
    pub(super) fn who(&self, family: Family) -> Result<String> {
        if self.is_pod {
            return Ok(self.name().to_owned());
        }
        Ok(self.host.address(family)?.to_string())
    }
}

/// Everybody, with their servers; the node is the last.
pub(super) struct Cast {
    pub(super) actors: Vec<Actor>,
    _servers: Vec<Server>,
}

impl Cast {
    /// Makes the pods and hosts and starts what they serve.
    ///
    /// # Errors
    /// Says which one cannot be made.
    pub(super) fn assemble(lab: &mut Lab) -> Result<Self> {
        let mut actors = Vec::new();
        for pod in &PODS {
            actors.push(Actor {
                host: lab.pod(pod.name, pod.v4, pod.v6)?,
                is_pod: true,
            });
        }
        for outsider in &OUTSIDERS {
            actors.push(Actor {
                host: lab.outside(outsider.name, outsider.v4, outsider.v6)?,
                is_pod: false,
            });
        }
        actors.push(Actor {
            host: lab.node().clone(),
            is_pod: false,
        });
        let servers = actors
            .iter()
            .map(|actor| Server::start(&actor.host, &served_by(actor.name())))
            .collect::<Result<_>>()?;
        Ok(Self {
            actors,
            _servers: servers,
        })
    }

    /// Somebody who takes part.
    pub(super) fn get(&self, name: &str) -> &Actor {
        self.actors
            .iter()
            .find(|actor| actor.name() == name)
            .expect("names come from the tables above")
    }
}

/// What a host listens on: the columns that ask it.
fn served_by(name: &str) -> ServeSpec {
    let mut spec = ServeSpec::default();
    for (_, port, proto) in COLUMNS.iter().filter(|(host, ..)| *host == name) {
        match proto {
            Proto::Tcp => spec.tcp.push(*port),
            Proto::Udp => spec.udp.push(*port),
            Proto::Sctp => spec.sctp.push(*port),
            // The kernel answers echo requests itself.
            Proto::Icmp => {}
            Proto::Other(number) => spec.protocols.push(*number),
        }
    }
    spec
}

/// Manifests of the node, the namespaces and the pods.
pub(super) fn cluster_manifest(lab: &Lab) -> String {
    let mut yaml =
        format!("apiVersion: v1\nkind: Node\nmetadata:\n  name: {NODE}\nstatus:\n  addresses:\n");
    for address in lab.node().addresses() {
        push(&mut yaml, format_args!("    - type: InternalIP\n"));
        push(&mut yaml, format_args!("      address: \"{address}\"\n"));
    }
    yaml.push_str("---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n");
    yaml.push_str("---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: partner\n");
    yaml.push_str("  labels:\n    partner: \"yes\"\n");
    for pod in &PODS {
        let (namespace, name) = pod.name.split_once('/').expect("pods have both");
        push(
            &mut yaml,
            format_args!(
                "---\napiVersion: v1\nkind: Pod\nmetadata:\n  namespace: {namespace}\n  \
                 name: {name}\n  labels:\n    app: {}\nspec:\n  nodeName: {NODE}\n  containers:\n    \
                 - name: main\n",
                pod.app
            ),
        );
        if let Some((port_name, port)) = pod.port {
            push(
                &mut yaml,
                format_args!(
                    "      ports:\n        - name: {port_name}\n          containerPort: {port}\n"
                ),
            );
        }
        push(
            &mut yaml,
            format_args!(
                "status:\n  podIPs:\n    - ip: {}\n    - ip: \"{}\"\n",
                pod.v4, pod.v6
            ),
        );
    }
    yaml
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_who_is_asked_takes_part() {
        for (host, ..) in COLUMNS {
            let known = PODS.iter().any(|pod| pod.name == host)
                || OUTSIDERS.iter().any(|outsider| outsider.name == host);
            assert!(known, "{host}");
        }
    }

    #[test]
    fn hosts_serve_what_their_columns_ask() {
        assert_eq!(served_by("shop/web").tcp, [8080, 9090]);
        assert_eq!(served_by("shop/stranger").udp, [53]);
        let nothing = served_by("node");
        assert!(nothing.tcp.is_empty() && nothing.udp.is_empty());
    }
}
