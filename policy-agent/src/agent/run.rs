//! The loop: waits for whatever comes first, and puts it in force.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use policy_common::{abi::maps::CT_ENTRIES, conntrack::CT_SHARES};
use policy_core::plan::{Limits, Planner};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::closed::{Closed, PodRange};
use super::cni::{self, Cni};
use super::http::HttpAddress;
use super::prefilter::Prefilter;
use super::report;
use super::server;
use super::source::{self, Source};
use super::state::{Outcome, State};
use super::verdicts::Context;
use crate::api::{Request, Response};
use crate::cni::watch::FolderWatch;
use crate::datapath::events::Events;
use crate::datapath::settings::Settings;
use crate::datapath::{Datapath, Pins, grace};
use crate::iface::{Change, Scanner, Watcher};
use crate::run_dir::{self, RunDir};
use crate::source::kubernetes::Access;
use crate::{datapath, object};

/// How often the kernel is compared with what should be in it: what differs is to
/// be put right within 5 s.
const VERIFY: Duration = Duration::from_secs(2);
/// Where reading takes long: what part of the time it may take, and how often it
/// is done all the same.
const VERIFY_PART: u32 = 20;
const VERIFY_LATEST: Duration = Duration::from_secs(4);
/// How often ended connection records are removed.
const SWEEP: Duration = Duration::from_secs(10);
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// How long to wait before looking again when the kernel stops telling.
const UNTOLD: Duration = Duration::from_millis(100);
/// Events that each CPU may send per tick of 100 ms.
const EVENTS_PER_TICK: u32 = 64;

/// What the agent is told when it starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where objects come from.
    pub source: source::Options,
    /// Name of the node, if given.
    pub node_name: Option<String>,
    /// Folder that narrows the network namespaces in which pods are looked for.
    pub netns_dir: Option<PathBuf>,
    /// Where socket and lock are.
    pub run_dir: PathBuf,
    /// Mount point of the BPF file system.
    pub bpffs: PathBuf,
    /// Interfaces that the prefilter is for.
    pub prefilter_interfaces: Vec<String>,
    /// Its list.
    pub deny_prefixes: Option<PathBuf>,
    /// What is closed while no pod has it.
    pub pod_range: PodRange,
    /// Whether pods may send from their own addresses only.
    pub spoof_check: bool,
    /// Where health and metrics are served.
    pub http: HttpAddress,
    /// What CNI tells.
    pub cni: cni::Options,
    /// The lowest bit of packets' marks that is the agent's.
    pub mark_shift: u32,
}

/// Runs until it is told to end. What is in force stays in force.
///
/// # Errors
/// When it cannot start: what is in force from an earlier agent stays then.
pub fn run(options: &Options) -> anyhow::Result<()> {
    super::memory::share_heap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(serve(options))
}

async fn serve(options: &Options) -> anyhow::Result<()> {
    let run_folder = RunDir::lock(&options.run_dir)?;
    warn_of_private_mounts();
    // Locked before anything is loaded: an agent that is refused must not have
    // put its programs into the other's links.
    let pins = Pins::new(&options.bpffs);
    pins.prepare()?;
    let _pins = run_dir::lock_folder(&pins.root()).with_context(|| {
        format!(
            "another agent uses {}; give this one a --bpffs of its own, or end the other",
            pins.root().display()
        )
    })?;
    let datapath = Datapath::open(
        &datapath::Options {
            bpffs: options.bpffs.clone(),
            backend: None,
        },
        object::bytes()?,
    )?;
    #[cfg(feature = "debug-log")]
    for program in datapath.program_ids() {
        super::kernel_log::follow(program)?;
    }
    let share = u32::try_from(CT_ENTRIES / CT_SHARES).unwrap_or(u32::MAX);
    let settings = Settings {
        ct_budget: share,
        events_per_tick: EVENTS_PER_TICK,
        mark_shift: options.mark_shift,
    };
    datapath.maps().restore(&settings, 0, 0)?;
    let mut events = Events::open(datapath.pins())?;
    let mut watcher = Watcher::new(options.netns_dir.as_deref())?;
    let scanner = Scanner::new(options.netns_dir.clone())?;
    // Before they are read for the first time, so that nothing is missed.
    let mut records = FolderWatch::new(&options.cni.results).context("watch a folder")?;
    let mut network = match &options.cni.conf_dir {
        Some(folder) => Some(FolderWatch::new(folder).context("watch a folder")?),
        None => None,
    };
    let mut planner = Planner::new(datapath.read_back()?, Limits::default());
    planner.set_spoof_check(options.spoof_check);
    planner.renew_all();
    let source = Source::open(&options.source, options.node_name.as_deref())
        .context("cannot begin to read the source")?;
    let mut prefilter = Prefilter::new(
        options.prefilter_interfaces.clone(),
        options.deny_prefixes.clone(),
    );
    prefilter.refresh(&datapath);

    let cni = Cni::new(&options.cni, &options.run_dir, &options.bpffs);
    let mut state = State::new(source, (datapath, settings), planner, scanner, cni);
    state.closed = Closed::new(options.pod_range, state.datapath.maps().closed_range());
    state.feedback.serve(options.http, state.datapath.pins())?;
    if let source::Options::Cluster(access) = &options.source {
        let node = state.engine.node().name.clone();
        state.feedback.post(access.clone(), node)?;
    }
    state.cni.configure();
    state.read_interfaces(&Change::everything());
    state.read_notes();
    state.read_records();
    state.read_source();
    let (graces, mut passed) = mpsc::channel::<()>(1);
    let mut next = Next::default();
    next.take(state.reconcile(), &graces);
    let mut told = tell_start(&state);
    let mut questions = server::listen(&run_folder.socket(), &state.feedback.monitors)
        .with_context(|| format!("cannot listen on {}", run_folder.socket().display()))?;
    // A plugin that found nobody listening has noted what it had to tell, before.
    state.read_interfaces(&Change::everything());
    state.read_notes();
    next.take(state.reconcile(), &graces);

    let mut terminate = signal(SignalKind::terminate()).context("signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals")?;
    let mut verify = tokio::time::interval(VERIFY);
    let mut sweep = tokio::time::interval(SWEEP);
    verify.reset();
    sweep.reset();
    let mut waiting = Waiting::default();
    loop {
        state.turned();
        let retry = tokio::time::sleep_until(next.retry_at.unwrap_or_else(far));
        let deadline = state.deadline().map_or_else(far, Instant::from_std);
        let deadline = tokio::time::sleep_until(deadline);
        // By chance among what is ready: none of them may keep the others waiting
        // for as long as it has something to say.
        let outcome = tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            news = state.source.changed() => {
                news?;
                let outcome = if state.read_source() { state.reconcile() } else { Outcome::default() };
                let answered = waiting.answer(&mut state, &mut prefilter);
                outcome.and(answered)
            }
            change = watcher.changed() => {
                let change = match change {
                    Ok(change) => change,
                    Err(error) => {
                        // Told nothing more by the kernel: look, and not too often.
                        eprintln!("interfaces: {error}");
                        tokio::time::sleep(UNTOLD).await;
                        Change::everything()
                    }
                };
                state.read_interfaces(&change);
                state.reconcile()
            }
            Some(()) = passed.recv() => {
                next.waiting = false;
                state.after_grace()
            }
            () = records.changed() => {
                state.read_records();
                state.read_interfaces(&Change { own: true, ..Change::default() });
                state.reconcile()
            }
            () = changed(network.as_mut()) => {
                state.cni.configure();
                continue
            }
            () = deadline => state.reconcile(),
            Some((request, answer)) = questions.recv() => {
                if let Request::Cni(question) = request {
                    let outcome = state.ask_cni(question, answer);
                    next.take(outcome, &graces);
                    state.answer_waiting();
                    continue
                }
                if matches!(request, Request::Status { wait: true })
                    && let Some(question) = state.source.ask()
                {
                    waiting.add(question, answer);
                    continue;
                }
                let (response, outcome) = respond(&mut state, &mut prefilter, request);
                // A client that does not wait for its answer needs none.
                let _ = answer.send(response);
                outcome
            }
            batch = events.next() => {
                print_verdicts(&state, &batch.unwrap_or_default());
                continue
            }
            _ = verify.tick() => {
                let begun = Instant::now();
                if prefilter.refresh(&state.datapath) {
                    state.repaired();
                }
                let outcome = state.verify();
                state.feedback.look_for_others(&options.bpffs, std::time::Instant::now());
                state.pressure.listed(prefilter.rows());
                state.took_stock(prefilter.problems());
                // A large state is read less often, so that it costs little.
                let pause = (begun.elapsed() * VERIFY_PART).clamp(VERIFY, VERIFY_LATEST);
                verify.reset_after(pause);
                outcome
            }
            _ = sweep.tick() => {
                match state.datapath.maps().sweep() {
                    Ok(swept) => state.swept(&swept),
                    Err(error) => eprintln!("connection records could not be swept: {error}"),
                }
                state.names.sweep();
                state.give_back_memory();
                continue
            }
            () = retry, if next.retry_at.is_some() => {
                state.read_interfaces(&Change::everything());
                state.reconcile()
            }
        };
        next.take(outcome, &graces);
        if !told && state.synced {
            told = tell_start(&state);
        }
        state.answer_waiting();
    }
    state.lines.finish();
    eprintln!("policy-agent: ending; what is in force stays in force");
    Ok(())
}

/// Later than anything that matters.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

/// Says what is in force, once everything has been read; whether it has been.
fn tell_start(state: &State) -> bool {
    eprintln!(
        "policy-agent {}: node {}, {}",
        env!("CARGO_PKG_VERSION"),
        state.engine.node().name,
        if !state.synced {
            "waiting for its objects; what is in force stays in force".to_owned()
        } else if state.is_programmed() {
            format!("{} pods, policies in force", state.programmed.len())
        } else {
            format!(
                "{} pods, not everything is in force: see status",
                state.programmed.len()
            )
        },
    );
    state.synced
}

/// Clients that wait until all that was there before their question is in force.
#[derive(Debug, Default)]
struct Waiting {
    questions: Vec<(u64, oneshot::Sender<Response>)>,
}

impl Waiting {
    fn add(&mut self, question: u64, answer: oneshot::Sender<Response>) {
        // Those who have gone away need no answer.
        self.questions.retain(|(_, answer)| !answer.is_closed());
        self.questions.push((question, answer));
    }

    /// Answers those whose time has come.
    fn answer(&mut self, state: &mut State, prefilter: &mut Prefilter) -> Outcome {
        let mut outcome = Outcome::default();
        let questions = std::mem::take(&mut self.questions);
        for (question, answer) in questions {
            if !state.source.has_passed(question) {
                self.questions.push((question, answer));
                continue;
            }
            let (response, after) = respond(state, prefilter, Request::Status { wait: true });
            // As in the loop.
            let _ = answer.send(response);
            outcome = outcome.and(after);
        }
        outcome
    }
}

/// Waits for a change in a folder, if one is watched.
async fn changed(folder: Option<&mut FolderWatch>) {
    match folder {
        Some(folder) => folder.changed().await,
        None => std::future::pending().await,
    }
}

/// What the loop has to come back to.
#[derive(Debug, Default)]
struct Next {
    retry_at: Option<Instant>,
    waiting: bool,
}

impl Next {
    fn take(&mut self, outcome: Outcome, graces: &mpsc::Sender<()>) {
        // A deadline, not a pause: whatever else happens must not put it off.
        self.retry_at = match (outcome.retry, self.retry_at) {
            (None, before) => before,
            (Some(false), _) => None,
            (Some(true), Some(at)) if at > Instant::now() => Some(at),
            (Some(true), _) => Some(Instant::now() + RETRY),
        };
        if outcome.grace && !self.waiting {
            self.waiting = true;
            let graces = graces.clone();
            tokio::task::spawn_blocking(move || {
                if let Err(error) = grace() {
                    eprintln!("waiting for a grace period: {error}");
                    return;
                }
                // The loop ends before this thread does only when the agent ends.
                let _ = graces.blocking_send(());
            });
        }
    }
}

fn respond(state: &mut State, prefilter: &mut Prefilter, request: Request) -> (Response, Outcome) {
    let mut outcome = Outcome::default();
    let response = match request {
        Request::Status { wait } => {
            if wait {
                state.read_interfaces(&Change::everything());
                state.read_source();
                if prefilter.refresh(&state.datapath) {
                    state.repaired();
                }
                outcome = state.reconcile();
            }
            Response::Status(Box::new(report::status(state, prefilter.problems())))
        }
        Request::Endpoints => Response::Endpoints(report::endpoints(state)),
        Request::Identities => Response::Identities(report::identities(state)),
        Request::Policies => Response::Policies(report::policies(state)),
        // Answered where it was read.
        Request::Monitor(_) => Response::Monitoring,
        Request::Cni(_) => {
            Response::Error("questions of the CNI plugin have a way of their own".into())
        }
    };
    (response, outcome)
}

fn print_verdicts(state: &State, events: &[policy_common::abi::event::VerdictEvent]) {
    let context = Context {
        store: state.engine.store(),
        names: &state.names,
        node: state.engine.node(),
    };
    for event in events {
        let line = context.line(event);
        state.lines.write(&line);
        state.feedback.monitors.publish(&line);
    }
}

fn warn_of_private_mounts() {
    if datapath::pin::in_private_mount_namespace() == Some(true) {
        eprintln!(
            "warning: this is a private mount namespace (as `ip netns exec` makes): pins, and with \
             them enforcement, end with its last process; use `nsenter --net=...` instead"
        );
    }
}

/// Refuses what makes no sense before anything is touched.
///
/// # Errors
/// Names the option.
pub fn check(options: &Options) -> anyhow::Result<()> {
    if options.deny_prefixes.is_some() && options.prefilter_interfaces.is_empty() {
        bail!("--deny-prefixes needs --prefilter-interface: on which interface?");
    }
    let in_cluster = source::Options::Cluster(Access::InCluster);
    if options.source == in_cluster && std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
        bail!(
            "this is no pod of a cluster (KUBERNETES_SERVICE_HOST is not set): run it in one, or \
             name a --kubeconfig, or a folder of --manifests"
        );
    }
    Ok(())
}
