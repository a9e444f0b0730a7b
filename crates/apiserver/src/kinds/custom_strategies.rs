//! The rules of custom kinds: what their definition says.
//!
//! Upstream: kubernetes/apiextensions-apiserver pkg/registry/customresource (strategy.go, status_strategy.go).

use std::sync::Arc;

use serde_json::Value;

use apiserver_registry::{Draft, FieldError, RequestContext, Strategy};
use apiserver_resources::crd::{CustomKind, CustomVersion, validate_custom, validate_custom_update};
use apiserver_resources::validation::{self, NameRule};
use apiserver_storage_api::codec;

use crate::kinds::strategies::{keep, set, whole};

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

    /// What the schema says about a change.
    fn update_faults(&self, new: &Draft<Value>, old: &Draft<Value>, status_only: bool) -> Vec<FieldError> {
        let (new, old) = (whole(new), whole(old));
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
        validate_custom(&self.kind, &self.version, &whole(new))
    }

    fn warnings_on_create(&self, _: &RequestContext, new: &Draft<Value>) -> Vec<String> {
        validation::metadata::finalizer_warnings(&whole(new))
    }

    fn prepare_for_update(&self, _: &RequestContext, new: &mut Draft<Value>, old: &Draft<Value>) {
        if self.version.status {
            keep(&mut new.object, &old.object, "status");
        }
        if !same_desired_state(&new.object, &old.object) {
            new.meta.generation = Some(old.meta.generation.unwrap_or_default() + 1);
        }
    }

    fn validate_update(&self, _: &RequestContext, new: &Draft<Value>, old: &Draft<Value>) -> Vec<FieldError> {
        self.update_faults(new, old, false)
    }

    fn warnings_on_update(&self, _: &RequestContext, new: &Draft<Value>, _: &Draft<Value>) -> Vec<String> {
        validation::metadata::finalizer_warnings(&whole(new))
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

/// Whether two states ask for the same: metadata and the version in which an object was written do not count.
fn same_desired_state(new: &Value, old: &Value) -> bool {
    let state = |object: &Value| {
        let mut fields = object.as_object().cloned().unwrap_or_default();
        fields.remove("apiVersion");
        fields.remove("metadata");
        Value::Object(fields)
    };
    let (new, old) = (state(new), state(old));
    // A large number may be kept in two ways that are written alike.
    new == old || codec::json::to_vec(&new) == codec::json::to_vec(&old)
}
