//! The rules of the built-in kinds: what the server owns of an object, what an update may change, what holds a deletion back.
//!
//! Upstream: kubernetes/kubernetes pkg/registry (core, apps: strategy.go of each kind).

use std::time::Duration;

use serde_json::{Value, json};

use apiserver_registry::{Draft, FieldError, GarbageCollection, Hold, RequestContext, Result, Strategy};
use apiserver_resources::crd::CustomKind;
use apiserver_resources::types::ResourceEntry;
use apiserver_resources::validation;
use apiserver_storage_api::Ttl;

use crate::kinds::definitions::accepted_status;
use crate::kinds::pods;

/// How long an event is kept.
const EVENT_TTL: Duration = Duration::from_secs(3600);
/// The finalizer that every namespace is born with.
const KUBERNETES: &str = "kubernetes";

/// Whether two drafts differ in nothing but the version that they were read at.
fn says_the_same(one: &Draft<Value>, other: &Draft<Value>) -> bool {
    let has_fields_of = |one: &Draft<Value>, other: &Draft<Value>| {
        let mut fields = other.object.as_object().into_iter().flatten();
        fields.all(|(name, value)| name == "metadata" || one.object.get(name) == Some(value))
    };
    let mut meta = one.meta.clone();
    meta.resource_version.clone_from(&other.meta.resource_version);
    meta == other.meta && has_fields_of(one, other) && has_fields_of(other, one)
}

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
            let class = pods::qos_class(object.get("spec").unwrap_or(&Value::Null));
            object.insert("status".into(), json!({ "phase": "Pending", "qosClass": class }));
            pods::admit(&mut new.object, None);
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
        if self.is("", "pods") {
            pods::admit(&mut new.object, Some(&old.object));
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

    fn ttl(&self, _: &RequestContext, new: &Draft<Value>, old: Option<&Draft<Value>>) -> Result<Ttl> {
        let event = matches!(
            (&*self.entry.group, &*self.entry.resource),
            ("" | "events.k8s.io", "events")
        );
        // Events live on from their last change; one that is written back as it is keeps its end, and is not written.
        let renewed = event && old.is_none_or(|old| !says_the_same(new, old));
        Ok(if renewed { Ttl::After(EVENT_TTL) } else { Ttl::Keep })
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

/// The object with its metadata, as validation looks at it.
pub(super) fn whole(draft: &Draft<Value>) -> Value {
    let mut value = draft.object.clone();
    draft.meta.put_into(&mut value);
    value
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
pub(crate) fn keep(object: &mut Value, from: &Value, name: &str) {
    set(object, name, from.get(name).cloned());
}

/// Sets a field, or removes it.
pub(crate) fn set(object: &mut Value, name: &str, value: Option<Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    match value {
        Some(value) => fields.insert(name.to_owned(), value),
        None => fields.remove(name),
    };
}
