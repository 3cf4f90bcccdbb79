//! Can this node run it: kernel, permissions, and the programs through this
//! kernel's verifier. Data for a table; the words are for a person.

use std::{fs, path::Path};

use aya::{EbpfLoader, VerifierLogLevel};
use policy_common::abi::mark;
use rustix::thread::{CapabilitySet, capabilities};

use super::{
    attach::Backend,
    layout,
    load::DatapathError,
    pin::{self, Hook, Pins},
    programs,
};
use crate::object::NotBuilt;
use crate::others;

/// The oldest kernel that is promised.
const OLDEST: (u32, u32) = (6, 1);

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, and is worth knowing.
    Warning,
    /// It does not work.
    Failed,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it; empty: nothing.
    pub next: String,
}

/// A program that this kernel's verifier took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its name.
    pub name: &'static str,
    /// Instructions that the verifier walked.
    pub verified_instructions: u32,
    /// Size of its machine code, bytes; 0: it is interpreted.
    pub jited_bytes: u32,
    /// Size of its BPF code, bytes.
    pub translated_bytes: u32,
}

/// Everything that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The checks, in order.
    pub checks: Vec<Check>,
    /// The programs; empty where a check says why.
    pub programs: Vec<Verified>,
}

impl Report {
    /// The worst status of all checks.
    #[must_use]
    pub fn status(&self) -> Status {
        let worst = self.checks.iter().map(|check| check.status).max();
        worst.unwrap_or(Status::Ok)
    }
}

/// Looks at everything. Mounts, pins and attaches nothing.
#[must_use]
pub fn preflight(bpffs: &Path, mark_shift: u32, object: &[u8]) -> Report {
    let mut checks = vec![
        kernel(),
        btf(),
        permissions(),
        jit(),
        hook(),
        file_system(bpffs),
        mount_namespace(),
        marks(mark_shift),
    ];
    checks.extend(pinned(bpffs));
    checks.push(others(bpffs));
    let (check, programs) = match verify(object) {
        Ok(programs) => (
            Check::ok("programs", format!("{} pass the verifier", programs.len())),
            programs,
        ),
        Err(error) => (Check::failed("programs", error.to_string(), ""), Vec::new()),
    };
    checks.push(check);
    Report { checks, programs }
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            next: String::new(),
        }
    }

    fn warning(name: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            status: Status::Warning,
            next: next.into(),
            ..Self::ok(name, found)
        }
    }

    fn failed(name: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            status: Status::Failed,
            next: next.into(),
            ..Self::ok(name, found)
        }
    }
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match version(release) {
        Some(version) if version >= OLDEST => Check::ok("kernel", release),
        Some(_) => Check::failed("kernel", release, "use Linux 6.1 or later"),
        None => Check::warning(
            "kernel",
            format!("release '{release}' is not understood"),
            "",
        ),
    }
}

/// Major and minor number of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn btf() -> Check {
    const BTF: &str = "/sys/kernel/btf/vmlinux";
    if Path::new(BTF).exists() {
        Check::ok("kernel types", BTF)
    } else {
        // The programs need no relocation; only tools miss it.
        Check::warning(
            "kernel types",
            format!("no {BTF}"),
            "programs run without it; bpftool may print less",
        )
    }
}

fn permissions() -> Check {
    const NAME: &str = "capabilities";
    let Ok(sets) = capabilities(None) else {
        return Check::warning(NAME, "cannot be read", "");
    };
    let needed = [
        (CapabilitySet::BPF, "CAP_BPF"),
        // The verifier's leave for arithmetic on pointers to packets.
        (CapabilitySet::PERFMON, "CAP_PERFMON"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    ];
    // CAP_SYS_ADMIN stands for the two that were once part of it.
    let admin = sets.effective.contains(CapabilitySet::SYS_ADMIN);
    let missing: Vec<_> = needed
        .into_iter()
        .filter(|(cap, _)| {
            !(sets.effective.contains(*cap) || admin && *cap != CapabilitySet::NET_ADMIN)
        })
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        Check::ok(NAME, "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN")
    } else {
        Check::failed(
            NAME,
            format!("missing: {}", missing.join(", ")),
            "run as root, or give the agent these capabilities",
        )
    }
}

fn jit() -> Check {
    const NAME: &str = "JIT compiler";
    const KNOB: &str = "/proc/sys/net/core/bpf_jit_enable";
    match fs::read_to_string(KNOB) {
        Ok(value) if value.trim() == "0" => Check::warning(
            NAME,
            "off: programs are interpreted, several times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Ok(_) => Check::ok(NAME, "on"),
        // CONFIG_BPF_JIT_ALWAYS_ON in another network namespace hides the knob.
        Err(_) => Check::warning(NAME, format!("{KNOB} cannot be read"), ""),
    }
}

fn hook() -> Check {
    match Backend::best() {
        Backend::Tcx => Check::ok("hook", "TCX"),
        Backend::Clsact => Check::warning(
            "hook",
            "clsact filters: this kernel has no TCX",
            "works; Linux 6.6 and later keep the order of programs by themselves",
        ),
    }
}

fn file_system(bpffs: &Path) -> Check {
    const NAME: &str = "BPF file system";
    if pin::is_bpffs(bpffs) {
        Check::ok(NAME, format!("mounted at {}", bpffs.display()))
    } else {
        Check::warning(
            NAME,
            format!("not mounted at {}", bpffs.display()),
            "the agent mounts it when it starts, with CAP_SYS_ADMIN",
        )
    }
}

fn mount_namespace() -> Check {
    const NAME: &str = "mount namespace";
    match pin::in_private_mount_namespace() {
        Some(false) => Check::ok(NAME, "the node's"),
        Some(true) => Check::warning(
            NAME,
            "a private one: a BPF file system mounted in it goes with its last process, \
             and enforcement with it",
            "share the node's /sys/fs/bpf (in a pod: hostPath with mountPropagation)",
        ),
        None => Check::warning(NAME, "cannot be told", ""),
    }
}

fn marks(shift: u32) -> Check {
    const NAME: &str = "packet marks";
    /// Rules that are shown.
    const SHOWN: usize = 3;
    let mask = mark::mask(shift);
    let (rules, read) = super::marks::foreign(mask);
    if !rules.is_empty() {
        let first: Vec<&str> = rules.iter().take(SHOWN).map(String::as_str).collect();
        return Check::warning(
            NAME,
            format!(
                "{} rules use bits of {mask:#x}: {}",
                rules.len(),
                first.join(" | ")
            ),
            "give the agent 14 other bits: --mark-mask",
        );
    }
    if read {
        Check::ok(NAME, format!("no rule uses {mask:#x}"))
    } else {
        Check::ok(NAME, format!("{mask:#x}; no rules can be read here"))
    }
}

fn pinned(bpffs: &Path) -> Vec<Check> {
    const NAME: &str = "pinned maps";
    let pins = Pins::new(bpffs);
    let layout = match layout::check(&pins) {
        Ok(()) => Check::ok(NAME, "none, or of this version"),
        Err(error) => Check::failed(NAME, error.to_string(), "policy-agent cleanup"),
    };
    let others = pins.other_versions().unwrap_or_default();
    let others = (!others.is_empty()).then(|| {
        let paths: Vec<_> = others
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        Check::warning(
            "other versions",
            format!("pinned at {}", paths.join(", ")),
            "if that version no longer runs: policy-agent cleanup",
        )
    });
    std::iter::once(layout).chain(others).collect()
}

fn others(bpffs: &Path) -> Check {
    const NAME: &str = "other enforcers";
    let found: Vec<_> = others::look(bpffs)
        .into_iter()
        .map(|other| format!("{} ({})", other.name, other.seen))
        .collect();
    if found.is_empty() {
        return Check::ok(NAME, "none seen");
    }
    Check::warning(
        NAME,
        found.join(", "),
        "what either of them denies is denied: switch off policy there, or remove it",
    )
}

/// Loads the programs, with maps of their own that go with them.
///
/// # Errors
///
/// [`DatapathError`]: not built, no permission, or rejected.
pub fn verify(object: &[u8]) -> Result<Vec<Verified>, DatapathError> {
    if object.is_empty() {
        return Err(NotBuilt.into());
    }
    let mut ebpf = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(object)
        .map_err(Box::new)?;
    programs::load_programs(&mut ebpf)?;
    Ok(Hook::ALL
        .into_iter()
        .filter_map(|hook| {
            let info = programs::program_info(&ebpf, hook)?;
            Some(Verified {
                name: hook.program(),
                verified_instructions: info.verified_instruction_count().unwrap_or(0),
                jited_bytes: info.size_jitted(),
                translated_bytes: info.size_translated().unwrap_or(0),
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_understood() {
        assert_eq!(version("6.1.0-28-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("5.14.0-503.el9.x86_64"), Some((5, 14)));
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("odd"), None);
        assert!(Some((6, 12)) > Some(OLDEST));
        assert!(Some((5, 15)) < Some(OLDEST));
    }

    #[test]
    fn object_that_was_not_built_is_a_failed_check_with_the_next_step() {
        let report = preflight(Path::new("/sys/fs/bpf"), mark::DEFAULT_SHIFT, b"");
        assert_eq!(report.status(), Status::Failed);
        let programs = report.checks.iter().find(|c| c.name == "programs").unwrap();
        assert!(
            programs.found.contains("cargo xtask build"),
            "{}",
            programs.found
        );
        assert!(report.programs.is_empty());
    }
}
