//! Finds a Rust toolchain that can compile for the kernel's BPF machine.
//!
//! That takes three things: a rustc that accepts `-Z build-std` (a nightly, or
//! any with `RUSTC_BOOTSTRAP=1`), its standard library's source, and bpf-linker.
//! A nightly of rustup with `rust-src` is taken where the user has one, else
//! what Debian packages under /usr. Environment variables override the choice:
//! `POLICY_BPF_TOOLCHAIN` (`system`, or a rustup toolchain's name),
//! `POLICY_BPF_CARGO` and `POLICY_BPF_RUSTC` (the system's, by default
//! /usr/bin/cargo and /usr/bin/rustc) and `POLICY_BPF_LINKER`.
//! Installing is left to `setup`.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{host, job::output_of};

/// The value of `POLICY_BPF_TOOLCHAIN` that means the system's toolchain.
const SYSTEM: &str = "system";
/// Variables that cargo and rustup set for `cargo xtask` itself and that would
/// lead another toolchain astray.
const INHERITED: [&str; 10] = [
    "CARGO",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// A compiler, without a linker.
pub(crate) struct Compiler {
    origin: Origin,
    version: Version,
}

enum Origin {
    Rustup { rustup: PathBuf, name: String },
    System { cargo: PathBuf, rustc: PathBuf },
}

/// All that compiling for the kernel takes.
pub(crate) struct BpfToolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

impl Compiler {
    /// The compiler to use: the user's nightly, else the system's.
    ///
    /// # Errors
    ///
    /// Why no compiler will do: one line for each place that was looked at.
    pub(crate) fn find() -> Result<Self, Vec<String>> {
        let wanted = env::var("POLICY_BPF_TOOLCHAIN").ok();
        let mut why = Vec::new();
        for (rustup, name) in rustup_toolchains() {
            let considered = match wanted.as_deref() {
                Some(wanted) => wanted != SYSTEM && is_named(&name, wanted),
                None => name.starts_with("nightly"),
            };
            if !considered {
                continue;
            }
            match Self::check(Origin::Rustup { rustup, name }) {
                Ok(compiler) => return Ok(compiler),
                Err(reason) => why.push(reason),
            }
        }
        match wanted.as_deref() {
            None | Some(SYSTEM) => Self::system().map_err(|reason| {
                why.push(reason);
                why
            }),
            Some(wanted) => {
                if why.is_empty() {
                    why.push(format!(
                        "POLICY_BPF_TOOLCHAIN is {wanted}, but rustup has no such toolchain"
                    ));
                }
                Err(why)
            }
        }
    }

    /// The system's compiler.
    ///
    /// # Errors
    ///
    /// Why it will not do.
    pub(crate) fn system() -> Result<Self, String> {
        let path = |variable: &str, default: &str| {
            env::var_os(variable).map_or_else(|| PathBuf::from(default), PathBuf::from)
        };
        Self::check(Origin::System {
            cargo: path("POLICY_BPF_CARGO", "/usr/bin/cargo"),
            rustc: path("POLICY_BPF_RUSTC", "/usr/bin/rustc"),
        })
    }

    fn check(origin: Origin) -> Result<Self, String> {
        let ask = |argument: &[&str]| {
            let mut command = origin.command("rustc");
            command.args(argument);
            output_of(command)
        };
        let version = ask(&["-vV"])
            .and_then(|text| Version::parse(&text))
            .ok_or_else(|| format!("{origin}: there is no rustc"))?;
        let oldest = Version::oldest();
        if version < oldest {
            return Err(format!(
                "{origin}: rustc is {version}, {oldest} or later is needed"
            ));
        }
        let sysroot = ask(&["--print", "sysroot"]).unwrap_or_default();
        let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if !source.exists() {
            return Err(format!(
                "{origin}: the standard library's source is not there ({})",
                source.display()
            ));
        }
        if output_of({
            let mut cargo = origin.command("cargo");
            cargo.arg("--version");
            cargo
        })
        .is_none()
        {
            return Err(format!("{origin}: there is no cargo"));
        }
        Ok(Self { origin, version })
    }

    /// The major version of the LLVM that writes the bitcode; bpf-linker's must
    /// not be older.
    pub(crate) fn llvm(&self) -> u32 {
        self.version.llvm
    }

    /// This toolchain's cargo, ready for `-Z build-std`.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = self.origin.command("cargo");
        if let Origin::System { rustc, .. } = &self.origin {
            command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    /// This toolchain's `cargo clippy`, if it has one.
    pub(crate) fn clippy(&self) -> Option<Command> {
        match &self.origin {
            Origin::Rustup { .. } => {
                let mut probe = self.origin.command("cargo-clippy");
                probe.arg("--version");
                output_of(probe)?;
                let mut command = self.cargo();
                command.arg("clippy");
                Some(command)
            }
            // Called by its path: `cargo clippy` would find rustup's first.
            Origin::System { cargo, rustc } => {
                let clippy = cargo.with_file_name("cargo-clippy");
                clippy.exists().then(|| {
                    let mut command = clean(Command::new(clippy));
                    command.arg("clippy");
                    command.env("CARGO", cargo).env("RUSTC", rustc);
                    command.env("RUSTC_BOOTSTRAP", "1");
                    command
                })
            }
        }
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, version } = self;
        write!(f, "{origin}, rustc {version}, LLVM {}", version.llvm)
    }
}

impl Origin {
    fn command(&self, tool: &str) -> Command {
        clean(match self {
            Self::Rustup { rustup, name } => {
                let mut command = Command::new(rustup);
                command.args(["run", name, tool]);
                command
            }
            Self::System { cargo, .. } if tool == "cargo" => Command::new(cargo),
            Self::System { rustc, .. } => Command::new(rustc),
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup { name, .. } => write!(f, "rustup's {name}"),
            Self::System { cargo, .. } => write!(f, "{}", cargo.display()),
        }
    }
}

/// Whether the user chose a compiler, which `setup` then has no say in.
pub(crate) fn is_chosen() -> bool {
    let chosen = |variable| env::var_os(variable).is_some();
    chosen("POLICY_BPF_CARGO")
        || chosen("POLICY_BPF_RUSTC")
        || env::var("POLICY_BPF_TOOLCHAIN").is_ok_and(|name| name != SYSTEM)
}

/// bpf-linker, where one is installed and starts.
pub(crate) fn linker() -> Option<PathBuf> {
    let path = match env::var_os("POLICY_BPF_LINKER") {
        Some(path) => PathBuf::from(path),
        None => host::find("bpf-linker")?,
    };
    // It does not start when the LLVM library that it was linked to has gone.
    let mut probe = Command::new(&path);
    probe.arg("--version");
    output_of(probe).map(|_version| path)
}

/// A command that does not see what cargo and rustup told `cargo xtask`.
fn clean(mut command: Command) -> Command {
    for variable in INHERITED {
        command.env_remove(variable);
    }
    command
}

/// Rustup and the names of its toolchains, if there is a rustup.
fn rustup_toolchains() -> Vec<(PathBuf, String)> {
    let Some(rustup) = host::find("rustup") else {
        return Vec::new();
    };
    let mut command = clean(Command::new(&rustup));
    command.args(["toolchain", "list"]);
    output_of(command)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|name| (rustup.clone(), name.to_owned()))
        .collect()
}

/// Whether `name`, as rustup lists it, is the toolchain that a user calls
/// `wanted`: the host's triple may be left out.
fn is_named(name: &str, wanted: &str) -> bool {
    name.strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-') == Some(&host_triple()))
}

fn host_triple() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// A rustc's release, and the major version of its LLVM.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
    llvm: u32,
}

impl Version {
    /// The oldest rustc that reads the workspace: its `rust-version`.
    fn oldest() -> Self {
        let text = format!(
            "release: {}\nLLVM version: 0.0",
            env!("CARGO_PKG_RUST_VERSION")
        );
        Self::parse(&text).expect("the workspace's rust-version is a version")
    }

    /// Reads the output of `rustc -vV`.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let mut release = field("release")?.split('.');
        Some(Self {
            major: release.next()?.parse().ok()?,
            minor: release.next()?.parse().ok()?,
            llvm: field("LLVM version")?.split('.').next()?.parse().ok()?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        let text =
            "rustc 1.96.0-nightly (x 2026-04-01)\nrelease: 1.96.0-nightly\nLLVM version: 22.1.8\n";
        let version = Version::parse(text).unwrap();
        assert_eq!((version.major, version.minor, version.llvm), (1, 96, 22));
        assert!(version >= Version::oldest());
        let old = Version::parse("release: 1.63.0\nLLVM version: 14.0.6").unwrap();
        assert!(old < Version::oldest());
        assert_eq!(Version::parse("release: soon"), None);
    }

    #[test]
    fn a_toolchain_may_be_named_without_its_triple() {
        let full = format!("nightly-2026-05-01-{}", host_triple());
        assert!(is_named(&full, "nightly-2026-05-01"));
        assert!(is_named(&full, &full));
        assert!(!is_named(&full, "nightly"));
    }
}
