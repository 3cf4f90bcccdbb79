//! What is in force outlives the agent, and nothing is lost when it ends or comes.
//!
//! Datagrams, open connections and new ones run all the time, allowed and denied
//! ones, while the agent is killed, restarted and replaced.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{
    ChurnSpec, Family, Host, Probe, Proto, ServeSpec, Server, TcpChurn, TcpFlow, TcpSpec, UdpSpec,
    UdpStream, Wiring, probe,
};

use crate::expect::ensure_undisturbed;
use crate::folder::{Way, allow};
use crate::node::{BOUND, Node};

/// Rounds of killing, and of ending in good order.
const ROUNDS: usize = 10;
/// Versions that replace each other.
const UPGRADES: usize = 2;
/// Time between datagrams.
const EVERY: Duration = Duration::from_micros(500);

const PORT: u16 = 80;
const CHURN_PORT: u16 = 81;

/// Traffic of one pair of pods.
struct Load {
    udp: Vec<UdpStream>,
    tcp: Vec<TcpFlow>,
    churn: Vec<TcpChurn>,
}

impl Load {
    fn start(from: &Host, to: &Host, port: u16) -> Result<Self> {
        let mut load = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
            churn: Vec::new(),
        };
        for family in Family::BOTH {
            let datagrams = UdpSpec::new(from, to, family, port)?.interval(EVERY);
            load.udp.push(UdpStream::start(&datagrams.reply())?);
            let connections = ChurnSpec::new(from, to, family, CHURN_PORT)?;
            load.churn.push(TcpChurn::start(&connections)?);
        }
        Ok(load)
    }

    /// Adds a connection that stays open.
    fn connected(mut self, from: &Host, to: &Host) -> Result<Self> {
        for family in Family::BOTH {
            self.tcp
                .push(TcpFlow::start(&TcpSpec::new(from, to, family, PORT)?)?);
        }
        Ok(self)
    }

    /// Waits until everything has made progress from now on.
    fn wait_until_flowing(&self) -> Result<()> {
        for stream in &self.udp {
            stream.wait_until_flowing(BOUND)?;
        }
        for flow in &self.tcp {
            flow.wait_until_flowing(BOUND)?;
        }
        for churn in &self.churn {
            let before = churn.succeeded();
            policy_tests::lab::wait_for("a new connection", BOUND, || churn.succeeded() > before)?;
        }
        Ok(())
    }

    fn ensure_nothing_lost(self, server: &Server) -> Result<()> {
        for stream in self.udp {
            let report = stream.stop()?;
            ensure!(
                report.lost().is_empty() && report.unanswered().is_empty(),
                "datagrams: {}, lost {:?}",
                report.summary(),
                report.lost()
            );
            println!("{}", report.summary());
        }
        let flows = self.tcp.into_iter().map(TcpFlow::stop);
        let flows = flows.collect::<Result<Vec<_>>>()?;
        for churn in self.churn {
            let report = churn.stop()?;
            ensure!(report.is_undisturbed(), "new connections: {report:?}");
            println!(
                "{} new connections, slowest {:?}",
                report.succeeded, report.slowest
            );
        }
        ensure_undisturbed(server, &flows)?;
        for report in flows {
            println!("{}", report.summary());
        }
        Ok(())
    }

    fn ensure_nothing_passed(self) -> Result<()> {
        for stream in self.udp {
            let report = stream.stop()?;
            ensure!(report.arrivals.is_empty(), "denied: {}", report.summary());
            ensure!(report.sent_ns.len() > 1000, "{}", report.summary());
        }
        for churn in self.churn {
            let report = churn.stop()?;
            ensure!(
                report.succeeded == 0 && !report.failed.is_empty(),
                "denied connections: {report:?}"
            );
        }
        Ok(())
    }
}

/// Makes a change while there is no agent, and the next one puts it in force.
fn change_without_agent(node: &mut Node, newcomer: &Host, to: &Host) -> Result<()> {
    let ask = || -> Result<Vec<bool>> {
        let ask = |family| probe(&Probe::new(newcomer, to, family, PORT, Proto::Tcp)?);
        let answers = Family::BOTH.into_iter().map(ask);
        answers.map(|answer| Ok(answer?.is_connected())).collect()
    };
    for (rules, passes) in [
        (&[("web", &[][..]), ("newcomer", &[])][..], true),
        (&[("web", &[])], false),
    ] {
        node.agent().kill()?;
        let policy = allow(Way::Ingress, "shop/db", "db", rules);
        node.folder.put_all("db.json", &[policy])?;
        ensure!(
            ask()? == [!passes; 2],
            "the old policy, as long as there is no agent"
        );
        node.start()?;
        ensure!(ask()? == [passes; 2], "the new policy after the start");
    }
    Ok(())
}

fn programs(node: &Node) -> Result<(BTreeSet<u64>, BTreeSet<u64>)> {
    let objects = node.kernel_objects()?;
    let of = |kind: &str| {
        let objects = objects.iter().filter(|(of, _)| *of == kind);
        objects.map(|(_, id)| *id).collect()
    };
    Ok((of("link"), of("prog")))
}

fn outlived(wiring: Wiring) -> Result<()> {
    let mut node = Node::new("restart", wiring)?;
    let [web, stranger, newcomer, db] = ["web", "stranger", "newcomer", "db"]
        .map(|app| node.pod(&format!("shop/{app}"), &[("app", app)]));
    let (web, stranger, newcomer, db) = (web?, stranger?, newcomer?, db?);
    node.folder.put_all(
        "db.json",
        &[allow(Way::Ingress, "shop/db", "db", &[("web", &[])])],
    )?;
    node.folder.put_all(
        "web.json",
        &[allow(Way::Egress, "shop/web", "web", &[("db", &[])])],
    )?;
    let spec = ServeSpec {
        tcp: vec![PORT, CHURN_PORT],
        ..ServeSpec::default()
    };
    let server = Server::start(&db, &spec)?;
    node.start()?;

    let allowed = Load::start(&web, &db, 8000)?.connected(&web, &db)?;
    let denied = Load::start(&stranger, &db, 8001)?;
    allowed.wait_until_flowing()?;
    for round in 0..ROUNDS {
        let gone = || format!("kill {round}");
        node.agent().kill()?;
        allowed.wait_until_flowing().with_context(gone)?;
        node.start()?;
        allowed.wait_until_flowing().with_context(gone)?;
    }
    for round in 0..ROUNDS {
        let gone = || format!("restart {round}");
        node.stop()?;
        allowed.wait_until_flowing().with_context(gone)?;
        node.start()?;
        allowed.wait_until_flowing().with_context(gone)?;
    }
    for version in 0..UPGRADES {
        let copy = node.lab.dir().join(format!("policy-agent-{version}"));
        fs::copy(node.binary(), &copy)?;
        upgrade(&mut node, &copy)?;
        allowed.wait_until_flowing()?;
    }
    change_without_agent(&mut node, &newcomer, &db)?;
    // The two loads end at the same time: each waits a while for late packets.
    thread::scope(|scope| {
        let allowed = scope.spawn(|| allowed.ensure_nothing_lost(&server));
        denied.ensure_nothing_passed()?;
        allowed.join().expect("stopping does not panic")
    })?;
    node.finish()
}

/// Ends one agent and starts another: links stay, programs are replaced.
fn upgrade(node: &mut Node, binary: &Path) -> Result<()> {
    let (links, before) = programs(node)?;
    ensure!(!links.is_empty() && !before.is_empty());
    node.stop()?;
    node.start_command(node.run_command(binary))?;
    node.settle()?;
    let (links_now, now) = programs(node)?;
    ensure!(links == links_now, "links {links:?} became {links_now:?}");
    ensure!(
        before.is_disjoint(&now),
        "programs {before:?} are still there"
    );
    Ok(())
}

#[test]
fn kills_restarts_and_upgrades_disturb_nothing_between_bridged_pods() -> Result<()> {
    outlived(Wiring::Bridged)
}

#[test]
fn kills_restarts_and_upgrades_disturb_nothing_between_routed_pods() -> Result<()> {
    outlived(Wiring::Routed)
}
