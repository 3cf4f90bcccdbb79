//! The control plane: etcd, API server, controller manager, scheduler.
//!
//! They run in the namespace that is also the switch, with one static token for
//! each of the users that RBAC and the node authorizer know by name. What runs
//! already is left running, and what has ended is started again.

use std::{
    fs::{self, File},
    io::Read as _,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    lab::{CONTROL, Lab, MAX_NODES, SERVICE_RANGE, node_name, write},
    process::{self, wait_for},
};
use crate::job::{Job, output_of};

const PORT: u16 = 6443;

/// Starts what is not running and waits until the API answers.
///
/// # Errors
///
/// When a component does not start, or the API server does not get ready.
pub(super) fn start(lab: &Lab) -> Result<()> {
    identities(lab)?;
    let state = lab.state();
    let path = |name: &str| state.join(name).display().to_string();
    component(
        lab,
        "etcd",
        &[
            ("--data-dir", &path("etcd")),
            ("--log-level", "warn"),
            // The data goes when the cluster does.
            ("--unsafe-no-fsync", "true"),
        ],
    )?;
    component(
        lab,
        "kube-apiserver",
        &[
            ("--etcd-servers", "http://127.0.0.1:2379"),
            ("--bind-address", "0.0.0.0"),
            ("--secure-port", &PORT.to_string()),
            ("--advertise-address", &CONTROL.to_string()),
            ("--cert-dir", &path("certificates")),
            ("--service-cluster-ip-range", SERVICE_RANGE),
            ("--allow-privileged", "true"),
            ("--authorization-mode", "Node,RBAC"),
            ("--token-auth-file", &path("tokens.csv")),
            // Nodes' names are in no DNS.
            ("--kubelet-preferred-address-types", "InternalIP"),
            ("--service-account-issuer", "https://kubernetes.default.svc"),
            ("--service-account-key-file", &path("accounts.key")),
            ("--service-account-signing-key-file", &path("accounts.key")),
        ],
    )?;
    wait_for("the API server is ready", 90, || {
        output_of(lab.kubectl(&["get", "--raw", "/readyz"])).is_some()
    })
    .with_context(|| format!("see {}", lab.log("kube-apiserver").display()))?;
    component(
        lab,
        "kube-controller-manager",
        &[
            ("--kubeconfig", &path("controller-manager.kubeconfig")),
            ("--leader-elect", "false"),
            ("--use-service-account-credentials", "true"),
            ("--service-account-private-key-file", &path("accounts.key")),
            // Signed by itself, so it is its own authority: pods get it as such.
            ("--root-ca-file", &path("certificates/apiserver.crt")),
        ],
    )?;
    component(
        lab,
        "kube-scheduler",
        &[
            ("--kubeconfig", &path("scheduler.kubeconfig")),
            ("--leader-elect", "false"),
        ],
    )
}

/// Starts a component in the background, unless it runs.
fn component(lab: &Lab, name: &str, options: &[(&str, &str)]) -> Result<()> {
    let program = lab.bin(name);
    let netns = lab.control_ns();
    if process::inside(&netns).iter().any(|p| p.runs(&program)) {
        return Ok(());
    }
    let inner = lab.in_control(&program);
    let arguments = options.iter().map(|(key, value)| format!("{key}={value}"));
    // In a session of its own: Ctrl-C and a closed terminal are not for it.
    let mut command = Command::new("setsid");
    command
        .arg(inner.get_program())
        .args(inner.get_args())
        .args(arguments);
    background(command, lab, name).map(drop)
}

/// Starts a command whose output goes to a log of the lab; returns its id.
///
/// # Errors
///
/// When it cannot be started.
pub(super) fn background(mut command: Command, lab: &Lab, name: &str) -> Result<i32> {
    let path = lab.log(name);
    let folder = path.parent().context("a log is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let log = File::options()
        .append(true)
        .create(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot share the log")?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    i32::try_from(child.id()).context("a process id is positive")
}

/// Keys, tokens and the files with which components log in; made once.
fn identities(lab: &Lab) -> Result<()> {
    let state = lab.state();
    let tokens = state.join("tokens.csv");
    if tokens.exists() {
        return Ok(());
    }
    let key = state.join("accounts.key");
    let mut openssl = Command::new("openssl");
    openssl
        .args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt"])
        .args(["rsa_keygen_bits:2048", "-out"])
        .arg(key);
    Job::new("openssl", openssl, Duration::from_secs(60)).run()?;

    let mut users = vec![
        (lab.kubeconfig(), "admin".to_owned(), "system:masters"),
        (
            state.join("controller-manager.kubeconfig"),
            "system:kube-controller-manager".to_owned(),
            "",
        ),
        (
            state.join("scheduler.kubeconfig"),
            "system:kube-scheduler".to_owned(),
            "",
        ),
        (
            state.join("proxy.kubeconfig"),
            "system:kube-proxy".to_owned(),
            "",
        ),
    ];
    users.extend((1..=MAX_NODES).map(|node| {
        let name = node_name(node);
        let file = state.join(format!("{name}.kubeconfig"));
        (file, format!("system:node:{name}"), "system:nodes")
    }));
    let mut lines = String::new();
    for (file, user, groups) in users {
        let token = token()?;
        lines += &format!("{token},{user},{user},\"{groups}\"\n");
        write(&file, &kubeconfig(lab, &token))?;
    }
    write(&tokens, &lines)
}

fn kubeconfig(lab: &Lab, token: &str) -> String {
    let authority = lab.state().join("certificates/apiserver.crt");
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {
            "server": format!("https://{CONTROL}:{PORT}"),
            "certificate-authority": authority,
        }}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
        "current-context": "lab",
    })
    .to_string()
}

/// 128 random bits in hexadecimal digits.
fn token() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
