//! Damage to what is in force on the node's own interfaces: the programs there, the
//! prefilter's list, the rows of Services, and the addresses of the pod range.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{
    Family, Host, Outcome, Probe, Proto, ServeSpec, Server, UdpSpec, Wiring, probe, wait_for,
};
use serde_json::{Value, json};

use super::bed::{Bed, Bytes, Effect, octets};
use crate::feedback::start_with;
use crate::folder::{Pod, Way, allow};
use crate::node::{BOUND, Node};

/// Ports of the Services and of what is behind them.
const PORT: u16 = 443;
const STALE_PORT: u16 = 444;
/// Services of which both hosts elsewhere are endpoints, and what translates leads to
/// one of them each.
const TO_DB: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const TO_LOG: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);
/// One of which only the log is, and what translates still leads to the database.
const STALE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 12);

const SERVICE: &str = "a Service's endpoint that policy allows";
const UPLINK: &str = "a Service's endpoint that policy denies";
const LISTED: &str = "a source that the prefilter drops";
const LISTED6: &str = "a source of IPv6 that the prefilter drops";
const CLOSED: &str = "an address that no pod has yet";
const OPEN: &str = "a pod that nothing isolates";

fn service(
    name: &str,
    (address, port): (Ipv4Addr, u16),
    endpoints: &[&Host],
) -> Result<[Value; 2]> {
    let addresses = endpoints.iter().map(|host| {
        let address = host.address(Family::V4)?.to_string();
        Ok(json!({"addresses": [address], "conditions": {"ready": true}}))
    });
    let addresses: Vec<_> = addresses.collect::<Result<_>>()?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ports": [{"name": "u", "protocol": "UDP", "port": port, "targetPort": port}],
        },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "shop", "name": format!("{name}-1"),
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4", "endpoints": addresses,
        "ports": [{"name": "u", "protocol": "UDP", "port": port}],
    });
    Ok([service, slice])
}

/// Rules that translate as kube-proxy does.
fn translate(node: &Node, rules: &[(Ipv4Addr, &Host)]) -> Result<()> {
    let mut text =
        String::from("table ip svc {\nchain pre { type nat hook prerouting priority dstnat;\n");
    for (address, to) in rules {
        let to = to.address(Family::V4)?;
        text += &format!("ip daddr {address} meta l4proto udp dnat to {to}\n");
    }
    text += "}\n}\n";
    let file = node.lab.dir().join("rules.nft");
    fs::write(&file, text)?;
    let mut nft = Command::new("nft");
    nft.arg("-f").arg(&file);
    let output = node.lab.node().netns().output(&mut nft)?;
    ensure!(output.status.success(), "nft: {output:?}");
    Ok(())
}

struct Scene {
    bed: Bed,
    web: Host,
    /// A pod that nobody has told of.
    late: Host,
    _server: Server,
}

impl Scene {
    fn new() -> Result<Self> {
        let mut node = Node::new("drift-node", Wiring::Routed)?;
        let web = node.pod("shop/web", &[("app", "web")])?;
        let free = node.pod("shop/free", &[("app", "free")])?;
        let late = node.host("shop/late")?;
        let mut elsewhere = Vec::new();
        for (name, last) in [("db", 11), ("log", 12)] {
            let host = node
                .lab
                .outside(name, Ipv4Addr::new(10, 245, 0, last), None)?;
            let pod = Pod {
                name: format!("shop/{name}"),
                ..Pod::of(&host, &format!("uid-{name}")).label("app", name)
            };
            node.folder
                .put_all(&pod.file(), &[pod.manifest("node-2")])?;
            elsewhere.push(host);
        }
        let [db, log] = <[Host; 2]>::try_from(elsewhere).ok().context("two hosts")?;
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
        let listed = node
            .lab
            .outside("listed", Ipv4Addr::new(198, 51, 100, 7), v6)?;
        // Whose own questions are dropped too has to know the node.
        let (to_node, next) = (node.lab.node().clone(), node.lab.node().mac());
        let v6 = to_node.address(Family::V6)?;
        let known = format!(
            "neigh replace {v6} lladdr {next} nud permanent dev {}",
            listed.interface()
        );
        node.lab.ip(&listed, &[&known])?;
        let (v6, mac) = (listed.address(Family::V6)?, listed.mac());
        let known = format!(
            "neigh replace {v6} lladdr {mac} nud permanent dev {}",
            to_node.interface()
        );
        node.lab.ip(&to_node, &[&known])?;

        let mut objects = vec![allow(
            Way::Egress,
            "shop/to-db",
            "web",
            &[("db", &[PORT, STALE_PORT])],
        )];
        for (name, address, endpoints) in [
            ("to-db", (TO_DB, PORT), &[&db, &log][..]),
            ("to-log", (TO_LOG, PORT), &[&db, &log]),
            ("stale", (STALE, STALE_PORT), &[&log]),
        ] {
            objects.extend(service(name, address, endpoints)?);
        }
        node.folder.put_all("objects.json", &objects)?;
        translate(&node, &[(TO_DB, &db), (TO_LOG, &log), (STALE, &db)])?;
        let list = node.lab.dir().join("deny.txt");
        fs::write(&list, "198.51.100.7\n2001:db8::7\n192.0.2.0/24\n")?;
        start_with(&mut node, |command| {
            command.args(["--pod-range", "10.244.0.0/16"]);
            command.args(["--prefilter-interface", to_node.interface()]);
            command.arg("--deny-prefixes").arg(&list);
        })?;

        let mut bed = Bed::new(node);
        for (name, is_allowed, address, to) in
            [(SERVICE, true, TO_DB, &db), (UPLINK, false, TO_LOG, &log)]
        {
            let mut spec = UdpSpec::new(&web, to, Family::V4, PORT)?;
            spec.destination = IpAddr::from(address);
            bed.flow_of((name, is_allowed), spec)?;
        }
        bed.flow((LISTED, false), (&listed, &free), Family::V4, 5000)?;
        bed.flow((LISTED6, false), (&listed, &free), Family::V6, 5001)?;
        bed.flow((CLOSED, false), (&db, &late), Family::V4, 5002)?;
        bed.flow((OPEN, true), (&db, &free), Family::V4, 5003)?;
        bed.begin()?;
        let _server = Server::start(&db, &ServeSpec::ports(&[STALE_PORT]))?;
        Ok(Self {
            bed,
            web,
            late,
            _server,
        })
    }
}

/// The row of a Service.
fn row(bed: &Bed, address: Ipv4Addr) -> Result<(Bytes, Bytes)> {
    let mapped = octets(&address.to_ipv6_mapped().octets());
    let mut rows = bed.rows("pa_services")?.into_iter();
    let row = rows.find(|(key, _)| key[..16] == mapped[..]);
    row.with_context(|| format!("a row of {address}"))
}

#[test]
fn programs_and_tables_of_the_nodes_own_interfaces_are_put_right() -> Result<()> {
    let Scene {
        bed,
        web,
        late,
        _server,
    } = Scene::new()?;
    let stale = Probe::to_address(&web, STALE.into(), STALE_PORT, Proto::Udp);
    let ask = || probe(&stale);
    ensure!(ask()? == Outcome::TimedOut, "no endpoint is allowed");
    // Programs, by the ends of their pins' names.
    for (what, ends, effect) in [
        ("to_wire taken off", &["-wire"][..], Effect::Opens(UPLINK)),
        // What either drops, the other may have let through.
        ("from_wire taken off", &["-in"], Effect::Closes),
        ("both taken off", &["-in", "-wire"], Effect::Opens(CLOSED)),
        ("the prefilter taken off", &["-xdp"], Effect::Opens(LISTED)),
    ] {
        let chosen = |pin: &str| ends.iter().any(|end| pin.ends_with(end));
        bed.repaired(what, effect, || bed.node.take_off(chosen))?;
    }
    for (map, bits, effect) in [
        ("pa_deny4", 32, Effect::Opens(LISTED)),
        ("pa_deny6", 128, Effect::Opens(LISTED6)),
    ] {
        let rows = bed.rows(map)?;
        let row = rows
            .iter()
            .find(|(key, _)| key[..4] == super::word(bits)[..]);
        let (key, _) = row.context("the source's row")?;
        bed.repaired(map, effect, || bed.delete(map, key))?;
    }
    let (key, leads_to_log) = row(&bed, STALE)?;
    let changed = [&leads_to_log[..20], &row(&bed, TO_DB)?.1[20..]].concat();
    bed.repaired("a Service's row", Effect::Closes, || {
        // Those that are known already stay with their endpoint: new ones.
        wait_for("the Service to open", BOUND, || {
            let written = bed.update("pa_services", &key, &changed);
            written.is_ok() && ask().is_ok_and(|outcome| outcome.is_connected())
        })
        .map(drop)
    })?;
    wait_for("the Service to be shut again", BOUND, || {
        ask().is_ok_and(|outcome| outcome == Outcome::TimedOut)
    })?;
    let late = late.v4().context("an address")?.to_ipv6_mapped();
    bed.repaired("an address opened", Effect::Opens(CLOSED), || {
        bed.update("pa_protected", &octets(&late.octets()), &super::word(1))
    })?;

    let status = bed.status()?;
    let problems = &status["diagnostics"];
    ensure!(
        *problems == json!([]) && status["healthy"] == true,
        "{status}"
    );
    bed.finish(8)
}
