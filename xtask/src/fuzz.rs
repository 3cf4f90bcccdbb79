//! `fuzz`: builds the fuzz targets of `policy-tests` and runs them under libFuzzer.
//!
//! Stable Rust has what libFuzzer needs, LLVM's coverage pass, so neither nightly
//! nor cargo-fuzz is. Only our own crates are instrumented: cargo calls this very
//! program in place of their compiler ([`as_compiler`]). Not static as `optimised`
//! has it: libFuzzer puts itself between a program and a shared C library. What a
//! target checks is written in `tests/src/fuzz`, whose
//! tests are the bounded run that is a part of `test`.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    build_ebpf::{self, Variant},
    job::{Job, announce, output_of},
    optimised::BUILD_LIMIT,
    setup::{self, Need},
    workspace::Workspace,
};

/// Set where this program is called in place of a compiler.
const COMPILER: &str = "POLICY_FUZZ_COMPILER";
/// Read by `tests/src/bin/fuzz.rs`.
const TARGET: &str = "POLICY_FUZZ_TARGET";
const SEEDS: &str = "POLICY_FUZZ_SEEDS";

/// What libFuzzer wants to be told of (edges and comparisons), and whatever would
/// stop an ordinary debug build. Optimised less, since compiling is what takes
/// the time of a short run.
const INSTRUMENTED: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    "-Copt-level=1",
    // The pass loses sections where a crate is compiled in parts.
    "-Ccodegen-units=1",
];

/// Seconds that one input may take before it is a finding.
const INPUT_SECS: u64 = 20;
/// Memory that a target may take before it is a finding, MiB.
const MEMORY_MIB: u64 = 1024;
/// Longest input, bytes.
const LONGEST: u64 = 4096;
/// How much longer than it was told a target may run: it finishes its seeds.
const SLACK: Duration = Duration::from_secs(5 * 60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run this target only
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Try this one input, as a finding's report says
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
}

/// The task `fuzz`.
///
/// # Errors
///
/// When something was found, and when the targets cannot be built or run.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    setup::ensure(workspace, Need::Check)?;
    build_ebpf::build(workspace, Variant::Agent)?;
    let fuzzer = Fuzzer::build(workspace)?;
    if let (Some(target), Some(input)) = (&args.target, &args.input) {
        return fuzzer.reproduce(target, input);
    }
    fuzzer.run_all(args.target.as_deref(), args.seconds)
}

/// If cargo called this program in place of a compiler of one of our crates:
/// becomes that compiler, and instruments what a target is made of.
pub(crate) fn as_compiler() -> Option<ExitCode> {
    env::var_os(COMPILER)?;
    let mut arguments = env::args_os().skip(1);
    let mut compiler = Command::new(arguments.next()?);
    let arguments: Vec<OsString> = arguments.collect();
    compiler.args(&arguments);
    if is_part_of_a_target(&arguments) {
        compiler.args(INSTRUMENTED);
    }
    let error = compiler.exec();
    eprintln!("error: cannot run {:?}: {error}", compiler.get_program());
    Some(ExitCode::FAILURE)
}

/// Build scripts run on their own, without libFuzzer; and cargo asks questions.
fn is_part_of_a_target(arguments: &[OsString]) -> bool {
    let name = arguments
        .iter()
        .position(|argument| argument == "--crate-name");
    let name = name.and_then(|at| arguments.get(at + 1));
    name.is_some_and(|name| name != "build_script_build" && name != "___")
}

/// The built targets.
struct Fuzzer<'w> {
    workspace: &'w Workspace,
    binary: PathBuf,
}

impl<'w> Fuzzer<'w> {
    fn build(workspace: &'w Workspace) -> Result<Self> {
        announce("build: the fuzz targets, instrumented");
        let wrapper = env::current_exe().context("cannot tell where this program is")?;
        let mut cargo = workspace.cargo();
        cargo
            .args(["build", "--release", "--package", "policy-tests"])
            .args(["--features", "libfuzzer", "--bin", "fuzz"])
            .env("RUSTC_WORKSPACE_WRAPPER", wrapper)
            .env(COMPILER, "1");
        Job::new("build", cargo, BUILD_LIMIT).run()?;
        let binary = workspace.target.join("release/fuzz");
        ensure!(binary.exists(), "{} is not there", binary.display());
        Ok(Self { workspace, binary })
    }

    fn targets(&self) -> Result<Vec<String>> {
        let mut command = Command::new(&self.binary);
        command.env_remove(TARGET);
        let names = output_of(command).context("the fuzz targets cannot be listed")?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Everything of a target is below this folder.
    fn folder(&self, target: &str) -> PathBuf {
        self.workspace.target.join("fuzz").join(target)
    }

    fn command(&self, target: &str) -> Result<Command> {
        let folder = self.folder(target);
        for name in ["corpus", "seeds", "tmp"] {
            let folder = folder.join(name);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let mut command = Command::new(&self.binary);
        command
            .env(TARGET, target)
            .env("TMPDIR", folder.join("tmp"))
            .env("RUST_BACKTRACE", "0")
            .arg(format!("-timeout={INPUT_SECS}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"));
        Ok(command)
    }

    fn run_all(&self, only: Option<&str>, seconds: u64) -> Result<()> {
        let all = self.targets()?;
        let chosen: Vec<&String> = all
            .iter()
            .filter(|target| only.is_none_or(|only| only == *target))
            .collect();
        if chosen.is_empty() {
            bail!("no such target; there are {}", all.join(", "));
        }
        let mut failed = Vec::new();
        for target in chosen {
            announce(&format!("fuzz: {target}, {seconds} s"));
            if let Err(error) = self.run_one(target, seconds) {
                eprintln!("{error:#}");
                failed.push(target.as_str());
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        bail!("fuzz: {} found something", failed.join(", "))
    }

    fn run_one(&self, target: &str, seconds: u64) -> Result<()> {
        let folder = self.folder(target);
        let before = findings(&folder);
        let mut command = self.command(target)?;
        command
            .env(SEEDS, folder.join("seeds"))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={LONGEST}"))
            .arg("-reload=0")
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={}/", folder.display()))
            .args([folder.join("corpus"), folder.join("seeds")]);
        let log = self.workspace.log(&format!("fuzz-{target}"));
        let limit = Duration::from_secs(seconds) + SLACK;
        let result = Job::new(target, command, limit).log_to(log.clone()).run();
        let new = findings(&folder)
            .into_iter()
            .filter(|file| !before.contains(file));
        for file in new {
            let file = self.workspace.shown(&file);
            eprintln!(
                "    found: {file}\n    \
                 again: cargo xtask fuzz {target} --input {file}\n    \
                 then: a named test beside the code that is wrong"
            );
        }
        result?;
        let text = fs::read_to_string(&log).unwrap_or_default();
        let runs = statistic(&text, "number_of_executed_units");
        // One that tries nothing finds nothing.
        ensure!(
            runs.is_some_and(|runs| runs > 0),
            "{target} tried nothing: {}",
            log.display()
        );
        println!(
            "    {} inputs tried, {} kept, nothing found",
            runs.unwrap_or_default(),
            statistic(&text, "new_units_added").unwrap_or_default()
        );
        Ok(())
    }

    fn reproduce(&self, target: &str, input: &Path) -> Result<()> {
        announce(&format!("fuzz: {target} on {}", input.display()));
        let mut command = self.command(target)?;
        command.arg(input).env("RUST_BACKTRACE", "1");
        Job::new(target, command, SLACK).run()
    }
}

/// What libFuzzer left in a target's folder.
fn findings(folder: &Path) -> Vec<PathBuf> {
    let kinds = ["crash-", "timeout-", "oom-", "leak-", "slow-unit-"];
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            kinds.iter().any(|kind| name.starts_with(kind))
        })
        .map(|entry| entry.path())
        .collect()
}

/// A number of libFuzzer's final statistics: `stat::NAME: NUMBER`.
fn statistic(log: &str, name: &str) -> Option<u64> {
    let line = log.lines().find_map(|line| {
        let rest = line.strip_prefix("stat::")?.strip_prefix(name)?;
        rest.strip_prefix(':')
    });
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn our_crates_are_instrumented_and_build_scripts_and_questions_are_not() {
        for (text, expected) in [
            ("--crate-name policy_common --edition=2024 src/lib.rs", true),
            ("--crate-name fuzz src/bin/fuzz.rs", true),
            ("--crate-name build_script_build build.rs", false),
            ("- --crate-name ___ --print=file-names", false),
            ("-vV", false),
        ] {
            assert_eq!(is_part_of_a_target(&arguments(text)), expected, "{text}");
        }
    }

    #[test]
    fn statistics_are_read_and_missing_ones_are_none() {
        let log = "Done\nstat::number_of_executed_units: 2513\nstat::new_units_added:    7\n";
        assert_eq!(statistic(log, "number_of_executed_units"), Some(2513));
        assert_eq!(statistic(log, "new_units_added"), Some(7));
        assert_eq!(statistic(log, "peak_rss_mb"), None);
    }
}
