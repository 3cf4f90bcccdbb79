//! The way to the API server: where it is, who we are, and asking it.
//!
//! Address, certificates and token are read again whenever the server does not
//! take the token: tokens of service accounts live an hour, and a restored or
//! moved control plane signs with other keys.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::wire::Refusal;

/// Where the API server is described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// In the environment and the service account's folder of this pod.
    InCluster,
    /// In this file.
    Kubeconfig(PathBuf),
}

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// Bytes of a refusal that are read.
const REFUSAL_BYTES: usize = 64 << 10;

/// Why the server did not give what was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It could not be asked, or stopped answering.
    Unreachable(String),
    /// It does not know us; the credentials were read again.
    Unauthorized,
    /// It said no.
    Refused(Refusal),
    /// What it sent is no answer.
    Garbage(String),
}

/// A client that can be made anew.
pub(crate) struct Connection {
    access: Access,
    client: RefCell<Option<(u64, Client)>>,
    made: RefCell<u64>,
}

impl Connection {
    pub(crate) fn new(access: Access) -> Self {
        Self {
            access,
            client: RefCell::new(None),
            made: RefCell::new(0),
        }
    }

    async fn client(&self) -> Result<(u64, Client), Failure> {
        if let Some(client) = &*self.client.borrow() {
            return Ok(client.clone());
        }
        let mut config = self.config().await.map_err(Failure::Unreachable)?;
        config.connect_timeout = Some(CONNECT);
        // How long to wait before the next try is decided in one place.
        config.default_retry = false;
        let client =
            Client::try_from(config).map_err(|error| Failure::Unreachable(describe(&error)))?;
        let mut made = self.made.borrow_mut();
        *made += 1;
        *self.client.borrow_mut() = Some((*made, client.clone()));
        Ok((*made, client))
    }

    async fn config(&self) -> Result<Config, String> {
        match &self.access {
            Access::InCluster => Config::incluster().map_err(|error| {
                format!(
                    "{}; run it in a pod with a service account, or name a --kubeconfig",
                    describe(&error)
                )
            }),
            Access::Kubeconfig(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| describe(&error))?;
                let config =
                    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
                config.map_err(|error| format!("{}: {}", path.display(), describe(&error)))
            }
        }
    }

    /// Asks, and gives the body of an answer that is not a refusal.
    pub(crate) async fn get(&self, request: http::Request<Vec<u8>>) -> Result<Body, Failure> {
        let (number, client) = self.client().await?;
        let answer = client.send(request.map(Body::from)).await;
        let answer = answer.map_err(|error| Failure::Unreachable(describe(&error)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.into_body());
        }
        if status == StatusCode::UNAUTHORIZED {
            let mut current = self.client.borrow_mut();
            if current.as_ref().is_some_and(|(made, _)| *made == number) {
                *current = None;
            }
            return Err(Failure::Unauthorized);
        }
        let mut body = answer.into_body();
        let mut text = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            if text.len() > REFUSAL_BYTES {
                break;
            }
        }
        Err(Failure::Refused(Refusal::read(status.as_u16(), &text)))
    }
}

/// An error with its causes: the first one alone seldom says anything.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
