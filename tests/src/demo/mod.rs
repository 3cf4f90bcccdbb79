//! The demo: what a new user sees first. `cargo xtask demo` builds what it needs.
//!
//! Pods and hosts are network namespaces of the lab, servers and clients use real
//! sockets, and the agent is the real one with folders of its own. Everything
//! measured is compared with `policy-agent simulate` on the same folder; the
//! first difference ends the demo. All that it makes goes when it ends, also
//! when it fails or is interrupted; what a killed one leaves, the next one
//! removes.
//!
//! Here is the order of events. Who takes part is `cast.rs`, the policies are
//! `policies.yaml`.

mod agent;
mod cast;
mod cut;
mod inside;
mod interrupt;
mod log;
mod maps;
mod measure;
mod screen;
mod table;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::geteuid;

use self::agent::Agent;
use self::cast::{Cast, OUTSIDERS, PODS};
use self::measure::{Answer, Question, ask};
use self::screen::{Screen, Tone};
use crate::lab::{Family, Lab, Proto, Wiring, now_ns};

/// File name of the manifests that are no policies.
const CLUSTER: &str = "cluster.yaml";
/// The policies of the demo.
const POLICIES: &str = include_str!("policies.yaml");

/// Connections that are denied one by one, to show who denied them.
const DENIED: [(&str, &str, u16, Proto, Family); 6] = [
    ("shop/stranger", "shop/db", 5432, Proto::Tcp, Family::V4),
    ("partner/client", "shop/web", 9090, Proto::Tcp, Family::V6),
    ("guest", "shop/web", 8080, Proto::Tcp, Family::V4),
    ("shop/web", "shop/stranger", 53, Proto::Udp, Family::V4),
    ("shop/db", "office", 9011, Proto::Tcp, Family::V4),
    ("shop/db", "guest", 9005, Proto::Tcp, Family::V6),
];

/// How the demo is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Let the user look around before everything is removed.
    pub keep: bool,
}

/// Runs the demo.
///
/// # Errors
/// When a step fails, or anything measured differs from what `simulate` says:
/// then the message names the probe.
pub fn run(options: Options) -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "the demo makes network namespaces and loads programs into the kernel, which needs root; \
         run: sudo -E env \"PATH=$PATH\" cargo xtask demo"
    );
    let binary = agent::find()?;
    interrupt::watch();
    let start = Instant::now();
    let mut screen = Screen::new();

    screen.heading("Pods, without Kubernetes");
    let mut lab = Lab::new("demo", Wiring::Routed)?;
    let cast = Cast::assemble(&mut lab)?;
    introduce(&screen, &cast)?;
    interrupt::check()?;

    let mut agent = Agent::new(&lab, binary)?;
    agent.write_manifest(CLUSTER, &cast::cluster_manifest(&lab))?;
    agent.start(&mut lab)?;
    screen.say(
        "The agent runs in the node's namespace and watches a folder that has the node, the \
         namespaces and the pods in it, but no policy yet.",
    );
    interrupt::check()?;
    let mut demo = Demo {
        screen,
        lab,
        cast,
        agent,
        measured: 0,
    };
    let result = demo.show(options);
    if result.is_err()
        && interrupt::check().is_ok()
        && let said = demo.agent.errors()
        && !said.is_empty()
    {
        eprintln!("what the agent said:\n{said}");
    }
    result?;
    let Demo {
        screen,
        lab,
        measured,
        ..
    } = demo;
    let dir = lab.dir().to_owned();
    drop(lab);
    ensure!(!dir.exists(), "{} could not be removed", dir.display());
    screen.say("The namespaces, the folders and the processes are gone too.");
    println!();
    let verdict = format!("All {measured} measurements are what `policy-agent simulate` says.");
    screen.line(&format!(
        "{} {:.1} s.",
        screen.paint(Tone::Good, &verdict),
        start.elapsed().as_secs_f32()
    ));
    Ok(())
}

/// Says who takes part.
fn introduce(screen: &Screen, cast: &Cast) -> Result<()> {
    screen.say(
        "Each of these is a network namespace with real addresses, routes and servers; the pods \
         are wired to the node by veth pairs, as CNI plugins do it.",
    );
    println!();
    let abouts = PODS
        .iter()
        .map(|pod| (pod.name, pod.about))
        .chain(OUTSIDERS.iter().map(|host| (host.name, host.about)))
        .chain([("node", "their node")]);
    for (name, about) in abouts {
        let host = &cast.get(name).host;
        let (v4, v6) = (host.address(Family::V4)?, host.address(Family::V6)?);
        screen.line(&format!("{name:14} {v4:<14} {v6:<20} {about}"));
    }
    println!();
    Ok(())
}

struct Demo {
    screen: Screen,
    lab: Lab,
    cast: Cast,
    agent: Agent,
    measured: usize,
}

impl Demo {
    fn show(&mut self, options: Options) -> Result<()> {
        let steps: [fn(&mut Self) -> Result<()>; 6] = [
            Self::before,
            Self::change,
            Self::after,
            Self::denials,
            Self::kernel,
            Self::command_line,
        ];
        for step in steps {
            step(self)?;
            interrupt::check()?;
        }
        if options.keep {
            self.look_around()?;
        }
        self.remove()
    }

    fn before(&mut self) -> Result<()> {
        self.screen
            .heading("Before: no policy, everybody reaches everything");
        self.matrix()
    }

    fn change(&mut self) -> Result<()> {
        self.screen
            .heading("The policies arrive while two connections are open");
        let flows = cut::Flows::open(&self.cast)?;
        let since_ns = now_ns();
        self.agent.write_manifest("policies.yaml", POLICIES)?;
        self.agent.wait_in_force()?;
        self.screen.say(
            "One file of policies is put into the folder (tests/src/demo/policies.yaml): default \
             deny, podSelector, namespaceSelector and a named port, ipBlock with except, egress to a \
             range of ports.",
        );
        println!();
        for (policy, what) in policies() {
            self.screen.line(&format!("{policy:10}  {what}"));
        }
        println!();
        let reports = flows.close()?;
        let stored_ns = log::isolated_at(&self.agent, cut::SERVER, since_ns)?;
        self.screen.say(&format!(
            "It was in force {:.1} ms later, by one store into a map for each pod. Two clients had a connection \
             to the database, with a message each 5 ms. Nothing that was sent after that moment got \
             through on the connection that is now forbidden; the other lost nothing:",
            Duration::from_nanos(stored_ns - since_ns).as_secs_f64() * 1e3
        ));
        println!();
        reports.show(&self.screen, stored_ns)
    }

    fn after(&mut self) -> Result<()> {
        self.screen
            .heading("After: what the policies allow, and nothing else");
        self.matrix()?;
        self.screen.say(
            "The node reaches its own pods whatever the policies say (the kubelet's probes). \
             Denied means silence: no reset, no ICMP error.",
        );
        Ok(())
    }

    fn denials(&mut self) -> Result<()> {
        self.screen
            .heading("Every denied connection names its policies");
        self.screen.say(
            "From the agent's JSON lines; where nothing allows a connection, the policies that \
             isolate the pod are named.",
        );
        println!();
        let questions: Vec<Question> = DENIED
            .iter()
            .map(|&(from, to, port, proto, family)| Question {
                from: self.cast.get(from).clone(),
                to: self.cast.get(to).clone(),
                port,
                proto,
                family,
            })
            .collect();
        let since_ns = now_ns();
        for answer in self.ask(&questions)? {
            let denial = log::denial(&self.agent, &answer, since_ns)?;
            let word = self.screen.paint(Tone::Bad, "denied");
            self.screen.line(&format!("{word}  {}", answer.question));
            let policies = denial.policies().join(", ");
            self.screen
                .line(&format!("        {} of {policies}", denial.direction()));
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        self.screen
            .heading("The agent ends, the policies stay; then everything goes");
        // The user may have changed the policies: what matters is what simulate says.
        let questions: Vec<Question> = Question::all(&self.cast)
            .into_iter()
            .filter(|question| question.to.name() == cut::SERVER)
            .collect();
        self.agent.stop()?;
        let answers = self.ask(&questions)?;
        self.screen.say(&format!(
            "Without the agent the kernel still enforces: {} connections to the database tried, {} \
             of them denied.",
            answers.len(),
            count_denied(&answers)
        ));
        self.screen.command("policy-agent cleanup");
        let output = self.agent.ask(&["cleanup"])?;
        self.screen.quote(output.lines());
        ensure!(
            output.contains("no trace is left"),
            "cleanup does not say that nothing is left"
        );
        self.agent.keep_manifest(CLUSTER)?;
        let answers = self.ask(&questions)?;
        ensure!(
            count_denied(&answers) == 0,
            "something is denied without any policy"
        );
        self.screen
            .say("All of these connections are possible again.");
        Ok(())
    }

    fn matrix(&mut self) -> Result<()> {
        let questions = Question::all(&self.cast);
        self.screen.say(&format!(
            "{} connections with real sockets, for each cell one over IPv4 and one over IPv6 (a dot: \
             not asked):",
            questions.len()
        ));
        println!();
        let answers = self.ask(&questions)?;
        table::print(&self.screen, &self.cast, &answers);
        println!();
        let denied = count_denied(&answers);
        self.screen.say(&format!(
            "{} allowed, {denied} denied; `policy-agent simulate` says the same of each.",
            answers.len() - denied
        ));
        Ok(())
    }

    fn ask(&mut self, questions: &[Question]) -> Result<Vec<Answer>> {
        let answers = ask(&self.lab, &self.agent, questions)?;
        self.measured += answers.len();
        Ok(answers)
    }
}

/// Name of each policy, and the comment above it.
fn policies() -> impl Iterator<Item = (&'static str, &'static str)> {
    let after = |document: &'static str, mark: &str| {
        let mut found = document
            .lines()
            .filter_map(|line| line.trim().strip_prefix(mark));
        found.next().unwrap_or_default().trim()
    };
    POLICIES
        .split("---\n")
        .map(move |document| (after(document, "name:"), after(document, "# ")))
}

fn count_denied(answers: &[Answer]) -> usize {
    let denied = |answer: &&Answer| !answer.measured.is_connected();
    answers.iter().filter(denied).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_has_a_name_and_a_comment_that_fit_a_line() {
        assert_eq!(
            POLICIES.matches("kind: NetworkPolicy").count(),
            policies().count()
        );
        for (name, comment) in policies() {
            assert!((1..=10).contains(&name.len()), "{name}");
            assert!((10..=66).contains(&comment.len()), "{comment}");
        }
    }
}
