//! Runs one external command: announced, limited in time, never silent for long.
//!
//! A job either lets the command write to the terminal, or keeps its output in
//! a log file and says now and then how it goes, or hands each line of standard
//! output to a caller. When a limit passes, the command and everything that it
//! started is killed, found by parent process id; nothing else is touched.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::interrupt;

/// How often a running job is looked at.
const POLL: Duration = Duration::from_millis(50);
/// How often a job that writes to a log says that it is still running.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often the processes below a job are listed, where one of them has a limit.
const WATCH: Duration = Duration::from_secs(1);
/// How long output is still read after the command itself has ended: a process
/// that it left behind may hold the pipe open for ever.
const DRAIN: Duration = Duration::from_secs(2);
/// How much of a log is shown when its command failed.
const TAIL_LINES: usize = 30;

/// Announces the next step.
pub(crate) fn announce(what: &str) {
    println!("==> {what}");
}

/// One external command with its limits.
pub(crate) struct Job<'a> {
    what: &'a str,
    command: Command,
    limit: Duration,
    child_limit: Option<(&'a str, Duration)>,
    log: Option<PathBuf>,
    quiet: bool,
}

impl<'a> Job<'a> {
    /// A command that may run for `limit`; `what` names it in messages.
    pub(crate) fn new(what: &'a str, command: Command, limit: Duration) -> Self {
        Self {
            what,
            command,
            limit,
            child_limit: None,
            log: None,
            quiet: false,
        }
    }

    /// Also limits each process named `name` that runs below the command.
    pub(crate) fn limit_child(mut self, name: &'a str, limit: Duration) -> Self {
        self.child_limit = Some((name, limit));
        self
    }

    /// Keeps the output in `path` instead of showing it.
    pub(crate) fn log_to(mut self, path: PathBuf) -> Self {
        self.log = Some(path);
        self
    }

    /// Hands lines over without showing them.
    pub(crate) fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Runs the command to its end.
    ///
    /// # Errors
    ///
    /// When it cannot be started, fails, or passes a limit.
    pub(crate) fn run(mut self) -> Result<()> {
        if let Some(path) = &self.log {
            let file = create_log(path)?;
            self.command
                .stdin(Stdio::null())
                .stdout(file.try_clone().context("cannot share the log file")?)
                .stderr(file);
        }
        let child = self.spawn()?;
        if self.supervise(child, thread::sleep)? {
            return Ok(());
        }
        if let Some(path) = &self.log {
            eprintln!("{}", tail(path));
            bail!(
                "{} failed; all of its output: {}",
                self.what,
                path.display()
            );
        }
        bail!("{} failed; its output is above", self.what)
    }

    /// Runs the command, shows its standard output (unless [`Self::quiet`]) and
    /// hands each line of it to `each`. Says whether it succeeded.
    ///
    /// # Errors
    ///
    /// When the command cannot be started or passes a limit.
    pub(crate) fn run_with_lines(mut self, mut each: impl FnMut(&str)) -> Result<bool> {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = self.spawn()?;
        let pipe = child.stdout.take().expect("standard output is piped above");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        let quiet = self.quiet;
        let mut show = |line: String| {
            if !quiet {
                println!("{line}");
            }
            each(&line);
        };
        let success = self.supervise(child, |pause| {
            let until = Instant::now() + pause;
            loop {
                match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(line) => show(line),
                    Err(RecvTimeoutError::Timeout) => return,
                    Err(RecvTimeoutError::Disconnected) => return thread::sleep(pause),
                }
            }
        })?;
        while let Ok(line) = lines.recv_timeout(DRAIN) {
            show(line);
        }
        Ok(success)
    }

    fn spawn(&mut self) -> Result<Child> {
        let program = self.command.get_program().to_string_lossy().into_owned();
        self.command
            .spawn()
            .with_context(|| format!("{}: cannot run {program}", self.what))
    }

    /// Waits for the end of the command; `pause` passes the time between looks.
    fn supervise(&self, mut child: Child, mut pause: impl FnMut(Duration)) -> Result<bool> {
        let start = Instant::now();
        let (mut beat, mut watched) = (start, start);
        let mut first_seen: HashMap<i32, Instant> = HashMap::new();
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for the command")? {
                return Ok(status.success());
            }
            if let Err(error) = interrupt::check() {
                end(&mut child);
                return Err(error.context(format!("{} has been ended", self.what)));
            }
            if start.elapsed() > self.limit {
                end(&mut child);
                bail!(
                    "{} was still running after {} s and has been ended",
                    self.what,
                    self.limit.as_secs()
                );
            }
            if let Some((name, limit)) = self.child_limit
                && watched.elapsed() > WATCH
            {
                watched = Instant::now();
                let mut running = descendants(child.id());
                running.retain(|process| process.name == name);
                first_seen.retain(|pid, _| running.iter().any(|process| process.pid == *pid));
                for process in running {
                    let seen = first_seen.entry(process.pid).or_insert_with(Instant::now);
                    if seen.elapsed() > limit {
                        end(&mut child);
                        bail!(
                            "{}: {name} was still running after {} s and has been ended",
                            self.what,
                            limit.as_secs()
                        );
                    }
                }
            }
            if let Some(path) = &self.log
                && beat.elapsed() > HEARTBEAT
            {
                beat = Instant::now();
                let latest = fs::read(path).unwrap_or_default();
                let latest = String::from_utf8_lossy(&latest);
                let latest = latest.lines().next_back().unwrap_or_default().trim();
                println!(
                    "    {}: {} s so far: {latest}",
                    self.what,
                    start.elapsed().as_secs()
                );
            }
            pause(POLL);
        }
    }
}

/// The standard output of a short command, or nothing when it is missing or fails.
pub(crate) fn output_of(mut command: Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn create_log(path: &Path) -> Result<File> {
    let dir = path.parent().expect("log paths have a directory");
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    File::create(path).with_context(|| format!("cannot create {}", path.display()))
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// A process below a job.
struct Process {
    pid: i32,
    parent: i32,
    name: String,
}

/// Kills a job and all that runs below it, and collects the job itself.
fn end(child: &mut Child) {
    for process in descendants(child.id()) {
        if let Some(pid) = Pid::from_raw(process.pid) {
            // It may have ended by itself since it was listed.
            let _already_gone = kill_process(pid, Signal::KILL);
        }
    }
    let _already_gone = child.kill();
    let _already_gone = child.wait();
}

/// All processes below `root`, children before their own children.
fn descendants(root: u32) -> Vec<Process> {
    let Ok(root) = i32::try_from(root) else {
        return Vec::new();
    };
    let mut all: Vec<Process> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .collect();
    let mut parents = vec![root];
    let mut found = Vec::new();
    while let Some(parent) = parents.pop() {
        for process in all.extract_if(.., |process| process.parent == parent) {
            parents.push(process.pid);
            found.push(process);
        }
    }
    found
}

/// Reads name and parent from /proc/PID/stat (man 5 proc): `pid (name) state ppid`.
fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and parentheses; it ends at the last one.
    let (head, rest) = stat.rsplit_once(") ")?;
    let name = head.split_once(" (")?.1.to_owned();
    let parent = rest.split(' ').nth(1)?.parse().ok()?;
    Some(Process { pid, parent, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn success_and_failure_are_told_apart() {
        let limit = Duration::from_secs(20);
        assert!(Job::new("yes", shell("exit 0"), limit).run().is_ok());
        let error = Job::new("no", shell("exit 3"), limit).run().unwrap_err();
        assert_eq!(error.to_string(), "no failed; its output is above");
    }

    #[test]
    fn every_line_is_handed_over_also_one_without_a_newline() {
        let mut lines = Vec::new();
        let job = Job::new("echo", shell("echo a; printf b"), Duration::from_secs(20));
        assert!(
            job.run_with_lines(|line| lines.push(line.to_owned()))
                .unwrap()
        );
        assert_eq!(lines, ["a", "b"]);
    }

    #[test]
    fn a_job_past_its_limit_is_ended_with_its_children() {
        // The pipe closes only when the grandchild, which holds it, is gone.
        let job = Job::new(
            "hang",
            shell("sleep 600 & echo $!; wait"),
            Duration::from_millis(300),
        );
        let mut child = 0;
        let error = job
            .run_with_lines(|line| child = line.parse().unwrap())
            .unwrap_err();
        assert!(
            error.to_string().contains("hang was still running"),
            "{error}"
        );
        assert!(child != 0, "the child's id was printed");
        // A killed process takes a moment to go, and this one has no parent left.
        let deadline = Instant::now() + Duration::from_secs(10);
        while process(child).is_some_and(|p| p.name == "sleep" && !is_zombie(child)) {
            assert!(Instant::now() < deadline, "process {child} survived");
            thread::yield_now();
        }
    }

    #[test]
    fn a_limit_on_a_child_names_the_child() {
        let job = Job::new("build", shell("sleep 600; true"), Duration::from_secs(60))
            .limit_child("sleep", Duration::from_millis(100));
        let error = job.run().unwrap_err();
        assert!(
            error.to_string().contains("build: sleep was still"),
            "{error}"
        );
    }

    #[test]
    fn a_failed_job_with_a_log_points_to_it() {
        let path = std::env::temp_dir().join(format!("xtask-job-{}.log", std::process::id()));
        let job = Job::new(
            "quiet",
            shell("echo cause; exit 1"),
            Duration::from_secs(20),
        );
        let error = job.log_to(path.clone()).run().unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()));
        assert_eq!(tail(&path), "cause");
        fs::remove_file(path).unwrap();
    }

    fn is_zombie(pid: i32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    }
}
