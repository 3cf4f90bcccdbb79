//! Objects as users and kubelets write them, and where they live on the server.

use anyhow::{Context, Result};
use policy_tests::lab::Host;
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::node::NODE;

/// A collection of a namespace.
pub(crate) fn in_namespace(namespace: &str, kind: &str) -> String {
    match kind {
        "networkpolicies" => {
            format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies")
        }
        _ => format!("/api/v1/namespaces/{namespace}/{kind}"),
    }
}

/// `namespace`, `name`.
pub(crate) fn split(name: &str) -> Result<(&str, &str)> {
    name.split_once('/').context("namespace/name")
}

impl ControlPlane {
    pub(crate) fn create_namespace(&self, name: &str, labels: &Value) -> Result<()> {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": labels},
        });
        self.create("/api/v1/namespaces", &object)?;
        Ok(())
    }

    pub(crate) fn create_node(&self, name: &str, addresses: &[String]) -> Result<()> {
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        self.create("/api/v1/nodes", &object)?;
        let addresses: Vec<Value> = addresses
            .iter()
            .map(|address| json!({"type": "InternalIP", "address": address}))
            .collect();
        let status = json!({"status": {"addresses": addresses}});
        self.patch(&format!("/api/v1/nodes/{name}/status"), &status)?;
        Ok(())
    }

    /// A pod on a node, as the scheduler leaves it: without addresses.
    pub(crate) fn create_pod(&self, pod: &str, node: &str, labels: &Value) -> Result<()> {
        let (namespace, name) = split(pod)?;
        let object = pod_object(name, node, labels);
        self.create(&in_namespace(namespace, "pods"), &object)?;
        Ok(())
    }

    /// The questions of [`Self::run_pod`], to be asked with others.
    pub(crate) fn running(host: &Host, labels: &Value) -> Result<(Asked, Asked)> {
        let (namespace, name) = split(host.name())?;
        let pods = in_namespace(namespace, "pods");
        let addresses: Vec<String> = host.addresses().iter().map(ToString::to_string).collect();
        let path = format!("{pods}/{name}/status");
        let created = Some(pod_object(name, NODE, labels));
        Ok((
            ("POST".to_owned(), pods, created),
            ("PATCH".to_owned(), path, Some(running_status(&addresses))),
        ))
    }

    /// Gives a pod its addresses, as its kubelet does.
    pub(crate) fn set_addresses(&self, pod: &str, addresses: &[String]) -> Result<()> {
        let (namespace, name) = split(pod)?;
        let path = format!("{}/{name}/status", in_namespace(namespace, "pods"));
        self.patch(&path, &running_status(addresses))?;
        Ok(())
    }

    /// A pod of this node that runs in the lab.
    pub(crate) fn run_pod(&self, host: &Host, labels: &Value) -> Result<()> {
        self.create_pod(host.name(), NODE, labels)?;
        let addresses: Vec<String> = host.addresses().iter().map(ToString::to_string).collect();
        self.set_addresses(host.name(), &addresses)
    }

    pub(crate) fn label_pod(&self, pod: &str, labels: &Value) -> Result<()> {
        let (namespace, name) = split(pod)?;
        let path = format!("{}/{name}", in_namespace(namespace, "pods"));
        self.patch(&path, &json!({"metadata": {"labels": labels}}))?;
        Ok(())
    }

    pub(crate) fn delete_pod(&self, pod: &str) -> Result<()> {
        let (namespace, name) = split(pod)?;
        self.delete(&format!("{}/{name}", in_namespace(namespace, "pods")))?;
        Ok(())
    }

    /// A policy that isolates pods with `app` for ingress and lets `peers` in.
    pub(crate) fn create_policy(&self, policy: &str, app: &str, peers: &Value) -> Result<()> {
        let (namespace, name) = split(policy)?;
        let collection = in_namespace(namespace, "networkpolicies");
        self.create(&collection, &policy_object(name, app, peers))?;
        Ok(())
    }

    /// Lets other peers in.
    pub(crate) fn change_policy(&self, policy: &str, peers: &Value) -> Result<()> {
        let (namespace, name) = split(policy)?;
        let path = format!("{}/{name}", in_namespace(namespace, "networkpolicies"));
        self.patch(&path, &json!({"spec": {"ingress": [{"from": peers}]}}))?;
        Ok(())
    }

    pub(crate) fn delete_policy(&self, policy: &str) -> Result<()> {
        let (namespace, name) = split(policy)?;
        self.delete(&format!(
            "{}/{name}",
            in_namespace(namespace, "networkpolicies")
        ))?;
        Ok(())
    }
}

/// Method, path and body.
pub(crate) type Asked = (String, String, Option<Value>);

/// As [`ControlPlane::create_pod`].
fn pod_object(name: &str, node: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "c", "image": "none", "ports": [
                {"name": "web", "containerPort": 80}]}],
        },
    })
}

/// As [`ControlPlane::set_addresses`].
fn running_status(addresses: &[String]) -> Value {
    let listed: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({"status": {
        "phase": "Running", "podIP": addresses.first(), "podIPs": listed}})
}

/// As [`ControlPlane::create_policy`].
pub(crate) fn policy_object(name: &str, app: &str, peers: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "podSelector": {"matchLabels": {"app": app}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": peers}],
        },
    })
}
