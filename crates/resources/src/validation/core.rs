//! Configmaps, secrets, namespaces, nodes and events.

use base64::Engine as _;
use serde_json::Value;

use super::metadata::IMMUTABLE;
use super::{FieldError, FieldPath, faults, list, names, one_of, same, text};

/// The most that a configmap or a secret may hold, in bytes.
const MOST_DATA: usize = 1024 * 1024;
const FROZEN: &str = "field is immutable when `immutable` is set";

fn is_immutable(object: &Value) -> bool {
    object.get("immutable") == Some(&Value::Bool(true))
}

fn entries<'v>(object: &'v Value, field: &str) -> impl Iterator<Item = (&'v str, &'v str)> {
    let map = object.get(field).and_then(Value::as_object);
    map.into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
}

/// How many bytes a base64 text stands for.
fn decoded_length(text: &str) -> usize {
    text.len() / 4 * 3
        - text
            .bytes()
            .rev()
            .take_while(|byte| *byte == b'=')
            .count()
            .min(text.len() / 4 * 3)
}

pub(super) fn config_map(object: &Value, errors: &mut Vec<FieldError>) {
    let (data, binary) = (FieldPath::new("data"), FieldPath::new("binaryData"));
    let mut size = 0;
    for (key, value) in entries(object, "data") {
        faults(&data.key(key), key, names::config_key(key), errors);
        if object.get("binaryData").and_then(|map| map.get(key)).is_some() {
            errors.push(FieldError::invalid(
                &data.key(key),
                key,
                "duplicate of key present in binaryData",
            ));
        }
        size += value.len();
    }
    for (key, value) in entries(object, "binaryData") {
        faults(&binary.key(key), key, names::config_key(key), errors);
        size += decoded_length(value);
    }
    if size > MOST_DATA {
        // The fault is none of one field; upstream prints its empty path like this.
        errors.push(FieldError::too_long(&FieldPath::new("[]"), MOST_DATA));
    }
}

/// Reports changes of an immutable object. Its mark must stay and the named fields, too.
fn frozen(object: &Value, old: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    if !is_immutable(old) {
        return;
    }
    if !is_immutable(object) {
        errors.push(FieldError::forbidden(&FieldPath::new("immutable"), FROZEN));
    }
    for field in fields {
        if !same(object.get(field), old.get(field)) {
            errors.push(FieldError::forbidden(&FieldPath::new(field), FROZEN));
        }
    }
}

pub(super) fn config_map_update(object: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    frozen(object, old, &["data", "binaryData"], errors);
}

pub(super) fn secret_update(object: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let (new_type, old_type) = (text(object, "/type"), text(old, "/type"));
    if new_type != old_type {
        errors.push(FieldError::invalid(&FieldPath::new("type"), new_type, IMMUTABLE));
    }
    frozen(object, old, &["data"], errors);
}

pub(super) fn secret(object: &Value, errors: &mut Vec<FieldError>) {
    let data = FieldPath::new("data");
    let mut size = 0;
    for (key, value) in entries(object, "data") {
        faults(&data.key(key), key, names::config_key(key), errors);
        size += decoded_length(value);
    }
    if size > MOST_DATA {
        errors.push(FieldError::too_long(&data, MOST_DATA));
    }
    let has = |key: &str| object.get("data").and_then(|map| map.get(key)).is_some();
    let required = |keys: &[&str], errors: &mut Vec<FieldError>| {
        let missing = keys.iter().filter(|key| !has(key));
        errors.extend(missing.map(|key| FieldError::required(&data.key(key), "")));
    };
    match text(object, "/type") {
        "kubernetes.io/tls" => required(&["tls.crt", "tls.key"], errors),
        // One of the two is enough; without either both are named.
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            required(&["username", "password"], errors)
        }
        "kubernetes.io/ssh-auth" => required(&["ssh-privatekey"], errors),
        "kubernetes.io/dockercfg" => docker_config(object, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => docker_config(object, ".dockerconfigjson", errors),
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            let annotation = object.pointer("/metadata/annotations").and_then(|map| map.get(name));
            if annotation.and_then(Value::as_str).is_none_or(str::is_empty) {
                let at = FieldPath::new("metadata").child("annotations").key(name);
                errors.push(FieldError::required(&at, ""));
            }
        }
        _ => {}
    }
}

fn docker_config(object: &Value, key: &str, errors: &mut Vec<FieldError>) {
    let at = FieldPath::new("data").key(key);
    let Some(value) = object.get("data").and_then(|map| map.get(key)) else {
        errors.push(FieldError::required(&at, ""));
        return;
    };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(value.as_str().unwrap_or_default())
        .unwrap_or_default();
    let fault = match crate::document::parse(&bytes) {
        Ok(crate::document::Node::Object(_) | crate::document::Node::Null) => return,
        Ok(other) => format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            other.go_kind()
        ),
        Err(error) => error.to_string(),
    };
    // What is in a secret is in no message.
    errors.push(FieldError::invalid(&at, "<secret contents redacted>", fault));
}

pub(super) fn namespace(object: &Value, errors: &mut Vec<FieldError>) {
    let at = FieldPath::new("spec").child("finalizers");
    for finalizer in list(object, "/spec/finalizers").iter().filter_map(Value::as_str) {
        faults(&at, finalizer, names::qualified_name(finalizer), errors);
        if !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&at, finalizer, detail));
        }
    }
}

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn node(object: &Value, errors: &mut Vec<FieldError>) {
    // Upstream looks for taints below metadata in its messages, although they stand in the spec.
    let at = FieldPath::new("metadata").child("taints");
    let taints = list(object, "/spec/taints");
    for (index, taint) in taints.iter().enumerate() {
        let (at, key, value, effect) = (
            at.index(index),
            text(taint, "/key"),
            text(taint, "/value"),
            text(taint, "/effect"),
        );
        faults(&at.child("key"), key, names::qualified_name(key), errors);
        faults(&at.child("value"), value, names::label_value(value), errors);
        if effect.is_empty() {
            errors.push(FieldError::required(&at.child("effect"), ""));
        } else {
            one_of(&at.child("effect"), effect, &EFFECTS, errors);
        }
        let twice = taints[..index]
            .iter()
            .any(|other| text(other, "/key") == key && text(other, "/effect") == effect);
        if twice {
            let mut error = FieldError::duplicate(&at, taint.clone());
            error.detail = "taints must be unique by key and effect pair".to_owned();
            // Upstream prints the field names of its internal type.
            let quote = crate::gofmt::quote;
            errors.push(error.shown_as(format!(
                "{{\"Key\":{},\"Value\":{},\"Effect\":{},\"TimeAdded\":null}}",
                quote(key),
                quote(value),
                quote(effect)
            )));
        }
    }
    let at = FieldPath::new("spec").child("podCIDRs");
    for (index, cidr) in list(object, "/spec/podCIDRs")
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
    {
        let parsed = cidr.split_once('/').filter(|(address, bits)| {
            address.parse::<std::net::IpAddr>().is_ok_and(|ip| {
                let most = if ip.is_ipv4() { 32 } else { 128 };
                bits.parse::<u8>().is_ok_and(|bits| bits <= most)
            })
        });
        if parsed.is_none() {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(&at.index(index), cidr, detail));
        }
    }
}

pub(super) fn node_update(object: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let at = FieldPath::new("spec");
    let had = list(old, "/spec/podCIDRs");
    if !had.is_empty() && had != list(object, "/spec/podCIDRs") {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden(&at.child("podCIDRs"), detail));
    }
    let (new_id, old_id) = (text(object, "/spec/providerID"), text(old, "/spec/providerID"));
    if !old_id.is_empty() && new_id != old_id {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(&at.child("providerID"), detail));
    }
    if !text(object, "/spec/externalID").is_empty() && text(object, "/spec/externalID") != text(old, "/spec/externalID")
    {
        errors.push(FieldError::forbidden(&at.child("externalID"), "may not be updated"));
    }
}

/// The most bytes of the texts of an event.
const SHORT: usize = 128;
const NOTE: usize = 1024;

pub(super) fn event(group: &str, object: &Value, errors: &mut Vec<FieldError>) {
    let new_api = group == "events.k8s.io";
    let namespace = text(object, "/metadata/namespace");
    let about = text(
        object,
        if new_api {
            "/regarding/namespace"
        } else {
            "/involvedObject/namespace"
        },
    );
    let timed = !text(object, "/eventTime").is_empty();
    // Events about objects without a namespace live in `default`.
    let fits = match (about.is_empty(), timed) {
        (true, false) => matches!(namespace, "" | "default"),
        (true, true) => matches!(namespace, "default" | "kube-system"),
        (false, false) => about == namespace,
        (false, true) => true,
    };
    if !fits {
        let at = FieldPath::new("involvedObject").child("namespace");
        errors.push(FieldError::invalid(&at, about, "does not match event.namespace"));
    }
    if timed {
        timed_event(new_api, object, errors);
    }
    if !new_api {
        return;
    }
    if !timed {
        errors.push(FieldError::required(&FieldPath::new("eventTime"), ""));
    }
    let kind = text(object, "/type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid(
            &FieldPath::new("type"),
            "",
            format!("has invalid value: {kind}"),
        ));
    }
    let old_fields = [
        ("/deprecatedFirstTimestamp", "firstTimestamp"),
        ("/deprecatedLastTimestamp", "lastTimestamp"),
        ("/deprecatedCount", "count"),
        ("/deprecatedSource/component", "source"),
    ];
    for (pointer, name) in old_fields {
        if object
            .pointer(pointer)
            .is_some_and(|value| !value.is_null() && value != 0 && value != "")
        {
            errors.push(FieldError::invalid(&FieldPath::new(name), "", "needs to be unset"));
        }
    }
}

/// The rules for events that say when they happened, which those of the new API do.
fn timed_event(new_api: bool, object: &Value, errors: &mut Vec<FieldError>) {
    let controller = if new_api {
        "reportingController"
    } else {
        "reportingComponent"
    };
    let (at, name) = (FieldPath::new(controller), text(object, &format!("/{controller}")));
    if name.is_empty() {
        errors.push(FieldError::required(&at, ""));
    }
    faults(&at, name, names::qualified_name(name), errors);
    let note = if new_api { "/note" } else { "/message" };
    let texts = [
        ("/reportingInstance", "reportingInstance", true, SHORT),
        ("/action", "action", true, SHORT),
        ("/reason", "reason", true, SHORT),
        (note, "message", false, NOTE),
    ];
    for (pointer, name, required, most) in texts {
        let value = text(object, pointer);
        if required && value.is_empty() {
            errors.push(FieldError::required(&FieldPath::new(name), ""));
        }
        if value.len() > most {
            let detail = format!("can have at most {most} characters");
            errors.push(FieldError::invalid(&FieldPath::new(name), "", detail));
        }
    }
}
