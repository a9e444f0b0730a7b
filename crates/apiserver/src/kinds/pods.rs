//! What the server adds to pods.

use serde_json::{Map, Value, json};

/// What upstream's default admission plugins see to on every write of a pod: how long it stays on a lost node, and that
/// its priority, once set, stays.
///
/// Upstream: kubernetes plugin/pkg/admission (defaulttolerationseconds, priority).
pub(crate) fn admit(pod: &mut Value, old: Option<&Value>) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    tolerate_lost_nodes(spec);
    for (name, default) in [
        ("priority", json!(0)),
        ("preemptionPolicy", json!("PreemptLowerPriority")),
    ] {
        let value = match old {
            None => Some(default),
            Some(old) => old.pointer(&format!("/spec/{name}")).cloned(),
        };
        if let (Some(value), None | Some(Value::Null)) = (value, spec.get(name)) {
            spec.insert(name.into(), value);
        }
    }
}

fn tolerate_lost_nodes(spec: &mut Map<String, Value>) {
    const SECONDS: i64 = 300;
    let mut tolerations = spec
        .get("tolerations")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|own| {
            let text = |name: &str| own.get(name).and_then(Value::as_str).unwrap_or_default();
            let (own_key, effect) = (text("key"), text("effect"));
            (own_key == key || own_key.is_empty()) && matches!(effect, "NoExecute" | "")
        });
        if !tolerated {
            let toleration = json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            });
            tolerations.push(toleration);
        }
    }
    spec.insert("tolerations".into(), tolerations.into());
}

/// How a pod's resources are guaranteed. Upstream: pkg/apis/core/v1/helper/qos (qos.go).
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let containers = ["containers", "initContainers"]
        .into_iter()
        .filter_map(|name| spec.get(name).and_then(Value::as_array))
        .flatten();
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        let amounts = |which: &str| {
            let amounts = container
                .pointer(&format!("/resources/{which}"))
                .and_then(Value::as_object);
            let amount = |name: &str| {
                amounts
                    .and_then(|amounts| amounts.get(name))
                    .filter(|amount| !is_zero(amount))
                    .cloned()
            };
            (amount("cpu"), amount("memory"))
        };
        let (requests, limits) = (amounts("requests"), amounts("limits"));
        any |= [&requests.0, &requests.1, &limits.0, &limits.1]
            .into_iter()
            .any(Option::is_some);
        let full = limits.0.is_some() && limits.1.is_some();
        let same = |request: &Option<Value>, limit: &Option<Value>| request.is_none() || request == limit;
        guaranteed &= full && same(&requests.0, &limits.0) && same(&requests.1, &limits.1);
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn is_zero(amount: &Value) -> bool {
    match amount {
        Value::String(text) => text.trim_start_matches(['0', '.']).is_empty() || text == "0",
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quality_of_service_follows_from_requests_and_limits() {
        let class = |resources: Value| qos_class(&json!({ "containers": [{ "name": "a", "resources": resources }] }));
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({ "requests": { "cpu": "0" } })), "BestEffort");
        assert_eq!(class(json!({ "requests": { "cpu": "1" } })), "Burstable");
        assert_eq!(class(json!({ "limits": { "cpu": "1" } })), "Burstable");
        assert_eq!(
            class(json!({ "limits": { "cpu": "1", "memory": "1Gi" } })),
            "Guaranteed"
        );
        let less = json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "500m" } });
        assert_eq!(class(less), "Burstable");
    }

    // covers: apiserver-http/SMP-03
    #[test]
    fn tolerations_come_back_and_the_priority_stays() {
        let mut pod = json!({ "spec": { "containers": [] } });
        admit(&mut pod, None);
        assert_eq!(pod["spec"]["priority"], 0);
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
        let old = json!({ "spec": { "priority": 7, "preemptionPolicy": "Never" } });
        let mut changed =
            json!({ "spec": { "tolerations": [{ "key": "k", "operator": "Exists" }], "priority": null } });
        admit(&mut changed, Some(&old));
        assert_eq!(changed["spec"]["priority"], 7);
        assert_eq!(changed["spec"]["preemptionPolicy"], "Never");
        let keys: Vec<_> = changed["spec"]["tolerations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|own| own["key"].clone())
            .collect();
        assert_eq!(
            keys,
            ["k", "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
        );
        let mut all = json!({ "spec": { "tolerations": [{ "operator": "Exists" }] } });
        admit(&mut all, Some(&old));
        assert_eq!(all["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }
}
