//! Deployments and the other kinds that make pods from a template.

use serde_json::{Value, json};

use super::metadata::{IMMUTABLE, labels};
use super::pods::pod_spec;
use super::{FieldError, FieldPath, faults, int, list, names, not_negative, same, text};

const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

pub(super) fn workload(kind: &str, object: &Value, errors: &mut Vec<FieldError>) {
    if !matches!(kind, "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") {
        return;
    }
    let at = FieldPath::new("spec");
    not_negative(&at.child("replicas"), int(object, "/spec/replicas"), errors);
    let selector = object.pointer("/spec/selector").filter(|selector| !selector.is_null());
    let sound = match selector {
        None => {
            if kind != "DaemonSet" {
                errors.push(FieldError::required(&at.child("selector"), ""));
            }
            true
        }
        Some(selector) => label_selector(kind, selector, &at.child("selector"), errors),
    };
    template(kind, object, selector, sound, &at, errors);
    match kind {
        "Deployment" => strategy(object, &at.child("strategy"), errors),
        "StatefulSet" => {
            let service = text(object, "/spec/serviceName");
            if !service.is_empty() {
                faults(
                    &at.child("serviceName"),
                    service,
                    names::dns1123_subdomain(service),
                    errors,
                );
            }
        }
        _ => {}
    }
    for name in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        not_negative(&at.child(name), int(object, &format!("/spec/{name}")), errors);
    }
}

/// Validates a selector. Whether it can be compared with labels.
fn label_selector(kind: &str, selector: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) -> bool {
    let before = errors.len();
    labels(selector.get("matchLabels"), &at.child("matchLabels"), errors);
    let mut known = true;
    for (index, requirement) in list(selector, "/matchExpressions").iter().enumerate() {
        let at = at.child("matchExpressions").index(index);
        let values = list(requirement, "/values");
        match text(requirement, "/operator") {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(&at.child("values"), detail));
            }
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(&at.child("values"), detail));
            }
            "Exists" | "DoesNotExist" => {}
            other => {
                known = false;
                errors.push(FieldError::invalid(
                    &at.child("operator"),
                    other,
                    "not a valid selector operator",
                ));
            }
        }
        let key = text(requirement, "/key");
        faults(&at.child("key"), key, names::qualified_name(key), errors);
        for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
            faults(
                &at.child("values").index(index),
                value,
                names::label_value(value),
                errors,
            );
        }
    }
    let empty = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .is_none_or(serde_json::Map::is_empty)
        && list(selector, "/matchExpressions").is_empty();
    if empty {
        let detail = format!("empty selector is invalid for {}", kind.to_lowercase());
        errors.push(FieldError::invalid(at, json!({}), detail));
        return false;
    }
    if !known || errors.len() > before {
        errors.push(FieldError::invalid(at, selector.clone(), "invalid label selector"));
        return false;
    }
    true
}

/// Whether a selector selects these labels. No selector selects nothing.
fn selects(selector: Option<&Value>, labels: Option<&Value>) -> bool {
    let Some(selector) = selector else { return false };
    let label = |key: &str| labels.and_then(|map| map.get(key)).and_then(Value::as_str);
    let equal = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let expressions = list(selector, "/matchExpressions");
    equal.into_iter().all(|(key, value)| label(key) == value.as_str())
        && expressions.iter().all(|requirement| {
            let value = label(text(requirement, "/key"));
            let listed = value.is_some_and(|value| list(requirement, "/values").iter().any(|v| v == value));
            match text(requirement, "/operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        })
}

fn template(
    kind: &str,
    object: &Value,
    selector: Option<&Value>,
    sound: bool,
    at: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let at = at.child("template");
    let pod_labels = object.pointer("/spec/template/metadata/labels");
    if sound && !selects(selector, pod_labels) {
        let value = pod_labels.cloned().unwrap_or(Value::Null);
        let shown = value.to_string();
        let error = FieldError::invalid(
            &at.child("metadata").child("labels"),
            value,
            "`selector` does not match template `labels`",
        );
        errors.push(error.shown_as(shown));
    }
    labels(pod_labels, &at.child("labels"), errors);
    let spec = object.pointer("/spec/template/spec").unwrap_or(&Value::Null);
    pod_spec(spec, &at.child("spec"), errors);
    let restart = text(spec, "/restartPolicy");
    if matches!(restart, "OnFailure" | "Never") {
        errors.push(FieldError::not_supported(
            &at.child("spec").child("restartPolicy"),
            restart,
            &["Always"],
        ));
    }
    if spec
        .get("activeDeadlineSeconds")
        .is_some_and(|seconds| !seconds.is_null())
    {
        let owner = if kind == "Deployment" { "ReplicaSet" } else { kind };
        let detail = format!("activeDeadlineSeconds in {owner} is not Supported");
        errors.push(FieldError::forbidden(
            &at.child("spec").child("activeDeadlineSeconds"),
            detail,
        ));
    }
}

fn strategy(object: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let kind = text(object, "/spec/strategy/type");
    let rolling = object
        .pointer("/spec/strategy/rollingUpdate")
        .filter(|rolling| !rolling.is_null());
    match kind {
        "" => {}
        "Recreate" => {
            if rolling.is_some() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(FieldError::forbidden(&at.child("rollingUpdate"), detail));
            }
        }
        "RollingUpdate" => {
            if let Some(rolling) = rolling {
                rolling_update(rolling, &at.child("rollingUpdate"), errors);
            }
        }
        other => {
            let value = object.pointer("/spec/strategy").cloned().unwrap_or(Value::Null);
            let shown = format!("{{\"Type\":{},\"RollingUpdate\":null}}", crate::gofmt::quote(other));
            errors.push(FieldError::not_supported(at, value, &["Recreate", "RollingUpdate"]).shown_as(shown));
        }
    }
}

fn rolling_update(rolling: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let mut zero = 0;
    for name in ["maxUnavailable", "maxSurge"] {
        let at = at.child(name);
        match rolling.get(name) {
            Some(Value::String(text)) => {
                let digits = text
                    .strip_suffix('%')
                    .filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
                match digits {
                    None => errors.push(FieldError::invalid(&at, text.as_str(), PERCENT)),
                    Some(digits) => zero += i32::from(digits.bytes().all(|b| b == b'0')),
                }
            }
            Some(Value::Number(number)) => {
                let number = number.as_i64().unwrap_or(0);
                not_negative(&at, Some(number), errors);
                zero += i32::from(number == 0);
            }
            _ => {}
        }
    }
    if zero == 2 {
        let value = rolling.get("maxUnavailable").cloned().unwrap_or(Value::Null);
        errors.push(FieldError::invalid(
            &at.child("maxUnavailable"),
            value,
            "may not be 0 when `maxSurge` is 0",
        ));
    }
}

/// Reports what a change must not change.
pub(super) fn workload_update(kind: &str, object: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let (new, was) = (object.pointer("/spec/selector"), old.pointer("/spec/selector"));
    let fixed = matches!(kind, "Deployment" | "ReplicaSet" | "DaemonSet");
    if fixed && !same(new, was) {
        let at = FieldPath::new("spec").child("selector");
        errors.push(FieldError::invalid(&at, new.cloned().unwrap_or(Value::Null), IMMUTABLE));
    }
    if kind == "StatefulSet" {
        const OPEN: [&str; 7] = [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ];
        let fields = [object, old]
            .into_iter()
            .filter_map(|o| o.get("spec")?.as_object())
            .flat_map(|map| map.keys());
        let mut closed = fields.filter(|name| !OPEN.contains(&name.as_str()));
        let part = |object: &'_ Value, name: &str| object.get("spec").and_then(|spec| spec.get(name)).cloned();
        if closed.any(|name| !same(part(object, name).as_ref(), part(old, name).as_ref())) {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
            errors.push(FieldError::forbidden(&FieldPath::new("spec"), detail));
        }
    }
}
