//! Horizontal pod autoscalers: `v1` has one metric, the utilisation of cpu; `v2` has a list of any.
//!
//! What `v1` cannot say, upstream puts into annotations in a form of its own. Here it has no form, so an autoscaler with
//! other metrics or with behaviour is available in `v2` only.

use serde_json::{Map, Value, json};

type Members = Map<String, Value>;
type Converted = Result<(), &'static str>;

pub(super) fn to_v2(autoscaler: &mut Members) -> Converted {
    if let Some(Value::Object(spec)) = autoscaler.get_mut("spec")
        && let Some(percentage) = spec
            .remove("targetCPUUtilizationPercentage")
            .filter(|value| !value.is_null())
    {
        let target = json!({"type": "Utilization", "averageUtilization": percentage});
        spec.insert(
            "metrics".into(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]),
        );
    }
    if let Some(Value::Object(status)) = autoscaler.get_mut("status")
        && let Some(percentage) = status
            .remove("currentCPUUtilizationPercentage")
            .filter(|value| !value.is_null())
    {
        let current = json!({"averageUtilization": percentage, "averageValue": "0"});
        status.insert(
            "currentMetrics".into(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]),
        );
    }
    Ok(())
}

pub(super) fn to_v1(autoscaler: &mut Members) -> Converted {
    if let Some(Value::Object(spec)) = autoscaler.get_mut("spec") {
        if spec.get("behavior").is_some_and(|behavior| !behavior.is_null()) {
            return Err("spec.behavior");
        }
        let metrics = spec.remove("metrics").unwrap_or_default();
        match metrics.as_array().map(Vec::as_slice) {
            None | Some([]) => {}
            Some([metric]) => {
                let is_cpu =
                    metric["resource"]["name"] == "cpu" && metric["resource"]["target"]["type"] == "Utilization";
                let percentage = &metric["resource"]["target"]["averageUtilization"];
                if !is_cpu || !percentage.is_number() {
                    return Err("spec.metrics");
                }
                spec.insert("targetCPUUtilizationPercentage".into(), percentage.clone());
            }
            Some(_) => return Err("spec.metrics"),
        }
    }
    if let Some(Value::Object(status)) = autoscaler.get_mut("status") {
        let metrics = status.remove("currentMetrics").unwrap_or_default();
        let cpu = metrics
            .as_array()
            .into_iter()
            .flatten()
            .find(|metric| metric["resource"]["name"] == "cpu");
        if let Some(percentage) = cpu.map(|metric| &metric["resource"]["current"]["averageUtilization"])
            && percentage.is_number()
        {
            status.insert("currentCPUUtilizationPercentage".into(), percentage.clone());
        }
        if status
            .remove("conditions")
            .is_some_and(|conditions| conditions.as_array().is_some_and(|all| !all.is_empty()))
        {
            return Err("status.conditions");
        }
    }
    Ok(())
}
