//! What others change in the kernel is found and put right within 5 s, counted:
//! rows, settings, links, and programs that come before ours.
//!
//! Two flows go on all the time, one that policy allows and one that it denies.
//! Damage that opens is seen to open: the denied one arrives until the repair.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use policy_tests::lab::{
    Family, Foreign, Host, Side, UdpSpec, UdpStream, Wiring, slowed, wait_for,
};
use serde_json::{Value, json};

use crate::feedback::{get, metric, start_serving};
use crate::folder::{Way, allow};
use crate::node::{BOUND, Node, bpftool, files_below};

/// Within this everything is as it was, on a real machine.
const LIMIT: Duration = Duration::from_secs(5);
/// Time between datagrams.
const EVERY: Duration = Duration::from_millis(1);
/// How often that is tried.
const TRIES: usize = 3;
/// Datagrams that would tell of a hole.
const ENOUGH: usize = 100;

/// A node on which `web` may reach `db`, and `other` may not.
struct Bed {
    node: Node,
    db: Host,
    web: Host,
    other: Host,
    allowed: UdpStream,
    denied: UdpStream,
}

/// What damage does to the flows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// What is denied passes.
    Opens,
    /// At most it denies more.
    Closes,
}

impl Bed {
    fn new(name: &str) -> Result<Self> {
        let mut node = Node::new(name, Wiring::Bridged)?;
        let db = node.pod("shop/db", &[("app", "db")])?;
        let web = node.pod("shop/web", &[("app", "web")])?;
        let other = node.pod("shop/other", &[("app", "other")])?;
        let mut policy = allow(Way::Ingress, "shop/p", "db", &[("web", &[])]);
        let rules = policy["spec"]["ingress"].as_array_mut().context("rules")?;
        rules.push(json!({"from": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}));
        node.folder.put_all("p.json", &[policy])?;
        start_serving(&mut node)?;
        let flow = |from: &Host, port| {
            UdpStream::start(&UdpSpec::new(from, &db, Family::V4, port)?.interval(EVERY))
        };
        let (allowed, denied) = (flow(&web, 4000)?, flow(&other, 4001)?);
        allowed.wait_until_flowing(BOUND)?;
        let bed = Self {
            node,
            db,
            web,
            other,
            allowed,
            denied,
        };
        bed.is_in_force()?;
        ensure!(
            bed.denied.received() == 0,
            "denied from the first packet on"
        );
        Ok(bed)
    }

    /// The status, without asking the agent to look.
    fn status(&self) -> Result<Value> {
        let output = self.node.status(&[])?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn repairs(&self) -> Result<u64> {
        let status = self.status()?;
        status["repairs"].as_u64().context("repairs")
    }

    /// What is allowed arrives, and what is denied does not.
    fn is_in_force(&self) -> Result<()> {
        let sent = |flow: &UdpStream, count| {
            let until = flow.sent() + count;
            wait_for("datagrams to be sent", BOUND, || flow.sent() >= until).map(drop)
        };
        // What was sent a moment ago may still be on its way.
        sent(&self.denied, 10)?;
        let (denied, allowed) = (self.denied.received(), self.allowed.received());
        sent(&self.denied, ENOUGH)?;
        let through = self.denied.received() - denied;
        ensure!(
            through == 0,
            "{through} datagrams that policy denies arrived"
        );
        wait_for("what is allowed to arrive", BOUND, || {
            self.allowed.received() > allowed
        })
        .map(drop)
    }

    /// Does damage, and waits until it is put right: in time, once in a few times
    /// at least, because a busy machine may hold up anybody.
    fn repaired(
        &self,
        what: &str,
        effect: Effect,
        mut damage: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let (limit, mut times) = (slowed(LIMIT), Vec::new());
        for _ in 0..TRIES {
            let took = self
                .repaired_once(effect, &mut damage)
                .with_context(|| what.to_owned())?;
            times.push(took);
            if took < limit {
                println!("{what}: put right after {times:?}");
                return Ok(());
            }
        }
        bail!("{what}: put right after {times:?}, and never within {limit:?}")
    }

    fn repaired_once(
        &self,
        effect: Effect,
        damage: &mut impl FnMut() -> Result<()>,
    ) -> Result<Duration> {
        let (before, denied) = (self.repairs()?, self.denied.received());
        let since = Instant::now();
        damage().context("damage")?;
        if effect == Effect::Opens {
            wait_for("the damage to open", BOUND, || {
                self.denied.received() > denied
            })?;
        }
        wait_for("the repair to be counted", BOUND, || {
            self.repairs().is_ok_and(|repairs| repairs > before)
        })?;
        let took = since.elapsed();
        self.is_in_force()?;
        Ok(took)
    }

    fn map(&self, name: &str) -> Result<String> {
        let pins = files_below(&self.node.bpffs().join("policy-agent"))?;
        let pin = pins
            .iter()
            .find(|pin| pin.ends_with(format!("maps/{name}")));
        Ok(pin
            .with_context(|| format!("{name} is pinned"))?
            .display()
            .to_string())
    }

    /// Keys and values of a map, as bytes in hexadecimal.
    fn rows(&self, name: &str) -> Result<Vec<(Vec<String>, Vec<String>)>> {
        let rows = bpftool(&["map", "dump", "pinned", &self.map(name)?])?;
        let bytes = |value: &Value| -> Option<Vec<String>> {
            let bytes = value.as_array()?.iter();
            bytes.map(|byte| byte.as_str().map(str::to_owned)).collect()
        };
        let rows = rows.as_array().context("rows")?.iter();
        rows.map(|row| Some((bytes(&row["key"])?, bytes(&row["value"])?)))
            .collect::<Option<_>>()
            .context("keys and values")
    }

    fn update(&self, name: &str, key: &[String], value: &[String]) -> Result<()> {
        let map = self.map(name)?;
        let mut arguments = vec!["map", "update", "pinned", &map, "key", "hex"];
        arguments.extend(key.iter().map(|byte| plain(byte)));
        arguments.extend(["value", "hex"]);
        arguments.extend(value.iter().map(|byte| plain(byte)));
        run(&arguments)
    }

    fn delete(&self, name: &str, key: &[String]) -> Result<()> {
        let map = self.map(name)?;
        let mut arguments = vec!["map", "delete", "pinned", &map, "key", "hex"];
        arguments.extend(key.iter().map(|byte| plain(byte)));
        run(&arguments)
    }

    /// The pin of the link that judges what a pod receives.
    fn link(&self, pod: &str) -> Result<std::path::PathBuf> {
        let status = self.status()?;
        let endpoints = status["endpoints"].as_array().context("endpoints")?;
        let endpoint = endpoints.iter().find(|endpoint| endpoint["pod"] == pod);
        let index = endpoint.context("the pod")?["ifindex"]
            .as_u64()
            .context("ifindex")?;
        let pins = files_below(&self.node.bpffs().join("policy-agent"))?;
        let pin = pins
            .into_iter()
            .find(|pin| pin.ends_with(format!("links/{index}-to")));
        pin.context("the link is pinned")
    }

    fn finish(self) -> Result<()> {
        drop((self.allowed, self.denied));
        self.node.finish()
    }
}

fn plain(byte: &str) -> &str {
    byte.trim_start_matches("0x")
}

/// `bpftool` that has nothing to say.
fn run(arguments: &[&str]) -> Result<()> {
    let output = std::process::Command::new("bpftool")
        .args(arguments)
        .output()?;
    ensure!(output.status.success(), "bpftool {arguments:?}: {output:?}");
    Ok(())
}

/// A word in the kernel's order, as the dump shows it.
fn word(number: u32) -> Vec<String> {
    let bytes = number.to_ne_bytes();
    bytes.iter().map(|byte| format!("0x{byte:02x}")).collect()
}

/// Rows of policies: policy, identity; once more; port set.
#[test]
fn rows_of_policies_that_somebody_deleted_changed_or_added_are_put_right() -> Result<()> {
    let bed = Bed::new("drift-rows")?;
    let rows = bed.rows("pa_policy")?;
    // The highest number is the one that is kept ready to deny everything.
    let of_policy = |row: &(Vec<String>, Vec<String>)| row.0[..2] != word(0xffff)[..2];
    let (others, named): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .filter(of_policy)
        .partition(|(key, _)| key[4..8] == word(0)[..]);
    let [(default_key, default)] = &others[..] else {
        bail!("one policy: {others:?}");
    };
    ensure!(!named.is_empty(), "rows for web and for the block");
    // Which of them is web's: the identity of its address.
    let octets = |host: &Host| -> Result<Vec<String>> {
        let v4 = host.v4().context("an IPv4 address")?;
        Ok(v4
            .octets()
            .iter()
            .map(|byte| format!("0x{byte:02x}"))
            .collect())
    };
    let addresses = bed.rows("pa_id4")?;
    let web = octets(&bed.web)?;
    let (_, web_row) = addresses
        .iter()
        .find(|row| row.0 == web)
        .context("web's address")?;
    let web_identity = &web_row[8..12];
    let (web_key, web_says) = named
        .iter()
        .find(|(key, _)| key[4..8] == *web_identity)
        .context("web's row")?;

    bed.repaired("a row deleted", Effect::Closes, || {
        bed.delete("pa_policy", web_key)
    })?;
    bed.repaired("a row changed", Effect::Opens, || {
        let changed = [&default[..8], &web_says[8..]].concat();
        bed.update("pa_policy", default_key, &changed)
    })?;
    bed.repaired("a row that is not its key's", Effect::Closes, || {
        let changed = [&word(77)[..], &web_says[4..]].concat();
        bed.update("pa_policy", web_key, &changed)
    })?;
    let other = octets(&bed.other)?;
    bed.repaired("a row too many", Effect::Opens, || {
        let row = [&other[..], &word(0)[..], web_identity].concat();
        bed.update("pa_id4", &other, &row)
    })?;
    ensure!(
        bed.rows("pa_id4")?.len() == addresses.len(),
        "the row is gone: {:?}",
        bed.rows("pa_id4")?
    );
    bed.repaired("a setting changed", Effect::Closes, || {
        let (key, mut value) = bed.rows("pa_config")?.pop().context("the settings")?;
        // Flags, newest generation, budget, events, newest endpoint number.
        for byte in value.iter_mut().take(20) {
            *byte = "0x00".to_owned();
        }
        bed.update("pa_config", &key, &value)
    })?;
    bed.finish()
}

#[test]
fn links_that_somebody_detached_or_took_over_are_put_right() -> Result<()> {
    let bed = Bed::new("drift-links")?;
    let pin = bed.link("shop/db")?;
    bed.repaired("a link detached", Effect::Opens, || {
        let shown = bpftool(&["link", "show", "pinned", &pin.display().to_string()])?;
        let id = shown["id"].as_u64().context("an id")?.to_string();
        bpftool(&["link", "detach", "id", &id]).map(drop)
    })?;
    let foreign = Foreign::load("intruder")?;
    bed.repaired("a link with another program", Effect::Opens, || {
        foreign.take_over(&bed.link("shop/db")?)
    })?;
    bed.repaired("a pin removed", Effect::Opens, || {
        Ok(std::fs::remove_file(bed.link("shop/db")?)?)
    })?;
    bed.finish()
}

#[test]
fn program_that_comes_before_ours_is_put_behind_it_and_named() -> Result<()> {
    let bed = Bed::new("drift-front")?;
    let node = bed.node.lab.node().clone();
    let mut foreign = Foreign::load("intruder")?;
    // Again and again: as somebody does who wants the same.
    for round in 0..3 {
        bed.repaired(&format!("round {round}"), Effect::Opens, || {
            foreign.leave();
            foreign.come_first(&node, &bed.db, Side::Egress)
        })?;
    }
    let status = bed.status()?;
    let interface = bed.db.node_interface().context("an interface")?;
    let diagnostics = status["diagnostics"].as_array().context("a list")?;
    let told = diagnostics.iter().any(|diagnostic| {
        let text = diagnostic.to_string();
        text.contains(interface) && text.contains("intruder") && text.contains("first again")
    });
    ensure!(told, "{diagnostics:?}");
    ensure!(status["healthy"] == true, "it is put right: {status}");
    let metrics = get(&bed.node, "/metrics")?.1;
    let sample = r#"policy_agent_displaced_total{program="intruder"}"#;
    ensure!(metric(&metrics, sample)? >= 3.0, "{metrics}");
    ensure!(
        metric(&metrics, "policy_agent_repairs_total")? >= 3.0,
        "{metrics}"
    );

    // Where the pod's own packets come in, too; both at once.
    bed.repaired("both sides", Effect::Opens, || {
        foreign.leave();
        foreign.come_first(&node, &bed.db, Side::Egress)?;
        foreign.come_first(&node, &bed.other, Side::Ingress)
    })?;
    // One that stays behind ours is nobody's business.
    let displaced = || metric(&get(&bed.node, "/metrics")?.1, sample);
    let before = displaced()?;
    let pin = bed.link("shop/other")?;
    bed.repaired_once(Effect::Closes, &mut || Ok(std::fs::remove_file(&pin)?))?;
    ensure!(
        displaced()? == before,
        "at the look that found something else"
    );
    drop(foreign);
    bed.finish()
}
