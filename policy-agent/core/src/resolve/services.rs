//! Where the addresses of Services lead.
//!
//! Says what kube-proxy does, as it looks from a pod: of the endpoints that it
//! would choose from, all. An endpoint is used when it is ready; where none is,
//! those that serve while they end. `internalTrafficPolicy: Local` leaves the
//! endpoints of the pod's own node; `externalTrafficPolicy: Local` leaves all,
//! since pods are sent on as if they had asked the cluster address. Hints about
//! zones are not looked at: they choose among the same endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::desired::{Backend, Backends, Frontend};
use crate::model::{EndpointSlice, Service, ServicePort, SliceEndpoint};
use crate::store::Store;

/// The addresses and ports of a Service, and where they lead from `node`.
pub fn frontends(
    store: &Store,
    service: &Service,
    node: &str,
) -> BTreeMap<Frontend, Arc<Backends>> {
    let slices: Vec<_> = store.slices_of(&service.key()).collect();
    let local = service.internal_local.then_some(node);
    let mut all: BTreeMap<Frontend, Arc<Backends>> = BTreeMap::new();
    for port in &service.ports {
        for (addresses, on) in [(&service.cluster_ips, local), (&service.external_ips, None)] {
            // Of IPv4, of IPv6: the same for every address.
            let mut leads: [Option<Arc<Backends>>; 2] = [None, None];
            for address in addresses {
                let v6 = address.is_ipv6();
                let backends = leads[usize::from(v6)]
                    .get_or_insert_with(|| Arc::new(backends(&slices, port, v6, on)));
                let frontend = Frontend {
                    address: *address,
                    protocol: port.protocol,
                    port: port.port,
                };
                let known = all.entry(frontend).or_insert_with(|| backends.clone());
                if known != backends {
                    Arc::make_mut(known).extend(backends.iter());
                }
            }
        }
    }
    all
}

/// Where one port of a Service leads, for one IP version; `on`: only to the
/// endpoints of this node.
pub fn behind(
    store: &Store,
    service: &Service,
    port: &ServicePort,
    v6: bool,
    on: Option<&str>,
) -> Backends {
    let slices: Vec<_> = store.slices_of(&service.key()).collect();
    backends(&slices, port, v6, on)
}

/// The endpoints behind a port, of one family; `on`: of this node only.
fn backends(
    slices: &[&Arc<EndpointSlice>],
    port: &ServicePort,
    v6: bool,
    on: Option<&str>,
) -> Backends {
    let chosen = |usable: fn(&SliceEndpoint) -> bool| -> Backends {
        let of_slice = |slice: &&Arc<EndpointSlice>| {
            let ports = slice.ports.iter();
            let ports = ports.filter(|p| (&p.name, p.protocol) == (&port.name, port.protocol));
            // As with pods: without a node it is of the one without a name.
            let of = |e: &SliceEndpoint, node| e.node.as_deref().unwrap_or_default() == node;
            let here = |e: &&SliceEndpoint| on.is_none_or(|node| of(e, node));
            let endpoints = slice.endpoints.iter().filter(here);
            let endpoints = endpoints.filter(|e| usable(e) && e.address.is_ipv6() == v6);
            let endpoints: Vec<_> = endpoints.map(|e| e.address).collect();
            ports
                .flat_map(|p| {
                    let port = p.port;
                    let all = endpoints.iter().copied();
                    all.map(move |address| Backend { address, port })
                        .collect::<Vec<_>>()
                })
                .collect::<Vec<_>>()
        };
        slices.iter().flat_map(of_slice).collect()
    };
    let ready = chosen(|endpoint| endpoint.ready);
    if ready.is_empty() {
        chosen(|endpoint| endpoint.draining)
    } else {
        ready
    }
}

#[cfg(test)]
mod tests;
