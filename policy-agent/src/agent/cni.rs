//! What CNI tells and asks, and what it comes to: pods whose interfaces are held
//! until their objects are known, and runtimes that wait for an answer.
//!
//! Who told what is [`Telling`]'s; how long interfaces are held is [`Births`]'.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use policy_core::diagnostic::{Diagnostic, Severity};
use policy_core::ops::Op;
use tokio::sync::oneshot;

use super::births::{Births, UnknownInterfaces};
use super::state::{Outcome, PodUid, State};
use super::told::{Teller, Telling, Told};
use crate::api::{Awaited, Response};
use crate::cni::hold;
use crate::cni::install::{self, InstallError, Places};
use crate::cni::notes::Notes;
use crate::cni::results::Reader;
use crate::cni::statement::{Answer, AttachmentId, Question};
use crate::iface::{Change, KnownInterface, assign_after};

/// Where the agent looks for what CNI tells, and what it does with unknown
/// interfaces.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of the CNI library's records.
    pub results: PathBuf,
    /// Folder of CNI configurations in which ours is kept up to date.
    pub conf_dir: Option<PathBuf>,
    /// What happens to interfaces that nobody knows.
    pub unknown: UnknownInterfaces,
}

/// What the agent knows of CNI.
#[derive(Debug)]
pub(super) struct Cni {
    pub(super) telling: Telling,
    pub(super) births: Births,
    notes: Notes,
    records: Reader,
    places: Option<Places>,
    waiting: Vec<Waiting>,
    /// When the next of the held interfaces is to be let go.
    held_until: Option<Instant>,
    problems: Vec<(String, String)>,
}

/// A runtime that waits for a pod's policies.
#[derive(Debug)]
struct Waiting {
    id: AttachmentId,
    until: Instant,
    answer: oneshot::Sender<Response>,
}

/// How a pod is protected.
enum Protection {
    InForce,
    /// Nothing but the node's own traffic passes.
    Held(String),
    /// It is not.
    Open(String),
}

impl Cni {
    pub(super) fn new(options: &Options, run_dir: &Path, bpffs: &Path) -> Self {
        Self {
            telling: Telling::default(),
            births: Births::new(options.unknown),
            notes: Notes::new(run_dir),
            records: Reader::new(options.results.clone()),
            places: options.conf_dir.clone().map(|conf_dir| Places {
                conf_dir,
                run_dir: run_dir.to_path_buf(),
                bpffs: bpffs.to_path_buf(),
                // A kernel that does not say is asked at the next start.
                hold: hold::is_possible().unwrap_or_else(|error| {
                    eprintln!("whether the kernel has nftables is not known: {error}");
                    false
                }),
            }),
            waiting: Vec::new(),
            held_until: None,
            problems: Vec::new(),
        }
    }

    fn problem(&mut self, object: &str, message: Option<String>) {
        self.problems.retain(|(of, _)| of != object);
        self.problems
            .extend(message.map(|message| (object.to_owned(), message)));
    }

    /// Makes our configuration follow the network's.
    pub(super) fn configure(&mut self) {
        let Some(places) = &self.places else { return };
        let problem = match install::configure(places) {
            Ok(configured) => {
                if configured.written {
                    eprintln!("{configured}");
                }
                None
            }
            // It is being installed; its coming tells.
            Err(error @ InstallError::NoNetwork { .. }) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        self.problem("CNI configuration", problem);
    }
}

impl State {
    /// Reads what the plugin told while no agent listened.
    pub(super) fn read_notes(&mut self) {
        let now = Instant::now();
        let (notes, bad) = match self.cni.notes.read() {
            Ok(read) => read,
            Err(error) => {
                let text = format!("{}: {error}", self.cni.notes.folder().display());
                self.cni.problem("CNI plugin", Some(text));
                return;
            }
        };
        self.cni.problem("CNI plugin", None);
        for (path, why) in bad {
            let text = format!("the note cannot be read: {why}; it is used for nothing");
            self.cni.problem(&path.display().to_string(), Some(text));
        }
        let all: Vec<AttachmentId> = notes.iter().map(|note| note.id.clone()).collect();
        for note in notes {
            self.cni.telling.tell(note, Teller::Plugin, now);
        }
        if !self.scanned {
            return;
        }
        self.cni.telling.look(&self.snapshot);
        for id in all {
            let told = self.cni.telling.get(&id);
            if told.is_some_and(|told| told.interface.is_none()) {
                // Its interface went while no agent ran, and its DEL with it.
                self.cni.telling.forget(&id);
                let _ = self.cni.notes.remove(&id);
            }
        }
    }

    /// Reads the CNI library's records.
    pub(super) fn read_records(&mut self) {
        let folder = self.cni.records.folder().display().to_string();
        match self.cni.records.read() {
            Ok(records) => {
                self.cni.problem(&folder, None);
                self.cni.telling.take_records(records, Instant::now());
            }
            Err(error) => {
                let text =
                    format!("{error}; what was read of it before counts; check --cni-results-dir");
                self.cni.problem(&folder, Some(text));
            }
        }
    }

    /// Takes in what was told and what is there, before anything is decided.
    pub(super) fn take_told(&mut self, now: Instant) {
        if !self.scanned {
            return;
        }
        let attached = &self.planner.mirror().attached;
        self.cni.births.look(&self.snapshot, attached, now);
        self.cni.telling.look(&self.snapshot);
        // Whose an interface is, or that it is held, may follow from it.
        let held_until = self.cni.births.deadline(&self.held, now);
        let held_before = std::mem::replace(&mut self.cni.held_until, held_until);
        self.looked |= self.cni.telling.is_stirred() || held_before != held_until;
        let node = self.engine.node().name.clone();
        let store = self.engine.store();
        let news = self.cni.telling.news(&node, |pod| store.pod(pod));
        self.engine.apply(news);
    }

    /// Holds what was told of or is new while objects are not read yet: who may
    /// reach it cannot be known, and what an earlier agent left stays. Pods that
    /// ran without an agent go on until policies are known: an installation
    /// disturbs nobody.
    pub(super) fn hold_meanwhile(&mut self, now: Instant) -> Outcome {
        if !self.scanned {
            return Outcome::default();
        }
        self.assignment = assign_after(&self.snapshot, &[], &[]);
        let told = self.cni.telling.present();
        // Of what the plugin tells, no container has started, or it was held.
        let runs = |told: &Told, interface: u32| {
            told.teller == Teller::Library && self.cni.births.was_open(interface)
        };
        let told = told.into_iter().filter_map(|told| {
            let interface = told.interface?;
            (!runs(told, interface)).then_some(interface)
        });
        let mut held = self.cni.births.unknown(&self.assignment, now);
        held.extend(told);
        held.retain(|interface| self.snapshot.links.contains_key(interface));
        let attached = &self.planner.mirror().attached;
        let ops: Vec<Op> = held
            .iter()
            .filter(|interface| !attached.contains(interface))
            .map(|interface| Op::Attach {
                ifindex: *interface,
            })
            .collect();
        let leads = &self.planner.mirror().interfaces;
        held.retain(|interface| !leads.contains_key(interface));
        self.holding.extend(&held);
        self.held = held;
        if ops.is_empty() {
            return Outcome::default();
        }
        if self.carry_out(&ops) {
            // Of what the sources say, nothing is in force by that.
            Outcome::default()
        } else {
            Outcome::failed()
        }
    }

    /// Pods that were told of and are no endpoints (yet), with their addresses,
    /// and the interfaces that are whose.
    #[expect(clippy::type_complexity, reason = "what `assign_after` takes")]
    pub(super) fn told_interfaces(
        &mut self,
    ) -> (Vec<(PodUid, Vec<IpAddr>)>, Vec<KnownInterface<PodUid>>) {
        let desired = self.engine.desired();
        let mut awaited: Vec<(PodUid, Vec<IpAddr>)> = Vec::new();
        let mut known = Vec::new();
        for told in self.cni.telling.present() {
            let link = told.interface.and_then(|at| self.snapshot.links.get(&at));
            let Some(link) = link else { continue };
            let pod = told.pod();
            let spec = desired.endpoints.get(&pod);
            let pod: PodUid = match spec.filter(|spec| told.is_of(&spec.uid)) {
                Some(spec) => (pod, spec.uid.clone()),
                None => {
                    let pod: PodUid = (pod, told.statement.uid.as_str().into());
                    awaited.push((pod.clone(), told.statement.addresses.clone()));
                    pod
                }
            };
            known.push(KnownInterface {
                interface: link.index,
                peer: link.peer,
                pod,
            });
        }
        (awaited, known)
    }

    /// Notes which pods were open for how long; after something was put in force.
    pub(super) fn note_births(&mut self) {
        let now = Instant::now();
        for told in self.cni.telling.present() {
            if let (Teller::Plugin, Some(interface)) = (told.teller, told.interface) {
                self.cni.births.told_in_time(interface);
            }
        }
        let desired = self.engine.desired();
        let attached = &self.planner.mirror().attached;
        for (pod, programmed) in &self.programmed {
            let isolated = programmed.ingress != 0 || programmed.egress != 0;
            if isolated && programmed.current && attached.contains(&programmed.ifindex) {
                let uid = desired.endpoints.get(pod).map(|spec| spec.uid.clone());
                let uid = uid.unwrap_or_default();
                self.cni
                    .births
                    .protected(programmed.ifindex, &pod.to_string(), &uid, now);
            }
        }
        self.cni.births.settle(attached, now);
    }

    /// Answers a question of the plugin, now or when it is time.
    pub(super) fn ask_cni(
        &mut self,
        question: Question,
        answer: oneshot::Sender<Response>,
    ) -> Outcome {
        let now = Instant::now();
        let (reply, outcome) = match question {
            Question::Add { statement, wait_ms } => {
                let id = statement.id.clone();
                self.cni.telling.tell(statement, Teller::Plugin, now);
                self.read_own_interfaces();
                let outcome = self.reconcile();
                self.cni.waiting.push(Waiting {
                    id,
                    until: now + Duration::from_millis(wait_ms),
                    answer,
                });
                return outcome;
            }
            Question::Check { statement } => {
                // After a restart the note says it, unless there is none.
                if self.cni.telling.get(&statement.id).is_none() {
                    let id = &statement.id;
                    let why = format!("nothing is known of {id}: its ADD did not come here");
                    (Answer::No { why }, Outcome::default())
                } else {
                    self.read_own_interfaces();
                    let outcome = self.reconcile();
                    let reply = match self.protection(&statement.id) {
                        Protection::InForce => Answer::Yes,
                        Protection::Held(why) => Answer::Held { why },
                        Protection::Open(why) => Answer::No { why },
                    };
                    (reply, outcome)
                }
            }
            Question::Del { id } => {
                let interface = self.cni.telling.forget(&id);
                self.begin_again(interface, now);
                self.cni.waiting.retain(|waiting| waiting.id != id);
                (Answer::Yes, self.reconcile())
            }
            Question::Gc { network, valid } => {
                let interfaces = self.cni.telling.keep(&network, &valid);
                self.begin_again(interfaces, now);
                (Answer::Yes, self.reconcile())
            }
            Question::Status => (self.readiness(), Outcome::default()),
        };
        // A client that does not wait for its answer needs none.
        let _ = answer.send(Response::Cni(reply));
        outcome
    }

    /// What the plugin told is taken back while the interface may still be there:
    /// what is behind it is unknown from now on.
    fn begin_again(&mut self, interfaces: impl IntoIterator<Item = u32>, now: Instant) {
        for interface in interfaces {
            self.cni.births.again(interface, now);
        }
    }

    fn read_own_interfaces(&mut self) {
        self.read_interfaces(&Change {
            own: true,
            ..Change::default()
        });
    }

    fn readiness(&self) -> Answer {
        if !self.synced {
            let why = "the agent has not read all objects yet".to_owned();
            return Answer::No { why };
        }
        if !self.healthy() {
            let why = "the agent cannot put policies in force: see `policy-agent status`";
            return Answer::No { why: why.into() };
        }
        Answer::Yes
    }

    /// Answers those whose pods' policies are in force, and those who have waited
    /// long enough.
    pub(super) fn answer_waiting(&mut self) {
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.cni.waiting) {
            if waiting.answer.is_closed() {
                continue;
            }
            let is_over = now >= waiting.until;
            let reply = match self.protection(&waiting.id) {
                Protection::InForce => Answer::Yes,
                Protection::Held(why) if is_over => Answer::Held { why },
                Protection::Open(why) if is_over => Answer::No { why },
                Protection::Held(_) | Protection::Open(_) => {
                    self.cni.waiting.push(waiting);
                    continue;
                }
            };
            // As in `ask_cni`.
            let _ = waiting.answer.send(Response::Cni(reply));
        }
    }

    fn protection(&mut self, id: &AttachmentId) -> Protection {
        let Some(told) = self.cni.telling.get(id) else {
            return Protection::Open(format!("{id} was deleted meanwhile, or its interface went"));
        };
        let Some(interface) = told.interface else {
            return Protection::Open(format!("{id}: the node's end is no veth that is there"));
        };
        if !self.planner.mirror().attached.contains(&interface) {
            let why = format!("the programs are not on interface {interface} (yet)");
            return Protection::Open(why);
        }
        if !self.synced {
            let why = "the agent has not read all objects yet";
            return Protection::Held(why.to_owned());
        }
        let pod = told.pod();
        let spec = self.engine.desired().endpoints.get(&pod);
        if spec.is_none_or(|spec| !told.is_of(&spec.uid)) {
            return Protection::Held(format!("the API server has not told of Pod {pod} yet"));
        }
        let now = self.programmed.get(&pod);
        let is_in_force = now.is_some_and(|now| now.current && now.ifindex == interface);
        if is_in_force && self.healthy() {
            Protection::InForce
        } else {
            Protection::Held("not everything is in force: see `policy-agent status`".to_owned())
        }
    }

    /// When something has to be looked at again without any news.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        let waiting = self.cni.waiting.iter().map(|waiting| waiting.until).min();
        let held = self.cni.births.deadline(&self.held, now);
        waiting.into_iter().chain(held).min()
    }

    /// Pods that are held because their objects are not known.
    pub(super) fn awaited(&self) -> Vec<Awaited> {
        let now = Instant::now();
        let mut all = Vec::new();
        let (store, synced) = (self.engine.store(), self.synced);
        for told in self.cni.telling.present() {
            let pod = told.pod();
            let object = store.pod(&pod).filter(|object| told.is_of(&object.uid));
            let Some(interface) = told.interface else {
                continue;
            };
            if object.is_some() && synced {
                continue;
            }
            // Of two sandboxes of one pod, each has an interface of its own.
            if all.iter().any(|other: &Awaited| other.ifindex == interface) {
                continue;
            }
            let waited = now.saturating_duration_since(told.since);
            all.push(Awaited {
                pod: pod.to_string(),
                uid: told.statement.uid.clone(),
                ifindex: interface,
                milliseconds: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
                why: if synced {
                    "the API server has not told of it (yet)".to_owned()
                } else {
                    "the agent has not read all objects yet".to_owned()
                },
            });
        }
        all
    }

    /// What is wrong with what CNI tells.
    pub(super) fn cni_problems(&self) -> Vec<Diagnostic> {
        let problem = |object: &str, message: String, severity| Diagnostic {
            object: object.to_owned(),
            source: None,
            path: String::new(),
            severity,
            message,
        };
        let problems = self.cni.problems.iter();
        let mut all: Vec<Diagnostic> = problems
            .map(|(object, message)| problem(object, message.clone(), Severity::Error))
            .collect();
        for (path, why) in &self.cni.telling.bad {
            let message = format!(
                "the record of the CNI library is not understood: {why}; its pod is known when \
                 the API server tells of it"
            );
            let object = path.display().to_string();
            all.push(problem(&object, message, Severity::Warning));
        }
        all
    }

    /// Interfaces that were held in vain.
    pub(super) fn given_up(&self) -> BTreeSet<u32> {
        let now = Instant::now();
        let unknown = self.assignment.not_pods.keys().copied();
        unknown
            .filter(|index| self.cni.births.is_given_up(*index, now))
            .collect()
    }
}
