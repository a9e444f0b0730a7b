//! Pods and the pod templates of other kinds.

use std::collections::HashSet;

use serde_json::Value;

use super::metadata::labels;
use super::{
    FieldError, FieldPath, faults, int, list, names, not_negative, one_of, port_number, port_or_name, same, text,
};

/// What the one message about forbidden changes says.
const CHANGES: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

pub(super) fn pod(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    pod_spec(spec, &FieldPath::new("spec"), errors);
}

/// Validates a pod spec, of a pod or of a template.
pub(super) fn pod_spec(spec: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let volumes = volumes(spec, &at.child("volumes"), errors);
    let mut seen = HashSet::new();
    let containers = at.child("containers");
    if list(spec, "/containers").is_empty() {
        errors.push(FieldError::required(&containers, ""));
    }
    for (index, one) in list(spec, "/containers").iter().enumerate() {
        container(one, &containers.index(index), &volumes, &mut seen, errors);
    }
    let containers = at.child("initContainers");
    for (index, one) in list(spec, "/initContainers").iter().enumerate() {
        container(one, &containers.index(index), &volumes, &mut seen, errors);
        one_of(
            &containers.index(index).child("restartPolicy"),
            text(one, "/restartPolicy"),
            &["Always", "OnFailure", "Never"],
            errors,
        );
    }
    one_of(
        &at.child("restartPolicy"),
        text(spec, "/restartPolicy"),
        &["Always", "OnFailure", "Never"],
        errors,
    );
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(&at.child("dnsPolicy"), text(spec, "/dnsPolicy"), &policies, errors);
    labels(spec.get("nodeSelector"), &at.child("nodeSelector"), errors);
    for name in ["serviceAccountName", "nodeName"] {
        let value = text(spec, &format!("/{name}"));
        if !value.is_empty() {
            faults(&at.child(name), value, names::dns1123_subdomain(value), errors);
        }
    }
    if let Some(seconds) = int(spec, "/activeDeadlineSeconds").filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        let detail = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.push(FieldError::invalid(&at.child("activeDeadlineSeconds"), seconds, detail));
    }
    for name in ["hostname", "subdomain"] {
        let value = text(spec, &format!("/{name}"));
        if !value.is_empty() {
            faults(&at.child(name), value, names::dns1123_label(value), errors);
        }
    }
    tolerations(spec, &at.child("tolerations"), errors);
    let class = text(spec, "/priorityClassName");
    if !class.is_empty() {
        faults(
            &at.child("priorityClassName"),
            class,
            names::dns1123_subdomain(class),
            errors,
        );
    }
}

/// Validates the volumes and gives their names.
fn volumes<'v>(spec: &'v Value, at: &FieldPath, errors: &mut Vec<FieldError>) -> HashSet<&'v str> {
    let mut seen = HashSet::new();
    for (index, volume) in list(spec, "/volumes").iter().enumerate() {
        let (at, name) = (at.index(index), text(volume, "/name"));
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else if !names::dns1123_label(name).is_empty() {
            faults(&at.child("name"), name, names::dns1123_label(name), errors);
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        let sources = volume.as_object().into_iter().flatten();
        let sources = sources
            .filter(|(key, value)| *key != "name" && !value.is_null())
            .skip(1);
        for (source, _) in sources {
            errors.push(FieldError::forbidden(
                &at.child(source),
                "may not specify more than 1 volume type",
            ));
        }
    }
    seen
}

fn container<'v>(
    one: &'v Value,
    at: &FieldPath,
    volumes: &HashSet<&str>,
    seen: &mut HashSet<&'v str>,
    errors: &mut Vec<FieldError>,
) {
    let (name, image) = (text(one, "/name"), text(one, "/image"));
    if name.is_empty() {
        errors.push(FieldError::required(&at.child("name"), ""));
    } else if !names::dns1123_label(name).is_empty() {
        faults(&at.child("name"), name, names::dns1123_label(name), errors);
    } else if !seen.insert(name) {
        errors.push(FieldError::duplicate(&at.child("name"), name));
    }
    if image.is_empty() {
        errors.push(FieldError::required(&at.child("image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(
            &at.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    lifecycle(one, &at.child("lifecycle"), errors);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(value) = one.get(probe).filter(|value| !value.is_null()) {
            self::probe(value, &at.child(probe), errors);
        }
    }
    let policies = ["File", "FallbackToLogsOnError"];
    one_of(
        &at.child("terminationMessagePolicy"),
        text(one, "/terminationMessagePolicy"),
        &policies,
        errors,
    );
    ports(one, &at.child("ports"), errors);
    environment(one, at, errors);
    mounts(one, &at.child("volumeMounts"), volumes, errors);
    let policies = ["Always", "IfNotPresent", "Never"];
    one_of(
        &at.child("imagePullPolicy"),
        text(one, "/imagePullPolicy"),
        &policies,
        errors,
    );
    resources(one, &at.child("resources"), errors);
}

fn lifecycle(one: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    for hook in ["postStart", "preStop"] {
        if let Some(value) = one
            .pointer(&format!("/lifecycle/{hook}"))
            .filter(|value| !value.is_null())
        {
            handler(value, &at.child(hook), errors);
        }
    }
}

/// Reports no handler or more than one, and ports that are none.
fn handler(value: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let mut count = 0;
    for name in HANDLERS {
        let Some(action) = value.get(name).filter(|action| !action.is_null()) else {
            continue;
        };
        count += 1;
        if count > 1 {
            errors.push(FieldError::forbidden(
                &at.child(name),
                "may not specify more than 1 handler type",
            ));
        } else if matches!(name, "httpGet" | "tcpSocket") {
            port_or_name(&at.child(name).child("port"), action.get("port"), errors);
        } else if name == "exec" && list(action, "/command").is_empty() {
            errors.push(FieldError::required(&at.child("exec").child("command"), ""));
        }
    }
    if count == 0 {
        errors.push(FieldError::required(at, "must specify a handler type"));
    }
}

fn probe(value: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    handler(value, at, errors);
    for name in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        not_negative(&at.child(name), int(value, &format!("/{name}")), errors);
    }
}

fn ports(one: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, port) in list(one, "/ports").iter().enumerate() {
        let at = at.index(index);
        let name = text(port, "/name");
        if !name.is_empty() {
            let found = names::port_name(name);
            if found.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
            faults(&at.child("name"), name, found, errors);
        }
        match int(port, "/containerPort").unwrap_or(0) {
            0 => errors.push(FieldError::required(&at.child("containerPort"), "")),
            number => port_number(&at.child("containerPort"), number, errors),
        }
        if let Some(number) = int(port, "/hostPort").filter(|number| *number != 0) {
            port_number(&at.child("hostPort"), number, errors);
        }
        one_of(
            &at.child("protocol"),
            text(port, "/protocol"),
            &["SCTP", "TCP", "UDP"],
            errors,
        );
    }
}

fn environment(one: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    for (index, variable) in list(one, "/env").iter().enumerate() {
        let at = at.child("env").index(index);
        let name = text(variable, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else {
            faults(&at.child("name"), name, names::env_var_name(name), errors);
        }
        if let Some(from) = variable.get("valueFrom").filter(|from| !from.is_null()) {
            let at = at.child("valueFrom");
            if !text(variable, "/value").is_empty() {
                errors.push(FieldError::invalid(
                    &at,
                    "",
                    "may not be specified when `value` is not empty",
                ));
            }
            if from.as_object().is_some_and(|map| map.len() != 1) {
                let several = from.as_object().is_some_and(|map| !map.is_empty());
                let detail = if several {
                    "may not have more than one field specified at a time"
                } else {
                    "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
                };
                errors.push(FieldError::invalid(&at, "", detail));
            }
        }
    }
    for (index, source) in list(one, "/envFrom").iter().enumerate() {
        let at = at.child("envFrom").index(index);
        for kind in ["configMapRef", "secretRef"] {
            if source.get(kind).is_some() && text(source, &format!("/{kind}/name")).is_empty() {
                errors.push(FieldError::required(&at.child(kind).child("name"), ""));
            }
        }
    }
}

fn mounts(one: &Value, at: &FieldPath, volumes: &HashSet<&str>, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, mount) in list(one, "/volumeMounts").iter().enumerate() {
        let (at, name, path) = (at.index(index), text(mount, "/name"), text(mount, "/mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        }
        if !volumes.contains(name) {
            errors.push(FieldError::not_found(&at.child("name"), name));
        }
        if path.is_empty() {
            errors.push(FieldError::required(&at.child("mountPath"), ""));
        } else if !seen.insert(path) {
            errors.push(FieldError::invalid(&at.child("mountPath"), path, "must be unique"));
        }
    }
}

/// A quantity in billionths, for comparing. `None` when it is none or too large to tell.
fn nanos(text: &str) -> Option<i128> {
    let end = text
        .find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-'))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let digits: i128 = digits.parse().ok()?;
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
        .iter()
        .position(|known| *known == suffix);
    if let Some(power) = binary {
        let scaled = digits.checked_mul(1024_i128.checked_pow(u32::try_from(power).ok()? + 1)?)?;
        return scaled
            .checked_mul(1_000_000_000)?
            .checked_div(10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?);
    }
    let exponent: i32 = match suffix {
        "n" => -9,
        "u" => -6,
        "m" => -3,
        "" => 0,
        "k" => 3,
        "M" => 6,
        "G" => 9,
        "T" => 12,
        "P" => 15,
        "E" => 18,
        other => other.strip_prefix(['e', 'E'])?.parse().ok()?,
    };
    let exponent = exponent + 9 - i32::try_from(fraction.len()).ok()?;
    let factor = 10_i128.checked_pow(exponent.unsigned_abs())?;
    if exponent >= 0 {
        digits.checked_mul(factor)
    } else {
        Some(digits / factor)
    }
}

fn resources(one: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let amounts = |field: &str| one.pointer(&format!("/resources/{field}")).and_then(Value::as_object);
    for field in ["limits", "requests"] {
        for (name, amount) in amounts(field).into_iter().flatten() {
            let (at, amount) = (at.child(field).key(name), amount.as_str().unwrap_or_default());
            if nanos(amount).is_some_and(|amount| amount < 0) {
                errors.push(FieldError::invalid(&at, amount, "must be greater than or equal to 0"));
            }
            resource_name(name, &at, errors);
        }
    }
    for (name, request) in amounts("requests").into_iter().flatten() {
        let limit = amounts("limits")
            .and_then(|limits| limits.get(name))
            .and_then(Value::as_str);
        let (Some(limit), Some(request)) = (limit, request.as_str()) else {
            continue;
        };
        if let (Some(l), Some(r)) = (nanos(limit), nanos(request))
            && r > l
        {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(&at.child("requests"), request, detail));
        }
    }
}

fn resource_name(name: &str, at: &FieldPath, errors: &mut Vec<FieldError>) {
    faults(at, name, names::qualified_name(name), errors);
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        errors.push(FieldError::invalid(
            at,
            name,
            "must be a standard resource type or fully qualified",
        ));
        errors.push(FieldError::invalid(
            at,
            name,
            "must be a standard resource for containers",
        ));
    }
}

fn tolerations(spec: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    for (index, toleration) in list(spec, "/tolerations").iter().enumerate() {
        let at = at.index(index);
        let (key, operator, value) = (
            text(toleration, "/key"),
            text(toleration, "/operator"),
            text(toleration, "/value"),
        );
        if !key.is_empty() {
            faults(&at.child("key"), key, names::qualified_name(key), errors);
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&at.child("operator"), operator, detail));
        }
        match operator {
            "" | "Equal" => faults(&at.child("operator"), value, names::label_value(value), errors),
            "Exists" => {
                if !value.is_empty() {
                    let detail = "value must be empty when `operator` is 'Exists'";
                    errors.push(FieldError::invalid(&at.child("operator"), value, detail));
                }
            }
            other => errors.push(FieldError::not_supported(
                &at.child("operator"),
                other,
                &["Equal", "Exists"],
            )),
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        one_of(&at.child("effect"), text(toleration, "/effect"), &effects, errors);
    }
}

/// Reports what a change of a pod must not change.
pub(super) fn pod_update(object: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let (new, old) = (
        object.get("spec").unwrap_or(&Value::Null),
        old.get("spec").unwrap_or(&Value::Null),
    );
    let at = FieldPath::new("spec");
    for name in ["containers", "initContainers"] {
        let pointer = format!("/{name}");
        if list(new, &pointer).len() != list(old, &pointer).len() {
            errors.push(FieldError::forbidden(
                &at.child(name),
                "pod updates may not add or remove containers",
            ));
            return;
        }
    }
    deadline(new, old, &at.child("activeDeadlineSeconds"), errors);
    kept_tolerations(new, old, &at.child("tolerations"), errors);
    let gated = !list(old, "/schedulingGates").is_empty();
    let mut changed = Vec::new();
    let names: HashSet<&str> = [new, old]
        .into_iter()
        .filter_map(Value::as_object)
        .flat_map(|map| map.keys())
        .map(String::as_str)
        .collect();
    for name in names {
        let (new_value, old_value) = (new.get(name), old.get(name));
        let allowed = match name {
            "activeDeadlineSeconds" | "tolerations" => true,
            "containers" | "initContainers" => same_but_images(new_value, old_value),
            "terminationGracePeriodSeconds" => {
                let was = old_value.and_then(Value::as_i64).unwrap_or(0);
                new_value == old_value || (was < 0 && new_value.and_then(Value::as_i64) == Some(1))
            }
            "schedulingGates" => list(new, "/schedulingGates")
                .iter()
                .all(|gate| list(old, "/schedulingGates").contains(gate)),
            "nodeSelector" if gated => {
                let kept = old_value.and_then(Value::as_object).into_iter().flatten();
                kept.into_iter()
                    .all(|(key, value)| new_value.and_then(|map| map.get(key)) == Some(value))
            }
            "affinity" if gated => true,
            _ => same(new_value, old_value),
        };
        if !allowed {
            changed.push(name);
        }
    }
    if !changed.is_empty() {
        changed.sort_unstable();
        let detail = format!("{CHANGES}\nchanged: {}", changed.join(", "));
        errors.push(FieldError::forbidden(&at, detail));
    }
}

fn same_but_images(new: Option<&Value>, old: Option<&Value>) -> bool {
    let without = |list: Option<&Value>| {
        let mut list = list.cloned().unwrap_or(Value::Null);
        for item in list.as_array_mut().into_iter().flatten() {
            item.as_object_mut().map(|map| map.remove("image"));
        }
        list
    };
    same(Some(&without(new)), Some(&without(old)))
}

fn deadline(new: &Value, old: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let Some(was) = int(old, "/activeDeadlineSeconds") else {
        return;
    };
    match int(new, "/activeDeadlineSeconds") {
        None => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(at, Value::Null, detail).shown_as("null"));
        }
        Some(now) if now > was => {
            errors.push(FieldError::invalid(
                at,
                now,
                "must be less than or equal to previous value",
            ));
        }
        Some(_) => {}
    }
}

fn kept_tolerations(new: &Value, old: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let alike = |l: &Value, r: &Value| {
        ["/key", "/operator", "/value", "/effect"]
            .iter()
            .all(|part| text(l, part) == text(r, part))
    };
    let now = list(new, "/tolerations");
    if list(old, "/tolerations")
        .iter()
        .any(|was| !now.iter().any(|is| alike(is, was)))
    {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(at, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: apiserver-http/STAT-07
    #[test]
    fn quantities_compare_exactly() {
        for (left, right) in [
            ("500m", "0.5"),
            ("1Ki", "1024"),
            ("1e3", "1k"),
            ("0.5Gi", "512Mi"),
            ("100u", "0.0001"),
        ] {
            assert_eq!(nanos(left), nanos(right), "{left} {right}");
        }
        assert!(nanos("2") > nanos("1900m"));
        assert_eq!(nanos("x"), None);
    }
}
