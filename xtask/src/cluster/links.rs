//! Which programs are attached to the links of a network namespace, asked of the
//! kernel: `bpftool net` of Debian 12 does not know TCX yet.

use std::fs;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TcAttachType};

/// `programs-on-links`: prints a line for each program on a TCX hook of the
/// network namespace in which this runs.
///
/// # Errors
///
/// When the kernel does not answer.
pub(super) fn print() -> Result<()> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .context("cannot list /sys/class/net")?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    for name in names {
        for (hook, direction) in [
            (TcAttachType::Ingress, "ingress"),
            (TcAttachType::Egress, "egress"),
        ] {
            let (_, programs) = SchedClassifier::query_tcx(&name, hook)
                .with_context(|| format!("cannot ask for the programs of {name}"))?;
            for program in programs {
                println!(
                    "tcx {direction} of {name}: {}",
                    program.name_as_str().unwrap_or("without a name")
                );
            }
        }
    }
    Ok(())
}
