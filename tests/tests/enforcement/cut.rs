//! A change cuts what it forbids with the next packet, and disturbs nothing else.
//!
//! The agent says when it stored a pod's policy word. What was sent after that
//! must not arrive: counted at the receiving pod by the senders' times, and for
//! TCP in both directions by what crossed the interfaces.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{
    Direction, Family, Host, IpPacket, Parsed, ServeSpec, Server, Sniffer, TcpFlow, TcpReport,
    TcpSpec, UdpReport, UdpSpec, UdpStream, Wiring, now_ns, tcp_flags, wait_for,
};

use crate::expect::ensure_undisturbed;
use crate::folder::{Pod, Way, allow};
use crate::node::{BOUND, Node};

/// Time between datagrams.
const EVERY: Duration = Duration::from_micros(500);
/// Datagrams that have to be sent in vain before a stream counts as cut.
const IN_VAIN: usize = 200;

/// Ports of the connection that is cut, and of those that are not; those of the
/// former have a server of their own, so that retransmissions tell of the latter.
const TCP_PORT: u16 = 80;
const KEPT_TCP_PORT: u16 = 82;
const UDP_PORT: u16 = 8000;
const UDP_REPLY_PORT: u16 = 8001;

/// What changes between two pods `shop/web` and `shop/db`, and whose word.
struct Cut {
    name: &'static str,
    before: fn(&Bed) -> Result<()>,
    change: fn(&Bed) -> Result<()>,
    changed: &'static str,
}

const CUTS: &[Cut] = &[
    Cut {
        name: "a first policy on the receiver",
        before: |_| Ok(()),
        change: |bed| bed.put("p.json", Way::Ingress, "shop/p", "db", &[("api", &[])]),
        changed: "shop/db",
    },
    Cut {
        name: "a first policy on the sender",
        before: |_| Ok(()),
        change: |bed| bed.put("p.json", Way::Egress, "shop/p", "web", &[("api", &[])]),
        changed: "shop/web",
    },
    Cut {
        name: "a narrower policy on the receiver",
        before: |bed| {
            bed.put(
                "p.json",
                Way::Ingress,
                "shop/p",
                "db",
                &[("web", &[]), ("api", &[])],
            )
        },
        change: |bed| {
            bed.put(
                "p.json",
                Way::Ingress,
                "shop/p",
                "db",
                &[("web", &[9]), ("api", &[])],
            )
        },
        changed: "shop/db",
    },
    Cut {
        name: "a narrower policy on the sender",
        before: |bed| {
            bed.put(
                "p.json",
                Way::Egress,
                "shop/p",
                "web",
                &[("db", &[]), ("api", &[])],
            )
        },
        change: |bed| bed.put("p.json", Way::Egress, "shop/p", "web", &[("api", &[])]),
        changed: "shop/web",
    },
    Cut {
        name: "the end of the policy that allowed it",
        before: |bed| {
            bed.put("p.json", Way::Ingress, "shop/p", "db", &[("api", &[])])?;
            bed.put("q.json", Way::Ingress, "shop/q", "db", &[("web", &[])])
        },
        change: |bed| bed.node.folder.remove("q.json"),
        changed: "shop/db",
    },
    Cut {
        name: "another label of the sender",
        before: |bed| {
            bed.put(
                "p.json",
                Way::Ingress,
                "shop/p",
                "db",
                &[("web", &[]), ("api", &[])],
            )
        },
        change: |bed| bed.node.show(&bed.web.clone().label("app", "other")),
        changed: "shop/db",
    },
    Cut {
        name: "another label of the receiver",
        before: |bed| {
            bed.put(
                "p.json",
                Way::Egress,
                "shop/p",
                "web",
                &[("db", &[]), ("api", &[])],
            )
        },
        change: |bed| bed.node.show(&bed.db.clone().label("app", "other")),
        changed: "shop/web",
    },
    Cut {
        name: "a label that puts the receiver under a policy",
        before: |bed| bed.put("p.json", Way::Ingress, "shop/p", "strict", &[("api", &[])]),
        change: |bed| bed.node.show(&bed.db.clone().label("app", "strict")),
        changed: "shop/db",
    },
];

/// `shop/web` and `shop/api` talk to `shop/db`, and `shop/web` to `shop/api`.
struct Bed {
    node: Node,
    hosts: [Host; 3],
    web: Pod,
    db: Pod,
    servers: [Server; 2],
    _doomed: Server,
}

impl Bed {
    fn new(wiring: Wiring) -> Result<Self> {
        let mut node = Node::new("cut", wiring)?;
        let mut hosts = Vec::new();
        for app in ["web", "api", "db"] {
            hosts.push(node.pod(&format!("shop/{app}"), &[("app", app)])?);
        }
        let hosts: [Host; 3] = hosts
            .try_into()
            .map_err(|_| anyhow::anyhow!("three pods"))?;
        let [web, api, db] = &hosts;
        let serve = |host: &Host, port: u16| {
            let spec = ServeSpec {
                tcp: vec![port],
                ..ServeSpec::default()
            };
            Server::start(host, &spec)
        };
        let doomed = serve(db, TCP_PORT)?;
        let servers = [serve(db, KEPT_TCP_PORT)?, serve(api, KEPT_TCP_PORT)?];
        // The same objects as the manifests that are there already.
        let (web, db) = (
            Pod::of(web, "uid-1").label("app", "web"),
            Pod::of(db, "uid-3").label("app", "db"),
        );
        node.start()?;
        Ok(Self {
            node,
            hosts,
            web,
            db,
            servers,
            _doomed: doomed,
        })
    }

    fn put(
        &self,
        file: &str,
        way: Way,
        policy: &str,
        subject: &str,
        rules: &[(&str, &[u16])],
    ) -> Result<()> {
        let policy = allow(way, policy, subject, rules);
        self.node.folder.put_all(file, &[policy])
    }

    /// Pods as in the beginning and no policy.
    fn reset(&self) -> Result<()> {
        self.node.folder.remove("p.json")?;
        self.node.folder.remove("q.json")?;
        self.node.show(&self.web)?;
        self.node.show(&self.db)?;
        self.node.settle()?;
        Ok(())
    }
}

/// Everything that goes from one pod to another.
struct Flows {
    udp: Vec<UdpStream>,
    tcp: Vec<TcpFlow>,
}

struct Reports {
    udp: Vec<UdpReport>,
    tcp: Vec<TcpReport>,
}

impl Flows {
    fn start(from: &Host, to: &Host, tcp_port: u16, reply_port: u16, port: u16) -> Result<Self> {
        let mut flows = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
        };
        for family in Family::BOTH {
            let one_way = UdpSpec::new(from, to, family, port)?.interval(EVERY);
            let both_ways = UdpSpec::new(from, to, family, reply_port)?.interval(EVERY);
            flows.udp.push(UdpStream::start(&one_way)?);
            flows.udp.push(UdpStream::start(&both_ways.reply())?);
            flows
                .tcp
                .push(TcpFlow::start(&TcpSpec::new(from, to, family, tcp_port)?)?);
        }
        Ok(flows)
    }

    fn wait_until_flowing(&self) -> Result<()> {
        for stream in &self.udp {
            stream.wait_until_flowing(BOUND)?;
        }
        for flow in &self.tcp {
            flow.wait_until_flowing(BOUND)?;
        }
        Ok(())
    }

    /// Waits until every stream has sent so many more datagrams.
    fn wait_for_datagrams(&self, more: usize) -> Result<()> {
        let sent: Vec<usize> = self.udp.iter().map(UdpStream::sent).collect();
        let ahead = |(stream, sent): (&UdpStream, &usize)| stream.sent() >= sent + more;
        wait_for("datagrams to be sent", BOUND, || {
            self.udp.iter().zip(&sent).all(ahead)
        })?;
        Ok(())
    }

    /// Stops all of them at once: each waits a while for what is under way.
    fn stop(self) -> Result<Reports> {
        let joined = "a thread that stops a flow does not panic";
        thread::scope(|scope| {
            let udp: Vec<_> = self
                .udp
                .into_iter()
                .map(|flow| scope.spawn(|| flow.stop()))
                .collect();
            let tcp: Vec<_> = self
                .tcp
                .into_iter()
                .map(|flow| scope.spawn(|| flow.stop()))
                .collect();
            Ok(Reports {
                udp: udp
                    .into_iter()
                    .map(|t| t.join().expect(joined))
                    .collect::<Result<_>>()?,
                tcp: tcp
                    .into_iter()
                    .map(|t| t.join().expect(joined))
                    .collect::<Result<_>>()?,
            })
        })
    }
}

impl Reports {
    fn ensure_nothing_lost(&self, server: &Server) -> Result<()> {
        for report in &self.udp {
            let replies = !report.replies.is_empty();
            ensure!(
                report.lost().is_empty() && report.send_errors == 0,
                "an allowed stream: {}",
                report.summary()
            );
            ensure!(
                !replies || report.unanswered().is_empty(),
                "its replies: {}",
                report.summary()
            );
        }
        ensure_undisturbed(server, &self.tcp)
    }

    fn ensure_cut(&self, at_ns: u64) -> Result<()> {
        for report in &self.udp {
            let late = report.delivered_sent_after(at_ns);
            ensure!(
                late.is_empty(),
                "{} sent after the cut: {:?}",
                late.len(),
                late[0]
            );
            let before = report.lost_in(0..at_ns);
            // What was under way may be judged by the new policy.
            ensure!(before.len() <= 2, "lost before the cut: {before:?}");
            ensure!(
                report.sent_in(at_ns..u64::MAX) >= IN_VAIN,
                "{}",
                report.summary()
            );
            ensure!(report.queue_drops == 0, "{}", report.summary());
        }
        for report in &self.tcp {
            let late = report.answered_sent_after(at_ns);
            ensure!(
                late == 0,
                "{late} messages were answered: {}",
                report.summary()
            );
            ensure!(report.unanswered() > 0, "{}", report.summary());
        }
        Ok(())
    }
}

/// Sniffs the TCP segments between two hosts, at one of them.
fn sniff(at: &Host, peer: &Host) -> Result<Sniffer> {
    let addresses = peer.addresses();
    Sniffer::start_both(at, move |packet: &Parsed, _| {
        packet.tcp.is_some() && (addresses.contains(&packet.src) || addresses.contains(&packet.dst))
    })
}

/// Makes sure that nothing that `sender` sent after the cut came to `receiver`.
fn ensure_silence(sender: &Sniffer, receiver: &Sniffer, at_ns: u64, what: &str) -> Result<()> {
    let sent = sender.packets();
    let sent = sent
        .iter()
        .filter(|packet| packet.direction == Direction::Out);
    let (before, after) = sent.fold((0, 0), |(before, after), packet| {
        match packet.at_ns <= at_ns {
            true => (before + 1, after),
            false => (before, after + 1),
        }
    });
    let arrived = receiver.packets();
    let arrived = arrived
        .iter()
        .filter(|packet| packet.direction == Direction::In);
    let arrived = arrived.count();
    ensure!(
        before > 0 && after > 0,
        "{what}: {before} sent before the cut, {after} after"
    );
    ensure!(
        arrived <= before,
        "{what}: {arrived} segments arrived, {before} were sent before the cut, {after} after"
    );
    Ok(())
}

fn run(bed: &Bed, cut: &Cut) -> Result<()> {
    let [web, api, db] = &bed.hosts;
    (cut.before)(bed)?;
    bed.node.settle()?;
    let (at_web, at_db) = (sniff(web, db)?, sniff(db, web)?);
    let doomed = Flows::start(web, db, TCP_PORT, UDP_REPLY_PORT, UDP_PORT)?;
    let kept = [
        Flows::start(api, db, KEPT_TCP_PORT, UDP_REPLY_PORT + 10, UDP_PORT + 10)?,
        Flows::start(web, api, KEPT_TCP_PORT, UDP_REPLY_PORT, UDP_PORT)?,
    ];
    for flows in kept.iter().chain([&doomed]) {
        flows.wait_until_flowing()?;
    }
    doomed.wait_for_datagrams(50)?;

    let since_ns = now_ns();
    (cut.change)(bed)?;
    bed.node.settle()?;
    let at_ns = bed.node.stored_after(cut.changed, since_ns)?;
    doomed.wait_for_datagrams(IN_VAIN)?;
    // The receiver goes on with the connection, as its own timers would make it.
    for flow in &doomed.tcp {
        let client = flow.local();
        let server = SocketAddr::new(db.address_towards(client.ip())?, TCP_PORT);
        let segment = IpPacket::tcp(server, client, tcp_flags::ACK, 1, 1, b"more");
        let hop = bed
            .node
            .lab
            .next_hop(db, client.ip())
            .context("a next hop")?;
        db.send_packets(hop, &[segment.build()])?;
    }
    doomed.wait_for_datagrams(20)?;

    for (flows, server) in kept.into_iter().zip(&bed.servers) {
        flows.stop()?.ensure_nothing_lost(server)?;
    }
    doomed.stop()?.ensure_cut(at_ns)?;
    ensure_silence(&at_web, &at_db, at_ns, "to the server")?;
    ensure_silence(&at_db, &at_web, at_ns, "to the client")?;
    bed.reset()
}

fn all_cuts(wiring: Wiring) -> Result<()> {
    let bed = Bed::new(wiring)?;
    for cut in CUTS {
        run(&bed, cut).with_context(|| cut.name)?;
    }
    bed.node.finish()
}

#[test]
fn changes_cut_what_they_forbid_between_bridged_pods() -> Result<()> {
    all_cuts(Wiring::Bridged)
}

#[test]
fn changes_cut_what_they_forbid_between_routed_pods() -> Result<()> {
    all_cuts(Wiring::Routed)
}
