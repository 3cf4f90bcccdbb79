//! `setup`: finds the tools that the other tasks need and installs what is missing.
//!
//! Found once and quickly when all is there, so every task calls [`ensure`].
//! Installing knows Debian's packages, bpf-linker by `cargo install`, and
//! rustup's components; on another system it says what to install. It says what
//! it does before it does it, and never removes a package.

use std::{env, fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    go, host,
    job::{Job, announce, output_of},
    toolchain::{self, BpfToolchain, Compiler},
    workspace::Workspace,
};

/// The LLVM that bpf-linker is built with: the one of Debian's rustc.
const LLVM: u32 = 22;
/// The bpf-linker that the programs are known to link with.
const LINKER_VERSION: &str = "0.13.0";
/// Debian's Rust for browsers, which follows upstream's releases closely.
const RUST_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];
/// The cargo-deny that reads deny.toml.
const DENY_VERSION: &str = "0.20.2";
/// What compiling bpf-linker takes besides a Rust toolchain.
const LINKER_PACKAGES: [&str; 4] = [
    "llvm-22-dev",
    "libpolly-22-dev",
    "build-essential",
    "pkg-config",
];
/// Programs that tests and demo call, and Debian's packages of them.
const RUN_TOOLS: [(&str, &str); 4] = [
    ("ip", "iproute2"),
    ("bpftool", "bpftool"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
];
/// What compiling the tests takes besides Rust, and Debian's packages of it:
/// libFuzzer is C++.
const COMPILE_TOOLS: [(&str, &str); 1] = [("c++", "g++")];
/// What the tests call besides, and Debian's packages of it. Go is apart.
const TEST_TOOLS: [(&str, &str); 4] = [
    ("nft", "nftables"),
    ("tc", "iproute2"),
    ("openssl", "openssl"),
    ("setpriv", "util-linux"),
];
/// What booting other kernels takes, and Debian's packages of it.
const MACHINE_TOOLS: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("find", "findutils"),
    ("strip", "binutils"),
    ("dpkg-deb", "dpkg"),
];
/// What the nodes of the cluster run besides what is built from Go, and Debian's
/// packages of it. CNI plugins are not on the PATH, so one is looked for by path.
const CLUSTER_TOOLS: [(&str, &str); 8] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("openssl", "openssl"),
    ("gcc", "build-essential"),
];
/// Parts of the host's toolchain that check the source, and rustup's components.
const COMPONENTS: [(&str, &str); 2] = [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")];

const UPDATE_LIMIT: Duration = Duration::from_secs(5 * 60);
const PACKAGES_LIMIT: Duration = Duration::from_secs(20 * 60);
const COMPILE_LIMIT: Duration = Duration::from_secs(20 * 60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what is there and what is missing
    #[arg(long)]
    check: bool,
}

/// What a task is about to do; each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Compile.
    Build,
    /// Run in network namespaces.
    Run,
    /// Check the source.
    Check,
    /// Run all tests.
    Test,
    /// Boot other kernels.
    Machines,
}

/// Something that is not there.
struct Lack {
    what: String,
    remedy: Remedy,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Remedy {
    /// Debian's packages of these names.
    Packages(&'static [&'static str]),
    Package(&'static str),
    /// `cargo install bpf-linker`, and the packages that takes.
    Linker,
    /// `cargo install cargo-deny`.
    Deny,
    /// A Go toolchain, by any Go.
    Go,
    Component(&'static str),
}

/// The task `setup`.
///
/// # Errors
///
/// When something is missing and is not to be installed, or cannot be.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    announce("setup");
    if args.check {
        let lacks = lacks(Need::Machines);
        for lack in &lacks {
            println!("    missing: {}", lack.what);
        }
        report();
        if lacks.is_empty() {
            return Ok(());
        }
        bail!("something is missing; to install it: cargo xtask setup");
    }
    ensure(workspace, Need::Machines)?;
    report();
    Ok(())
}

/// Makes sure that what a task needs is there, and returns the BPF toolchain.
///
/// # Errors
///
/// When something is missing and cannot be installed; says what to do by hand.
pub(crate) fn ensure(workspace: &Workspace, need: Need) -> Result<BpfToolchain> {
    let missing = lacks(need);
    if !missing.is_empty() {
        announce("setup: installing what is missing");
        for lack in &missing {
            println!("    missing: {}", lack.what);
        }
        install(workspace, &missing)?;
        let still = lacks(need);
        if let Some(lack) = still.first() {
            bail!("setup installed all it knows, but still: {}", lack.what);
        }
    }
    let compiler = Compiler::find().map_err(|why| anyhow::anyhow!(why.join("; ")))?;
    let linker = toolchain::linker().context("bpf-linker does not start")?;
    Ok(BpfToolchain { compiler, linker })
}

/// The programs that the tests call.
pub(crate) fn programs_of_tests() -> impl Iterator<Item = &'static str> {
    let tools = RUN_TOOLS.into_iter().chain(TEST_TOOLS);
    tools.map(|(program, _)| program)
}

/// Makes sure that what a cluster's nodes run is there.
///
/// # Errors
///
/// When something is missing and cannot be installed; says what to do by hand.
pub(crate) fn ensure_cluster(workspace: &Workspace) -> Result<()> {
    let lacks = || -> Vec<Lack> {
        let tools = RUN_TOOLS.iter().chain(&CLUSTER_TOOLS);
        let tools = tools
            .filter(|(program, _)| host::find(program).is_none())
            .map(|(program, package)| Lack {
                what: (*program).to_owned(),
                remedy: Remedy::Package(package),
            });
        tools.chain(go_lack()).collect()
    };
    let missing = lacks();
    if missing.is_empty() {
        return Ok(());
    }
    announce("setup: installing what the cluster lacks");
    install(workspace, &missing)?;
    match lacks().first() {
        Some(lack) => bail!("setup installed all it knows, but still: {}", lack.what),
        None => Ok(()),
    }
}

/// Prints what will be used.
fn report() {
    if let Ok(compiler) = Compiler::find() {
        println!("    BPF compiler: {compiler}");
        match compiler.clippy() {
            Some(_) => println!("    BPF clippy: with it"),
            None => println!("    BPF clippy: none, lint will only compile the programs"),
        }
    }
    if let Some(linker) = toolchain::linker() {
        let mut version = Command::new(&linker);
        version.arg("--version");
        let version = output_of(version).unwrap_or_default();
        println!("    BPF linker: {}, {}", linker.display(), version.trim());
    }
    let tools = RUN_TOOLS.iter().chain(&COMPONENTS);
    let tools = tools.map(|(program, _)| *program).chain(["cargo-deny"]);
    let found: Vec<String> = tools
        .filter_map(host::find)
        .map(|path| path.display().to_string())
        .collect();
    println!("    tools: {}", found.join(" "));
}

/// What is missing for a task.
fn lacks(need: Need) -> Vec<Lack> {
    let mut lacks = Vec::new();
    let mut lack = |what: String, remedy| lacks.push(Lack { what, remedy });
    match Compiler::find() {
        Ok(_) => {}
        Err(why) => lack(
            format!("a Rust compiler for BPF ({})", why.join("; ")),
            Remedy::Packages(&RUST_PACKAGES),
        ),
    }
    if toolchain::linker().is_none() {
        lack("bpf-linker".to_owned(), Remedy::Linker);
    }
    if need >= Need::Run {
        for (program, package) in RUN_TOOLS {
            if host::find(program).is_none() {
                lack(program.to_owned(), Remedy::Package(package));
            }
        }
    }
    if need >= Need::Test {
        for (program, package) in TEST_TOOLS {
            if host::find(program).is_none() {
                lack(program.to_owned(), Remedy::Package(package));
            }
        }
        if let Some(Lack { what, remedy }) = go_lack() {
            lack(what, remedy);
        }
    }
    if need >= Need::Machines {
        for (program, package) in MACHINE_TOOLS {
            if host::find(program).is_none() {
                lack(program.to_owned(), Remedy::Package(package));
            }
        }
    }
    if need >= Need::Check {
        for (program, package) in COMPILE_TOOLS {
            if host::find(program).is_none() {
                lack(program.to_owned(), Remedy::Package(package));
            }
        }
        for (program, component) in COMPONENTS {
            if !starts(program) {
                lack(program.to_owned(), Remedy::Component(component));
            }
        }
        if !starts("cargo-deny") {
            lack("cargo-deny".to_owned(), Remedy::Deny);
        }
    }
    lacks
}

/// Go, if there is none that is new enough.
fn go_lack() -> Option<Lack> {
    go::find().is_none().then(|| Lack {
        what: "Go 1.24 or later".to_owned(),
        remedy: Remedy::Go,
    })
}

/// Whether a program starts: rustup leaves one of each name, also without the component.
fn starts(program: &str) -> bool {
    host::find(program).is_some_and(|path| {
        let mut probe = Command::new(path);
        probe.arg("--version");
        output_of(probe).is_some()
    })
}

fn install(workspace: &Workspace, missing: &[Lack]) -> Result<()> {
    let compiler = Remedy::Packages(&RUST_PACKAGES);
    if toolchain::is_chosen() && missing.iter().any(|lack| lack.remedy == compiler) {
        bail!(
            "the compiler that POLICY_BPF_TOOLCHAIN, POLICY_BPF_CARGO or POLICY_BPF_RUSTC chooses \
             will not do, see above (a rustup toolchain needs: rustup component add rust-src \
             --toolchain NAME); without these variables setup chooses"
        );
    }
    let packages = packages(missing);
    if !packages.is_empty() {
        install_packages(workspace, &packages)?;
    }
    for lack in missing {
        match lack.remedy {
            Remedy::Linker => install_linker(workspace)?,
            Remedy::Deny => install_deny(workspace)?,
            Remedy::Go => go::fetch(workspace)?,
            Remedy::Component(component) => add_component(component)?,
            Remedy::Packages(_) | Remedy::Package(_) => {}
        }
    }
    Ok(())
}

/// All Debian packages that the missing things are in, each once.
fn packages(missing: &[Lack]) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for lack in missing {
        match lack.remedy {
            Remedy::Packages(names) => packages.extend(names),
            Remedy::Package(name) => packages.push(name),
            Remedy::Linker => packages.extend(LINKER_PACKAGES),
            Remedy::Go if go::any().is_none() => packages.push("golang-go"),
            Remedy::Go | Remedy::Deny | Remedy::Component(_) => {}
        }
    }
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn install_packages(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if host::find("apt-get").is_none() || !is_debian() {
        bail!(
            "this is not Debian, so setup does not know the packages here. Install what Debian \
             has as: {list}. For the BPF toolchain, rustup does as well: `rustup toolchain \
             install nightly --component rust-src` and `cargo install bpf-linker`"
        );
    }
    update_lists(workspace)?;
    println!("    apt-get install {list}");
    let mut install = apt("install")?;
    install
        .args(["--no-install-recommends", "--no-remove"])
        .args(packages);
    Job::new("apt-get install", install, PACKAGES_LIMIT)
        .log_to(workspace.log("apt-install"))
        .run()
        .context("apt-get could not install the packages; nothing else was changed")
}

/// Brings Debian's package lists up to date, as far as their sources answer.
///
/// # Errors
///
/// When this may not be done here.
pub(crate) fn update_lists(workspace: &Workspace) -> Result<()> {
    println!("    apt-get update");
    let update = Job::new("apt-get update", apt("update")?, UPDATE_LIMIT)
        .log_to(workspace.log("apt-update"))
        .run();
    // One of the user's other sources may not answer; the lists may do as they are.
    if let Err(error) = update {
        println!("    {error:#}; going on with the package lists that are there");
    }
    Ok(())
}

/// An apt-get that asks nothing and may change the system.
fn apt(verb: &str) -> Result<Command> {
    let mut command = if host::is_root() {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    } else if host::find("sudo").is_some() {
        println!("    with sudo, which may ask for a password");
        let mut command = Command::new("sudo");
        command.args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        command
    } else {
        bail!("apt-get {verb} needs root, and there is no sudo; run it as root");
    };
    command.args(["--quiet", "--yes", verb]);
    Ok(command)
}

fn is_debian() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| is_debian_like(&text))
}

/// Whether `os_release` (man 5 os-release) is Debian's or a derivative's.
fn is_debian_like(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| {
            line.strip_prefix("ID=")
                .or_else(|| line.strip_prefix("ID_LIKE="))
        })
        .flat_map(|value| value.trim_matches('"').split(' '))
        .any(|id| id == "debian")
}

fn install_linker(workspace: &Workspace) -> Result<()> {
    if let Ok(compiler) = Compiler::system()
        && compiler.llvm() > LLVM
    {
        bail!(
            "{compiler} is newer than the LLVM {LLVM} that setup builds bpf-linker with; \
             raise LLVM in xtask/src/setup.rs"
        );
    }
    println!("    cargo install bpf-linker {LINKER_VERSION}, with LLVM {LLVM}: about a minute");
    let mut cargo = workspace.cargo();
    cargo
        .args(["install", "bpf-linker", "--locked", "--force"])
        .args(["--version", LINKER_VERSION])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{LLVM}"))
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM}"));
    Job::new("cargo install bpf-linker", cargo, COMPILE_LIMIT)
        .log_to(workspace.log("bpf-linker"))
        .run()
}

fn install_deny(workspace: &Workspace) -> Result<()> {
    println!("    cargo install cargo-deny {DENY_VERSION}: about two minutes");
    let mut cargo = workspace.cargo();
    cargo
        .args(["install", "cargo-deny", "--locked", "--force"])
        .args(["--version", DENY_VERSION]);
    Job::new("cargo install cargo-deny", cargo, COMPILE_LIMIT)
        .log_to(workspace.log("cargo-deny"))
        .run()
}

fn add_component(component: &str) -> Result<()> {
    let Some(rustup) = host::find("rustup") else {
        bail!("{component} is missing, and there is no rustup; install your system's package");
    };
    println!("    rustup component add {component}");
    let mut command = Command::new(rustup);
    command.args(["component", "add", component]);
    if let Some(name) = env::var_os("RUSTUP_TOOLCHAIN") {
        command.arg("--toolchain").arg(name);
    }
    Job::new("rustup component add", command, UPDATE_LIMIT).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_what_derives_from_it_are_told_from_others() {
        assert!(is_debian_like("PRETTY_NAME=\"Debian\"\nID=debian\n"));
        assert!(is_debian_like("ID=mint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian_like("ID=fedora\nNAME=\"not debian\"\n"));
    }

    #[test]
    fn each_package_is_installed_once() {
        let lack = |remedy| Lack {
            what: String::new(),
            remedy,
        };
        let missing = [
            lack(Remedy::Package("iproute2")),
            lack(Remedy::Linker),
            lack(Remedy::Package("iproute2")),
            lack(Remedy::Component("clippy")),
        ];
        assert_eq!(
            packages(&missing),
            [
                "build-essential",
                "iproute2",
                "libpolly-22-dev",
                "llvm-22-dev",
                "pkg-config"
            ]
        );
    }

    #[test]
    fn the_packages_are_of_the_llvm_that_the_linker_is_built_with() {
        assert!(LINKER_PACKAGES.contains(&format!("llvm-{LLVM}-dev").as_str()));
        assert!(LINKER_PACKAGES.contains(&format!("libpolly-{LLVM}-dev").as_str()));
    }
}
