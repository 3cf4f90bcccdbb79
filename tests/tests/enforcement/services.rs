//! Egress of an isolated pod through Services, with rules of nftables that
//! translate as kube-proxy does.
//!
//! One Service has four endpoints: two pods of this node and two beyond its
//! uplink, one of each allowed. Which of them a connection gets is written into
//! the rules, so each is tried by itself.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{
    Family, Host, Outcome, Probe, Proto, ServeSpec, Server, TcpFlow, TcpSpec, Wiring, matrix,
    now_ns, probe, wait_for,
};
use serde_json::{Value, json};

use crate::folder::{Pod, Way, allow};
use crate::node::{BOUND, Node};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const VIP_PORT: u16 = 443;
const NODE_PORT: u16 = 30_080;
const PORT: u16 = 80;
/// Echoes that have to come back after a change before a connection counts as
/// going on, and messages in vain before it counts as cut.
const GOING_ON: usize = 200;

/// What else the rules do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Also {
    Nothing,
    /// The source becomes the node, as with `--masquerade-all`.
    Masquerade,
    /// Somebody wipes every mark.
    WipeMarks,
}

struct Shop {
    node: Node,
    /// Isolated, and allowed to pods with `app: db`.
    web: Host,
    /// Nothing isolates it.
    api: Host,
    /// `db` and `log` on this node and beyond it.
    backends: [Host; 4],
    servers: Vec<Server>,
}

impl Shop {
    fn new(name: &str, wiring: Wiring) -> Result<Self> {
        let mut node = Node::new(name, wiring)?;
        let web = node.pod("shop/web", &[("app", "web")])?;
        let api = node.pod("shop/api", &[("app", "api")])?;
        let db = node.pod("shop/db", &[("app", "db")])?;
        let log = node.pod("shop/log", &[("app", "log")])?;
        let mut elsewhere = Vec::new();
        for (host, app, last) in [("far-db", "db", 11), ("far-log", "log", 12)] {
            let address = Ipv4Addr::new(10, 245, 0, last);
            let outside = node.lab.outside(host, address, None)?;
            let pod = Pod {
                name: format!("shop/{host}"),
                ..Pod::of(&outside, &format!("uid-{host}")).label("app", app)
            };
            node.folder
                .put_all(&pod.file(), &[pod.manifest("node-2")])?;
            elsewhere.push(outside);
        }
        let [far_db, far_log] = <[Host; 2]>::try_from(elsewhere).ok().context("two hosts")?;
        let backends = [db, log, far_db, far_log];
        let servers = backends
            .iter()
            .chain([&web])
            .map(|host| Server::start(host, &ServeSpec::ports(&[PORT])))
            .collect::<Result<_>>()?;
        let shop = Self {
            node,
            web,
            api,
            backends,
            servers,
        };
        shop.folder_of(&shop.backends.each_ref())?;
        let policy = allow(Way::Egress, "shop/to-db", "web", &[("db", &[PORT])]);
        shop.node.folder.put_all("policy.json", &[policy])?;
        Ok(shop)
    }

    /// The Service and its endpoints.
    fn folder_of(&self, endpoints: &[&Host]) -> Result<()> {
        let ports = ["TCP", "UDP"].map(|protocol| {
            json!({
                "name": protocol.to_lowercase(), "protocol": protocol, "port": VIP_PORT,
                "targetPort": PORT, "nodePort": NODE_PORT,
            })
        });
        let addresses: Vec<Value> = endpoints
            .iter()
            .map(|host| {
                Ok(json!({
                    "addresses": [host.address(Family::V4)?.to_string()],
                    "conditions": {"ready": true},
                }))
            })
            .collect::<Result<_>>()?;
        let slice_ports = ["TCP", "UDP"].map(
            |protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT}),
        );
        self.node.folder.put_all(
            "service.json",
            &[
                json!({
                    "apiVersion": "v1", "kind": "Service",
                    "metadata": {"namespace": "shop", "name": "db"},
                    "spec": {
                        "type": "NodePort", "clusterIP": VIP.to_string(),
                        "clusterIPs": [VIP.to_string()], "ipFamilies": ["IPv4"], "ports": ports,
                    },
                }),
                json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": {
                        "namespace": "shop", "name": "db-1",
                        "labels": {"kubernetes.io/service-name": "db"},
                    },
                    "addressType": "IPv4", "endpoints": addresses, "ports": slice_ports,
                }),
            ],
        )
    }

    fn node_address(&self) -> Result<IpAddr> {
        self.node.lab.node().address(Family::V4)
    }

    /// From now on new connections to the Service get this backend.
    fn translate(&self, backend: &Host, also: Also) -> Result<()> {
        let (to, node) = (backend.address(Family::V4)?, self.node_address()?);
        let mut rules = String::from(
            "table ip svc\ndelete table ip svc\ntable ip svc {\n\
             chain pre { type nat hook prerouting priority dstnat;\n",
        );
        for (address, port) in [(IpAddr::V4(VIP), VIP_PORT), (node, NODE_PORT)] {
            for protocol in ["tcp", "udp"] {
                writeln!(
                    rules,
                    "ip daddr {address} {protocol} dport {port} dnat to {to}:{PORT}"
                )?;
            }
        }
        rules.push_str("}\nchain post { type nat hook postrouting priority srcnat;\n");
        if also == Also::Masquerade {
            rules.push_str("ct status dnat masquerade\n");
        }
        rules.push_str("}\n");
        if also == Also::WipeMarks {
            rules.push_str(
                "chain wipe { type filter hook prerouting priority mangle; meta mark set 0x0; }\n",
            );
        }
        rules.push_str("}\n");
        let file = self.node.lab.dir().join("rules.nft");
        fs::write(&file, rules)?;
        let mut nft = Command::new("nft");
        nft.arg("-f").arg(&file);
        let output = self.node.lab.node().netns().output(&mut nft)?;
        ensure!(
            output.status.success(),
            "nft: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Tries the Service, by its address and by node port, from both clients: the
    /// isolated one has to reach this backend or nobody, the other one this one.
    fn expect(&self, backend: &Host, allowed: bool, about: &str) -> Result<()> {
        let node = (self.node_address()?, NODE_PORT);
        self.expect_at(&[(VIP.into(), VIP_PORT), node], backend, allowed, about)
    }

    fn expect_at(
        &self,
        addresses: &[(IpAddr, u16)],
        backend: &Host,
        allowed: bool,
        about: &str,
    ) -> Result<()> {
        let mut probes = Vec::new();
        for from in [&self.web, &self.api] {
            for (to, port) in addresses.iter().copied() {
                for proto in [Proto::Tcp, Proto::Udp] {
                    probes.push(Probe::to_address(from, to, port, proto));
                }
            }
        }
        for (probe, outcome) in probes.iter().zip(matrix(&probes)?) {
            let passes = allowed || probe.from.name() == self.api.name();
            let as_it_should = match &outcome {
                Outcome::Connected(banner) => {
                    passes && banner.starts_with(&format!("{} ", backend.name()))
                }
                Outcome::TimedOut => !passes,
                _ => false,
            };
            ensure!(
                as_it_should,
                "{about}: {probe} that gets {}: {outcome}, and passing is to be {passes}",
                backend.name()
            );
        }
        Ok(())
    }

    /// Verdict lines about the isolated pod's packets to an address.
    fn verdicts(&self, to: IpAddr) -> Result<Vec<Value>> {
        let to = to.to_string();
        let lines = self.node.lines()?;
        Ok(lines
            .into_iter()
            .filter(|line| line["type"] == "verdict" && line["connection"]["dest_ip"] == *to)
            .collect())
    }

    fn flow(&self) -> Result<TcpFlow> {
        TcpFlow::start(&TcpSpec {
            from: self.web.clone(),
            to: VIP.into(),
            port: VIP_PORT,
            interval: Duration::from_millis(1),
        })
    }
}

fn is_allowed(backend: &Host) -> bool {
    backend.name().ends_with("db")
}

#[test]
fn each_endpoint_is_judged_where_the_packet_leaves() -> Result<()> {
    for (name, wiring, variants) in [
        (
            "svc-routed",
            Wiring::Routed,
            &[Also::Nothing, Also::Masquerade, Also::WipeMarks][..],
        ),
        // Replies between pods on one link come back the way they went only if
        // the source is the node, or the bridge hands them to netfilter.
        ("svc-bridged", Wiring::Bridged, &[Also::Masquerade]),
    ] {
        let mut shop = Shop::new(name, wiring)?;
        shop.node.start()?;
        for also in variants {
            for backend in &shop.backends {
                shop.translate(backend, *also)?;
                let about = format!("{name}, {also:?}");
                shop.expect(backend, is_allowed(backend), &about)?;
            }
        }
        // Who denied it is named, and by the real destination.
        let far_log = shop.backends[3].address(Family::V4)?;
        wait_for("verdicts about the far side", BOUND, || {
            shop.verdicts(far_log).is_ok_and(|lines| !lines.is_empty())
        })?;
        for line in shop.verdicts(far_log)? {
            ensure!(
                line["policies"][0]["name"] == "to-db"
                    && line["connection"]["direction"] == "egress"
                    && line["src"]["pod_name"] == "web",
                "{line}"
            );
        }
        drop(shop.servers);
        shop.node.finish()?;
    }
    Ok(())
}

#[test]
fn service_without_an_allowed_endpoint_is_dropped_where_the_pod_sends() -> Result<()> {
    let mut shop = Shop::new("svc-source", Wiring::Routed)?;
    shop.node.start()?;
    let [db, log, _, far_log] = &shop.backends;
    shop.translate(db, Also::Nothing)?;
    for (endpoints, reason) in [
        (&[log, far_log][..], "policy"),
        (&[], "service-without-endpoints"),
    ] {
        shop.folder_of(endpoints)?;
        shop.node.settle()?;
        // A row is narrowed a grace period after everything else.
        let opener = Probe::to_address(&shop.web, VIP.into(), VIP_PORT, Proto::Tcp);
        wait_for("the Service to be denied at the source", BOUND, || {
            probe(&opener).is_ok_and(|outcome| outcome == Outcome::TimedOut)
        })?;
        // Although the rules would still lead to one that is allowed.
        shop.expect_at(&[(VIP.into(), VIP_PORT)], db, false, reason)?;
        wait_for(reason, BOUND, || {
            shop.verdicts(VIP.into())
                .is_ok_and(|lines| lines.iter().any(|line| line["reason"] == reason))
        })?;
    }
    shop.folder_of(&[db])?;
    shop.node.settle()?;
    shop.expect(db, true, "an endpoint that is allowed")?;
    drop(shop.servers);
    shop.node.finish()
}

#[test]
fn pod_reaches_itself_through_its_own_service() -> Result<()> {
    for (name, wiring) in [
        ("svc-self-r", Wiring::Routed),
        ("svc-self-b", Wiring::Bridged),
    ] {
        let mut shop = Shop::new(name, wiring)?;
        // With an endpoint that is allowed the source leaves open who gets it.
        shop.folder_of(&[&shop.web, &shop.backends[0]])?;
        let closed = allow(Way::Ingress, "shop/closed", "web", &[("nobody", &[PORT])]);
        shop.node.folder.put_all("closed.json", &[closed])?;
        shop.node.start()?;
        shop.translate(&shop.web, Also::Masquerade)?;
        let ask = |from: &Host| {
            let probes = [Proto::Tcp, Proto::Udp]
                .map(|proto| Probe::to_address(from, VIP.into(), VIP_PORT, proto));
            matrix(&probes)
        };
        for outcome in ask(&shop.web)? {
            ensure!(outcome.is_connected(), "{name}: itself: {outcome}");
        }
        for outcome in ask(&shop.api)? {
            ensure!(outcome == Outcome::TimedOut, "{name}: another: {outcome}");
        }
        // Alone behind it, and of no class: no policy names it.
        shop.folder_of(&[&shop.web])?;
        shop.node.settle()?;
        for outcome in ask(&shop.web)? {
            ensure!(outcome.is_connected(), "{name}: alone: {outcome}");
        }
        for outcome in ask(&shop.api)? {
            ensure!(outcome == Outcome::TimedOut, "{name}: another: {outcome}");
        }
        drop(shop.servers);
        shop.node.finish()?;
    }
    Ok(())
}

#[test]
fn connection_keeps_its_endpoint_and_is_cut_when_policy_no_longer_allows_it() -> Result<()> {
    let mut shop = Shop::new("svc-keeps", Wiring::Routed)?;
    shop.node.start()?;
    let [db, log, far_db, _] = &shop.backends;
    for (first, next) in [(db, far_db), (far_db, db)] {
        shop.folder_of(&[first, log])?;
        shop.node.settle()?;
        shop.translate(first, Also::Nothing)?;
        let flow = shop.flow()?;
        flow.wait_until_flowing(BOUND)?;
        let goes_on = |what: &str| {
            let before = flow.echoed();
            wait_for(what, BOUND, || flow.echoed() >= before + GOING_ON)
        };
        // Its endpoint gives way to another, then to one that is not allowed.
        for endpoints in [&[next, log][..], &[log]] {
            shop.folder_of(endpoints)?;
            shop.node.settle()?;
            shop.translate(next, Also::Nothing)?;
            goes_on("a connection whose endpoint has gone from the Service")?;
        }
        let nothing = allow(Way::Egress, "shop/to-db", "web", &[("nobody", &[PORT])]);
        shop.node.apply("policy.json", &[nothing])?;
        let (since_ns, sent) = (now_ns(), flow.sent());
        wait_for("messages in vain", BOUND, || flow.sent() >= sent + GOING_ON)?;
        // Echoes of earlier messages may be read late.
        let report = flow.stop()?;
        ensure!(
            report.answered_sent_after(since_ns) == 0,
            "after the change: {}",
            report.summary()
        );
        let policy = allow(Way::Egress, "shop/to-db", "web", &[("db", &[PORT])]);
        shop.node.apply("policy.json", &[policy])?;
    }
    drop(shop.servers);
    shop.node.finish()
}
