//! A connection to the API server that stays open, so that what is timed is the
//! server's answer and no start of a process.

use anyhow::{Context, Result, ensure};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::lab::now_ns;

/// The administrator's connection.
pub(super) struct Api {
    runtime: Runtime,
    client: Client,
}

/// A change that the server took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// When it was asked for.
    pub(super) asked_ns: u64,
    /// When the head of its answer was there.
    pub(super) answered_ns: u64,
}

impl Api {
    /// Connects to the server that `KUBECONFIG` names.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub(super) fn open() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(async {
            let config = Config::from_kubeconfig(&KubeConfigOptions::default()).await;
            let mut config = config.context("read the file that KUBECONFIG names")?;
            // A refusal or a lost answer is to be seen.
            config.default_retry = false;
            Client::try_from(config).context("make a client of the API server")
        })?;
        Ok(Self { runtime, client })
    }

    /// Asks one question; a refusal is an answer.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value, Times)> {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let text = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(text.into())?;
        self.runtime.block_on(async {
            let asked_ns = now_ns();
            let answer = self.client.send(request).await;
            let answered_ns = now_ns();
            let answer = answer.with_context(|| format!("{method} {path}"))?;
            let status = answer.status().as_u16();
            let bytes = answer.into_body().collect_bytes().await?;
            let times = Times {
                asked_ns,
                answered_ns,
            };
            Ok((status, serde_json::from_slice(&bytes)?, times))
        })
    }

    fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(Value, Times)> {
        let (status, answer, times) = self.ask(method, path, body)?;
        ensure!(
            (200..300).contains(&status),
            "{method} {path}: {status} {answer}"
        );
        Ok((answer, times))
    }

    /// Creates an object in a collection.
    ///
    /// # Errors
    /// When the server does not take it.
    pub(super) fn create(&self, collection: &str, object: &Value) -> Result<Times> {
        Ok(self.must("POST", collection, Some(object))?.1)
    }

    /// Changes an object by a merge patch.
    ///
    /// # Errors
    /// When the server does not take it.
    pub(super) fn patch(&self, path: &str, change: &Value) -> Result<Times> {
        Ok(self.must("PATCH", path, Some(change))?.1)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// When the server does not.
    pub(super) fn delete(&self, path: &str) -> Result<Times> {
        Ok(self.must("DELETE", path, None)?.1)
    }

    /// Reads an object or a collection; nothing if there is none.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) fn get(&self, path: &str) -> Result<Option<Value>> {
        let (status, answer, _) = self.ask("GET", path, None)?;
        if status == 404 {
            return Ok(None);
        }
        ensure!(status == 200, "GET {path}: {status} {answer}");
        Ok(Some(answer))
    }
}
