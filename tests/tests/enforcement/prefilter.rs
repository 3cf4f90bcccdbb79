//! The XDP prefilter: sources that the operator denies never reach the stack, also
//! while the list changes.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy_tests::lab::{
    Family, Host, Outcome, Probe, Proto, UdpSpec, UdpStream, Wiring, fewer, matrix, wait_for,
};
use serde_json::{Value, json};

use crate::expect::{PORT, serve};
use crate::node::{BOUND, Node, bpftool};

/// Asks as `expect` does. A host on the link whose solicitations are dropped too
/// may find no route.
fn ask(pairs: &[(&Host, &Host, bool)]) -> Result<()> {
    let (mut probes, mut passing) = (Vec::new(), Vec::new());
    for (from, to, passes) in pairs {
        for family in Family::BOTH {
            for proto in [Proto::Tcp, Proto::Udp] {
                probes.push(Probe::new(from, to, family, PORT, proto)?);
                passing.push(*passes);
            }
        }
    }
    for ((probe, outcome), passes) in probes.iter().zip(matrix(&probes)?).zip(passing) {
        ensure!(
            outcome.is_connected() == passes && outcome != Outcome::Refused,
            "{probe}: {outcome}, and passing is to be {passes}"
        );
    }
    Ok(())
}

fn denied_sources_are_dropped(wiring: Wiring) -> Result<()> {
    let mut node = Node::new("prefilter", wiring)?;
    let pod = node.pod("shop/web", &[])?;
    let outside = |last: u8| {
        let v4 = Ipv4Addr::new(198, 51, 100, last);
        (v4, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()))
    };
    let (v4, v6) = outside(7);
    let first = node.lab.outside("first", v4, v6)?;
    let (v4, v6) = outside(200);
    let second = node.lab.outside("second", v4, v6)?;
    let to_node = node.lab.node().clone();
    let _servers = [serve(&pod)?, serve(&to_node)?];
    let list = node.lab.dir().join("deny.txt");
    let deny = |text: &str| fs::write(&list, text);
    deny("# first of the two\n198.51.100.0/25\n2001:db8::/121 # likewise\n")?;
    let mut command = node.run_command(node.binary());
    command
        .args([
            "--prefilter-interface",
            to_node.interface(),
            "--deny-prefixes",
        ])
        .arg(&list);
    node.start_command(command)?;
    let status = node.settle()?;
    ensure!(
        status["diagnostics"] == json!([]),
        "{}",
        status["diagnostics"]
    );
    let ask = |first_passes, second_passes| {
        ask(&[
            (&first, &pod, first_passes),
            (&first, &to_node, first_passes),
            (&second, &pod, second_passes),
            (&second, &to_node, second_passes),
        ])
    };
    ask(false, true)?;

    // Another list; then one that cannot be read, which changes nothing.
    deny("198.51.100.200\n2001:db8::c8\n")?;
    node.settle()?;
    ask(true, false)?;
    deny("198.51.100.7\nnonsense\n")?;
    let status = node.settle()?;
    let diagnostics = status["diagnostics"].to_string();
    ensure!(
        diagnostics.contains("deny.txt") && diagnostics.contains("line 2"),
        "{diagnostics}"
    );
    ask(true, false)?;
    // It outlives the agent, and an empty list lets everybody in.
    node.stop()?;
    ask(true, false)?;
    deny("")?;
    let mut command = node.run_command(node.binary());
    command
        .args([
            "--prefilter-interface",
            to_node.interface(),
            "--deny-prefixes",
        ])
        .arg(&list);
    node.start_command(command)?;
    node.settle()?;
    ask(true, true)?;
    // Without the option the program is taken away.
    deny("198.51.100.7\n")?;
    node.stop()?;
    node.start()?;
    ask(true, true)?;
    node.finish()
}

#[test]
fn prefilter_drops_denied_sources_before_bridged_pods() -> Result<()> {
    denied_sources_are_dropped(Wiring::Bridged)
}

#[test]
fn prefilter_drops_denied_sources_before_routed_pods() -> Result<()> {
    denied_sources_are_dropped(Wiring::Routed)
}

/// How often the list changes under the flood.
const CHANGES: usize = 210;
/// Time between datagrams of each of its flows.
const EVERY: Duration = Duration::from_micros(500);
/// Room for prefixes, each family.
const ROOM: u32 = 65_536;
/// What of a list takes longer than anything else here.
const LONG: Duration = Duration::from_secs(60);

/// A pod that is flooded by three hosts: one that is always listed, one that never is,
/// and one that is sometimes.
struct Flood {
    node: Node,
    list: PathBuf,
    listed: Vec<UdpStream>,
    unlisted: Vec<UdpStream>,
    sometimes: UdpStream,
}

impl Flood {
    fn new(name: &str, first_list: &str) -> Result<Self> {
        let mut node = Node::new(name, Wiring::Routed)?;
        let pod = node.pod("shop/web", &[])?;
        let to_node = node.lab.node().clone();
        let list = node.lab.dir().join("deny.txt");
        fs::write(&list, first_list)?;
        let mut hosts = Vec::new();
        for (name, last) in [("listed", 7), ("sometimes", 130), ("unlisted", 200)] {
            let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
            let v4 = Ipv4Addr::new(198, 51, 100, u8::try_from(last)?);
            let host = node.lab.outside(name, v4, v6)?;
            // Its own questions may be dropped too.
            let (v6, mac) = (to_node.address(Family::V6)?, to_node.mac());
            let device = host.interface();
            let known = format!("neigh replace {v6} lladdr {mac} nud permanent dev {device}");
            node.lab.ip(&host, &[&known])?;
            hosts.push(host);
        }
        let mut command = node.run_command(node.binary());
        command.args(["--prefilter-interface", to_node.interface()]);
        command.arg("--deny-prefixes").arg(&list);
        node.start_command(command)?;
        wait_for("the list to be in force", LONG, || {
            let status = node.settle_within(LONG);
            status.is_ok_and(|status| !status["diagnostics"].to_string().contains("deny.txt"))
        })?;
        let flow = |from: &Host, family, port| {
            UdpStream::start(&UdpSpec::new(from, &pod, family, port)?.interval(EVERY))
        };
        let both = |from: &Host, port| -> Result<Vec<UdpStream>> {
            Ok(vec![
                flow(from, Family::V4, port)?,
                flow(from, Family::V6, port + 1)?,
            ])
        };
        let [listed, sometimes, unlisted] = &hosts[..] else {
            unreachable!("three were made")
        };
        let flood = Self {
            listed: both(listed, 4000)?,
            unlisted: both(unlisted, 4010)?,
            sometimes: flow(sometimes, Family::V4, 4020)?,
            node,
            list,
        };
        for flow in &flood.unlisted {
            flow.wait_until_flowing(BOUND)?;
        }
        Ok(flood)
    }

    /// Writes a list and waits until the agent has made of it what it can; what it has
    /// to say of it.
    fn change(&self, list: &str) -> Result<Vec<String>> {
        fs::write(&self.list, list)?;
        self.settled()
    }

    fn settled(&self) -> Result<Vec<String>> {
        let mut last = Ok(Vec::new());
        // Processes that begin meanwhile have all our files open for a moment.
        let is_written = |told: &[String]| told.iter().any(|told| told.contains("is writing"));
        wait_for("the list to be read", LONG, || {
            let status = self.node.settle_within(LONG);
            last = status.map(|status| self.told(&status));
            !last.as_ref().is_ok_and(|told| is_written(told))
        })?;
        last
    }

    fn told(&self, status: &Value) -> Vec<String> {
        let diagnostics = status["diagnostics"].as_array().into_iter().flatten();
        let of_list = diagnostics.filter(|told| told["object"] == *self.list.to_string_lossy());
        of_list.map(|told| told["message"].to_string()).collect()
    }

    /// Whether the third host's datagrams arrive.
    fn sometimes_passes(&self, passes: bool) -> Result<()> {
        let flow = &self.sometimes;
        let sent = |count: usize| {
            let until = flow.sent() + count;
            wait_for("datagrams to be sent", BOUND, || flow.sent() >= until)
        };
        // What was sent a moment ago may still be on its way.
        sent(10)?;
        let before = flow.received();
        if passes {
            return wait_for("the third host's datagrams", BOUND, || {
                flow.received() > before
            })
            .map(drop);
        }
        sent(100)?;
        let through = flow.received() - before;
        ensure!(
            through == 0,
            "{through} datagrams of the third host arrived"
        );
        Ok(())
    }

    /// Of what was always listed nothing has arrived.
    fn is_closed(&self) -> Result<()> {
        for (flow, family) in self.listed.iter().zip(Family::BOTH) {
            let (sent, received) = (flow.sent(), flow.received());
            ensure!(
                received == 0,
                "{family:?}: {received} of {sent} that are always denied: {:?}, {:?}",
                self.map("pa_deny4")
                    .and_then(|map| bpftool(&["map", "dump", "pinned", &map])),
                flow.last_arrival(),
            );
            ensure!(sent > 0, "nothing was tried");
        }
        Ok(())
    }

    /// Ends it; of what was never listed nothing is missing.
    fn finish(self) -> Result<()> {
        self.is_closed()?;
        drop(self.listed);
        for flow in self.unlisted {
            let report = flow.stop()?;
            let (lost, full) = (report.lost().len(), report.queue_drops);
            ensure!(lost == 0 && full == 0, "{}", report.summary());
        }
        drop(self.sometimes);
        self.node.finish()
    }

    /// The pin of a map.
    fn map(&self, name: &str) -> Result<String> {
        let pins = crate::node::files_below(&self.node.bpffs().join("policy-agent"))?;
        let pin = pins
            .iter()
            .find(|pin| pin.ends_with(format!("maps/{name}")));
        Ok(pin.context("the map is pinned")?.display().to_string())
    }

    fn rows(&self, name: &str) -> Result<usize> {
        let rows = bpftool(&["map", "dump", "pinned", &self.map(name)?])?;
        Ok(rows.as_array().context("rows")?.len())
    }
}

#[test]
fn list_that_changes_under_a_flood_opens_nothing_that_stays_and_drops_nobody_else() -> Result<()> {
    const MORE: usize = 50;
    // The first host, by one prefix after the other.
    let ways = [
        "198.51.100.7\n2001:db8::7\n",
        "198.51.100.0/25\n2001:db8::/121\n",
        "198.51.100.0/26\n198.51.100.64/26\n2001:db8::/122\n2001:db8::40/122\n",
        "198.51.100.0/29\n2001:db8::/125\n198.51.100.130\n",
    ];
    let rows = [(1, 1), (1, 1), (2, 2), (2, 1)];
    let flood = Flood::new("flood", ways[0])?;
    for change in 0..fewer(CHANGES) {
        let way = change % ways.len();
        let mut list = ways[way].to_owned();
        for more in 0..MORE {
            writeln!(list, "10.{}.{more}.0/24", change % 250)?;
            writeln!(list, "fd00:{change:x}:{more:x}::/48")?;
        }
        let told = flood.change(&list)?;
        ensure!(told.is_empty(), "{told:?}");
        flood
            .is_closed()
            .with_context(|| format!("change {change}"))?;
        if change % 20 < ways.len() {
            let found = (flood.rows("pa_deny4")?, flood.rows("pa_deny6")?);
            let (v4, v6) = rows[way];
            ensure!(
                found == (v4 + MORE, v6 + MORE),
                "change {change}: {found:?}"
            );
            flood.sometimes_passes(way != 3)?;
        }
    }
    flood.finish()
}

/// A list that needs all the room there is: this, and addresses from a first on.
fn full(some: &str, first: Ipv4Addr, count: u32) -> String {
    let mut list = some.to_owned();
    for number in 0..count {
        list += &Ipv4Addr::from(u32::from(first) + number).to_string();
        list.push('\n');
    }
    list
}

#[test]
fn full_list_gives_way_to_another_and_one_without_room_is_refused_whole() -> Result<()> {
    let (here, there) = (Ipv4Addr::new(100, 64, 0, 0), Ipv4Addr::new(100, 80, 0, 0));
    let v6 = "2001:db8::7\n";
    let one = full(
        &format!("{v6}198.51.100.7\n198.51.100.130\n"),
        here,
        ROOM - 2,
    );
    let flood = Flood::new("full", &one)?;
    flood.sometimes_passes(false)?;
    let mut status = Value::Null;
    wait_for("the map to be told of", BOUND, || {
        let output = flood.node.status(&[]);
        status = output.map_or(Value::Null, |output| {
            serde_json::from_slice(&output.stdout).unwrap_or_default()
        });
        let told = status["diagnostics"].to_string();
        told.contains("map pa_deny4") && told.contains("100 % full")
    })
    .with_context(|| status["diagnostics"].to_string())?;

    // Another that is as full, and has the first host by another prefix.
    let other = full(&format!("{v6}198.51.100.0/26\n"), there, ROOM - 1);
    let told = flood.change(&other)?;
    ensure!(told.is_empty(), "{told:?}");
    flood.sometimes_passes(true)?;

    // Too long by one; and one that overlaps the old one everywhere.
    let long = full(
        &format!("{v6}198.51.100.7\n198.51.100.200\n"),
        here,
        ROOM - 1,
    );
    let mut halves = format!("{v6}198.51.100.0/26\n198.51.100.200\n");
    for number in (0..ROOM - 2).step_by(2) {
        writeln!(halves, "{}/31", Ipv4Addr::from(u32::from(there) + number))?;
    }
    for (list, word) in [(long, "65537 IPv4"), (halves, "overlap")] {
        let told = flood.change(&list)?;
        let [message] = &told[..] else {
            anyhow::bail!("one diagnostic: {told:?}");
        };
        ensure!(
            message.contains(word) && message.contains("stays"),
            "{message}"
        );
        flood.sometimes_passes(true)?;
    }
    flood.finish()
}

#[test]
fn list_that_could_be_written_half_is_told_and_the_next_one_is_put_in_force() -> Result<()> {
    let flood = Flood::new("half", "198.51.100.7\n2001:db8::7\n")?;
    flood.sometimes_passes(true)?;
    // From now on the kernel takes no more IPv6 prefixes, and IPv4 is written first.
    let frozen = std::process::Command::new("bpftool")
        .args(["map", "freeze", "pinned", &flood.map("pa_deny6")?])
        .status()?;
    ensure!(frozen.success(), "freeze: {frozen}");
    let told = flood.change("198.51.100.0/25\n198.51.100.130\n2001:db8::/125\n")?;
    let [message] = &told[..] else {
        anyhow::bail!("one diagnostic: {told:?}");
    };
    ensure!(
        message.contains("pa_deny6") && message.contains("tried again"),
        "{message}"
    );
    flood.sometimes_passes(false)?;
    let told = flood.change("198.51.100.0/26\n2001:db8::7\n")?;
    ensure!(told.is_empty(), "{told:?}");
    flood.sometimes_passes(true)?;
    ensure!(flood.rows("pa_deny4")? == 1 && flood.rows("pa_deny6")? == 1);
    flood.finish()
}
