//! The agent in the cluster, by the manifests that users apply: installed,
//! upgraded, removed, and each of these checked on every node.
//!
//! Which image and overlay are used is said in a kustomization of the lab, as a
//! user's own would say it; nothing in `deploy` is copied or patched.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    lab::{Lab, Settings, write},
    load, node,
    process::wait_for,
};
use crate::{
    image,
    job::{Job, announce, output_of},
    workspace::Workspace,
};

/// The namespace and the name of the shipped DaemonSet.
const NAME: &str = "policy-agent";
/// How long pods may take to be there, or gone, on all nodes.
const ROLLOUT: Duration = Duration::from_secs(180);

/// A way in which the agent is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Overlay {
    WithCniPlugin,
    WithoutCniPlugin,
}

impl Overlay {
    fn folder(self) -> &'static str {
        match self {
            Self::WithCniPlugin => "with-cni-plugin",
            Self::WithoutCniPlugin => "without-cni-plugin",
        }
    }
}

/// Whether an agent is installed, by whomever.
pub(super) fn is_installed(lab: &Lab) -> bool {
    output_of(lab.kubectl(&["get", "namespace", NAME])).is_some()
}

/// Puts an image of the agent `binary` on every node, under a tag.
///
/// # Errors
///
/// When it cannot be written, or a node does not take it.
pub(super) fn load_image(workspace: &Workspace, lab: &Lab, binary: &Path, tag: &str) -> Result<()> {
    announce(&format!("cluster: image {}:{tag}", image::NAME));
    let archive = lab
        .root
        .join("agent")
        .join(format!("policy-agent-{tag}.tar"));
    image::agent_image(workspace, binary, &format!("{}:{tag}", image::NAME))?.write(&archive)?;
    load(lab, &[archive])
}

/// Applies the shipped manifests with the image of a tag, and waits until an
/// agent that says it is well runs on every node.
///
/// # Errors
///
/// When kubectl fails, or the agents do not get ready.
pub(super) fn install(workspace: &Workspace, lab: &Lab, overlay: Overlay, tag: &str) -> Result<()> {
    announce(&format!(
        "cluster: install {}, image {tag}",
        overlay.folder()
    ));
    let folder = kustomization(workspace, lab, overlay.folder(), tag)?;
    kubectl(lab, &["apply", "--kustomize", &folder])?;
    settled(lab)
}

/// Waits until the agent of every node says that all it knows is in force.
///
/// # Errors
///
/// When one does not within a bound.
pub(super) fn settled(lab: &Lab) -> Result<()> {
    rollout(lab)?;
    let pods = output_of(lab.kubectl(&["-n", NAME, "get", "pods", "-o", "name"]));
    let pods = pods.context("the agents' pods cannot be listed")?;
    for pod in pods.lines() {
        let ask = [
            "-n",
            NAME,
            "exec",
            pod,
            "--",
            "/policy-agent",
            "status",
            "--wait",
        ];
        let what = format!("{pod} has everything in force");
        wait_for(&what, ROLLOUT.as_secs(), || {
            output_of(lab.kubectl(&ask)).is_some()
        })?;
    }
    Ok(())
}

/// Deletes the agents' pods; the DaemonSet makes others.
///
/// # Errors
///
/// When kubectl fails.
pub(super) fn delete_pods(lab: &Lab) -> Result<()> {
    kubectl(lab, &["-n", NAME, "delete", "pods", "--all", "--wait"])
}

/// Waits until the DaemonSet is rolled out on every node.
///
/// # Errors
///
/// When it is not within a bound; shows the pods and their logs.
fn rollout(lab: &Lab) -> Result<()> {
    let timeout = format!("--timeout={}s", ROLLOUT.as_secs());
    let daemon_set = format!("daemonset/{NAME}");
    let done = kubectl(
        lab,
        &["-n", NAME, "rollout", "status", &daemon_set, &timeout],
    );
    if done.is_err() {
        // What the reader needs next.
        for ask in [
            &["-n", NAME, "describe", "pods"][..],
            &[
                "-n",
                NAME,
                "logs",
                &daemon_set,
                "--all-containers",
                "--tail=50",
            ][..],
        ] {
            let _shown = lab.kubectl(ask).status();
        }
    }
    done
}

/// A kustomization of an overlay with our image; returns its folder.
fn kustomization(workspace: &Workspace, lab: &Lab, overlay: &str, tag: &str) -> Result<String> {
    let folder = lab.state().join("kustomize").join(overlay);
    // Resources are named relative to the file.
    let up = "../".repeat(folder.components().count() - 1);
    let base = workspace.root.join("deploy/overlays").join(overlay);
    let base = base
        .strip_prefix("/")
        .context("a checkout is at an absolute path")?;
    let text = serde_json::json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [format!("{up}{}", base.display())],
        "images": [{"name": image::NAME, "newTag": tag}],
    });
    write(&folder.join("kustomization.yaml"), &text.to_string())?;
    Ok(folder.display().to_string())
}

/// Removes the agent as `deploy/README.md` says.
///
/// # Errors
///
/// When a step of it fails.
pub(super) fn remove(workspace: &Workspace, lab: &Lab, overlay: Overlay, tag: &str) -> Result<()> {
    announce("cluster: remove the agent");
    let cleanup = kustomization(workspace, lab, "cleanup", tag)?;
    kubectl(lab, &["apply", "--kustomize", &cleanup])?;
    rollout(lab)?;
    let installed = kustomization(workspace, lab, overlay.folder(), tag)?;
    kubectl(lab, &["delete", "--kustomize", &installed, "--wait"])
}

/// Asks the API server whether it would take all manifests.
///
/// # Errors
///
/// When it would not.
pub(super) fn dry_run(workspace: &Workspace, lab: &Lab) -> Result<()> {
    announce("cluster: dry run of the manifests");
    for overlay in overlays(workspace)? {
        let folder = kustomization(workspace, lab, &overlay, env!("CARGO_PKG_VERSION"))?;
        // A namespace that is not there refuses what would be in it.
        let text = output_of(lab.kubectl(&["kustomize", &folder]))
            .with_context(|| format!("kubectl kustomize {folder} fails"))?;
        let namespace = is_installed(lab);
        if !namespace {
            kubectl(lab, &["create", "namespace", NAME])?;
        }
        let file = lab
            .state()
            .join("kustomize")
            .join(format!("{overlay}.yaml"));
        write(&file, &text)?;
        let checked = kubectl(
            lab,
            &[
                "apply",
                "--server-side",
                "--dry-run=server",
                "--validate=strict",
                "--filename",
                &file.display().to_string(),
            ],
        );
        if !namespace {
            kubectl(lab, &["delete", "namespace", NAME, "--wait"])?;
        }
        checked.with_context(|| format!("deploy/overlays/{overlay}"))?;
    }
    Ok(())
}

fn overlays(workspace: &Workspace) -> Result<BTreeSet<String>> {
    let dir = workspace.root.join("deploy/overlays");
    let entries =
        std::fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let names: BTreeSet<String> = entries
        .flatten()
        .filter(|entry| entry.path().join("kustomization.yaml").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    ensure!(!names.is_empty(), "{} holds no overlay", dir.display());
    Ok(names)
}

fn kubectl(lab: &Lab, arguments: &[&str]) -> Result<()> {
    Job::new("kubectl", lab.kubectl(arguments), ROLLOUT * 2)
        .run()
        .with_context(|| format!("kubectl {}", arguments.join(" ")))
}

/// What an agent could leave on the nodes: each line one thing.
pub(super) type Traces = BTreeSet<String>;

/// Programs on links, pins, CNI files and packet filter rules, of every node.
///
/// # Errors
///
/// When a node cannot be asked.
pub(super) fn traces(lab: &Lab, settings: Settings) -> Result<Traces> {
    let own = lab.own_program()?;
    let own = own.to_str().context("this program's path is not UTF-8")?;
    let mut traces = Traces::new();
    for number in settings.nodes() {
        let ask = |program: &str, arguments: &[&str]| -> Result<String> {
            let mut command = node::inside(lab, number, program)?;
            command.args(arguments);
            output_of(command).with_context(|| {
                format!("{program} {} fails on node {number}", arguments.join(" "))
            })
        };
        let mut add = |what: &str, text: &str| {
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            traces.extend(lines.map(|line| format!("node {number}: {what}: {line}")));
        };
        // XDP and the older hooks from bpftool, which does not know TCX.
        add(
            "link",
            &programs_on_links(&ask("bpftool", &["--json", "net"])?)?,
        );
        add("link", &ask(own, &["cluster", "programs-on-links"])?);
        add("pin", &ask("find", &["/sys/fs/bpf", "-mindepth", "1"])?);
        let files = ["-type", "f", "-exec", "sha256sum", "{}", "+"];
        for folder in ["/etc/cni", "/opt/cni"] {
            let arguments: Vec<&str> = [folder].into_iter().chain(files).collect();
            add("file", &ask("find", &arguments)?);
        }
        add("file", &ask("find", &["/run", "-path", "*policy-agent/*"])?);
        add("rule", &ours(&ask("nft", &["list", "ruleset"])?));
        add("rule", &ours(&ask("iptables-save", &[])?));
    }
    Ok(traces)
}

/// The lines of a rule set that could be ours: kube-proxy's own come and go.
fn ours(rules: &str) -> String {
    let named = |line: &&str| line.contains("policy-agent") || line.contains("policy_agent");
    rules.lines().filter(named).collect::<Vec<_>>().join("\n")
}

/// The programs that `bpftool --json net` shows, one a line.
fn programs_on_links(text: &str) -> Result<String> {
    let shown: Value = serde_json::from_str(text).context("bpftool net wrote no JSON")?;
    let sections = shown.as_array().context("bpftool net wrote no list")?;
    let mut lines = Vec::new();
    for section in sections {
        for (kind, programs) in section.as_object().into_iter().flatten() {
            for program in programs.as_array().into_iter().flatten() {
                lines.push(format!("{kind} {program}"));
            }
        }
    }
    Ok(lines.join("\n"))
}

/// Fails unless the agent's programs and pins are seen on every node: what is
/// not seen while it runs would not be missed when it is gone.
///
/// # Errors
///
/// As said; names what is not seen.
pub(super) fn expect_traces(settings: Settings, now: &Traces) -> Result<()> {
    for number in settings.nodes() {
        for what in ["link: tcx", "pin"] {
            let line = format!("node {number}: {what}");
            ensure!(
                now.iter().any(|trace| trace.starts_with(&line)),
                "the agent runs, but nothing of it is seen: {line}"
            );
        }
    }
    Ok(())
}

/// Fails if anything is there now that was not there before the agent.
///
/// # Errors
///
/// As said; names it.
pub(super) fn expect_no_traces(before: &Traces, after: &Traces) -> Result<()> {
    let left: Vec<&str> = after.difference(before).map(String::as_str).collect();
    let lost: Vec<&str> = before.difference(after).map(String::as_str).collect();
    if left.is_empty() && lost.is_empty() {
        println!("    nothing is left on any node, and nothing is missing");
        return Ok(());
    }
    bail!(
        "after the removal nodes are not as they were\nleft behind:\n{}\nmissing:\n{}",
        left.join("\n"),
        lost.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::super::lab::{Cni, KubeProxy};
    use super::*;

    fn set(lines: &[&str]) -> Traces {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn what_is_left_and_what_is_missing_are_both_named() {
        let before = set(&["a", "b"]);
        assert!(expect_no_traces(&before, &before).is_ok());
        let error = expect_no_traces(&before, &set(&["b", "c"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("left behind:\nc\n"), "{text}");
        assert!(text.ends_with("missing:\na"), "{text}");
    }

    #[test]
    fn traces_that_cannot_be_seen_are_an_error() {
        let settings = Settings {
            nodes: 1,
            cni: Cni::Bridge,
            kube_proxy: KubeProxy::Iptables,
        };
        let pin = "node 1: pin: /sys/fs/bpf/policy-agent";
        let seen = set(&["node 1: link: tcx ingress of a: from_pod", pin]);
        assert!(expect_traces(settings, &seen).is_ok());
        assert!(expect_traces(settings, &set(&[pin])).is_err());
    }

    #[test]
    fn programs_of_every_kind_are_found() {
        let text = r#"[{"xdp":[],"tc":[{"devname":"eth0","id":7}],"flow_dissector":[],"netfilter":[{"id":8}]}]"#;
        let found = programs_on_links(text).unwrap();
        assert_eq!(found.lines().count(), 2, "{found}");
        assert!(found.contains(r#"tc {"devname":"eth0","id":7}"#), "{found}");
        assert!(programs_on_links("no JSON").is_err());
    }
}
