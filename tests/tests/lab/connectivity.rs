//! Every host reaches every other one, in both wirings and families.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{
    Family, Host, Lab, Outcome, Probe, Proto, ServeSpec, Server, Sniffer, Wiring, matrix, probe,
    wait_for,
};

const BOUND: Duration = Duration::from_secs(10);

const PORTS: [u16; 3] = [80, 5432, 65535];
/// Without a number's owner (RFC 3692).
const EXPERIMENT: u8 = 253;

pub(crate) fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 0, last)
}

pub(crate) fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd10, 0x244, 0, 0, 0, 0, 0, last)
}

fn full_connectivity(wiring: Wiring) -> Result<()> {
    let mut lab = Lab::new("connectivity", wiring)?;
    let mut hosts = vec![lab.node().clone()];
    for (name, last) in [("shop/web", 10), ("shop/db", 11), ("other/web", 12)] {
        hosts.push(lab.pod(name, v4(last), v6(last.into()))?);
    }
    // A pod whose addresses are outside of the bridge's networks.
    hosts.push(lab.pod(
        "far/away",
        Ipv4Addr::new(172, 20, 3, 4),
        Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 3, 4),
    )?);
    hosts.push(lab.outside(
        "internet",
        Ipv4Addr::new(198, 51, 100, 7),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7),
    )?);
    let spec = ServeSpec::all_ports(&PORTS).protocols(&[EXPERIMENT]);
    let servers = hosts
        .iter()
        .map(|host| Server::start(host, &spec))
        .collect::<Result<Vec<_>>>()?;

    let mut probes = Vec::new();
    let mut banners = Vec::new();
    for (from, to) in pairs(&hosts) {
        for family in Family::BOTH {
            for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp] {
                for port in PORTS {
                    probes.push(Probe::new(from, to, family, port, proto)?);
                    banners.push(format!("{} {port}/{proto}", to.name()));
                }
            }
            probes.push(Probe::new(from, to, family, 0, Proto::Icmp)?);
            banners.push(String::new());
            probes.push(Probe::new(from, to, family, 0, Proto::Other(EXPERIMENT))?);
            banners.push(format!("{} protocol {EXPERIMENT}", to.name()));
        }
    }
    let outcomes = matrix(&probes)?;
    ensure!(outcomes.len() == probes.len());
    for ((probe, outcome), banner) in probes.iter().zip(&outcomes).zip(banners) {
        ensure!(*outcome == Outcome::Connected(banner), "{probe}: {outcome}");
    }
    // Every other host asked once in each family; a retry of a datagram would
    // be counted, and be a loss.
    let asked = 2 * (hosts.len() as u64 - 1);
    for server in &servers {
        for port in PORTS {
            ensure!(server.arrived(Proto::Tcp, port) == asked);
        }
        ensure!(server.arrived(Proto::Tcp, 81) == 0);
    }
    Ok(())
}

fn pairs(hosts: &[Host]) -> impl Iterator<Item = (&Host, &Host)> {
    hosts
        .iter()
        .flat_map(|from| hosts.iter().map(move |to| (from, to)))
        .filter(|(from, to)| from.name() != to.name())
}

#[test]
fn bridged_hosts_reach_each_other() -> Result<()> {
    full_connectivity(Wiring::Bridged)
}

#[test]
fn routed_hosts_reach_each_other() -> Result<()> {
    full_connectivity(Wiring::Routed)
}

#[test]
fn silence_refusal_and_unreachability_are_told_apart() -> Result<()> {
    for wiring in [Wiring::Bridged, Wiring::Routed] {
        let mut lab = Lab::new("outcomes", wiring)?;
        let client = lab.pod("a/client", v4(10), v6(10))?;
        let closed = lab.pod("a/closed", v4(11), v6(11))?;
        let silent = lab.pod("a/silent", v4(12), v6(12))?;
        let _sctp = Server::start(&closed, &ServeSpec::all_ports(&[80]))?;
        // Reaches the pod, whose answers then go nowhere.
        lab.ip(
            &silent,
            &[
                "route replace blackhole 10.244.0.10/32",
                "route replace blackhole fd10:244::a/128",
            ],
        )?;
        for family in Family::BOTH {
            for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp] {
                let refused = probe(&Probe::new(&client, &closed, family, 81, proto)?)?;
                ensure!(
                    refused == Outcome::Refused,
                    "{wiring:?} {family:?} {proto}: {refused}"
                );
            }
            // Nobody serves this protocol: the kernel says so.
            let refused = probe(&Probe::new(&client, &closed, family, 0, Proto::Other(253))?)?;
            ensure!(
                refused == Outcome::Refused,
                "{wiring:?} {family:?}: {refused}"
            );
        }
        let _served = Server::start(&silent, &ServeSpec::all_ports(&[80]))?;
        let mut silent_probes = Vec::new();
        for family in Family::BOTH {
            for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp, Proto::Icmp] {
                silent_probes.push(Probe::new(&client, &silent, family, 80, proto)?);
            }
        }
        for (probe, answer) in silent_probes.iter().zip(matrix(&silent_probes)?) {
            ensure!(answer == Outcome::TimedOut, "{wiring:?} {probe}: {answer}");
        }
        let nowhere = Probe::to_address(
            &client,
            Ipv4Addr::new(203, 0, 113, 1).into(),
            80,
            Proto::Tcp,
        );
        let nowhere = probe(&nowhere)?;
        ensure!(
            matches!(nowhere, Outcome::Error(_)),
            "{wiring:?}: {nowhere}"
        );
    }
    Ok(())
}

#[test]
fn pods_come_late_and_go_and_leave_their_address_to_others() -> Result<()> {
    for wiring in [Wiring::Bridged, Wiring::Routed] {
        let mut lab = Lab::new("reuse", wiring)?;
        let client = lab.pod("a/client", v4(10), v6(10))?;
        let mut interfaces = Vec::new();
        for (name, late_v6) in [
            ("a/first", v6(11)),
            ("a/second", v6(11)),
            ("b/third", v6(33)),
        ] {
            let pod = lab.pod(name, v4(11), late_v6)?;
            interfaces.push(pod.node_interface().map(str::to_owned));
            let server = Server::start(&pod, &ServeSpec::ports(&[80]))?;
            for family in Family::BOTH {
                for (from, to) in [(&client, &pod), (lab.node(), &pod)] {
                    let outcome = probe(&Probe::new(from, to, family, 80, Proto::Tcp)?)?;
                    let wanted = Outcome::Connected(format!("{name} 80/TCP"));
                    ensure!(outcome == wanted, "{wiring:?} {family:?}: {outcome}");
                }
            }
            drop(server);
            lab.delete_pod(name)?;
            let gone = probe(&Probe::new(&client, &pod, Family::V4, 80, Proto::Tcp)?)?;
            ensure!(!gone.is_connected(), "{wiring:?}: {name} is deleted");
        }
        interfaces.dedup();
        ensure!(interfaces.len() == 3, "each pod has a link of its own");
    }
    Ok(())
}

#[test]
fn a_pod_may_have_one_family_only() -> Result<()> {
    let mut lab = Lab::new("single", Wiring::Routed)?;
    let four = lab.pod("a/four", v4(10), None)?;
    let six = lab.pod("a/six", None, v6(11))?;
    for (pod, family) in [(&four, Family::V4), (&six, Family::V6)] {
        let outcome = probe(&Probe::new(lab.node(), pod, family, 0, Proto::Icmp)?)?;
        ensure!(outcome.is_connected(), "{pod:?}: {outcome}");
    }
    ensure!(four.address(Family::V6).is_err() && six.address(Family::V4).is_err());
    Ok(())
}

#[test]
fn what_is_prepared_before_the_link_misses_no_packet() -> Result<()> {
    for wiring in [Wiring::Bridged, Wiring::Routed] {
        let mut lab = Lab::new("birth", wiring)?;
        let client = lab.pod("a/client", v4(10), v6(10))?;
        let socket = client.netns().run(|| UdpSocket::bind((v6(10), 0)))??;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    // Fails while nobody is there.
                    let _ = socket.send_to(b"early", (v6(11), 80));
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
            let born = lab.pod_prepared("a/pod", v4(11), v6(11), |pod| {
                let sniffer = Sniffer::start(pod, |packet| packet.dport == 80)?;
                Ok((sniffer, Server::start(pod, &ServeSpec::ports(&[80]))?))
            });
            let arrived = born.and_then(|(_, (sniffer, server))| {
                let served = || server.arrived(Proto::Udp, 80);
                wait_for("20 datagrams", BOUND, || served() >= 20)?;
                stop.store(true, Ordering::Release);
                wait_for("the same count at both", BOUND, || {
                    sniffer.count() as u64 == served()
                })
                .with_context(|| format!("{} sniffed, {} served", sniffer.count(), served()))
            });
            stop.store(true, Ordering::Release);
            arrived.map(drop)
        })?;
    }
    Ok(())
}
