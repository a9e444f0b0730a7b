//! Horizontal pod autoscalers: `v1` has one metric, the utilisation of cpu; `v2` has a list of any.
//!
//! What `v1` cannot say stands in its annotations, in a JSON of its own: metrics and their status in the form of the
//! first `v2beta1`, conditions as they are, the behaviour with the names of Go's fields. An annotation that is no such
//! JSON is dropped. `v2` has none of these annotations.
//!
//! Upstream: kubernetes pkg/apis/autoscaling/v1 (conversion.go).

use serde_json::{Map, Value, json};

use crate::types::TypeRegistry;
use crate::wire;

type Members = Map<String, Value>;
type Converted = Result<(), &'static str>;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// Cpu utilisation that an autoscaler without any metric aims at.
const DEFAULT_UTILIZATION: u32 = 80;

/// One kind of metric: where its parts stand in `v2` and what they are called in the annotations.
struct Source {
    name: &'static str,
    parts: &'static [(&'static str, &'static str)],
}

/// What is wanted of metrics.
const SPECS: [Source; 5] = [
    Source {
        name: "object",
        parts: &[
            ("/describedObject", "target"),
            ("/metric/name", "metricName"),
            ("/target/value", "targetValue"),
            ("/metric/selector", "selector"),
            ("/target/averageValue", "averageValue"),
        ],
    },
    Source {
        name: "pods",
        parts: &[
            ("/metric/name", "metricName"),
            ("/target/averageValue", "targetAverageValue"),
            ("/metric/selector", "selector"),
        ],
    },
    Source {
        name: "resource",
        parts: &[
            ("/name", "name"),
            ("/target/averageUtilization", "targetAverageUtilization"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    },
    Source {
        name: "containerResource",
        parts: &[
            ("/name", "name"),
            ("/target/averageUtilization", "targetAverageUtilization"),
            ("/target/averageValue", "targetAverageValue"),
            ("/container", "container"),
        ],
    },
    Source {
        name: "external",
        parts: &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "metricSelector"),
            ("/target/value", "targetValue"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    },
];

/// What was measured.
const STATUSES: [Source; 5] = [
    Source {
        name: "object",
        parts: &[
            ("/describedObject", "target"),
            ("/metric/name", "metricName"),
            ("/current/value", "currentValue"),
            ("/metric/selector", "selector"),
            ("/current/averageValue", "averageValue"),
        ],
    },
    Source {
        name: "pods",
        parts: &[
            ("/metric/name", "metricName"),
            ("/current/averageValue", "currentAverageValue"),
            ("/metric/selector", "selector"),
        ],
    },
    Source {
        name: "resource",
        parts: &[
            ("/name", "name"),
            ("/current/averageUtilization", "currentAverageUtilization"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    },
    Source {
        name: "containerResource",
        parts: &[
            ("/name", "name"),
            ("/current/averageUtilization", "currentAverageUtilization"),
            ("/current/averageValue", "currentAverageValue"),
            ("/container", "container"),
        ],
    },
    Source {
        name: "external",
        parts: &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "metricSelector"),
            ("/current/value", "currentValue"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    },
];

/// The fields of the behaviour with their names in Go, on every level.
const BEHAVIOR_FIELDS: [(&str, &str); 9] = [
    ("scaleUp", "ScaleUp"),
    ("scaleDown", "ScaleDown"),
    ("stabilizationWindowSeconds", "StabilizationWindowSeconds"),
    ("selectPolicy", "SelectPolicy"),
    ("policies", "Policies"),
    ("tolerance", "Tolerance"),
    ("type", "Type"),
    ("value", "Value"),
    ("periodSeconds", "PeriodSeconds"),
];

pub(super) fn to_v2(autoscaler: &mut Members) -> Converted {
    let annotations = take_annotations(autoscaler);
    let annotation = |name: &str| annotations.get(name).and_then(Value::as_str);
    let list = |name: &str, ty: &str| annotation(name).and_then(|text| read_list(text, ty));

    let spec = members(autoscaler, "spec")?;
    let percentage = spec.remove("targetCPUUtilizationPercentage");
    let mut metrics = list(METRICS, "autoscaling.v1.MetricSpec").unwrap_or_default();
    metrics.iter_mut().for_each(|metric| to_v2_metric(metric, &SPECS));
    metrics.extend(percentage.filter(|value| !value.is_null()).map(cpu));
    if metrics.is_empty() {
        metrics.push(cpu(DEFAULT_UTILIZATION.into()));
    }
    spec.insert("metrics".into(), metrics.into());
    if let Some(behavior) = annotation(BEHAVIOR).and_then(read_behavior) {
        spec.insert("behavior".into(), behavior);
    }

    let status = members(autoscaler, "status")?;
    let percentage = status.remove("currentCPUUtilizationPercentage");
    if let Some(mut metrics) = list(CURRENT_METRICS, "autoscaling.v1.MetricStatus") {
        metrics.iter_mut().for_each(|metric| to_v2_metric(metric, &STATUSES));
        status.insert("currentMetrics".into(), metrics.into());
    } else if let Some(percentage) = percentage.filter(|value| !value.is_null()) {
        let current = json!({"averageUtilization": percentage});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "current": current}});
        status.insert("currentMetrics".into(), json!([metric]));
    }
    if let Some(conditions) = list(CONDITIONS, "autoscaling.v2.HorizontalPodAutoscalerCondition") {
        status.insert("conditions".into(), conditions.into());
    }
    Ok(())
}

pub(super) fn to_v1(autoscaler: &mut Members) -> Converted {
    // Those of the client mean nothing: what is there is written anew.
    take_annotations(autoscaler);
    let mut written: Vec<(&str, String)> = Vec::new();

    let spec = members(autoscaler, "spec")?;
    let metrics = list_of(spec.remove("metrics"), "spec.metrics")?;
    let (of_cpu, others): (Vec<_>, Vec<_>) = metrics.into_iter().partition(is_cpu);
    if let Some(metric) = of_cpu.first() {
        let percentage = metric["resource"]["target"]["averageUtilization"].clone();
        spec.insert("targetCPUUtilizationPercentage".into(), percentage);
    }
    if !others.is_empty() {
        let others = others.iter().map(|metric| to_v1_metric(metric, &SPECS));
        let text = write_list(others, "autoscaling.v1.MetricSpec").ok_or("spec.metrics")?;
        written.push((METRICS, text));
    }
    if let Some(mut behavior) = spec.remove("behavior").filter(|value| !value.is_null()) {
        rename_all(&mut behavior, |(own, go)| (own, go));
        let text = write(&behavior, "autoscaling.HorizontalPodAutoscalerBehavior").ok_or("spec.behavior")?;
        written.push((BEHAVIOR, text));
    }

    let status = members(autoscaler, "status")?;
    let metrics = list_of(status.remove("currentMetrics"), "status.currentMetrics")?;
    let of_cpu = metrics
        .iter()
        .filter(|metric| metric["type"] == "Resource" && metric["resource"]["name"] == "cpu");
    let mut utilization = of_cpu.map(|metric| &metric["resource"]["current"]["averageUtilization"]);
    if let Some(percentage) = utilization.rfind(|value| !value.is_null()) {
        status.insert("currentCPUUtilizationPercentage".into(), percentage.clone());
    }
    if !metrics.is_empty() {
        let metrics = metrics.iter().map(|metric| to_v1_metric(metric, &STATUSES));
        let text = write_list(metrics, "autoscaling.v1.MetricStatus").ok_or("status.currentMetrics")?;
        written.push((CURRENT_METRICS, text));
    }
    let conditions = list_of(status.remove("conditions"), "status.conditions")?;
    if !conditions.is_empty() {
        let ty = "autoscaling.v2.HorizontalPodAutoscalerCondition";
        let text = write_list(conditions.into_iter(), ty).ok_or("status.conditions")?;
        written.push((CONDITIONS, text));
    }

    if !written.is_empty() {
        let annotations = members(members(autoscaler, "metadata")?, "annotations")?;
        annotations.extend(written.into_iter().map(|(name, text)| (name.to_owned(), text.into())));
    }
    Ok(())
}

/// The object under a name; one that is not there becomes an empty one.
fn members<'a>(object: &'a mut Members, name: &'static str) -> Result<&'a mut Members, &'static str> {
    let member = object.entry(name).or_insert(Value::Null);
    if member.is_null() {
        *member = Value::Object(Map::new());
    }
    member.as_object_mut().ok_or(name)
}

/// Takes out the annotations that stand for fields.
fn take_annotations(autoscaler: &mut Members) -> Members {
    let mut taken = Map::new();
    let Some(Value::Object(metadata)) = autoscaler.get_mut("metadata") else {
        return taken;
    };
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        for name in [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR] {
            taken.extend(annotations.remove_entry(name));
        }
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    taken
}

fn list_of(value: Option<Value>, field: &'static str) -> Result<Vec<Value>, &'static str> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(field),
    }
}

/// The metric that `v1` has a field for.
fn is_cpu(metric: &Value) -> bool {
    let resource = &metric["resource"];
    metric["type"] == "Resource" && resource["name"] == "cpu" && !resource["target"]["averageUtilization"].is_null()
}

fn cpu(percentage: Value) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": percentage});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

fn to_v1_metric(metric: &Value, sources: &[Source]) -> Value {
    let mut converted = json!({"type": metric["type"]});
    for Source { name, parts } in sources {
        let Some(source) = metric.get(*name).filter(|source| source.is_object()) else {
            continue;
        };
        let parts = parts.iter().filter_map(|(path, name)| {
            let part = source.pointer(path).filter(|part| !part.is_null())?;
            Some(((*name).to_owned(), part.clone()))
        });
        converted[*name] = Value::Object(parts.collect());
    }
    converted
}

/// Brings a metric of an annotation, with all its fields, into the form of `v2`.
fn to_v2_metric(metric: &mut Value, sources: &[Source]) {
    for Source { name, parts } in sources {
        let Some(Value::Object(source)) = metric.get_mut(*name).map(Value::take) else {
            continue;
        };
        let mut converted = Value::Object(Map::new());
        for (path, part) in *parts {
            let Some(value) = source.get(*part) else { continue };
            // Written for want of a way to leave it out.
            if *part == "targetValue" && value == "0" && source.contains_key("averageValue") {
                continue;
            }
            let mut place = &mut converted;
            for name in path.split('/').skip(1) {
                place = &mut place[name];
            }
            *place = value.clone();
        }
        let has = |part: &str| source.contains_key(part);
        let kind = match *name {
            "object" if !has("averageValue") => "Value",
            "external" if has("targetValue") => "Value",
            "resource" | "containerResource" if has("targetAverageUtilization") => "Utilization",
            _ => "AverageValue",
        };
        if converted.get("target").is_some() || parts.iter().any(|(path, _)| path.starts_with("/target/")) {
            converted["target"]["type"] = kind.into();
        }
        metric[*name] = converted;
    }
}

/// Changes the names of a behaviour's fields.
fn rename_all(behavior: &mut Value, direction: fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    match behavior {
        Value::Object(fields) => {
            for (old, new) in BEHAVIOR_FIELDS.map(direction) {
                if let Some(value) = fields.remove(old) {
                    fields.insert(new.to_owned(), value);
                }
            }
            fields.values_mut().for_each(|value| rename_all(value, direction));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename_all(item, direction)),
        _ => {}
    }
}

fn read_behavior(text: &str) -> Option<Value> {
    let behavior = serde_json::from_str(text).ok()?;
    let mut behavior = read(&behavior, "autoscaling.HorizontalPodAutoscalerBehavior")?;
    rename_all(&mut behavior, |(own, go)| (go, own));
    // Of Go's fields that are nothing, `v2` has none.
    let fields = behavior.as_object_mut()?;
    fields.retain(|_, rules| !rules.is_null());
    let all_rules = fields.values_mut().filter_map(Value::as_object_mut);
    all_rules.for_each(|rules| rules.retain(|_, value| !value.is_null()));
    (!fields.is_empty()).then_some(behavior)
}

/// The items of a list in an annotation, with the fields of their type; `None` when it is no such list.
fn read_list(text: &str, ty: &str) -> Option<Vec<Value>> {
    match serde_json::from_str(text).ok()? {
        Value::Null => Some(Vec::new()),
        Value::Array(items) => items.iter().map(|item| read(item, ty)).collect(),
        _ => None,
    }
}

fn read(value: &Value, ty: &str) -> Option<Value> {
    serde_json::from_str(&write(value, ty)?).ok()
}

fn write_list(items: impl Iterator<Item = Value>, ty: &str) -> Option<String> {
    let items: Option<Vec<String>> = items.map(|item| write(&item, ty)).collect();
    Some(format!("[{}]", items?.join(",")))
}

/// A value as Go writes it.
fn write(value: &Value, ty: &str) -> Option<String> {
    let ty = TypeRegistry::builtin().by_name(ty)?;
    String::from_utf8(wire::encode_value(ty, value).ok()?).ok()
}
