//! What is watched: one feed for each kind of object, and two for pods.
//!
//! Pods of this node have a feed of their own, so that they never wait for a
//! list of all others. The two are disjoint, and a pod without a node is in
//! neither: nothing runs yet, and it has no address.

use kube::core::Request;
use kube::core::params::{ListParams, WatchParams};
use policy_core::store::Kind;

/// Objects of one list, and of the watches that follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feed {
    /// Pods of this node.
    OwnPods,
    /// Pods of every other node.
    OtherPods,
    /// `networking.k8s.io/v1` NetworkPolicies.
    Policies,
    /// Namespaces.
    Namespaces,
    /// Nodes.
    Nodes,
    /// Services.
    Services,
    /// `discovery.k8s.io/v1` EndpointSlices.
    EndpointSlices,
}

/// Objects of a page, where a list comes in pages: what client-go asks for.
const PAGE_OBJECTS: u32 = 500;
/// How long the server is asked to hold a watch, in seconds; client-go asks for
/// 300 to 600. `Pace::idle` finds out about a server that is gone.
const WATCH_SECONDS: u32 = 300;

impl Feed {
    /// Every feed.
    pub const ALL: [Self; 7] = [
        Self::OwnPods,
        Self::OtherPods,
        Self::Policies,
        Self::Namespaces,
        Self::Nodes,
        Self::Services,
        Self::EndpointSlices,
    ];

    /// As `status` and diagnostics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OwnPods => "pods of this node",
            Self::OtherPods => "pods of other nodes",
            _ => self.resource(),
        }
    }

    /// The resource, as roles name it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::OwnPods | Self::OtherPods => "pods",
            Self::Policies => "networkpolicies",
            Self::Namespaces => "namespaces",
            Self::Nodes => "nodes",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
        }
    }

    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::Policies => "networking.k8s.io/v1",
            Self::EndpointSlices => "discovery.k8s.io/v1",
            _ => "v1",
        }
    }

    pub(super) fn api_kind(self) -> &'static str {
        match self {
            Self::OwnPods | Self::OtherPods => "Pod",
            Self::Policies => "NetworkPolicy",
            Self::Namespaces => "Namespace",
            Self::Nodes => "Node",
            Self::Services => "Service",
            Self::EndpointSlices => "EndpointSlice",
        }
    }

    /// The kind as the store knows it.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::OwnPods | Self::OtherPods => Kind::Pod,
            Self::Policies => Kind::Policy(self.api_kind().into()),
            Self::Namespaces => Kind::Namespace,
            Self::Nodes => Kind::Node,
            Self::Services => Kind::Service,
            Self::EndpointSlices => Kind::EndpointSlice,
        }
    }

    fn selector(self, node: &str) -> Option<String> {
        match self {
            Self::OwnPods => Some(format!("spec.nodeName={node}")),
            Self::OtherPods => Some(format!("spec.nodeName!=,spec.nodeName!={node}")),
            _ => None,
        }
    }

    fn path(self) -> Request {
        let version = self.api_version();
        let prefix = if version.contains('/') { "apis" } else { "api" };
        Request::new(format!("/{prefix}/{version}/{}", self.resource()))
    }

    /// The page of a list that is up to date, from the beginning or after the
    /// page that gave `after`. Without a resource version the answer is never
    /// older than what was acknowledged to anybody before the request
    /// (Kubernetes documentation, "Resource versions": "Most Recent"), so a list
    /// cannot take the node back in time.
    pub(super) fn page(self, node: &str, after: Option<&str>) -> http::Request<Vec<u8>> {
        self.list(node, PAGE_OBJECTS, after)
    }

    /// One object of such a list, for the version of the whole.
    pub(super) fn peek(self, node: &str) -> http::Request<Vec<u8>> {
        self.list(node, 1, None)
    }

    fn list(self, node: &str, limit: u32, after: Option<&str>) -> http::Request<Vec<u8>> {
        let params = ListParams {
            field_selector: self.selector(node),
            limit: Some(limit),
            continue_token: after.map(str::to_owned),
            ..ListParams::default()
        };
        built(self.path().list(&params))
    }

    /// The whole list as a stream that goes on as a watch, as up to date as
    /// [`Self::page`] (Kubernetes documentation, "Streaming lists").
    pub(super) fn streaming_list(self, node: &str) -> http::Request<Vec<u8>> {
        let params = WatchParams {
            send_initial_events: true,
            ..self.watching(node)
        };
        built(self.path().watch(&params, ""))
    }

    /// What happens after a version.
    pub(super) fn watch(self, node: &str, version: &str) -> http::Request<Vec<u8>> {
        built(self.path().watch(&self.watching(node), version))
    }

    fn watching(self, node: &str) -> WatchParams {
        WatchParams {
            field_selector: self.selector(node),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            ..WatchParams::default()
        }
    }
}

/// Every part of these requests is either constant or encoded.
fn built(
    request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
) -> http::Request<Vec<u8>> {
    request.unwrap_or_else(|_| http::Request::new(Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(request: &http::Request<Vec<u8>>) -> String {
        request.uri().to_string()
    }

    #[test]
    fn requests_ask_for_what_they_should() {
        assert_eq!(
            uri(&Feed::OwnPods.streaming_list("n1")),
            "/api/v1/pods?&watch=true&timeoutSeconds=300&fieldSelector=spec.nodeName%3Dn1\
             &allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
             &resourceVersion="
        );
        assert_eq!(
            uri(&Feed::OtherPods.page("n1", Some("a=b"))),
            "/api/v1/pods?&fieldSelector=spec.nodeName%21%3D%2Cspec.nodeName%21%3Dn1\
             &limit=500&continue=a%3Db"
        );
        assert_eq!(
            uri(&Feed::Policies.watch("n1", "17")),
            "/apis/networking.k8s.io/v1/networkpolicies?&watch=true&timeoutSeconds=300\
             &allowWatchBookmarks=true&resourceVersion=17"
        );
        assert_eq!(
            uri(&Feed::EndpointSlices.peek("n1")),
            "/apis/discovery.k8s.io/v1/endpointslices?&limit=1"
        );
    }

    #[test]
    fn a_node_name_cannot_add_to_a_request() {
        let request = uri(&Feed::OwnPods.watch("n1&limit=1 #", "1"));
        assert!(
            request.contains("spec.nodeName%3Dn1%26limit%3D1+%23&"),
            "{request}"
        );
    }
}
