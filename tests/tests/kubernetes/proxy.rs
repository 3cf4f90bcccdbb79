//! A server between the agent and the API server that has bad days when the test
//! says so. It hands everything on as it is, but for one fault at a time.
//!
//! It speaks HTTP/1.1 without TLS, a request a connection; to the API server it
//! is the agent, so that the agent's role is what counts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use http_body_util::BodyExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use policy_tests::lab::Host;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is wrong. Whatever is under way when that changes ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Nobody answers: connections end at once.
    Away,
    /// 401 to everything.
    Unauthorized,
    /// 410 to every watch, so that there are only lists.
    Expired,
    /// The same, and lists stop half-way and stay open.
    SlowLists,
    /// The same, and lists end half-way.
    CutLists,
    /// The rules of policies do not decode.
    Spoilt,
}

/// Ends with its value.
pub(crate) struct Proxy {
    kubeconfig: PathBuf,
    fault: watch::Sender<Fault>,
    faults: Arc<AtomicU64>,
}

impl Proxy {
    /// Starts it on the node; `agent` says how to be the agent, and in `dir` it
    /// leaves how to be so through it.
    pub(crate) fn start(node: &Host, agent: &Path, dir: &Path) -> Result<Self> {
        let (fault, current) = watch::channel(Fault::None);
        let faults = Arc::new(AtomicU64::new(0));
        let (agent, count) = (agent.to_owned(), faults.clone());
        let address = node.netns().run(|| -> Result<SocketAddr> {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            // A thread begins in the namespace of the one that starts it.
            std::thread::Builder::new()
                .name("proxy".to_owned())
                .spawn(move || {
                    if let Err(error) = run(listener, &agent, current, &count) {
                        eprintln!("proxy: {error:#}");
                    }
                })?;
            Ok(address)
        })??;
        let kubeconfig = dir.join("proxy.conf");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "u", "user": {"token": "any"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(&kubeconfig, config.to_string())?;
        Ok(Self {
            kubeconfig,
            fault,
            faults,
        })
    }

    /// How to reach the API server through it.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// From now on this is wrong.
    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// How many requests a fault has met.
    pub(crate) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }
}

fn run(
    listener: std::net::TcpListener,
    agent: &Path,
    mut fault: watch::Receiver<Fault>,
    faults: &Arc<AtomicU64>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let config = Kubeconfig::read_from(agent)?;
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(config, &options).await?;
        config.read_timeout = None;
        let client = Client::try_from(config)?;
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = tokio::select! {
                accepted = listener.accept() => accepted?,
                // The test has ended when nobody can say that anything is wrong.
                () = ended(&mut fault) => return Ok(()),
            };
            let exchange = Exchange {
                client: client.clone(),
                fault: fault.clone(),
                faults: faults.clone(),
            };
            tokio::spawn(async move {
                // That an end of it has gone away is what the test is about.
                let _ended = exchange.serve(stream).await;
            });
        }
    })
}

async fn ended(fault: &mut watch::Receiver<Fault>) {
    while fault.changed().await.is_ok() {}
}

/// A request and its answer.
struct Exchange {
    client: Client,
    fault: watch::Receiver<Fault>,
    faults: Arc<AtomicU64>,
}

impl Exchange {
    async fn serve(mut self, mut stream: TcpStream) -> Result<()> {
        let (method, path, kind, body) = read_request(&mut stream).await?;
        let fault = *self.fault.borrow_and_update();
        let lists = !path.contains("watch=true") || path.contains("sendInitialEvents=true");
        let only_lists = matches!(fault, Fault::Expired | Fault::SlowLists | Fault::CutLists);
        let refused = match fault {
            Fault::Away => {
                self.met();
                return Ok(());
            }
            Fault::Unauthorized => Some((401, "Unauthorized")),
            _ if only_lists && !lists => Some((410, "Expired")),
            _ => None,
        };
        if let Some((code, reason)) = refused {
            self.met();
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "the test says so", "reason": reason, "code": code,
            });
            let text = format!("{}{status}", head(code));
            stream.write_all(text.as_bytes()).await?;
            return Ok(());
        }
        let request = http::Request::builder()
            .method(method.as_str())
            .uri(path)
            .header("content-type", kind)
            .body(body.into())?;
        let answer = self.client.send(request).await?;
        let code = answer.status().as_u16();
        stream.write_all(head(code).as_bytes()).await?;
        let mut body = answer.into_body();
        let mut rest = Vec::new();
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                _ = self.fault.changed() => return Ok(()),
            };
            let Some(frame) = frame else {
                break;
            };
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            match fault {
                Fault::SlowLists | Fault::CutLists => {
                    self.met();
                    stream.write_all(&data[..data.len() / 2]).await?;
                    if fault == Fault::SlowLists {
                        let _ended = self.fault.changed().await;
                    }
                    return Ok(());
                }
                Fault::Spoilt => {
                    rest.extend_from_slice(&data);
                    let lines = rest.iter().rposition(|byte| *byte == b'\n');
                    let lines: Vec<u8> = rest.drain(..lines.map_or(0, |at| at + 1)).collect();
                    stream.write_all(&self.spoil(&lines)).await?;
                }
                _ => stream.write_all(&data).await?,
            }
        }
        stream.write_all(&self.spoil(&rest)).await?;
        Ok(())
    }

    fn met(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// Rules are a word where a list has to be.
    fn spoil(&self, text: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(text);
        let spoilt = text.replace("\"ingress\":[", "\"ingress\":\"everything\",\"was\":[");
        if spoilt != text {
            self.met();
        }
        spoilt.into_bytes()
    }
}

fn head(code: u16) -> String {
    format!("HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
}

/// Method, path, type of the body, body.
async fn read_request(stream: &mut TcpStream) -> Result<(String, String, String, Vec<u8>)> {
    let mut text = Vec::new();
    let end = loop {
        let found = text.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        if let Some(at) = found {
            break at + 4;
        }
        let read = stream.read_buf(&mut text).await?;
        anyhow::ensure!(read > 0, "a request without an end");
    };
    let mut body = text.split_off(end);
    let head = String::from_utf8(text)?;
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let method = words.next().context("a method")?.to_owned();
    let path = words.next().context("a path")?.to_owned();
    let header = |name: &str| {
        let mut all = head.lines().filter_map(|line| line.split_once(": "));
        all.find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map_or(String::new(), |(_, value)| value.to_owned())
    };
    let length: usize = header("content-length").parse().unwrap_or_default();
    while body.len() < length {
        let read = stream.read_buf(&mut body).await?;
        anyhow::ensure!(read > 0, "a body without an end");
    }
    Ok((method, path, header("content-type"), body))
}
