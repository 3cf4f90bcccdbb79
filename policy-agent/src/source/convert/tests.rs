//! Every default and every invalid case, object by object.

mod objects;
mod policies;
mod services;
mod show;

use serde_json::{Value, json};

use super::*;

/// Converts one object.
fn one(value: &Value) -> Converted {
    let mut all = Vec::new();
    convert(value, &mut Names::new(), &mut |converted| {
        all.push(converted);
    });
    assert_eq!(all.len(), 1, "{value}");
    all.remove(0)
}

/// `severity path`, each in its order.
fn found(converted: &Converted) -> Vec<String> {
    let found = converted.diagnostics.iter();
    found
        .map(|d| format!("{:?} {}", d.severity, d.path).to_lowercase())
        .collect()
}

fn policy_of(spec: &Value) -> Converted {
    one(&json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "a", "name": "p"},
        "spec": spec,
    }))
}

/// Asserts what a policy's spec means, that it decodes, and what is found wrong.
#[track_caller]
fn check(spec: &Value, meaning: &str, wrong: &[&str]) {
    let converted = policy_of(spec);
    let Outcome::Object(Object::Policy(policy)) = &converted.outcome else {
        panic!("{spec} decodes: {converted:?}");
    };
    assert_eq!(show::policy(policy), meaning, "{spec}");
    assert_eq!(found(&converted), lower(wrong), "{spec}");
    all_say_what_happens(&converted);
}

/// Asserts that a spec does not decode, what is in force where nothing was, and
/// what is found wrong.
#[track_caller]
fn check_undecodable(spec: &Value, fallback: &str, wrong: &[&str]) {
    let converted = policy_of(spec);
    let Outcome::Undecodable {
        key: Key::Policy(id),
        fallback: Some(Object::Policy(policy)),
    } = &converted.outcome
    else {
        panic!("{spec} does not decode: {converted:?}");
    };
    assert_eq!(id.to_string(), "a/p");
    assert_eq!(show::policy(policy), fallback, "{spec}");
    assert_eq!(found(&converted), lower(wrong), "{spec}");
    all_say_what_happens(&converted);
}

fn lower(wrong: &[&str]) -> Vec<String> {
    wrong.iter().map(|w| w.to_lowercase()).collect()
}

#[track_caller]
fn all_say_what_happens(converted: &Converted) {
    for diagnostic in &converted.diagnostics {
        assert_eq!(diagnostic.object, "NetworkPolicy a/p");
        assert!(!diagnostic.message.is_empty());
    }
}
