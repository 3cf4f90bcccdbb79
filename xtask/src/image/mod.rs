//! `image`: the agent's container image, made without a container engine.
//!
//! It holds one static binary and the licences: no shell, no libraries, nothing
//! to update but the agent. The binary is the one that `build` compiles, linked
//! statically to glibc: the agent opens no shared library and asks no name
//! service when it talks to an address. How an archive is written is in `archive`.

pub(crate) mod archive;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use object::elf;

use crate::{
    build_agent::BUILD_LIMIT,
    build_ebpf::{self, Variant},
    job::{Job, announce},
    setup::{self, Need},
    workspace::Workspace,
};
use archive::Image;

/// The name in the shipped manifests: one that is pulled from nowhere.
pub(crate) const NAME: &str = "localhost/policy-agent";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Registry and path of the image
    #[arg(long, default_value = NAME)]
    name: String,
    /// Tag of the image
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// The archive to write [default: target/container/policy-agent.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The task `image`.
///
/// # Errors
///
/// When the agent does not compile, is not static, or cannot be written.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    setup::ensure(workspace, Need::Build)?;
    let binary = static_agent(workspace)?;
    let out = match &args.output {
        Some(path) => path.clone(),
        None => default_output(workspace),
    };
    let image = agent_image(workspace, &binary, &format!("{}:{}", args.name, args.tag))?;
    image.write(&out)?;
    println!(
        "    {} is in {}, for example for: ctr -n k8s.io images import, podman load -i, docker load -i",
        image.name,
        workspace.shown(&out)
    );
    Ok(())
}

/// Where the archive is if nobody says otherwise.
pub(crate) fn default_output(workspace: &Workspace) -> PathBuf {
    workspace.target.join("container/policy-agent.tar")
}

/// The image of the agent `binary` under the name `reference`.
///
/// # Errors
///
/// When a file for it cannot be read.
pub(crate) fn agent_image(workspace: &Workspace, binary: &Path, reference: &str) -> Result<Image> {
    let mut image = Image {
        name: reference.to_owned(),
        entrypoint: vec!["/policy-agent".to_owned()],
        arguments: vec!["run".to_owned()],
        ..Image::default()
    };
    image.program("policy-agent", binary)?;
    for licence in [
        "LICENSE",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "LICENSE-GPL-2.0",
    ] {
        let path = workspace.root.join(licence);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        image
            .files
            .insert(format!("licenses/{licence}"), (text, 0o644));
    }
    let label = |name: &str| format!("org.opencontainers.image.{name}");
    image.labels = [
        (label("title"), "policy-agent"),
        (label("version"), env!("CARGO_PKG_VERSION")),
        (label("licenses"), "Apache-2.0 OR MIT"),
        (
            label("description"),
            "Kubernetes network policy, enforced by eBPF",
        ),
    ]
    .map(|(key, value)| (key, value.to_owned()))
    .into();
    Ok(image)
}

/// Compiles the programs and the static agent, and returns the agent's path.
///
/// # Errors
///
/// When they do not compile, or the result needs a library at run time.
pub(crate) fn static_agent(workspace: &Workspace) -> Result<PathBuf> {
    build_ebpf::build(workspace, Variant::Agent)?;
    static_program(workspace, "policy-agent", "policy-agent")
}

/// Compiles a program of a package for an image without libraries, and returns
/// its path.
///
/// # Errors
///
/// As [`static_agent`].
pub(crate) fn static_program(
    workspace: &Workspace,
    package: &str,
    program: &str,
) -> Result<PathBuf> {
    announce(&format!("build: {program}, static"));
    let mut cargo = workspace.cargo();
    cargo
        .args(["build", "--profile", "image", "--package", package])
        .args(["--bin", program, "--target", &target()])
        // Above RUSTFLAGS and configuration, which must not undo it. The paths
        // of this machine are no business of the binary.
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(workspace).join("\x1f"));
    Job::new("build", cargo, BUILD_LIMIT).run()?;
    let binary = static_path(workspace, program);
    let bytes = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    ensure!(
        !needs_libraries(&bytes)?,
        "{} is not static: a dependency links a shared library",
        binary.display()
    );
    Ok(binary)
}

/// Where [`static_program`] leaves a program.
pub(crate) fn static_path(workspace: &Workspace, program: &str) -> PathBuf {
    workspace.target.join(target()).join("image").join(program)
}

fn target() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

fn rustflags(workspace: &Workspace) -> Vec<String> {
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    let mut hide = |path: &Path, shown: &str| {
        flags.push(format!("--remap-path-prefix={}={shown}", path.display()));
    };
    if let Some(home) = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
    {
        hide(&home, "/cargo");
    }
    // The last one that fits counts.
    hide(&workspace.root, "/policy-agent");
    flags
}

/// Whether an ELF file asks for an interpreter, which would look for libraries.
fn needs_libraries(elf: &[u8]) -> Result<bool> {
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(elf)
        .context("it is not a 64-bit ELF file")?;
    let endian = file.endian();
    let mut headers = file.elf_program_headers().iter();
    Ok(headers.any(|header| header.p_type.get(endian) == elf::PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_with_an_interpreter_is_not_static() {
        // This test itself is linked as binaries usually are.
        let own = fs::read(env::current_exe().unwrap()).unwrap();
        assert!(needs_libraries(&own).unwrap());
        assert!(needs_libraries(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn the_image_holds_the_agent_and_the_licences_only() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let workspace = Workspace {
            root: root.to_path_buf(),
            target: root.join("target"),
        };
        let binary = root.join("LICENSE-MIT");
        let image = agent_image(&workspace, &binary, "localhost/policy-agent:1").unwrap();
        let files: Vec<&str> = image.files.keys().map(String::as_str).collect();
        let expected = [
            "licenses/LICENSE",
            "licenses/LICENSE-APACHE",
            "licenses/LICENSE-GPL-2.0",
            "licenses/LICENSE-MIT",
            "policy-agent",
        ];
        assert_eq!(files, expected);
        assert_eq!(image.files["policy-agent"].1, 0o755);
    }
}
