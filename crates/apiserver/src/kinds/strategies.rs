//! The rules of the kinds: what the server owns of an object, what an update may change, what holds a deletion back.
//!
//! Upstream: kubernetes/kubernetes pkg/registry (core, apps: strategy.go of each kind).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use apiserver_registry::{Draft, FieldError, GarbageCollection, Hold, RequestContext, Result, Strategy};
use apiserver_resources::crd::{CustomKind, CustomVersion, validate_custom, validate_custom_update};
use apiserver_resources::types::ResourceEntry;
use apiserver_resources::validation::{self, NameRule};
use apiserver_storage_api::Ttl;

use crate::kinds::definitions::accepted_status;

/// How long an event is kept.
const EVENT_TTL: Duration = Duration::from_secs(3600);
/// The finalizer that every namespace is born with.
const KUBERNETES: &str = "kubernetes";

/// The rules of a built-in kind.
#[derive(Debug, Clone)]
pub(crate) struct BuiltinStrategy {
    entry: &'static ResourceEntry,
    has_status: bool,
    /// Whether `metadata.generation` counts changes of the desired state.
    generation: bool,
}

impl BuiltinStrategy {
    pub(crate) fn new(entry: &'static ResourceEntry) -> Self {
        let has_status = entry.subresources.iter().any(|sub| sub.name == "status");
        let core = entry.group.is_empty();
        let generation = !core || matches!(&*entry.resource, "pods" | "replicationcontrollers" | "services");
        let generation = generation && has_status && !(core && entry.resource == "services");
        Self {
            entry,
            has_status,
            generation,
        }
    }

    fn is(&self, group: &str, resource: &str) -> bool {
        self.entry.group == group && self.entry.resource == resource
    }

    fn faults(&self, new: &Draft<Value>, old: Option<&Draft<Value>>) -> Vec<FieldError> {
        let whole = |draft: &Draft<Value>| {
            let mut value = draft.object.clone();
            draft.meta.put_into(&mut value);
            value
        };
        let old = old.map(whole);
        if self.is("apiextensions.k8s.io", "customresourcedefinitions") {
            return CustomKind::parse(&whole(new)).err().unwrap_or_default();
        }
        let ResourceEntry {
            group,
            kind,
            namespaced,
            ..
        } = self.entry;
        match &old {
            None => validation::validate_create(group, kind, *namespaced, &whole(new)),
            Some(old) => validation::validate_update(group, kind, *namespaced, &whole(new), old),
        }
    }
}

impl Strategy<Value> for BuiltinStrategy {
    fn prepare_for_create(&self, ctx: &RequestContext, new: &mut Draft<Value>) {
        let Some(object) = new.object.as_object_mut() else {
            return;
        };
        // Kubelets announce themselves with their status.
        if self.has_status && !self.is("", "nodes") {
            object.remove("status");
        }
        if self.generation {
            new.meta.generation = Some(1);
        }
        if self.is("", "pods") {
            let class = qos_class(object.get("spec").unwrap_or(&Value::Null));
            object.insert("status".into(), json!({ "phase": "Pending", "qosClass": class }));
            if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                admit_pod(spec);
            }
        } else if self.is("", "namespaces") {
            object.insert("status".into(), json!({ "phase": "Active" }));
            let spec = object.entry("spec").or_insert_with(|| json!({}));
            let finalizers = spec
                .get("finalizers")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            if !finalizers.iter().any(|finalizer| finalizer == KUBERNETES) {
                let all: Vec<_> = finalizers.into_iter().chain([KUBERNETES.into()]).collect();
                *spec = json!({ "finalizers": all });
            }
        } else if self.is("", "persistentvolumeclaims") || self.is("", "persistentvolumes") {
            object.insert("status".into(), json!({ "phase": "Pending" }));
        } else if self.is("apiextensions.k8s.io", "customresourcedefinitions") {
            let status = accepted_status(&new.object, &ctx.now().to_string());
            set(&mut new.object, "status", Some(status));
        }
        apiserver_resources::defaults::apply_defaults(self.entry.gvk(), &mut new.object);
    }

    fn validate_create(&self, _: &RequestContext, new: &Draft<Value>) -> Vec<FieldError> {
        self.faults(new, None)
    }

    fn canonicalize(&self, new: &mut Draft<Value>) {
        if self.is("", "namespaces") {
            let name = new.meta.name().to_owned();
            new.meta.labels.insert("kubernetes.io/metadata.name".into(), name);
        }
    }

    fn prepare_for_update(&self, _: &RequestContext, new: &mut Draft<Value>, old: &Draft<Value>) {
        if self.has_status {
            keep(&mut new.object, &old.object, "status");
        }
        if self.is("", "namespaces") {
            // Only the finalize front changes these.
            keep(&mut new.object, &old.object, "spec");
        }
        if self.is("", "secrets") && text(&new.object, "type").is_empty() {
            keep(&mut new.object, &old.object, "type");
        }
        if self.generation {
            let annotations = self.is("apps", "deployments") && new.meta.annotations != old.meta.annotations;
            if annotations || new.object.get("spec") != old.object.get("spec") {
                new.meta.generation = Some(old.meta.generation.unwrap_or_default() + 1);
            }
        }
    }

    fn validate_update(&self, _: &RequestContext, new: &Draft<Value>, old: &Draft<Value>) -> Vec<FieldError> {
        self.faults(new, Some(old))
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validation::name_rule(&self.entry.group, &self.entry.kind).check(name, prefix)
    }

    fn allow_create_on_update(&self, _: &RequestContext) -> bool {
        self.entry.group.is_empty()
            && matches!(
                &*self.entry.resource,
                "services" | "events" | "limitranges" | "endpoints"
            )
            || self.entry.group == "coordination.k8s.io"
    }

    fn allow_unconditional_update(&self, _: &RequestContext) -> bool {
        self.entry.group != "coordination.k8s.io"
    }

    fn grace_period(&self, _: &RequestContext, object: &Draft<Value>, requested: Option<i64>) -> Option<i64> {
        if !self.is("", "pods") {
            return None;
        }
        let unscheduled = text_at(&object.object, "/spec/nodeName").is_empty();
        let ended = matches!(text_at(&object.object, "/status/phase"), "Succeeded" | "Failed");
        if unscheduled || ended {
            return Some(0);
        }
        let own = object
            .object
            .pointer("/spec/terminationGracePeriodSeconds")
            .and_then(Value::as_i64);
        Some(requested.or(own).unwrap_or(30))
    }

    fn garbage_collection(&self, _: &RequestContext) -> GarbageCollection {
        match (&*self.entry.group, &*self.entry.resource) {
            ("" | "events.k8s.io", "events") => GarbageCollection::Unsupported,
            ("", "replicationcontrollers") => GarbageCollection::OrphanDependents,
            _ => GarbageCollection::DeleteDependents,
        }
    }

    fn ttl(&self, _: &RequestContext, _: &Draft<Value>, _: Option<&Draft<Value>>) -> Result<Ttl> {
        let event = matches!(
            (&*self.entry.group, &*self.entry.resource),
            ("" | "events.k8s.io", "events")
        );
        Ok(if event { Ttl::After(EVENT_TTL) } else { Ttl::Keep })
    }

    fn returns_deleted_object(&self) -> bool {
        self.entry.group.is_empty()
            && matches!(
                &*self.entry.resource,
                "pods"
                    | "services"
                    | "serviceaccounts"
                    | "podtemplates"
                    | "resourcequotas"
                    | "persistentvolumes"
                    | "persistentvolumeclaims"
            )
    }

    fn may_complete_deletion(&self, new: &Draft<Value>, _: &Draft<Value>) -> bool {
        !self.is("", "namespaces") || !has_spec_finalizers(&new.object)
    }

    fn mark_for_deletion(&self, _: &RequestContext, object: &mut Draft<Value>) -> Hold {
        if !self.is("", "namespaces") || !has_spec_finalizers(&object.object) {
            return Hold::Free;
        }
        if let Some(fields) = object.object.as_object_mut() {
            let status = fields.entry("status").or_insert_with(|| json!({}));
            if let Some(status) = status.as_object_mut() {
                status.insert("phase".into(), "Terminating".into());
            }
        }
        Hold::Kept
    }

    fn reset_fields(&self) -> &[String] {
        &[]
    }
}

/// The rules of `/status`: the status comes from the client, the rest from what is stored.
#[derive(Debug, Clone)]
pub(crate) struct StatusStrategy(pub(crate) BuiltinStrategy);

impl Strategy<Value> for StatusStrategy {
    fn prepare_for_update(&self, _: &RequestContext, new: &mut Draft<Value>, old: &Draft<Value>) {
        let status = new.object.get("status").cloned();
        let mut object = old.object.clone();
        set(&mut object, "status", status);
        new.object = object;
        new.meta.owner_references.clone_from(&old.meta.owner_references);
        if !self.0.entry.group.is_empty() {
            new.meta.labels.clone_from(&old.meta.labels);
        }
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        self.0.validate_name(name, prefix)
    }

    fn ttl(&self, ctx: &RequestContext, new: &Draft<Value>, old: Option<&Draft<Value>>) -> Result<Ttl> {
        self.0.ttl(ctx, new, old)
    }

    fn allow_unconditional_update(&self, ctx: &RequestContext) -> bool {
        self.0.allow_unconditional_update(ctx)
    }
}

/// The rules of `/binding` of a pod: the front itself decides what changes.
#[derive(Debug, Clone)]
pub(crate) struct BindingStrategy(pub(crate) BuiltinStrategy);

impl Strategy<Value> for BindingStrategy {
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        self.0.validate_name(name, prefix)
    }
}

/// The rules of `/finalize` of a namespace: only the finalizers in `spec` change.
#[derive(Debug, Clone)]
pub(crate) struct FinalizeStrategy(pub(crate) BuiltinStrategy);

impl Strategy<Value> for FinalizeStrategy {
    fn prepare_for_update(&self, _: &RequestContext, new: &mut Draft<Value>, old: &Draft<Value>) {
        keep(&mut new.object, &old.object, "status");
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        self.0.validate_name(name, prefix)
    }
}

/// The rules of a custom kind.
#[derive(Debug, Clone)]
pub(crate) struct CustomStrategy {
    kind: Arc<CustomKind>,
    version: CustomVersion,
}

impl CustomStrategy {
    /// By the schema of this version.
    pub(crate) fn new(kind: Arc<CustomKind>, version: CustomVersion) -> Self {
        Self { kind, version }
    }

    fn whole(draft: &Draft<Value>) -> Value {
        let mut value = draft.object.clone();
        draft.meta.put_into(&mut value);
        value
    }

    /// What the schema says about a change.
    fn update_faults(&self, new: &Draft<Value>, old: &Draft<Value>, status_only: bool) -> Vec<FieldError> {
        let (new, old) = (Self::whole(new), Self::whole(old));
        validate_custom_update(&self.kind, &self.version, &new, &old, status_only)
    }
}

impl Strategy<Value> for CustomStrategy {
    fn prepare_for_create(&self, _: &RequestContext, new: &mut Draft<Value>) {
        if self.version.status {
            set(&mut new.object, "status", None);
        }
        new.meta.generation = Some(1);
    }

    fn validate_create(&self, _: &RequestContext, new: &Draft<Value>) -> Vec<FieldError> {
        validate_custom(&self.kind, &self.version, &Self::whole(new))
    }

    fn warnings_on_create(&self, _: &RequestContext, new: &Draft<Value>) -> Vec<String> {
        validation::metadata::finalizer_warnings(&Self::whole(new))
    }

    fn prepare_for_update(&self, _: &RequestContext, new: &mut Draft<Value>, old: &Draft<Value>) {
        if self.version.status {
            keep(&mut new.object, &old.object, "status");
        }
        if without_metadata(&new.object) != without_metadata(&old.object) {
            new.meta.generation = Some(old.meta.generation.unwrap_or_default() + 1);
        }
    }

    fn validate_update(&self, _: &RequestContext, new: &Draft<Value>, old: &Draft<Value>) -> Vec<FieldError> {
        self.update_faults(new, old, false)
    }

    fn warnings_on_update(&self, _: &RequestContext, new: &Draft<Value>, _: &Draft<Value>) -> Vec<String> {
        validation::metadata::finalizer_warnings(&Self::whole(new))
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        NameRule::Subdomain.check(name, prefix)
    }

    fn allow_unconditional_update(&self, _: &RequestContext) -> bool {
        false
    }
}

/// The rules of `/status` of a custom kind: of metadata only the managed fields may change.
#[derive(Debug, Clone)]
pub(crate) struct CustomStatusStrategy(pub(crate) CustomStrategy);

impl Strategy<Value> for CustomStatusStrategy {
    fn prepare_for_update(&self, _: &RequestContext, new: &mut Draft<Value>, old: &Draft<Value>) {
        let status = new.object.get("status").cloned();
        let mut object = old.object.clone();
        set(&mut object, "status", status);
        new.object = object;
        let managed = std::mem::take(&mut new.meta.managed_fields);
        // The version stays the client's: it says what the client has seen.
        let version = new.meta.resource_version.take();
        new.meta = old.meta.clone();
        new.meta.managed_fields = managed;
        new.meta.resource_version = version;
    }

    fn validate_update(&self, _: &RequestContext, new: &Draft<Value>, old: &Draft<Value>) -> Vec<FieldError> {
        self.0.update_faults(new, old, true)
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        self.0.validate_name(name, prefix)
    }

    fn allow_unconditional_update(&self, ctx: &RequestContext) -> bool {
        self.0.allow_unconditional_update(ctx)
    }
}

fn without_metadata(object: &Value) -> Map<String, Value> {
    let mut fields = object.as_object().cloned().unwrap_or_default();
    fields.remove("metadata");
    fields.remove("status");
    fields
}

fn has_spec_finalizers(object: &Value) -> bool {
    object
        .pointer("/spec/finalizers")
        .and_then(Value::as_array)
        .is_some_and(|finalizers| !finalizers.is_empty())
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn text_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Takes a field over from another object; gone there, it goes here.
fn keep(object: &mut Value, from: &Value, name: &str) {
    set(object, name, from.get(name).cloned());
}

fn set(object: &mut Value, name: &str, value: Option<Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    match value {
        Some(value) => fields.insert(name.to_owned(), value),
        None => fields.remove(name),
    };
}

/// What upstream's default admission plugins set on every pod: how long it stays on a lost node, and its priority.
///
/// Upstream: kubernetes plugin/pkg/admission (defaulttolerationseconds, priority).
fn admit_pod(spec: &mut Map<String, Value>) {
    const SECONDS: i64 = 300;
    let mut tolerations = spec
        .get("tolerations")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|own| {
            let (own_key, effect) = (text(own, "key"), text(own, "effect"));
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
    spec.entry("priority").or_insert_with(|| 0.into());
    spec.entry("preemptionPolicy")
        .or_insert_with(|| "PreemptLowerPriority".into());
}

/// How a pod's resources are guaranteed. Upstream: pkg/apis/core/v1/helper/qos (qos.go).
fn qos_class(spec: &Value) -> &'static str {
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
}
