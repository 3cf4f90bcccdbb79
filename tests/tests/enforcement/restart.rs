//! What is in force outlives the agent, and nothing is lost when it ends or comes.
//!
//! Datagrams, open connections and new ones run all the time, allowed and denied
//! ones, while the agent is killed, restarted and replaced. No policy allows a reply,
//! so every one needs the connection's record.

use std::fs;
use std::thread;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Family, Host, Probe, Proto, ServeSpec, Server, Wiring, fewer, probe};

use crate::expect::PORT;
use crate::folder::{Way, allow};
use crate::load::{CHURN_PORT, Load};
use crate::node::Node;
use crate::silent::{Silent, Strays};
use crate::upgrade::{LAYOUTS, migrate, programs, records, upgrade};

/// Rounds of killing, and of ending in good order, for each wiring, on a real
/// machine.
const ROUNDS: usize = 25;
/// Versions that replace each other, likewise.
const UPGRADES: usize = 5;
const SILENT_PORT: u16 = 9000;

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
        &[
            allow(Way::Egress, "shop/web", "web", &[("db", &[])]),
            allow(Way::Ingress, "shop/web-in", "web", &[]),
            allow(Way::Egress, "shop/db-out", "db", &[]),
        ],
    )?;
    let spec = ServeSpec {
        tcp: vec![PORT, CHURN_PORT],
        ..ServeSpec::default()
    };
    let server = Server::start(&db, &spec)?;
    let strays = Strays::prove(&web, [&db, &stranger])?;
    node.start()?;

    let mut allowed = Load::start(&web, &db, 8000)?.connected(&web, &db)?;
    let denied = Load::start(&stranger, &db, 8001)?;
    let mut silent = Silent::open(&web, &db, SILENT_PORT, strays)?;
    allowed.wait_until_flowing()?;
    let records = records(&node, CHURN_PORT)?;
    for round in 0..fewer(ROUNDS) {
        let gone = || format!("kill {round}");
        node.agent().kill()?;
        allowed.wait_until_flowing().with_context(gone)?;
        silent.ensure_served().with_context(gone)?;
        node.start()?;
        allowed.wait_until_flowing().with_context(gone)?;
        silent.ensure_served().with_context(gone)?;
    }
    let (_, kept) = programs(&node)?;
    for round in 0..fewer(ROUNDS) {
        let gone = || format!("restart {round}");
        node.stop()?;
        allowed.wait_until_flowing().with_context(gone)?;
        silent.ensure_served().with_context(gone)?;
        node.start()?;
        allowed.wait_until_flowing().with_context(gone)?;
        silent.ensure_served().with_context(gone)?;
    }
    let (_, now) = programs(&node)?;
    ensure!(kept == now, "the same programs are not loaded again");
    for version in 0..fewer(UPGRADES) {
        let copy = node.lab.dir().join(format!("policy-agent-{version}"));
        fs::copy(node.binary(), &copy)?;
        upgrade(&mut node, &copy)?;
        allowed.wait_until_flowing()?;
        silent.ensure_served()?;
    }
    change_without_agent(&mut node, &newcomer, &db)?;
    allowed.begin_new_connections_anew(&web, &db)?;
    for (layout, anew) in LAYOUTS {
        let gone = || format!("layout {layout}");
        node.rehearse_layout(layout);
        migrate(&mut node, anew, &records).with_context(gone)?;
        silent.ensure_served().with_context(gone)?;
        allowed.wait_until_flowing().with_context(gone)?;
    }
    silent.ensure_nothing_else()?;
    // Of a handshake under way while records move to another map, the older programs
    // may have noted the SYN and the newer ones judge the answer: it is sent again.
    let repeated = 1;
    // The two loads end at the same time: each waits a while for late packets.
    thread::scope(|scope| {
        let allowed = scope.spawn(|| allowed.ensure_nothing_lost(&server, repeated));
        denied.ensure_nothing_passed()?;
        allowed.join().expect("stopping does not panic")
    })?;
    node.finish()
}

#[test]
fn kills_restarts_and_upgrades_disturb_nothing_between_bridged_pods() -> Result<()> {
    outlived(Wiring::Bridged)
}

#[test]
fn kills_restarts_and_upgrades_disturb_nothing_between_routed_pods() -> Result<()> {
    outlived(Wiring::Routed)
}
