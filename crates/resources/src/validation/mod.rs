//! Validation: metadata of every object, and the rules of the built-in kinds that have some.
//!
//! All functions take whole objects as values, with defaults applied, and give field errors in upstream's order, with upstream's
//! fields and texts. An empty list is a valid object. [`validate_create`] and [`validate_update`] find the rules of a kind by its
//! group and name; a kind without rules of its own is held to those of metadata.

mod core;
pub mod metadata;
pub mod names;
mod pods;
mod services;
mod workloads;

use serde_json::Value;

pub use apiserver_registry::{FieldError, FieldErrorKind, FieldPath, aggregate};
pub use metadata::NameRule;

/// What names of a kind must be.
#[must_use]
pub fn name_rule(group: &str, kind: &str) -> NameRule {
    match (group, kind) {
        ("", "Namespace" | "Service") => NameRule::Label,
        (_, "Event") | ("rbac.authorization.k8s.io", _) => NameRule::PathSegment,
        _ => NameRule::Subdomain,
    }
}

/// Validates a new object of a built-in kind: its metadata and what its kind demands.
#[must_use]
pub fn validate_create(group: &str, kind: &str, namespaced: bool, object: &Value) -> Vec<FieldError> {
    let mut errors = metadata::validate_meta(object, namespaced, name_rule(group, kind), true);
    content(group, kind, object, &mut errors);
    errors
}

/// Validates a changed object of a built-in kind: what must not change, and the new object as if it were created.
#[must_use]
pub fn validate_update(group: &str, kind: &str, namespaced: bool, object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = metadata::validate_kube_meta_update(object, old);
    match (group, kind) {
        ("", "ConfigMap") => core::config_map_update(object, old, &mut errors),
        ("", "Secret") => core::secret_update(object, old, &mut errors),
        ("", "Node") => core::node_update(object, old, &mut errors),
        ("", "Service") => services::service_update(object, old, &mut errors),
        _ => {}
    }
    errors.extend(validate_create(group, kind, namespaced, object));
    match (group, kind) {
        ("", "Pod") => pods::pod_update(object, old, &mut errors),
        ("apps", _) => workloads::workload_update(kind, object, old, &mut errors),
        _ => {}
    }
    errors
}

/// Validates a change that came through the status subresource: metadata alone, since nothing else of the spec can change.
#[must_use]
pub fn validate_status_update(object: &Value, old: &Value) -> Vec<FieldError> {
    metadata::validate_kube_meta_update(object, old)
}

fn content(group: &str, kind: &str, object: &Value, errors: &mut Vec<FieldError>) {
    match (group, kind) {
        ("", "ConfigMap") => core::config_map(object, errors),
        ("", "Secret") => core::secret(object, errors),
        ("", "Namespace") => core::namespace(object, errors),
        ("", "Node") => core::node(object, errors),
        ("" | "events.k8s.io", "Event") => core::event(group, object, errors),
        ("", "Pod") => pods::pod(object, errors),
        ("", "Service") => services::service(object, errors),
        ("apps", _) => workloads::workload(kind, object, errors),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            if let Err(found) = crate::crd::CustomKind::parse(object) {
                errors.extend(found);
            }
        }
        _ => {}
    }
}

/// The text at a pointer; empty when there is none.
fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a pointer; empty when there is none.
fn list<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The number at a pointer.
fn int(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

/// Whether two values are the same to Go: nothing, null and empty are one, at every level.
fn same(left: Option<&Value>, right: Option<&Value>) -> bool {
    match (
        left.filter(|value| !is_empty(value)),
        right.filter(|value| !is_empty(value)),
    ) {
        (Some(Value::Object(l)), Some(Value::Object(r))) => {
            l.keys().chain(r.keys()).all(|key| same(l.get(key), r.get(key)))
        }
        (Some(Value::Array(l)), Some(Value::Array(r))) => {
            l.len() == r.len() && l.iter().zip(r).all(|(l, r)| same(Some(l), Some(r)))
        }
        (left, right) => left == right,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Reports each fault of a text.
fn faults(at: &FieldPath, value: &str, faults: Vec<String>, errors: &mut Vec<FieldError>) {
    errors.extend(faults.into_iter().map(|fault| FieldError::invalid(at, value, fault)));
}

/// Reports a value that is none of the known ones. Nothing is reported for an absent one.
fn one_of(at: &FieldPath, value: &str, known: &[&str], errors: &mut Vec<FieldError>) {
    if !value.is_empty() && !known.contains(&value) {
        errors.push(FieldError::not_supported(at, value, known));
    }
}

/// Reports a negative number.
fn not_negative(at: &FieldPath, value: Option<i64>, errors: &mut Vec<FieldError>) {
    if let Some(value) = value.filter(|value| *value < 0) {
        errors.push(FieldError::invalid(at, value, "must be greater than or equal to 0"));
    }
}

/// Reports a number that is no port.
fn port_number(at: &FieldPath, value: i64, errors: &mut Vec<FieldError>) {
    if !(1..=65535).contains(&value) {
        errors.push(FieldError::invalid(at, value, "must be between 1 and 65535, inclusive"));
    }
}

/// Reports a value that is neither a port nor the name of one.
fn port_or_name(at: &FieldPath, value: Option<&Value>, errors: &mut Vec<FieldError>) {
    match value {
        Some(Value::String(name)) => faults(at, name, names::port_name(name), errors),
        Some(Value::Number(number)) => port_number(at, number.as_i64().unwrap_or(0), errors),
        _ => port_number(at, 0, errors),
    }
}
