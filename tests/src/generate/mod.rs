//! Random clusters, probes and event traces: the same seed gives the same objects, always.
//!
//! Two kinds of cluster. [`random_cluster`] is small and nasty: few labels, few addresses and few
//! ports, so that everything collides, and every shape of policy that the API allows (and, if
//! asked for, that it does not). [`scale_cluster`] is large and ordinary, for benchmarks.
//!
//! Everything is a plain Kubernetes JSON object that typed clients decode. Nothing here uses the
//! product; probes are chosen with the reference evaluator's help, so that what is hard decides.

mod addresses;
mod candidates;
mod pods;
mod policies;
mod probes;
mod rng;
mod scale;
mod selectors;
mod services;
mod spoil;
mod trace;

#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use serde_json::Value;

pub use probes::{random_probes, service_probes};
pub use rng::Rng;
pub use scale::{Scale, Size, scale_cluster};
pub use trace::{Change, Class, Event, event_trace, replay};

/// How large and how odd a random cluster is.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many namespaces, declared or not.
    pub namespaces: RangeInclusive<usize>,
    /// How many pods of all kinds.
    pub pods: RangeInclusive<usize>,
    /// How many policies.
    pub policies: RangeInclusive<usize>,
    /// How many Services; if there are any, some pods have a host port.
    pub services: RangeInclusive<usize>,
    /// How many policies in a hundred get one part that an API server would reject. They still
    /// decode: wrong are values, never types.
    pub spoiled_percent: usize,
    /// How many pods in a hundred show an address that another live pod shows too.
    pub shared_percent: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            namespaces: 2..=4,
            pods: 10..=60,
            policies: 3..=25,
            services: 0..=0,
            spoiled_percent: 8,
            shared_percent: 2,
        }
    }
}

impl Shape {
    /// As the default, with Services in front of pods.
    pub fn with_services() -> Self {
        Self {
            services: 3..=9,
            ..Self::default()
        }
    }

    /// As the default, but everything is what an API server accepts and a cluster shows.
    pub fn valid() -> Self {
        Self {
            spoiled_percent: 0,
            shared_percent: 0,
            ..Self::default()
        }
    }
}

/// Two nodes, and the namespaces, pods, policies and Services that the shape asks for.
pub fn random_cluster(seed: u64, shape: &Shape) -> Vec<Value> {
    let mut rng = Rng::new(seed);
    let namespaces = rng.within(&shape.namespaces);
    let names: Vec<String> = (0..namespaces).map(|index| format!("ns-{index}")).collect();
    let mut objects = pods::nodes();
    objects.extend(pods::namespaces(&mut rng, &names));
    objects.extend(pods::pods(&mut rng, &names, shape));
    let anchors = addresses::Anchors::of(&objects);
    let busiest = names
        .iter()
        .max_by_key(|name| pods::count_in(&objects, name));
    for index in 0..rng.within(&shape.policies) {
        let mut policy = match busiest {
            Some(namespace) if index == 0 => {
                policies::borders(&mut rng, &anchors, namespace, index)
            }
            _ => {
                let namespace = rng.pick(&names).clone();
                policies::policy(&mut rng, &anchors, &namespace, index)
            }
        };
        if index != 0 && rng.percent(shape.spoiled_percent) {
            spoil::spoil(&mut rng, &mut policy);
        }
        objects.push(policy);
    }
    // Last, so that a seed's other objects are the same with Services and without.
    let count = rng.within(&shape.services);
    if count > 0 {
        services::host_ports(&mut rng, &mut objects);
    }
    let services = services::services(&mut rng, &objects, count);
    objects.extend(services);
    objects
}
