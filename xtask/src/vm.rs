//! `vm`: boots the kernels that we promise and runs the kernel's tests inside.
//!
//! ```text
//! kernel: Debian's packages -> root: programs, tests, modules -> machine: qemu
//! ```
//!
//! The running kernel is what `test` is for. A guest has no disk and no network
//! but what the tests make: everything is in its initial RAM disk, and the serial
//! line brings back what the tests print. The guest is emulated, ten times slower
//! than the machine, so tests of speed and load are left to `test`.

mod kernel;
mod machine;
mod root;

use anyhow::{Result, bail};

use crate::{
    build_agent,
    build_ebpf::Variant,
    job::announce,
    setup::{self, Need},
    tally::Tally,
    workspace::Workspace,
};

/// The kernels that we promise beside the newest, oldest first: Debian 12's and 13's.
const KERNELS: [&str; 2] = ["6.1", "6.12"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this
    filter: Option<String>,
    /// Boot this kernel only; may be given more than once
    #[arg(long = "kernel", value_name = "VERSION")]
    kernels: Vec<String>,
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
    let wanted: Vec<&str> = if args.kernels.is_empty() {
        KERNELS.to_vec()
    } else {
        args.kernels.iter().map(String::as_str).collect()
    };
    if args.shell && wanted.len() != 1 {
        bail!(
            "--shell needs one --kernel: which of {}?",
            wanted.join(", ")
        );
    }
    setup::ensure(workspace, Need::Machines)?;
    let agent = build_agent::build(workspace, Variant::Agent)?;
    let tests = root::build_tests(workspace)?;
    let mut failed = Vec::new();
    for version in &wanted {
        let kernel = kernel::fetch(workspace, version)?;
        announce(&format!("vm: Linux {}", kernel.release));
        let image = root::image(workspace, &kernel, &agent, &tests)?;
        if args.shell {
            return machine::shell(&kernel, &image);
        }
        let mut tally = Tally::default();
        let ended = machine::run_tests(&kernel, &image, args.filter.as_deref(), &mut tally)?;
        for name in &tally.failures {
            println!("    failed: {name}");
        }
        println!(
            "Linux {}: {} passed, {} failed",
            kernel.release, tally.passed, tally.failed
        );
        // A guest that stops in the middle has not shown anything.
        if !ended || !tally.is_clean() || tally.passed == 0 {
            failed.push(kernel.release);
        }
    }
    if !failed.is_empty() {
        bail!("not everything passed on Linux {}", failed.join(", "));
    }
    Ok(())
}
