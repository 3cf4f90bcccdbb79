//! Default deny that comes to a pod in the middle of its connections ends none that
//! was opened the other way; new ones are denied.

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{Family, ServeSpec, Server, Wiring, slowed};

use crate::expect::{PORT, expect, serve};
use crate::folder::{Way, allow};
use crate::load::{CHURN_PORT, Load};
use crate::node::{BOUND, Node};
use crate::silent::Subscription;

const LOAD_PORT: u16 = 8000;
const SILENT_PORT: u16 = 9000;

/// `shop/web` has opened connections to `shop/db` when `isolated` is closed one way;
/// some of them say no more, and some are made later.
fn spared(isolated: &str, way: Way, wiring: Wiring) -> Result<()> {
    let mut node = Node::new("spared", wiring)?;
    let web = node.pod("shop/web", &[("app", "web")])?;
    let db = node.pod("shop/db", &[("app", "db")])?;
    let spec = ServeSpec {
        tcp: vec![PORT, CHURN_PORT],
        udp: vec![PORT],
        ..ServeSpec::default()
    };
    let server = Server::start(&db, &spec)?;
    let _unasked = serve(&web)?;
    node.start()?;
    expect(&[(&web, &db, true), (&db, &web, true)])?;

    let load = Load::start(&web, &db, LOAD_PORT)?.connected(&web, &db)?;
    load.wait_until_flowing()?;
    let open = |family| Subscription::open(&web, &db, family, SILENT_PORT, slowed(BOUND));
    let silent = Family::BOTH.into_iter().map(open);
    let mut silent = silent.collect::<Result<Vec<_>>>()?;

    node.apply("p.json", &[allow(way, "shop/p", isolated, &[])])?;
    for round in ["at once", "and later"] {
        for subscription in &mut silent {
            let delivers = subscription.delivers()?;
            ensure!(
                delivers == (true, true),
                "{round}, to a silent opener by datagram, by connection: {delivers:?}"
            );
        }
        expect(&[(&web, &db, true), (&db, &web, false)]).context(round)?;
        load.wait_until_flowing().context(round)?;
    }
    load.ensure_nothing_lost(&server, 0)?;
    node.finish()
}

#[test]
fn default_deny_ingress_spares_what_the_pod_has_opened() -> Result<()> {
    spared("web", Way::Ingress, Wiring::Bridged).context("bridged")?;
    spared("web", Way::Ingress, Wiring::Routed).context("routed")
}

#[test]
fn default_deny_egress_spares_what_the_pod_has_accepted() -> Result<()> {
    spared("db", Way::Egress, Wiring::Bridged).context("bridged")?;
    spared("db", Way::Egress, Wiring::Routed).context("routed")
}
