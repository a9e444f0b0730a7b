//! Namespaces guard what lives in them: nothing is created where there is none, or where one is going away.
//!
//! Upstream: kubernetes/apiserver pkg/admission/plugin/namespace/lifecycle (admission.go).

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use apiserver_registry::{Admission, ApiError, Operation, RequestContext, Resource, Review, StatusCause};
use apiserver_storage_api::{Entry, ReadAt};

/// Namespaces that are always there: they cannot be deleted.
pub(crate) const SYSTEM_NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Refuses creations in namespaces that are missing or terminating, and the deletion of those that must stay.
pub(crate) struct NamespaceLifecycle {
    namespaces: Arc<dyn Resource>,
}

impl NamespaceLifecycle {
    pub(crate) fn new(namespaces: Arc<dyn Resource>) -> Self {
        Self { namespaces }
    }

    /// The namespace, from memory where it is there, else as it is stored: a client may create a namespace and, at
    /// once, something in it.
    async fn namespace(&self, ctx: &RequestContext, name: &str) -> Result<Entry, ApiError> {
        let context = RequestContext::new(Arc::clone(ctx.clock()));
        match self.namespaces.get(&context, name, ReadAt::Any).await {
            Ok(entry) => Ok(entry),
            Err(_) => self.namespaces.get(&context, name, ReadAt::MostRecent).await,
        }
    }
}

#[async_trait]
impl Admission for NamespaceLifecycle {
    async fn validate(&self, ctx: &RequestContext, review: Review<'_>) -> Result<(), ApiError> {
        let namespaces = ctx.group.is_empty() && ctx.resource == "namespaces";
        match (review.operation, &ctx.namespace) {
            (Operation::Delete, _) if namespaces && ctx.subresource.is_none() => {
                let name = review
                    .old
                    .and_then(Entry::attributes)
                    .map_or("", |attributes| &attributes.name);
                if IMMORTAL.contains(&name) {
                    return Err(ApiError::forbidden(
                        "",
                        "namespaces",
                        name,
                        "this namespace may not be deleted",
                    ));
                }
                Ok(())
            }
            (Operation::Create, Some(namespace)) if !namespaces => {
                let entry = self.namespace(ctx, namespace).await?;
                let terminating = entry
                    .decode::<Value>()
                    .is_ok_and(|value| value.pointer("/status/phase").and_then(Value::as_str) == Some("Terminating"));
                if !terminating {
                    return Ok(());
                }
                let name = review
                    .object
                    .and_then(|object| object.pointer("/metadata/name"))
                    .and_then(Value::as_str);
                let text =
                    format!("unable to create new content in namespace {namespace} because it is being terminated");
                let cause = StatusCause::new(
                    "NamespaceTerminating",
                    format!("namespace {namespace} is being terminated"),
                    "metadata.namespace",
                );
                let name = name.unwrap_or_default();
                Err(ApiError::forbidden(&ctx.group, &ctx.resource, name, text).with_cause(cause))
            }
            _ => Ok(()),
        }
    }
}
