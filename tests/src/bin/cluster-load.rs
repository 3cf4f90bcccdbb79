//! Traffic between pods of a cluster, accounted for to the packet:
//! `cargo xtask cluster e2e` starts it, does something to the agent, and ends it.
//!
//! The first line of standard input says who talks to whom. When all allowed
//! flows flow, it writes `flowing`; when standard input ends, one JSON line with
//! what was lost and what was delivered. It judges nothing.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use policy_tests::lab::{
    Family, Host, Probe, Proto, ServeSpec, Server, TcpFlow, TcpSpec, UdpSpec, UdpStream, probe,
};
use serde::{Deserialize, Serialize};

/// Where the servers of the flows listen.
const TCP_PORT: u16 = 7000;
/// The first port of the numbered datagrams; each flow has its own.
const UDP_PORT: u16 = 7100;
/// Time between the packets of a flow.
const INTERVAL: Duration = Duration::from_millis(2);
/// Time between two new connections of a pair.
const NEW_CONNECTION: Duration = Duration::from_millis(20);
/// How long an allowed flow may take to begin.
const BEGIN: Duration = Duration::from_secs(20);

/// Who talks to whom.
#[derive(Deserialize)]
struct Cast {
    /// A name to a network namespace and an address.
    pods: BTreeMap<String, Place>,
    /// Pairs of names, sender first, that policy allows.
    allowed: Vec<(String, String)>,
    /// Pairs that it denies.
    denied: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Place {
    netns: PathBuf,
    address: Ipv4Addr,
}

/// What came of all flows together.
#[derive(Default, Serialize)]
struct Account {
    /// Datagrams sent on allowed flows, and those that never arrived.
    datagrams: usize,
    datagrams_lost: usize,
    /// Messages on allowed connections that lived through it all.
    messages: usize,
    messages_unanswered: usize,
    segments_lost: u64,
    connections_broken: usize,
    /// Allowed connections that were opened meanwhile, and those that failed.
    opened: usize,
    not_opened: usize,
    /// Denied datagrams sent, and delivered; denied connections tried, and opened.
    denied_datagrams: usize,
    denied_delivered: usize,
    denied_tried: usize,
    denied_opened: usize,
    /// Datagrams that this program's own sockets had no room for.
    without_room: u64,
    /// The first thing that went wrong, in words.
    first: Option<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    input
        .read_line(&mut line)
        .context("read who talks to whom")?;
    let cast: Cast = serde_json::from_str(&line).context("read who talks to whom")?;
    let pods = cast
        .pods
        .iter()
        .map(|(name, place)| {
            let host = Host::of_runtime(name, &place.netns, place.address)?;
            Ok((name.as_str(), host))
        })
        .collect::<Result<BTreeMap<&str, Host>>>()?;
    let pod = |name: &str| pods.get(name).with_context(|| format!("{name} is no pod"));

    let mut servers = BTreeMap::new();
    for (_, to) in cast.allowed.iter().chain(&cast.denied) {
        if !servers.contains_key(to) {
            servers.insert(to, Server::start(pod(to)?, &ServeSpec::ports(&[TCP_PORT]))?);
        }
    }
    let mut flows = Vec::new();
    let pairs = cast.allowed.iter().map(|pair| (pair, true));
    let pairs = pairs.chain(cast.denied.iter().map(|pair| (pair, false)));
    for (port, ((from, to), allowed)) in (UDP_PORT..).zip(pairs) {
        flows.push(Flow::start(pod(from)?, pod(to)?, port, allowed)?);
    }
    for flow in flows.iter().filter(|flow| flow.allowed) {
        flow.wait()?;
    }
    println!("flowing");
    let mut rest = Vec::new();
    input.read_to_end(&mut rest).context("wait for the end")?;

    let mut account = Account::default();
    for flow in flows {
        flow.end(&mut account)?;
    }
    println!("{}", serde_json::to_string(&account)?);
    Ok(())
}

/// All traffic from one pod to another.
struct Flow {
    name: String,
    allowed: bool,
    datagrams: UdpStream,
    /// Of an allowed flow: a connection that is to live through it all.
    connection: Option<TcpFlow>,
    /// Opens one connection after the other; tried, and opened.
    opener: JoinHandle<Result<(usize, usize)>>,
    stop: Arc<AtomicBool>,
}

impl Flow {
    fn start(from: &Host, to: &Host, port: u16, allowed: bool) -> Result<Self> {
        let spec = UdpSpec::new(from, to, Family::V4, port)?.interval(INTERVAL);
        let datagrams = UdpStream::start(&spec)?;
        let connection = if allowed {
            let spec = TcpSpec::new(from, to, Family::V4, TCP_PORT)?.interval(INTERVAL);
            Some(TcpFlow::start(&spec)?)
        } else {
            None
        };
        let stop = Arc::new(AtomicBool::new(false));
        let mut question = Probe::new(from, to, Family::V4, TCP_PORT, Proto::Tcp)?;
        if allowed {
            // Silence for longer than one repetition of a lost SYN.
            question.timeout = Duration::from_secs(3);
        }
        let stopped = stop.clone();
        let opener = std::thread::spawn(move || {
            let (mut tried, mut opened) = (0, 0);
            while !stopped.load(Ordering::Relaxed) {
                tried += 1;
                opened += usize::from(probe(&question)?.is_connected());
                std::thread::sleep(NEW_CONNECTION);
            }
            Ok((tried, opened))
        });
        Ok(Self {
            name: format!("{} -> {}", from.name(), to.name()),
            allowed,
            datagrams,
            connection,
            opener,
            stop,
        })
    }

    fn wait(&self) -> Result<()> {
        self.datagrams
            .wait_until_flowing(BEGIN)
            .with_context(|| format!("datagrams {}", self.name))?;
        if let Some(connection) = &self.connection {
            connection
                .wait_until_flowing(BEGIN)
                .with_context(|| format!("connection {}", self.name))?;
        }
        Ok(())
    }

    fn end(self, account: &mut Account) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let opener = self.opener.join();
        let (tried, opened) = opener.map_err(|_panic| anyhow::anyhow!("a prober died"))??;
        let report = self.datagrams.stop()?;
        account.without_room += report.queue_drops;
        let mut wrong = Vec::new();
        if self.allowed {
            account.datagrams += report.sent_ns.len();
            account.datagrams_lost += report.lost().len();
            account.opened += opened;
            account.not_opened += tried - opened;
            if !report.lost().is_empty() {
                wrong.push(format!("datagrams {}: {}", self.name, report.summary()));
            }
            if opened < tried {
                wrong.push(format!("{}: {opened} of {tried} connected", self.name));
            }
        } else {
            account.denied_datagrams += report.sent_ns.len();
            account.denied_delivered += report.arrivals.len();
            account.denied_tried += tried;
            account.denied_opened += opened;
            if !report.arrivals.is_empty() || opened > 0 {
                wrong.push(format!("denied {}: {}", self.name, report.summary()));
            }
        }
        if let Some(connection) = self.connection {
            let report = connection.stop()?;
            account.messages += report.sent_ns.len();
            account.messages_unanswered += report.unanswered();
            account.segments_lost += report.losses();
            account.connections_broken += usize::from(report.error.is_some());
            if report.error.is_some() || report.unanswered() > 0 || report.losses() > 0 {
                wrong.push(format!("connection {}: {}", self.name, report.summary()));
            }
        }
        if account.first.is_none() {
            account.first = wrong.into_iter().next();
        }
        Ok(())
    }
}
