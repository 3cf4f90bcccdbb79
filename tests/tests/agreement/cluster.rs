//! The objects of one cluster as they are now, for the reference and for the product.
//!
//! Changes come in steps towards a target; what lies between is random. The product gets them as
//! the manifests' source would give them: converted, object by object.

use std::collections::BTreeMap;

use policy_agent::source::convert::{Converted, Names, Outcome, convert};
use policy_core::store::{Key, Object, SourceEvent, Store};
use policy_tests::generate::Rng;
use serde_json::Value;

/// Kind, namespace, name.
type ObjectName = [String; 3];

/// Objects by name, and what the product makes of them.
#[derive(Default)]
pub(crate) struct Objects {
    now: BTreeMap<ObjectName, (Value, Key)>,
    names: Names,
    /// The product's, of these objects.
    pub(crate) store: Store,
}

impl Objects {
    /// The objects.
    pub(crate) fn values(&self) -> Vec<Value> {
        self.now.values().map(|(value, _)| value.clone()).collect()
    }

    /// What tells somebody who knows nothing yet about all objects.
    pub(crate) fn all(&mut self) -> Vec<SourceEvent> {
        let values = self.values();
        let objects = values.iter().map(|value| object(value, &mut self.names));
        objects.map(SourceEvent::Apply).collect()
    }

    /// One step towards the target: some of what differs, and a few things that the target does
    /// not ask for. With `last`, exactly the target.
    pub(crate) fn step(&mut self, rng: &mut Rng, target: &[Value], last: bool) -> Vec<SourceEvent> {
        let target: BTreeMap<ObjectName, &Value> =
            target.iter().map(|value| (name(value), value)).collect();
        let mut events = Vec::new();
        let keep = |rng: &mut Rng| !last && rng.percent(60);
        let gone: Vec<ObjectName> = self
            .now
            .keys()
            .filter(|name| !target.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            if !keep(rng) {
                events.extend(self.remove(&name));
            }
        }
        for (name, value) in target {
            let differs = self.now.get(&name).is_none_or(|(now, _)| now != value);
            if differs && !keep(rng) {
                events.push(self.put(name, value.clone()));
            }
        }
        if !last {
            self.stray(rng, &mut events);
        }
        // What one change holds has no order.
        for index in (1..events.len()).rev() {
            events.swap(index, rng.below(index + 1));
        }
        self.store.apply_all(events.iter().cloned());
        events
    }

    /// Pods are relabelled and moved to other objects' names, objects vanish.
    fn stray(&mut self, rng: &mut Rng, events: &mut Vec<SourceEvent>) {
        let touched: Vec<ObjectName> = self
            .now
            .keys()
            .filter(|_| rng.percent(6))
            .cloned()
            .collect();
        for name in touched {
            let Some((value, key)) = self.now.get(&name).cloned() else {
                continue;
            };
            // Each object once in a change: their order is lost below.
            let told = |event: &SourceEvent| match event {
                SourceEvent::Apply(object) => object.key() == key,
                SourceEvent::Delete(gone) => *gone == key,
                _ => false,
            };
            if events.iter().any(told) {
                continue;
            }
            let model = {
                let alike: Vec<&Value> = self
                    .now
                    .iter()
                    .filter(|(other, _)| other[0] == name[0])
                    .map(|(_, (value, _))| value)
                    .collect();
                (*rng.pick(&alike)).clone()
            };
            let mut changed = value;
            match rng.below(4) {
                0 => {
                    events.extend(self.remove(&name));
                    continue;
                }
                1 if name[0] == "Pod" => {
                    changed["spec"]["containers"] = model["spec"]["containers"].clone()
                }
                _ if name[0] == "NetworkPolicy" => changed["spec"] = model["spec"].clone(),
                _ => changed["metadata"]["labels"] = model["metadata"]["labels"].clone(),
            }
            events.push(self.put(name, changed));
        }
    }

    fn put(&mut self, name: ObjectName, value: Value) -> SourceEvent {
        let object = object(&value, &mut self.names);
        self.now.insert(name, (value, object.key()));
        SourceEvent::Apply(object)
    }

    fn remove(&mut self, name: &ObjectName) -> Option<SourceEvent> {
        let (_, key) = self.now.remove(name)?;
        Some(SourceEvent::Delete(key))
    }
}

fn name(object: &Value) -> ObjectName {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    [
        text(&object["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"]),
    ]
}

/// What the product makes of an object. All that the generator makes decodes.
fn object(value: &Value, names: &mut Names) -> Object {
    let mut objects = Vec::new();
    convert(
        value,
        names,
        &mut |Converted { outcome, .. }| match outcome {
            Outcome::Object(object) => objects.push(object),
            other => panic!("{value} became {other:?}"),
        },
    );
    assert_eq!(objects.len(), 1, "{value}");
    objects.remove(0)
}
