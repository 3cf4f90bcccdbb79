//! `image`: the agent's container image, made without a container engine.
//!
//! It holds one static binary and the licences: no shell, no libraries, nothing
//! to update but the agent. The binary is the one that `build` compiles and the
//! tests run. How an archive is written is in `archive`.

pub(crate) mod archive;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    build_agent,
    build_ebpf::Variant,
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
    let binary = build_agent::build(workspace, Variant::Agent)?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
