//! etcd and kube-apiserver on a lab's node, and asking the latter.
//!
//! They listen inside the lab's network namespace only, and end with the lab.
//! RBAC is on. There are two users, each with a static token: `admin`, who may do
//! everything, and `agent`, who may do what the test grants.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use policy_tests::lab::{Host, Lab, NodeProcess, wait_for};
use serde_json::{Value, json};

/// Starting takes some seconds on an idle machine.
const START: Duration = Duration::from_secs(120);
/// Starting an API server keeps all CPUs busy: one at a time.
static STARTS: Mutex<()> = Mutex::new(());

/// The user that the agent is.
pub(crate) const AGENT: &str = "agent";
/// Who may do everything.
pub(crate) const ADMIN: &str = "admin";

/// A control plane.
pub(crate) struct ControlPlane {
    dir: PathBuf,
    node: Host,
    server: Option<NodeProcess>,
}

/// What the server said: HTTP status and document.
pub(crate) type Answer = (u16, Value);

impl ControlPlane {
    /// Starts it on the lab's node and waits until it is ready.
    pub(crate) fn start(lab: &mut Lab) -> Result<Self> {
        let dir = lab.dir().join("control-plane");
        fs::create_dir(&dir)?;
        let mut plane = Self {
            dir,
            node: lab.node().clone(),
            server: None,
        };
        plane.write_identities()?;
        let mut etcd = Command::new(program("etcd")?);
        etcd.arg("--data-dir").arg(plane.dir.join("etcd")).args([
            "--unsafe-no-fsync",
            "--log-level=warn",
            "--listen-peer-urls=http://127.0.0.1:2380",
        ]);
        lab.spawn_in_node(etcd)?;
        plane.start_server(lab)?;
        Ok(plane)
    }

    fn write_identities(&self) -> Result<()> {
        let made = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(self.dir.join("sa.key"))
            .output()
            .context("run openssl")?;
        ensure!(made.status.success(), "openssl: {made:?}");
        let tokens = format!("{ADMIN},{ADMIN},1,system:masters\n{AGENT},{AGENT},2\n");
        fs::write(self.dir.join("tokens.csv"), tokens)?;
        for user in [ADMIN, AGENT] {
            let config = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {
                    "server": format!("https://{}:6443", self.address()?),
                    "certificate-authority": self.dir.join("certs/apiserver.crt"),
                }}],
                "users": [{"name": "u", "user": {"token": user}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            });
            fs::write(self.kubeconfig(user), config.to_string())?;
        }
        Ok(())
    }

    fn address(&self) -> Result<String> {
        let address = self.node.v4().context("the node has an IPv4 address")?;
        Ok(address.to_string())
    }

    /// How to be this user.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.join(format!("{user}.conf"))
    }

    /// Starts the API server, if it does not run, and waits until it is ready.
    pub(crate) fn start_server(&mut self, lab: &mut Lab) -> Result<()> {
        self.start_server_with(lab, &[])
    }

    /// The same, without a feature that servers may lack.
    pub(crate) fn start_server_without(&mut self, lab: &mut Lab, feature: &str) -> Result<()> {
        self.start_server_with(lab, &[format!("--feature-gates={feature}=false")])
    }

    fn start_server_with(&mut self, lab: &mut Lab, options: &[String]) -> Result<()> {
        let _alone = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut server = Command::new(program("kube-apiserver")?);
        server
            .arg("--cert-dir")
            .arg(self.dir.join("certs"))
            .arg("--token-auth-file")
            .arg(self.dir.join("tokens.csv"))
            .arg("--service-account-key-file")
            .arg(self.dir.join("sa.key"))
            .arg("--service-account-signing-key-file")
            .arg(self.dir.join("sa.key"))
            .arg(format!("--advertise-address={}", self.address()?))
            .args([
                "--etcd-servers=http://127.0.0.1:2379",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112",
                // There is no controller that makes service accounts.
                "--disable-admission-plugins=ServiceAccount",
            ])
            .args(options);
        let server = lab.spawn_in_node(server)?;
        let ready = wait_for("the API server to be ready", START, || {
            let answer = self.ask(ADMIN, "GET", "/readyz", None);
            !server.is_running() || answer.is_ok_and(|(status, _)| status == 200)
        });
        ensure!(
            ready.is_ok() && server.is_running(),
            "{}",
            server.describe()
        );
        self.server = Some(server);
        Ok(())
    }

    /// Kills the API server; what it knows is in etcd.
    pub(crate) fn kill_server(&mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            server.kill()?;
        }
        Ok(())
    }

    /// Asks one question as a user.
    ///
    /// # Errors
    /// When there is no answer; a refusal is one.
    pub(crate) fn ask(
        &self,
        user: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer> {
        let question = (method.to_owned(), path.to_owned(), body.cloned());
        let mut answers = self.ask_all(user, vec![question])?;
        answers.pop().context("an answer")
    }

    /// Asks questions over one connection each, all at once.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) fn ask_all(
        &self,
        user: &str,
        questions: Vec<(String, String, Option<Value>)>,
    ) -> Result<Vec<Answer>> {
        let file = self.kubeconfig(user);
        self.node.netns().run(move || -> Result<Vec<Answer>> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let config = Kubeconfig::read_from(&file)?;
                let options = KubeConfigOptions::default();
                let config = Config::from_custom_kubeconfig(config, &options).await?;
                let client = Client::try_from(config)?;
                let mut waiting = Vec::new();
                for (method, path, body) in questions {
                    waiting.push(tokio::spawn(ask(client.clone(), method, path, body)));
                }
                let mut answers = Vec::new();
                for answer in waiting {
                    answers.push(answer.await??);
                }
                Ok(answers)
            })
        })?
    }

    /// Sends a manifest of one document as `admin`; it must be taken.
    pub(crate) fn create(&self, collection: &str, object: &Value) -> Result<Value> {
        self.must("POST", collection, Some(object))
    }

    /// Changes fields of an object as `admin` (a merge patch).
    pub(crate) fn patch(&self, path: &str, change: &Value) -> Result<Value> {
        self.must("PATCH", path, Some(change))
    }

    /// Deletes an object as `admin`, at once.
    pub(crate) fn delete(&self, path: &str) -> Result<Value> {
        let now = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
        self.must("DELETE", path, Some(&now))
    }

    /// Asks as `admin`; the answer must be yes.
    pub(crate) fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let (status, answer) = self.ask(ADMIN, method, path, body)?;
        ensure!(
            (200..300).contains(&status),
            "{method} {path}: {status} {answer}"
        );
        Ok(answer)
    }
}

async fn ask(client: Client, method: String, path: String, body: Option<Value>) -> Result<Answer> {
    let kind = match &*method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let body = match body {
        // A manifest that is no JSON goes as it is.
        Some(Value::String(yaml)) => yaml.into_bytes(),
        Some(body) => body.to_string().into_bytes(),
        None => Vec::new(),
    };
    let is_yaml = body.first().is_some_and(|first| *first != b'{');
    let request = http::Request::builder()
        .method(&*method)
        .uri(&path)
        .header(
            "content-type",
            if is_yaml { "application/yaml" } else { kind },
        )
        .body(body.into())?;
    let answer = client.send(request).await?;
    let status = answer.status().as_u16();
    let bytes = answer.into_body().collect_bytes().await?;
    let document =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
    Ok((status, document))
}

/// A program of the control plane.
fn program(name: &str) -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = workspace.join("target/cluster/bin").join(name);
    path.canonicalize().with_context(|| {
        format!(
            "{}: build it with `cargo xtask cluster build {name}`",
            path.display()
        )
    })
}
