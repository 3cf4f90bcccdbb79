//! Health and metrics over HTTP, on this machine only.
//!
//! A thread of its own with a runtime of its own: whoever scrapes, however often
//! and however slowly, does not hold up enforcement. Requests are small, answers
//! are made at once, and everything has a limit. There is no TLS and nobody is
//! asked who he is, so it listens on loopback addresses and nowhere else.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use policy_core::diagnostic::{Diagnostic, Severity};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::health::Health;
use super::kernel_metrics::KernelMetrics;

/// Connections at one time; others wait.
const CONNECTIONS: usize = 16;
/// How long a request's headers may take to arrive.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection may last, whatever goes over it.
const CONNECTION: Duration = Duration::from_secs(60);
/// Bytes of a request's head at most.
const HEAD: usize = 8 * 1024;
/// Headers of a request at most.
const HEADER_LINES: usize = 32;
/// How long to wait before trying again to get the address.
const AGAIN: Duration = Duration::from_secs(2);
/// The format of OpenMetrics, which Prometheus reads.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpAddress {
    /// Nowhere.
    Off,
    /// At a loopback address.
    At(SocketAddr),
}

impl Default for HttpAddress {
    /// What an agent in a cluster uses.
    fn default() -> Self {
        Self::At(SocketAddr::from(([127, 0, 0, 1], 9410)))
    }
}

impl FromStr for HttpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let address: SocketAddr = text
            .parse()
            .map_err(|_| format!("{text:?}: write for example 127.0.0.1:9410, or off"))?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "{address} is no loopback address; there is no TLS, so use 127.0.0.1 or [::1], \
                 and a proxy with TLS in front of it to be reached from elsewhere"
            ));
        }
        Ok(Self::At(address))
    }
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Answers {
    health: Health,
    registry: Registry,
    kernel: Mutex<KernelMetrics>,
}

impl Answers {
    pub(super) fn new(health: Health, registry: Registry, kernel: KernelMetrics) -> Self {
        Self {
            health,
            registry,
            kernel: Mutex::new(kernel),
        }
    }

    fn answer(&self, method: &Method, path: &str, now: Instant) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
            let allowed = hyper::header::HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        match path {
            "/healthz" => match self.health.hangs(now) {
                None => text(StatusCode::OK, "ok\n".to_owned()),
                Some(age) => text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("the agent has done nothing for {} s\n", age.as_secs()),
                ),
            },
            "/readyz" => {
                let missing = self.health.missing();
                if missing.is_empty() {
                    text(StatusCode::OK, "ok\n".to_owned())
                } else {
                    text(StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n")
                }
            }
            "/metrics" => self.metrics(now),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /healthz, /readyz and /metrics\n".to_owned(),
            ),
        }
    }

    fn metrics(&self, now: Instant) -> Response<Full<Bytes>> {
        self.kernel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .refresh(now);
        let mut body = String::new();
        match prometheus_client::encoding::text::encode(&mut body, &self.registry) {
            Ok(()) => response(StatusCode::OK, METRICS, body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    response(status, TEXT, body)
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A server that runs until the process ends.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    problem: Arc<Mutex<Option<String>>>,
}

impl Server {
    /// Starts it. An address that cannot be had is tried again and again, and is
    /// no reason not to enforce.
    pub(super) fn start(address: SocketAddr, answers: Answers) -> io::Result<Self> {
        let problem = Arc::new(Mutex::new(None));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let told = problem.clone();
        thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || runtime.block_on(listen(address, Arc::new(answers), &told)))?;
        Ok(Self { address, problem })
    }

    /// Why nobody is answered, if so.
    pub(super) fn problem(&self) -> Option<Diagnostic> {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        problem.as_ref().map(|error| Diagnostic {
            object: format!("http {}", self.address),
            source: None,
            path: String::new(),
            severity: Severity::Error,
            message: format!(
                "nobody can be answered about health and metrics: {error}; it is tried again; \
                 free the address, or choose another with --http-address"
            ),
        })
    }
}

async fn listen(address: SocketAddr, answers: Arc<Answers>, problem: &Mutex<Option<String>>) {
    let tell = |what: Option<String>| {
        *problem.lock().unwrap_or_else(PoisonError::into_inner) = what;
    };
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                tell(Some(error.to_string()));
                tokio::time::sleep(AGAIN).await;
            }
        }
    };
    tell(None);
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answers = answers.clone();
                tokio::spawn(async move {
                    // Whoever asks wrongly, or goes away, is no one's problem.
                    let _ = tokio::time::timeout(CONNECTION, serve(stream, &answers)).await;
                    drop(permit);
                });
            }
            // Too many open files, or the like: somebody has to close some first.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(stream: TcpStream, answers: &Answers) -> Result<(), hyper::Error> {
    let service = service_fn(|request: Request<Incoming>| async move {
        let now = Instant::now();
        let response = answers.answer(request.method(), request.uri().path(), now);
        Ok::<_, Infallible>(response)
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_headers(HEADER_LINES)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

#[cfg(test)]
mod tests;
