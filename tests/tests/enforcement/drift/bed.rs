//! A node with flows of datagrams that policy allows and denies, on which damage is
//! done and watched until it is put right.
//!
//! What damage does is seen by the flows: one that opens lets a denied one arrive, one
//! that shuts loses an allowed one; and after every repair all are as they were.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use policy_tests::lab::{Family, Host, UdpSpec, UdpStream, slowed, wait_for};
use serde_json::Value;

use crate::feedback::{get, metric};
use crate::node::{BOUND, Node, bpftool, files_below};

/// Within this everything is as it was, on a real machine.
const LIMIT: Duration = Duration::from_secs(5);
/// Time between datagrams.
const EVERY: Duration = Duration::from_millis(1);
/// How often that is tried where a try was late.
const TRIES: usize = 3;
/// How often damage may be put right before any packet has seen it.
const UNSEEN: usize = 5;
/// Datagrams that would tell of a hole.
const ENOUGH: usize = 100;
/// Datagrams of an allowed flow that are missing when it is shut.
const MISSING: usize = 10;

/// A key and a value, or one of both: bytes in hexadecimal, as bpftool has them.
pub(super) type Bytes = Vec<String>;

struct Flow {
    name: &'static str,
    is_allowed: bool,
    stream: UdpStream,
}

impl Flow {
    /// Datagrams that have not arrived, those on their way included.
    fn missing(&self) -> usize {
        let received = self.stream.received();
        self.stream.sent().saturating_sub(received)
    }
}

/// What damage does to the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// What is denied passes: this flow.
    Opens(&'static str),
    /// What is allowed does not pass: this flow.
    Shuts(&'static str),
    /// At most it denies more.
    Closes,
}

/// The node, its agent and the flows.
pub(super) struct Bed {
    pub(super) node: Node,
    flows: Vec<Flow>,
}

impl Bed {
    /// On a node whose agent serves and has put everything in force.
    pub(super) fn new(node: Node) -> Self {
        let flows = Vec::new();
        Self { node, flows }
    }

    /// One more flow.
    pub(super) fn flow(
        &mut self,
        (name, is_allowed): (&'static str, bool),
        (from, to): (&Host, &Host),
        family: Family,
        port: u16,
    ) -> Result<()> {
        let spec = UdpSpec::new(from, to, family, port)?;
        self.flow_of((name, is_allowed), spec)
    }

    /// The same, as it says.
    pub(super) fn flow_of(
        &mut self,
        (name, is_allowed): (&'static str, bool),
        spec: UdpSpec,
    ) -> Result<()> {
        let stream = UdpStream::start(&spec.interval(EVERY))?;
        self.flows.push(Flow {
            name,
            is_allowed,
            stream,
        });
        Ok(())
    }

    /// What is allowed flows, and what is denied never did.
    pub(super) fn begin(&self) -> Result<()> {
        for flow in self.flows.iter().filter(|flow| flow.is_allowed) {
            let flowing = flow.stream.wait_until_flowing(BOUND);
            flowing.with_context(|| flow.name.to_owned())?;
        }
        self.is_in_force()?;
        for flow in self.flows.iter().filter(|flow| !flow.is_allowed) {
            let received = flow.stream.received();
            ensure!(received == 0, "{}: {received} arrived", flow.name);
        }
        Ok(())
    }

    fn named(&self, name: &str) -> Result<&Flow> {
        let flow = self.flows.iter().find(|flow| flow.name == name);
        flow.with_context(|| format!("a flow {name}"))
    }

    /// The status, without asking the agent to look.
    pub(super) fn status(&self) -> Result<Value> {
        let output = self.node.status(&[])?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    pub(super) fn repairs(&self) -> Result<u64> {
        let status = self.status()?;
        status["repairs"].as_u64().context("repairs")
    }

    /// What is allowed arrives, and what is denied does not.
    pub(super) fn is_in_force(&self) -> Result<()> {
        let all_sent = |count: usize| {
            let until: Vec<_> = self.flows.iter().map(|f| f.stream.sent() + count).collect();
            wait_for("datagrams to be sent", BOUND, || {
                let mut flows = self.flows.iter().zip(&until);
                flows.all(|(flow, until)| flow.stream.sent() >= *until)
            })
        };
        // What was sent a moment ago may still be on its way.
        all_sent(10)?;
        let before: Vec<_> = self.flows.iter().map(|f| f.stream.received()).collect();
        all_sent(ENOUGH)?;
        for (flow, before) in self.flows.iter().zip(before) {
            let arrived = || flow.stream.received() - before;
            if flow.is_allowed {
                wait_for(flow.name, BOUND, || arrived() > 0)?;
            } else {
                ensure!(
                    arrived() == 0,
                    "{}: {} datagrams that policy denies arrived",
                    flow.name,
                    arrived()
                );
            }
        }
        Ok(())
    }

    /// Does damage, and waits until it is put right: in time. A busy machine may hold
    /// up anybody once, so a late try is one of three.
    pub(super) fn repaired(
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
            let late = times.iter().filter(|took| **took > limit).count();
            if late * 2 < times.len() {
                println!("{what}: put right after {times:?}");
                return Ok(());
            }
        }
        bail!("{what}: put right after {times:?}, which is mostly not within {limit:?}")
    }

    /// How long one repair took.
    pub(super) fn repaired_once(
        &self,
        effect: Effect,
        damage: &mut impl FnMut() -> Result<()>,
    ) -> Result<Duration> {
        for _ in 0..UNSEEN {
            let shows = self.watch(effect)?;
            let before = self.repairs()?;
            let since = Instant::now();
            damage().context("damage")?;
            wait_for("the repair to be counted", BOUND, || {
                self.repairs().is_ok_and(|repairs| repairs > before)
            })?;
            let mut took = since.elapsed();
            if self.is_in_force().is_err() {
                // Where several things were damaged, the first of them is counted, and
                // the others may not have been come to.
                let whole = wait_for("all of it to be in force", BOUND, || {
                    self.is_in_force().is_ok()
                });
                whole.or_else(|_| self.is_in_force().map(|()| Duration::ZERO))?;
                took = since.elapsed();
            }
            if shows() {
                return Ok(took);
            }
        }
        bail!("no packet was treated otherwise in {UNSEEN} tries: {effect:?}")
    }

    /// From now on: whether the flows have shown it.
    fn watch(&self, effect: Effect) -> Result<Box<dyn Fn() -> bool + '_>> {
        Ok(match effect {
            Effect::Opens(name) => {
                let flow = self.named(name)?;
                let received = flow.stream.received();
                Box::new(move || flow.stream.received() > received)
            }
            Effect::Shuts(name) => {
                let flow = self.named(name)?;
                let missing = flow.missing();
                Box::new(move || flow.missing() > missing + MISSING)
            }
            Effect::Closes => Box::new(|| true),
        })
    }

    pub(super) fn map(&self, name: &str) -> Result<String> {
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
    pub(super) fn rows(&self, name: &str) -> Result<Vec<(Bytes, Bytes)>> {
        let rows = bpftool(&["map", "dump", "pinned", &self.map(name)?])?;
        let rows = rows.as_array().context("rows")?.iter();
        rows.map(|row| Some((bytes(&row["key"])?, bytes(&row["value"])?)))
            .collect::<Option<_>>()
            .context("keys and values")
    }

    /// The value of one key.
    pub(super) fn value(&self, name: &str, key: &[String]) -> Result<Bytes> {
        let map = self.map(name)?;
        let mut arguments = vec!["map", "lookup", "pinned", &map, "key", "hex"];
        arguments.extend(key.iter().map(|byte| plain(byte)));
        let row = bpftool(&arguments)?;
        bytes(&row["value"]).with_context(|| format!("a value in {row}"))
    }

    /// Writes a row, and makes CPUs forget what they remember of it.
    pub(super) fn update(&self, name: &str, key: &[String], value: &[String]) -> Result<()> {
        self.write(name, key, value)?;
        let epoch = self.value("pa_epoch", &word(0))?;
        let (low, high) = (number(&epoch[..4])?, number(&epoch[4..8])?);
        let next = (u64::from(high) << 32 | u64::from(low)) + 1;
        self.write("pa_epoch", &word(0), &octets(&next.to_ne_bytes()))
    }

    fn write(&self, name: &str, key: &[String], value: &[String]) -> Result<()> {
        let map = self.map(name)?;
        let mut arguments = vec!["map", "update", "pinned", &map, "key", "hex"];
        arguments.extend(key.iter().map(|byte| plain(byte)));
        arguments.extend(["value", "hex"]);
        arguments.extend(value.iter().map(|byte| plain(byte)));
        run(&arguments)
    }

    pub(super) fn delete(&self, name: &str, key: &[String]) -> Result<()> {
        let map = self.map(name)?;
        let mut arguments = vec!["map", "delete", "pinned", &map, "key", "hex"];
        arguments.extend(key.iter().map(|byte| plain(byte)));
        run(&arguments)
    }

    /// The index of a pod's interface.
    pub(super) fn ifindex(&self, pod: &str) -> Result<u32> {
        let status = self.status()?;
        let endpoints = status["endpoints"].as_array().context("endpoints")?;
        let endpoint = endpoints.iter().find(|endpoint| endpoint["pod"] == pod);
        let index = endpoint.context("the pod")?["ifindex"].as_u64();
        Ok(index.context("ifindex")?.try_into()?)
    }

    /// The pin of the link that judges what a pod receives.
    pub(super) fn link(&self, pod: &str) -> Result<std::path::PathBuf> {
        let index = self.ifindex(pod)?;
        let pins = files_below(&self.node.bpffs().join("policy-agent"))?;
        let pin = pins
            .into_iter()
            .find(|pin| pin.ends_with(format!("links/{index}-to")));
        pin.context("the link is pinned")
    }

    /// Ends the flows and the agent; `repairs`: how many there were at least, by the
    /// metric too.
    pub(super) fn finish(self, repairs: u32) -> Result<()> {
        let metrics = get(&self.node, "/metrics")?.1;
        let counted = metric(&metrics, "policy_agent_repairs_total")?;
        ensure!(counted >= f64::from(repairs), "{counted} of {repairs}");
        drop(self.flows);
        self.node.finish()
    }
}

fn bytes(value: &Value) -> Option<Bytes> {
    let bytes = value.as_array()?.iter();
    bytes.map(|byte| byte.as_str().map(str::to_owned)).collect()
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

fn hex(byte: u8) -> String {
    format!("0x{byte:02x}")
}

/// Bytes as a dump shows them.
pub(super) fn octets(bytes: &[u8]) -> Bytes {
    bytes.iter().copied().map(hex).collect()
}

/// A word in the kernel's order.
pub(super) fn word(number: u32) -> Bytes {
    octets(&number.to_ne_bytes())
}

/// The number that such a word is.
pub(super) fn number(word: &[String]) -> Result<u32> {
    let bytes = word.iter().map(|byte| u8::from_str_radix(plain(byte), 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>()?;
    let bytes = <[u8; 4]>::try_from(bytes);
    Ok(u32::from_ne_bytes(bytes.ok().context("four bytes")?))
}
