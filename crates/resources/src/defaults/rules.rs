//! Defaults that depend on other fields, one rule for each type that has some.
//!
//! Upstream: the `defaults.go` of each group under kubernetes pkg/apis.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::image;

type Members = Map<String, Value>;

/// A rule on a type.
pub(super) struct Rule {
    /// Sets what is absent.
    pub(super) run: fn(&mut Members),
    /// Whether it sets something on an empty value.
    pub(super) sets_on_empty: bool,
}

/// The rule of a type.
pub(super) fn rule_of(ty: &str) -> Option<Rule> {
    let (run, sets_on_empty): (fn(&mut Members), bool) = match ty {
        "core.v1.Container" | "core.v1.EphemeralContainer" => (container, true),
        "core.v1.ImageVolumeSource" => (image_volume, true),
        "core.v1.Volume" => (volume, true),
        "core.v1.Pod" => (pod, true),
        "core.v1.ReplicationController" => (replication_controller, false),
        "core.v1.Namespace" => (namespace, false),
        "core.v1.Secret" => (secret, false),
        "core.v1.NodeStatus" => (node_status, false),
        "core.v1.LimitRangeItem" => (limit_range_item, false),
        "core.v1.ServiceSpec" => (service_spec, true),
        "core.v1.ServicePort" => (service_port, true),
        "core.v1.LoadBalancerIngress" => (load_balancer_ingress, false),
        "apps.v1.DeploymentStrategy" => (deployment_strategy, true),
        "apps.v1.DaemonSetUpdateStrategy" => (daemon_set_strategy, true),
        "apps.v1.StatefulSetSpec" => (stateful_set_spec, false),
        "apps.v1.StatefulSetUpdateStrategy" => (stateful_set_strategy, true),
        "batch.v1.Job" => (job, true),
        "autoscaling.v2.HorizontalPodAutoscalerBehavior" => (autoscaler_behavior, true),
        "networking.v1.NetworkPolicySpec" => (network_policy_spec, true),
        "rbac.v1.Subject" => (rbac_subject, false),
        "resource.v1.ExactDeviceRequest" | "resource.v1.DeviceSubRequest" => (device_request, true),
        "apiextensions.v1.CustomResourceDefinition" => (custom_resource_definition, true),
        "apiextensions.v1.ServiceReference" | "apiregistration.v1.ServiceReference" => (service_reference, true),
        _ => return None,
    };
    Some(Rule { run, sets_on_empty })
}

/// Whether a default that the data lists as the only one seen is set by a rule instead, or under other types only.
pub(super) fn is_conditional(ty: &str, field: &str) -> bool {
    matches!(
        (ty, field),
        ("core.v1.Container" | "core.v1.EphemeralContainer" | "core.v1.EphemeralContainerCommon", "imagePullPolicy")
            | ("core.v1.ImageVolumeSource", "pullPolicy")
            // Shows in no JSON.
            | ("core.v1.ConfigMap", "data")
            // Of pods, not of templates.
            | ("core.v1.PodSpec", "enableServiceLinks")
            | ("core.v1.ServiceSpec", "sessionAffinityConfig" | "internalTrafficPolicy")
            | ("meta.v1.ObjectMeta", _)
            | ("apps.v1.DeploymentStrategy" | "apps.v1.DaemonSetUpdateStrategy", "rollingUpdate")
            | ("apps.v1.StatefulSetUpdateStrategy", _)
            | ("apps.v1.RollingUpdateDeployment" | "apps.v1.RollingUpdateDaemonSet", _)
            | ("apps.v1.RollingUpdateStatefulSetStrategy", _)
            // Of jobs, not of the templates of cron jobs.
            | ("batch.v1.JobSpec", _)
            | ("autoscaling.v2.HPAScalingRules", _)
            | ("networking.v1.NetworkPolicySpec", _)
            | ("resource.v1.DeviceTaint", "timeAdded")
            | ("resource.v1.ExactDeviceRequest" | "resource.v1.DeviceSubRequest", _)
    )
}

/// Whether maps of quantities in this type are resource lists, whose quantities are rounded.
pub(super) fn has_resource_lists(ty: &str) -> bool {
    ty.starts_with("core.v1.") || ty == "node.v1.Overhead"
}

fn text<'m>(members: &'m Members, name: &str) -> &'m str {
    members.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn is_set(members: &Members, name: &str) -> bool {
    members.get(name).is_some_and(|value| !value.is_null())
}

fn number(members: &Members, name: &str) -> i64 {
    members.get(name).and_then(Value::as_i64).unwrap_or_default()
}

fn set(members: &mut Members, name: &str, value: impl Into<Value>) {
    members.insert(name.to_owned(), value.into());
}

fn set_if_unset(members: &mut Members, name: &str, value: impl Into<Value>) {
    if !is_set(members, name) {
        set(members, name, value);
    }
}

fn set_if_empty(members: &mut Members, name: &str, value: &str) {
    if !is_set(members, name) || members.get(name).and_then(Value::as_str) == Some("") {
        set(members, name, value);
    }
}

fn has_items(members: &Members, name: &str) -> bool {
    match members.get(name) {
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(items)) => !items.is_empty(),
        _ => false,
    }
}

/// The object under a name, made when it is absent; `None` when something else is there.
fn object<'m>(members: &'m mut Members, name: &str) -> Option<&'m mut Members> {
    set_if_unset(members, name, Map::new());
    members.get_mut(name).and_then(Value::as_object_mut)
}

/// The objects in a list.
fn items<'m>(members: &'m mut Members, name: &str) -> impl Iterator<Item = &'m mut Members> {
    members
        .get_mut(name)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// Copies the entries of one map that another one lacks. Makes the other one only for an entry.
fn fill(members: &mut Members, target: &str, source: &str) {
    let Some(Value::Object(source)) = members.get(source) else {
        return;
    };
    let missing: Vec<_> = source
        .iter()
        .filter(|(key, _)| members.get(target).and_then(|value| value.get(key.as_str())).is_none())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if missing.is_empty() {
        return;
    }
    if let Some(target) = object(members, target) {
        target.extend(missing);
    }
}

fn pull_policy(image: &str) -> &'static str {
    if image::has_latest_tag(image) {
        "Always"
    } else {
        "IfNotPresent"
    }
}

fn container(container: &mut Members) {
    let policy = pull_policy(text(container, "image"));
    set_if_empty(container, "imagePullPolicy", policy);
}

fn image_volume(volume: &mut Members) {
    let policy = pull_policy(text(volume, "reference"));
    set_if_empty(volume, "pullPolicy", policy);
}

/// A volume without a source is an empty directory.
fn volume(volume: &mut Members) {
    if !volume.iter().any(|(name, value)| name != "name" && !value.is_null()) {
        set(volume, "emptyDir", Map::new());
    }
}

fn pod(pod: &mut Members) {
    let Some(spec) = object(pod, "spec") else { return };
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool) == Some(true);
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            if let Some(Value::Object(resources)) = container.get_mut("resources") {
                fill(resources, "requests", "limits");
            }
            if !host_network {
                continue;
            }
            for port in items(container, "ports") {
                if number(port, "hostPort") == 0 {
                    let container_port = number(port, "containerPort");
                    set(port, "hostPort", container_port);
                }
            }
        }
    }
    set_if_unset(spec, "enableServiceLinks", true);
}

/// Selector and labels come from the template's labels.
fn replication_controller(controller: &mut Members) {
    let labels = controller
        .get("spec")
        .and_then(|spec| spec.pointer("/template/metadata/labels"));
    let Some(labels @ Value::Object(_)) = labels.cloned() else {
        return;
    };
    if let Some(spec) = object(controller, "spec")
        && !has_items(spec, "selector")
    {
        set(spec, "selector", labels.clone());
    }
    labels_from(controller, labels);
}

fn labels_from(owner: &mut Members, labels: Value) {
    if let Some(metadata) = object(owner, "metadata")
        && !has_items(metadata, "labels")
    {
        set(metadata, "labels", labels);
    }
}

/// A namespace carries its name as a label.
fn namespace(namespace: &mut Members) {
    let Some(metadata) = object(namespace, "metadata") else {
        return;
    };
    let name = text(metadata, "name").to_owned();
    if name.is_empty() {
        return;
    }
    if let Some(labels) = object(metadata, "labels") {
        set(labels, "kubernetes.io/metadata.name", name);
    }
}

/// What a client writes as text is kept as bytes; of the same key the text wins.
fn secret(secret: &mut Members) {
    let Some(Value::Object(texts)) = secret.remove("stringData") else {
        return;
    };
    if texts.is_empty() {
        return;
    }
    if let Some(data) = object(secret, "data") {
        data.extend(texts.into_iter().map(|(key, text)| {
            let bytes = text.as_str().unwrap_or_default();
            (key, Value::String(STANDARD.encode(bytes)))
        }));
    }
}

fn node_status(status: &mut Members) {
    if !is_set(status, "allocatable")
        && let Some(capacity) = status.get("capacity").filter(|capacity| capacity.is_object()).cloned()
    {
        set(status, "allocatable", capacity);
    }
}

fn limit_range_item(item: &mut Members) {
    if text(item, "type") == "Container" {
        fill(item, "default", "max");
        fill(item, "defaultRequest", "default");
        fill(item, "defaultRequest", "min");
    }
}

fn service_spec(spec: &mut Members) {
    match text(spec, "sessionAffinity") {
        "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            let timeout = spec
                .get("sessionAffinityConfig")
                .and_then(|config| config.pointer("/clientIP/timeoutSeconds"));
            if timeout.is_none_or(Value::is_null) {
                set(
                    spec,
                    "sessionAffinityConfig",
                    json!({"clientIP": {"timeoutSeconds": 10800}}),
                );
            }
        }
        _ => {}
    }
    let (in_cluster, load_balancer, node_port) = match text(spec, "type") {
        "ClusterIP" => (true, false, false),
        "NodePort" => (true, false, true),
        "LoadBalancer" => (true, true, false),
        _ => (false, false, false),
    };
    let external_ips = text(spec, "type") == "ClusterIP" && has_items(spec, "externalIPs");
    if load_balancer || node_port || external_ips {
        set_if_empty(spec, "externalTrafficPolicy", "Cluster");
    }
    if in_cluster {
        set_if_unset(spec, "internalTrafficPolicy", "Cluster");
    }
    if load_balancer {
        set_if_unset(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn service_port(port: &mut Members) {
    let unset = match port.get("targetPort") {
        None | Some(Value::Null) => true,
        Some(Value::Number(number)) => number.as_i64() == Some(0),
        Some(Value::String(name)) => name.is_empty(),
        Some(_) => false,
    };
    if unset {
        let number = number(port, "port");
        set(port, "targetPort", number);
    }
}

fn load_balancer_ingress(ingress: &mut Members) {
    if !text(ingress, "ip").is_empty() {
        set_if_unset(ingress, "ipMode", "VIP");
    }
}

fn deployment_strategy(strategy: &mut Members) {
    if text(strategy, "type") == "RollingUpdate"
        && let Some(rolling) = object(strategy, "rollingUpdate")
    {
        set_if_unset(rolling, "maxUnavailable", "25%");
        set_if_unset(rolling, "maxSurge", "25%");
    }
}

fn daemon_set_strategy(strategy: &mut Members) {
    if text(strategy, "type") == "RollingUpdate"
        && let Some(rolling) = object(strategy, "rollingUpdate")
    {
        set_if_unset(rolling, "maxUnavailable", 1);
        set_if_unset(rolling, "maxSurge", 0);
    }
}

/// Claims carry their kind, which protobuf does not store.
fn stateful_set_spec(spec: &mut Members) {
    for claim in items(spec, "volumeClaimTemplates") {
        set(claim, "kind", "PersistentVolumeClaim");
        set(claim, "apiVersion", "v1");
    }
}

/// Only a strategy without a type gets the parameters; a rolling update that says so itself may go without.
fn stateful_set_strategy(strategy: &mut Members) {
    if text(strategy, "type").is_empty() {
        set(strategy, "type", "RollingUpdate");
        set_if_unset(strategy, "rollingUpdate", Map::new());
    }
    if text(strategy, "type") == "RollingUpdate"
        && let Some(Value::Object(rolling)) = strategy.get_mut("rollingUpdate")
    {
        set_if_unset(rolling, "partition", 0);
    }
}

fn job(job: &mut Members) {
    let Some(spec) = object(job, "spec") else { return };
    if !is_set(spec, "completions") && !is_set(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    set_if_unset(spec, "parallelism", 1);
    let backoff_limit = if is_set(spec, "backoffLimitPerIndex") {
        i32::MAX
    } else {
        6
    };
    set_if_unset(spec, "backoffLimit", backoff_limit);
    set_if_unset(spec, "completionMode", "NonIndexed");
    set_if_unset(spec, "suspend", false);
    set_if_unset(spec, "manualSelector", false);
    let replacement = if is_set(spec, "podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    set_if_unset(spec, "podReplacementPolicy", replacement);
    if let Some(labels @ Value::Object(_)) = job
        .get("spec")
        .and_then(|spec| spec.pointer("/template/metadata/labels"))
        .cloned()
    {
        labels_from(job, labels);
    }
}

/// A behaviour that says something says all of it.
fn autoscaler_behavior(behavior: &mut Members) {
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    if let Some(up) = object(behavior, "scaleUp") {
        set_if_unset(up, "stabilizationWindowSeconds", 0);
        set_if_unset(up, "selectPolicy", "Max");
        set_if_unset(up, "policies", json!([pods, percent]));
    }
    if let Some(down) = object(behavior, "scaleDown") {
        set_if_unset(down, "selectPolicy", "Max");
        set_if_unset(down, "policies", json!([percent]));
    }
}

fn network_policy_spec(spec: &mut Members) {
    if !has_items(spec, "policyTypes") {
        let types = if has_items(spec, "egress") {
            json!(["Ingress", "Egress"])
        } else {
            json!(["Ingress"])
        };
        set(spec, "policyTypes", types);
    }
}

fn rbac_subject(subject: &mut Members) {
    if matches!(text(subject, "kind"), "User" | "Group") {
        set_if_empty(subject, "apiGroup", "rbac.authorization.k8s.io");
    }
}

fn device_request(request: &mut Members) {
    set_if_empty(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" && number(request, "count") == 0 {
        set(request, "count", 1);
    }
}

fn service_reference(reference: &mut Members) {
    set_if_unset(reference, "port", 443);
}

fn custom_resource_definition(definition: &mut Members) {
    let Some(spec) = object(definition, "spec") else { return };
    if let Some(names) = object(spec, "names") {
        let kind = text(names, "kind").to_owned();
        if !kind.is_empty() {
            set_if_empty(names, "singular", &kind.to_lowercase());
            set_if_empty(names, "listKind", &format!("{kind}List"));
        }
    }
    set_if_unset(spec, "conversion", json!({"strategy": "None"}));
    let stored = items(spec, "versions")
        .find(|version| version.get("storage").and_then(Value::as_bool) == Some(true))
        .map(|version| text(version, "name").to_owned());
    if let (Some(stored), Some(status)) = (stored, object(definition, "status"))
        && !has_items(status, "storedVersions")
    {
        set(status, "storedVersions", json!([stored]));
    }
}
