//! Asks Services of a cluster from inside its pods, and counts who answers and
//! what arrives: `cargo xtask cluster services` says what to ask, and judges.
//!
//! A line of JSON on standard input is a request, a line on standard output its
//! answer; the end of the input is the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::BufRead;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use policy_tests::lab::{
    Host, Outcome, Probe, Proto, ServeSpec, Server, Sniffer, TcpFlow, TcpSpec, Tracked, matrix,
    raise_descriptor_limit, tcp_flags, tracked,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// When silence is an answer: before TCP repeats its first segment, so that a
/// lost one shows.
const TIMEOUT: Duration = Duration::from_millis(900);
/// Time between the messages of a connection that goes on.
const INTERVAL: Duration = Duration::from_millis(2);
/// How long such a connection may take to begin.
const BEGIN: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    /// These are there from now on.
    Join(BTreeMap<String, Place>),
    /// Opens connections, all at once, by TCP and by UDP.
    Ask(Vec<Question>),
    /// Opens TCP connections that go on.
    Open(Vec<Question>),
    /// How far these are.
    Flows,
    /// Ends them.
    Close,
}

/// A pod, a node, or somebody outside.
#[derive(Deserialize)]
struct Place {
    netns: PathBuf,
    interface: String,
    address: Ipv4Addr,
    /// Ports on which it answers.
    #[serde(default)]
    serve: Vec<u16>,
    /// Whether connections are translated there.
    #[serde(default)]
    translates: bool,
}

#[derive(Deserialize)]
struct Question {
    from: String,
    to: IpAddr,
    port: u16,
    /// How many connections of each protocol.
    #[serde(default)]
    connections: usize,
}

/// What came of the connections of one question by one protocol.
#[derive(Default, Serialize)]
struct Tally {
    /// Whose answer came back.
    answered: BTreeMap<String, usize>,
    vanished: usize,
    refused: usize,
    /// Anything else, in words.
    wrong: BTreeMap<String, usize>,
    /// Whom connections were translated to, by a node's connection table: those
    /// with an answer, and those without.
    heard: BTreeMap<String, usize>,
    unheard: BTreeMap<String, usize>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster-services: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    raise_descriptor_limit()?;
    let mut cast = Cast::default();
    for line in std::io::stdin().lock().lines() {
        let request = serde_json::from_str(&line.context("read a request")?);
        println!("{}", cast.answer(request.context("read a request")?)?);
    }
    Ok(())
}

/// All that takes part.
#[derive(Default)]
struct Cast {
    hosts: BTreeMap<String, Host>,
    translators: BTreeSet<String>,
    /// With the ports on which they listen.
    servers: BTreeMap<String, (Server, Vec<u16>)>,
    flows: Vec<TcpFlow>,
}

impl Cast {
    fn answer(&mut self, request: Request) -> Result<Value> {
        Ok(match request {
            Request::Join(places) => {
                for (name, place) in places {
                    self.join(name, place)?;
                }
                json!({})
            }
            Request::Ask(questions) => self.ask(&questions)?,
            Request::Open(questions) => {
                for question in &questions {
                    let flow = TcpFlow::start(&TcpSpec {
                        from: self.host(&question.from)?.clone(),
                        to: question.to,
                        port: question.port,
                        interval: INTERVAL,
                    })?;
                    flow.wait_until_flowing(BEGIN)?;
                    self.flows.push(flow);
                }
                json!({})
            }
            Request::Flows => {
                let echoed: Vec<usize> = self.flows.iter().map(TcpFlow::echoed).collect();
                json!({"echoed": echoed})
            }
            Request::Close => {
                let flows = std::mem::take(&mut self.flows).into_iter().map(|flow| {
                    let report = flow.stop()?;
                    Ok(json!({
                        "messages": report.sent_ns.len(),
                        "unanswered": report.unanswered(),
                        "lost": report.losses(),
                        "error": report.error,
                    }))
                });
                json!({"flows": flows.collect::<Result<Vec<Value>>>()?})
            }
        })
    }

    fn join(&mut self, name: String, place: Place) -> Result<()> {
        let host = Host::of_namespace(&name, &place.netns, &place.interface, place.address)?;
        if !place.serve.is_empty() {
            let server = Server::start(&host, &ServeSpec::ports(&place.serve))?;
            self.servers.insert(name.clone(), (server, place.serve));
        }
        if place.translates {
            self.translators.insert(name.clone());
        }
        self.hosts.insert(name, host);
        Ok(())
    }

    fn host(&self, name: &str) -> Result<&Host> {
        let host = self.hosts.get(name);
        host.with_context(|| format!("nobody is called {name}"))
    }

    /// Asks, with a sniffer on every server's interface meanwhile: it sees what
    /// the node let through, whether or not anybody listens.
    fn ask(&self, questions: &[Question]) -> Result<Value> {
        let mut probes = Vec::new();
        let mut asked = Vec::new();
        for (index, question) in questions.iter().enumerate() {
            let from = self.host(&question.from)?;
            for proto in [Proto::Tcp, Proto::Udp] {
                for _ in 0..question.connections {
                    let mut probe = Probe::to_address(from, question.to, question.port, proto);
                    probe.timeout = TIMEOUT;
                    probes.push(probe);
                    asked.push((index, proto));
                }
            }
        }
        let mut sniffers = Vec::new();
        for (name, (_, ports)) in &self.servers {
            let ports = ports.clone();
            let opens = Sniffer::start(self.host(name)?, move |packet| {
                // What comes to other ports are answers to what it asks itself.
                let datagram = packet.protocol == PROTO_UDP && ports.contains(&packet.dport);
                datagram || packet.is_tcp(tcp_flags::SYN, tcp_flags::ACK)
            })?;
            sniffers.push((name, opens));
        }
        let before = self.tables()?;
        let outcomes = matrix(&probes)?;
        let after = self.tables()?;
        let mut arrived = BTreeMap::new();
        for (name, sniffer) in sniffers {
            arrived.insert(name, sniffer.stop()?.len());
        }

        let mut tallies: HashMap<(usize, Proto), Tally> = HashMap::new();
        for (at, outcome) in asked.into_iter().zip(outcomes) {
            tallies.entry(at).or_default().count(outcome);
        }
        for connection in after.difference(&before) {
            self.translated(questions, connection, &mut tallies)?;
        }
        let mut take = |index, proto| tallies.remove(&(index, proto)).unwrap_or_default();
        let answers: Vec<Value> = (0..questions.len())
            .map(|index| json!({"TCP": take(index, Proto::Tcp), "UDP": take(index, Proto::Udp)}))
            .collect();
        Ok(json!({"asked": answers, "arrived": arrived}))
    }

    /// The connection tables of all who translate.
    fn tables(&self) -> Result<BTreeSet<Tracked>> {
        let mut all = BTreeSet::new();
        for name in &self.translators {
            all.extend(tracked(self.host(name)?)?);
        }
        Ok(all)
    }

    /// Counts a connection of a table, if it is one that was asked for and got a
    /// server.
    fn translated(
        &self,
        questions: &[Question],
        connection: &Tracked,
        tallies: &mut HashMap<(usize, Proto), Tally>,
    ) -> Result<()> {
        let proto = match connection.protocol {
            PROTO_UDP => Proto::Udp,
            _ => Proto::Tcp,
        };
        let backend = self.servers.keys().find(|name| {
            let address = self.hosts.get(*name).and_then(Host::v4);
            address.map(IpAddr::V4) == Some(connection.backend.ip())
        });
        let Some(backend) = backend else {
            return Ok(());
        };
        for (index, question) in questions.iter().enumerate() {
            let from = self.host(&question.from)?.v4().map(IpAddr::V4);
            let to = (question.to, question.port);
            if from == Some(connection.from.ip())
                && to == (connection.to.ip(), connection.to.port())
            {
                let tally = tallies.entry((index, proto)).or_default();
                let side = if connection.answered {
                    &mut tally.heard
                } else {
                    &mut tally.unheard
                };
                *side.entry(backend.clone()).or_default() += 1;
            }
        }
        Ok(())
    }
}

/// IANA's number.
const PROTO_UDP: u8 = 17;

impl Tally {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Connected(banner) => {
                let name = banner.split(' ').next().unwrap_or_default().to_owned();
                *self.answered.entry(name).or_default() += 1;
            }
            Outcome::TimedOut => self.vanished += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::Error(error) => *self.wrong.entry(error).or_default() += 1,
        }
    }
}
