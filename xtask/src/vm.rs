//! `vm`: boots the kernels that we promise and runs the kernel's tests inside.
//!
//! ```text
//! kernel: Debian's packages -> root: programs, tests, modules -> machine: qemu
//! ```
//!
//! The running kernel is what `test` is for. A guest has no disk and no network
//! but what the tests make: everything is in its initial RAM disk, and the serial
//! line brings back what the tests print. The guest is emulated, ten times slower
//! than the machine. `left_out` says what does not run in it.

mod choice;
mod kernel;
mod left_out;
mod machine;
mod root;

use std::{thread, time::Duration};

use anyhow::{Result, bail};

use self::choice::Wanted;
use crate::{
    build_agent,
    build_ebpf::Variant,
    interrupt,
    job::announce,
    setup::{self, Need},
    tally::Tally,
    workspace::Workspace,
};

/// The series of kernels that we promise beside the newest, oldest first: Debian
/// 12's and 13's.
const SERIES: [&str; 2] = ["6.1", "6.12"];
/// Emulated, all tests take the better part of an hour.
const LIMIT: Duration = Duration::from_secs(90 * 60);
/// Those that CI runs take eight minutes or so with a processor for each guest.
const SHORT_LIMIT: Duration = Duration::from_secs(20 * 60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this; `enforcement::` is a whole program
    filter: Option<String>,
    /// Boot this kernel only; may be given more than once
    #[arg(long = "kernel", value_name = "SERIES")]
    series: Vec<String>,
    /// Run only what takes a few minutes, as CI does
    #[arg(long)]
    short: bool,
    /// Start a shell in the guest instead of the tests
    #[arg(long)]
    shell: bool,
}

/// The task `vm`.
///
/// # Errors
///
/// When something cannot be had or built, or a test fails on any kernel.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let series: Vec<&str> = if args.series.is_empty() {
        SERIES.to_vec()
    } else {
        args.series.iter().map(String::as_str).collect()
    };
    if args.shell && series.len() != 1 {
        bail!(
            "--shell needs one --kernel: which of {}?",
            series.join(", ")
        );
    }
    setup::ensure(workspace, Need::Machines)?;
    let mut kernels = Vec::new();
    for series in series {
        kernels.push(kernel::fetch(workspace, series)?);
    }
    let agent = build_agent::build(workspace, Variant::Agent)?;
    let programs = choice::build(workspace)?;

    let mut guests = Vec::new();
    for kernel in &kernels {
        let wanted = Wanted {
            series: &kernel.series,
            short: args.short,
            filter: args.filter.as_deref(),
        };
        let tests = choice::choose(&programs, &left_out::TESTS, wanted);
        let image = root::image(workspace, kernel, &agent, &tests)?;
        if args.shell {
            return machine::shell(kernel, &image);
        }
        let count: usize = tests.iter().map(|chosen| chosen.tests.len()).sum();
        if count == 0 {
            bail!("no test to run; is the filter right?");
        }
        announce(&format!("vm: Linux {}, {count} tests", kernel.release));
        if args.filter.is_none() {
            choice::report(&programs, wanted);
        }
        guests.push((kernel, image, count));
    }
    let limit = if args.short { SHORT_LIMIT } else { LIMIT };
    // A guest is a process that outlives this one, unless it is ended.
    interrupt::catch()?;
    // A guest has one processor, so that two do not get in each other's way on two.
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let running: Vec<_> = guests
            .iter()
            .map(|(kernel, image, count)| {
                scope.spawn(|| machine::run_tests(kernel, image, *count, limit))
            })
            .collect();
        let ended = running.into_iter().map(thread::ScopedJoinHandle::join);
        ended
            .map(|tally| tally.expect("no guest's thread panics"))
            .collect()
    });
    let releases = kernels.iter().map(|kernel| kernel.release.as_str());
    conclude(&releases.zip(tallies).collect::<Vec<_>>())
}

/// Prints the sums, and fails if anything did.
fn conclude(results: &[(&str, Tally)]) -> Result<()> {
    announce("all tests on older kernels");
    let mut parts = Vec::new();
    for (release, tally) in results {
        for name in &tally.failures {
            println!("    failed on Linux {release}: {name}");
        }
        if tally.ignored > 0 {
            println!("    left out by #[ignore]: {}", tally.ignored);
        }
        parts.push(format!(
            "{} and {} on Linux {release}",
            tally.passed, tally.failed
        ));
    }
    let passed: usize = results.iter().map(|(_, tally)| tally.passed).sum();
    let failed: usize = results.iter().map(|(_, tally)| tally.failed).sum();
    println!("{passed} passed, {failed} failed: {}", parts.join(", "));
    if results.iter().all(|(_, tally)| tally.is_clean()) {
        return Ok(());
    }
    bail!("not everything passed on every kernel")
}
