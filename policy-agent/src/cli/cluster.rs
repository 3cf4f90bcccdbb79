//! `status --cluster`: asks the agent of every node, with the user's own rights.
//!
//! Agents listen on their own node only, so each is asked by running
//! `policy-agent status` in its pod, through the API server. What the answers
//! mean together is `rollout`'s.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, ListParams, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use super::output::{Format, columns, print};
use super::rollout::{Answer, Has, Line, compare, verdict};
use super::{DONE, NO, UNDECIDED, USAGE};
use crate::api::{Status, Version};

/// Agents that are asked at one time.
const AT_ONCE: usize = 16;
/// Bytes of an answer at most.
const LONGEST: u64 = 64 << 20;
/// How long to wait before all are asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Arguments of `status --cluster`.
#[derive(Debug, Args)]
pub(super) struct ClusterArgs {
    /// Ask the agents of all nodes instead of this node's: do all of them have
    /// what the API server has? Uses the rights of the kubeconfig, among them to
    /// create pods/exec in the agent's namespace.
    #[arg(long, env = "POLICY_AGENT_CLUSTER")]
    pub(super) cluster: bool,
    /// Ask about this NetworkPolicy only: namespace/name.
    #[arg(
        long,
        env = "POLICY_AGENT_POLICY",
        value_name = "POLICY",
        requires = "cluster"
    )]
    policy: Option<String>,
    /// How to reach the API server; without it as kubectl does.
    #[arg(long, env = "POLICY_AGENT_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the agent's pods.
    #[arg(
        long,
        env = "POLICY_AGENT_AGENT_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "policy-agent"
    )]
    agent_namespace: String,
    /// Labels of the agent's pods.
    #[arg(
        long,
        env = "POLICY_AGENT_AGENT_SELECTOR",
        value_name = "SELECTOR",
        default_value = "app.kubernetes.io/name=policy-agent"
    )]
    agent_selector: String,
    /// The agent's container, which has /policy-agent.
    #[arg(
        long,
        env = "POLICY_AGENT_AGENT_CONTAINER",
        value_name = "NAME",
        default_value = "policy-agent"
    )]
    agent_container: String,
}

/// `status --cluster`.
pub(super) fn status(
    args: &ClusterArgs,
    wait: bool,
    timeout: Duration,
    format: Format,
) -> anyhow::Result<u8> {
    if let Some(policy) = &args.policy
        && policy.split_once('/').is_none()
    {
        eprintln!("policy-agent: --policy: write namespace/name");
        return Ok(USAGE);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let lines = runtime.block_on(async {
        let client = connect(args).await?;
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let lines = once(&client, args, left).await?;
            if !wait || verdict(&lines) == Has::Yes || Instant::now() + AGAIN >= end {
                return anyhow::Ok(lines);
            }
            tokio::time::sleep(AGAIN).await;
        }
    })?;
    print(format, &lines, |lines| table(lines))?;
    Ok(match verdict(&lines) {
        Has::Yes => DONE,
        Has::No if wait => UNDECIDED,
        Has::No => NO,
        Has::Unknown => UNDECIDED,
    })
}

fn table(lines: &[Line]) -> String {
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let has = match line.in_force {
                Has::Yes => "yes",
                Has::No => "NO",
                Has::Unknown => "?",
            };
            vec![line.node.clone(), has.to_owned(), line.why.join("; ")]
        })
        .collect();
    columns(&["NODE", "IN FORCE", "WHY"], &rows)
}

async fn connect(args: &ClusterArgs) -> anyhow::Result<Client> {
    let config = match &args.kubeconfig {
        Some(file) => {
            let text = Kubeconfig::read_from(file)?;
            Config::from_custom_kubeconfig(text, &KubeConfigOptions::default()).await?
        }
        None => Config::infer()
            .await
            .context("no cluster is known; name a --kubeconfig")?,
    };
    Ok(Client::try_from(config)?)
}

/// Asks everybody once.
async fn once(client: &Client, args: &ClusterArgs, left: Duration) -> anyhow::Result<Vec<Line>> {
    // What is wanted is read before the agents are asked: they may only have more.
    let wanted = wanted(client, args).await?;
    let mut nodes: BTreeMap<String, Answer> = BTreeMap::new();
    match items(client, "/api/v1/nodes").await {
        Ok(all) => {
            let names = all.iter().filter_map(|node| text(node, "/metadata/name"));
            nodes.extend(names.map(|name| (name, Answer::NoAgent)));
        }
        // Then those are told of which have an agent.
        Err(error) => eprintln!("policy-agent: nodes cannot be listed: {error:#}"),
    }
    let path = format!("/api/v1/namespaces/{}/pods", args.agent_namespace);
    let selected = ListParams::default().labels(&args.agent_selector);
    let pods = list(client, Request::new(path).list(&selected)?).await?;
    let mut waiting = pods.into_iter();
    let mut asked = JoinSet::new();
    loop {
        while asked.len() < AT_ONCE
            && let Some(pod) = waiting.next()
        {
            let (client, namespace) = (client.clone(), args.agent_namespace.clone());
            let container = args.agent_container.clone();
            asked.spawn(async move {
                let node = text(&pod, "/spec/nodeName")?;
                let name = text(&pod, "/metadata/name")?;
                let answer = ask(client, &namespace, &name, &container);
                let answer = match tokio::time::timeout(left, answer).await {
                    Ok(Ok(status)) => Answer::Status(Box::new(status)),
                    Ok(Err(error)) => Answer::Silent(format!("pod {name}: {error:#}")),
                    Err(_) => Answer::Silent(format!("pod {name} does not answer in time")),
                };
                Some((node, answer))
            });
        }
        match asked.join_next().await {
            None => break,
            Some(answered) => {
                let Some((node, answer)) = answered.context("a task that asks")? else {
                    continue;
                };
                // While pods are replaced a node has two; the one that answers counts.
                let known = nodes.get(&node);
                if !matches!(known, Some(Answer::Status(_))) {
                    nodes.insert(node, answer);
                }
            }
        }
    }
    if nodes.is_empty() {
        bail!(
            "there is no agent: no pod in namespace {} has the labels {}",
            args.agent_namespace,
            args.agent_selector
        );
    }
    Ok(compare(&wanted, args.policy.is_none(), &nodes))
}

/// The policies that the API server has.
async fn wanted(client: &Client, args: &ClusterArgs) -> anyhow::Result<BTreeMap<String, Version>> {
    const API: &str = "/apis/networking.k8s.io/v1";
    let objects = match args.policy.as_deref().and_then(|name| name.split_once('/')) {
        None => items(client, &format!("{API}/networkpolicies")).await?,
        Some((namespace, name)) => {
            let path = format!("{API}/namespaces/{namespace}/networkpolicies/{name}");
            vec![get(client, &path).await?]
        }
    };
    let named = objects.iter().filter_map(|object| {
        let namespace = text(object, "/metadata/namespace")?;
        let name = text(object, "/metadata/name")?;
        let version = crate::source::version::Version::of(object);
        Some((format!("{namespace}/{name}"), Version::from(&version)))
    });
    Ok(named.collect())
}

/// Runs `status` in an agent's pod.
async fn ask(
    client: Client,
    namespace: &str,
    pod: &str,
    container: &str,
) -> anyhow::Result<Status> {
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let how = AttachParams::default()
        .container(container)
        .stdin(false)
        .stdout(true)
        .stderr(true);
    let command = ["/policy-agent", "status", "-o", "json"];
    let mut process = pods.exec(pod, command, &how).await?;
    let (mut out, mut err) = (Vec::new(), String::new());
    let stdout = process.stdout().context("the process has no output")?;
    let stderr = process.stderr().context("the process has no errors")?;
    let (mut stdout, mut stderr) = (stdout.take(LONGEST), stderr.take(LONGEST));
    // A status that is not well is one too: the exit code does not matter.
    let (read_out, read_err) = tokio::join!(
        stdout.read_to_end(&mut out),
        stderr.read_to_string(&mut err)
    );
    read_out?;
    if out.is_empty() {
        read_err?;
        bail!("{}", err.trim().trim_start_matches("policy-agent: "));
    }
    serde_json::from_slice(&out).context("its status is not understood: is it another version?")
}

async fn get(client: &Client, path: &str) -> anyhow::Result<Value> {
    let request = http::Request::get(path).body(Vec::new())?;
    Ok(client.request(request).await?)
}

async fn items(client: &Client, path: &str) -> anyhow::Result<Vec<Value>> {
    list(client, http::Request::get(path).body(Vec::new())?).await
}

async fn list(client: &Client, request: http::Request<Vec<u8>>) -> anyhow::Result<Vec<Value>> {
    let mut answer: Value = client.request(request).await?;
    match answer.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => Ok(items),
        _ => bail!("the API server's answer is no list"),
    }
}

fn text(object: &Value, pointer: &str) -> Option<String> {
    let text = object.pointer(pointer)?.as_str()?;
    Some(text.to_owned())
}

#[cfg(test)]
mod tests;
