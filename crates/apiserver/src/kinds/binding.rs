//! `/binding` of pods: gives a pod its node, once.
//!
//! Upstream: kubernetes/kubernetes pkg/registry/core/pod/storage (BindingREST).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use apiserver_registry::{
    Answer, ApiError, CreateOptions, ObjectUpdate, RequestContext, Resource, Status, UpdateOptions, Verbs, Written,
};
use apiserver_storage_api::{Entry, Preconditions, ResourceInfo};

/// The binding front of pods. `pods` must be a front whose updates may set the node.
pub(crate) struct Binding {
    pods: Arc<dyn Resource>,
}

impl Binding {
    pub(crate) fn new(pods: Arc<dyn Resource>) -> Self {
        Self { pods }
    }
}

#[async_trait]
impl Resource for Binding {
    fn info(&self) -> &ResourceInfo {
        self.pods.info()
    }

    fn verbs(&self) -> Verbs {
        Verbs {
            create: true,
            ..Verbs::NONE
        }
    }

    async fn create(&self, ctx: &RequestContext, object: Value, options: CreateOptions) -> Result<Written, ApiError> {
        let name = options.name.unwrap_or_default();
        let text = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (own, node, kind) = (text("/metadata/name"), text("/target/name"), text("/target/kind"));
        if own != name && !own.is_empty() {
            return Err(ApiError::bad_request(
                "name in URL does not match name in Binding object",
            ));
        }
        let mut faults = Vec::new();
        let target = apiserver_registry::FieldPath::new("target");
        if !matches!(kind.as_str(), "" | "Node") {
            let supported = ["Node", "<empty>"];
            faults.push(apiserver_registry::FieldError::not_supported(
                &target.child("kind"),
                kind.as_str(),
                &supported,
            ));
        }
        if node.is_empty() {
            faults.push(apiserver_registry::FieldError::required(&target.child("name"), ""));
        }
        if !faults.is_empty() {
            return Err(ApiError::invalid("", "Binding", &name, faults));
        }
        let mut recipe = Bind {
            pod: &name,
            node,
            binding: &object,
            now: ctx.now().to_string(),
        };
        let update = UpdateOptions {
            dry_run: options.dry_run,
            ..UpdateOptions::default()
        };
        self.pods.update(ctx, &name, &mut recipe, update).await?;
        let mut status = Status::success(None);
        status.code = 201;
        Ok(Written {
            object: Answer::Computed(status.to_bytes().into()),
            created: true,
        })
    }
}

struct Bind<'a> {
    pod: &'a str,
    node: String,
    binding: &'a Value,
    now: String,
}

impl Bind<'_> {
    fn refuse(&self, why: &str) -> ApiError {
        ApiError::conflict("", "pods/binding", self.pod, why)
    }
}

#[async_trait]
impl ObjectUpdate for Bind<'_> {
    fn preconditions(&self) -> Preconditions {
        let text = |name: &str| {
            let value = self
                .binding
                .pointer(&format!("/metadata/{name}"))
                .and_then(Value::as_str);
            value.filter(|value| !value.is_empty()).map(str::to_owned)
        };
        Preconditions {
            uid: text("uid"),
            resource_version: text("resourceVersion"),
        }
    }

    async fn update(&mut self, current: Option<&Entry>) -> Result<Value, ApiError> {
        let Some(current) = current else {
            return Err(ApiError::not_found("", "pods", self.pod));
        };
        let mut pod: Value = current.decode().map_err(ApiError::internal)?;
        if pod.pointer("/metadata/deletionTimestamp").is_some() {
            return Err(self.refuse(&format!(
                "pod {} is being deleted, cannot be assigned to a host",
                self.pod
            )));
        }
        if let Some(node) = pod
            .pointer("/spec/nodeName")
            .and_then(Value::as_str)
            .filter(|node| !node.is_empty())
        {
            return Err(self.refuse(&format!("pod {} is already assigned to node {node:?}", self.pod)));
        }
        let gates = pod.pointer("/spec/schedulingGates").and_then(Value::as_array);
        if gates.is_some_and(|gates| !gates.is_empty()) {
            return Err(self.refuse(&format!("pod {} has non-empty .spec.schedulingGates", self.pod)));
        }
        let Some(fields) = pod.as_object_mut() else {
            return Err(ApiError::internal("the pod is no object"));
        };
        object(fields, "spec")?.insert("nodeName".into(), self.node.clone().into());
        if let Some(annotations) = self.binding.pointer("/metadata/annotations").and_then(Value::as_object) {
            object(object(fields, "metadata")?, "annotations")?.extend(annotations.clone());
        }
        let status = object(fields, "status")?;
        let conditions = status.entry("conditions").or_insert_with(|| json!([]));
        if let Some(conditions) = conditions.as_array_mut() {
            conditions.retain(|own| own.get("type").and_then(Value::as_str) != Some("PodScheduled"));
            conditions.push(json!({
                "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": self.now,
            }));
        }
        Ok(pod)
    }
}

/// The object under a name, made where it is not there.
fn object<'a>(fields: &'a mut Map<String, Value>, name: &str) -> Result<&'a mut Map<String, Value>, ApiError> {
    let value = fields.entry(name).or_insert_with(|| json!({}));
    value
        .as_object_mut()
        .ok_or_else(|| ApiError::internal(format!("{name} of a stored pod is no object")))
}
