//! Target `selectors`: label selectors and the index of them, beside an evaluator
//! written from what the API says of each operator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_core::model::{Labels, NamespaceMatch, Requirement, Selector};
use policy_core::resolve::selector_index::SelectorIndex;

use super::input::Input;

const KEYS: [&str; 4] = ["app", "tier", "a.b/c", "kubernetes.io/metadata.name"];
const VALUES: [&str; 4] = ["", "web", "db", "x.y-z"];
const NAMESPACES: [&str; 3] = ["one", "two", "three"];

/// A condition as it is written: key, operator, values.
type Written = (usize, usize, Vec<usize>);
/// Labels as they are written, by key.
type Plain = BTreeMap<usize, usize>;

/// All pods of one namespace, by name, or of those with such labels.
#[derive(Debug, Clone)]
enum Where {
    Named(usize),
    Labelled(Vec<Written>),
}

fn conditions(input: &mut Input<'_>) -> Vec<Written> {
    let count = input.below(4);
    (0..count)
        .map(|_| {
            let (key, operator) = (input.below(KEYS.len()), input.below(4));
            let count = 1 + input.below(3);
            let values = (0..count).map(|_| input.below(VALUES.len())).collect();
            (key, operator, values)
        })
        .collect()
}

fn labels(input: &mut Input<'_>) -> Plain {
    let count = input.below(4);
    (0..count)
        .map(|_| (input.below(KEYS.len()), input.below(VALUES.len())))
        .collect()
}

/// In, NotIn, Exists, DoesNotExist.
fn holds(conditions: &[Written], labels: &Plain) -> bool {
    conditions.iter().all(|(key, operator, values)| {
        let value = labels.get(key);
        match operator {
            0 => value.is_some_and(|value| values.contains(value)),
            1 => value.is_none_or(|value| !values.contains(value)),
            2 => value.is_some(),
            _ => value.is_none(),
        }
    })
}

fn selector(conditions: &[Written]) -> Selector {
    Selector::new(conditions.iter().map(|(key, operator, values)| {
        let key: Arc<str> = KEYS[*key].into();
        let values: BTreeSet<Arc<str>> = values.iter().map(|value| VALUES[*value].into()).collect();
        match operator {
            0 => Requirement::In(key, values),
            1 => Requirement::NotIn(key, values),
            2 => Requirement::Exists(key),
            _ => Requirement::DoesNotExist(key),
        }
    }))
}

fn as_labels(plain: &Plain) -> Labels {
    plain
        .iter()
        .map(|(key, value)| (KEYS[*key].into(), VALUES[*value].into()))
        .collect()
}

fn namespaces(of: &Where) -> NamespaceMatch {
    match of {
        Where::Named(name) => NamespaceMatch::Name(NAMESPACES[*name].into()),
        Where::Labelled(conditions) => NamespaceMatch::Labels(selector(conditions)),
    }
}

pub(super) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut index = SelectorIndex::default();
    let mut filed: BTreeMap<u32, (Where, Vec<Written>)> = BTreeMap::new();
    let mut of_namespaces: [Plain; 3] = Default::default();
    for id in 0..64 {
        if input.is_empty() {
            return;
        }
        match input.below(8) {
            0..=2 => {
                let of = if input.flag() {
                    Where::Named(input.below(NAMESPACES.len()))
                } else {
                    Where::Labelled(conditions(&mut input))
                };
                let pods = conditions(&mut input);
                index.insert(&namespaces(&of), &selector(&pods), id);
                filed.insert(id, (of, pods));
            }
            3 => {
                let place = input.below(filed.len().max(1));
                if let Some(id) = filed.keys().nth(place).copied()
                    && let Some((of, pods)) = filed.remove(&id)
                {
                    index.remove(&namespaces(&of), &selector(&pods), id);
                }
            }
            4 => {
                let place = input.below(NAMESPACES.len());
                let next = labels(&mut input);
                let matched = |labels: &Plain| -> Vec<u32> {
                    let those = filed.iter().filter(|(_, (of, _))| {
                        matches!(of, Where::Labelled(conditions) if holds(conditions, labels))
                    });
                    those.map(|(id, _)| *id).collect()
                };
                let differs = matched(&of_namespaces[place]) != matched(&next);
                let told = index.namespace_changed(NAMESPACES[place], Some(&as_labels(&next)));
                assert!(
                    told || !differs,
                    "{next:?} makes a difference, and nobody is told"
                );
                of_namespaces[place] = next;
            }
            _ => {
                let place = input.below(NAMESPACES.len());
                let pod = labels(&mut input);
                let mut found = Vec::new();
                let namespace = as_labels(&of_namespaces[place]);
                index.matches(NAMESPACES[place], &namespace, &as_labels(&pod), |id| {
                    found.push(id);
                });
                found.sort_unstable();
                let wanted = filed.iter().filter(|(_, (of, pods))| {
                    let here = match of {
                        Where::Named(name) => *name == place,
                        Where::Labelled(conditions) => holds(conditions, &of_namespaces[place]),
                    };
                    here && holds(pods, &pod)
                });
                let wanted: Vec<u32> = wanted.map(|(id, _)| *id).collect();
                assert_eq!(found, wanted, "{pod:?} in {place}, of {filed:?}");
                for (id, (_, pods)) in &filed {
                    let matches = selector(pods).matches(&as_labels(&pod));
                    assert_eq!(matches, holds(pods, &pod), "selector {id} on {pod:?}");
                }
            }
        }
    }
}

/// Each operator filed, asked, and taken out again; namespaces by name and label.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for operator in 0..4 {
        for named in [0, 1] {
            let mut seed = vec![0, named];
            seed.extend(match named {
                1 => vec![0],
                _ => vec![1, 1, operator, 0, 1],
            });
            // Two conditions on a pod: this operator, and one on another key.
            seed.extend([2, 0, operator, 1, 1, 2, 1, 3, 0, 2]);
            seed.extend([4, 0, 1, 1, 1]);
            seed.extend([5, 0, 2, 0, 1, 1, 2, 5, 0, 0]);
            seed.extend([3, 0, 5, 0, 1, 0, 1]);
            seeds.push(seed);
        }
    }
    seeds
}
