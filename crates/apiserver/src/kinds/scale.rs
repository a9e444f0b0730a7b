//! `/scale`: the wanted and the present number of replicas of an object, as `autoscaling/v1 Scale`.
//!
//! Upstream: kubernetes/kubernetes pkg/registry/apps/deployment/storage (ScaleREST), apiextensions-apiserver
//! pkg/registry/customresource (ScaleREST).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use apiserver_registry::{Answer, ApiError, ObjectUpdate, RequestContext, Resource, UpdateOptions, Verbs, Written};
use apiserver_storage_api::{Entry, Normalized, Preconditions, ReadAt, ResourceInfo};

/// Where a kind keeps its numbers: names that lead to the value.
#[derive(Debug, Clone)]
pub(crate) struct ScalePaths {
    pub(crate) spec_replicas: Vec<String>,
    pub(crate) status_replicas: Vec<String>,
    /// The selector in text form, or as a LabelSelector.
    pub(crate) selector: Option<Vec<String>>,
}

impl ScalePaths {
    /// Those of deployments and their like.
    pub(crate) fn workload() -> Self {
        let path = |text: &str| text.split('.').map(str::to_owned).collect();
        Self {
            spec_replicas: path("spec.replicas"),
            status_replicas: path("status.replicas"),
            selector: Some(path("spec.selector")),
        }
    }

    /// Those that a definition names: `.spec.replicas`.
    pub(crate) fn of_definition(paths: &apiserver_resources::crd::ScalePaths) -> Self {
        let path = |text: &str| text.trim_start_matches('.').split('.').map(str::to_owned).collect();
        Self {
            spec_replicas: path(&paths.spec_replicas),
            status_replicas: path(&paths.status_replicas),
            selector: paths.label_selector.as_deref().map(path),
        }
    }

    /// The Scale of a decoded object.
    fn scale_of(&self, object: &Value) -> Value {
        let number = |path: &[String]| follow(object, path).and_then(Value::as_i64).unwrap_or_default();
        let meta = |name: &str| {
            object
                .pointer(&format!("/metadata/{name}"))
                .cloned()
                .unwrap_or_default()
        };
        let mut metadata = Map::new();
        for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            let value = meta(name);
            if !value.is_null() {
                metadata.insert(name.to_owned(), value);
            }
        }
        let mut spec = Map::new();
        if let wanted @ 1.. = number(&self.spec_replicas) {
            spec.insert("replicas".into(), wanted.into());
        }
        let mut status = Map::new();
        status.insert("replicas".into(), number(&self.status_replicas).into());
        if let Some(selector) = self
            .selector
            .as_deref()
            .and_then(|path| follow(object, path))
            .and_then(selector_text)
        {
            status.insert("selector".into(), selector.into());
        }
        json!({ "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status })
    }
}

fn follow<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name))
}

/// A selector as text; a LabelSelector is written out, sorted by key.
fn selector_text(selector: &Value) -> Option<String> {
    let selector = match selector {
        Value::String(text) => return Some(text.clone()),
        Value::Object(fields) => fields,
        _ => return None,
    };
    let mut terms: Vec<(String, String)> = Vec::new();
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        for (key, value) in labels {
            terms.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())));
        }
    }
    if let Some(expressions) = selector.get("matchExpressions").and_then(Value::as_array) {
        for expression in expressions {
            let key = expression.get("key").and_then(Value::as_str).unwrap_or_default();
            let mut values: Vec<_> = expression
                .get("values")
                .and_then(Value::as_array)
                .map(|values| values.iter().filter_map(Value::as_str).collect())
                .unwrap_or_default();
            values.sort_unstable();
            let values = values.join(",");
            let term = match expression.get("operator").and_then(Value::as_str) {
                Some("In") => format!("{key} in ({values})"),
                Some("NotIn") => format!("{key} notin ({values})"),
                Some("Exists") => key.to_owned(),
                Some("DoesNotExist") => format!("!{key}"),
                _ => continue,
            };
            terms.push((key.to_owned(), term));
        }
    }
    terms.sort();
    Some(terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(","))
}

/// The scale front of a resource.
pub(crate) struct Scale {
    parent: Arc<dyn Resource>,
    paths: ScalePaths,
}

impl Scale {
    /// A front on the objects of `parent`.
    pub(crate) fn new(parent: Arc<dyn Resource>, paths: ScalePaths) -> Self {
        Self { parent, paths }
    }

    fn json(&self, answer: &[u8]) -> Result<Bytes, ApiError> {
        let object: Value = serde_json::from_slice(answer).map_err(ApiError::internal)?;
        Ok(apiserver_storage_api::codec::json::to_vec(&self.paths.scale_of(&object)).into())
    }

    /// The Scale as a record of its own: the key and revision of its object, other bytes.
    fn entry(&self, stored: &Entry) -> Result<Entry, ApiError> {
        let record = stored.record().map_err(ApiError::internal)?;
        let object: Value = serde_json::from_slice(record.json()).map_err(ApiError::internal)?;
        let scale = self.paths.scale_of(&object);
        let normalized: Normalized =
            apiserver_storage_api::finish(scale, stored.revision(), &[], record.origin().media_type)
                .map_err(ApiError::internal)?;
        Ok(Entry::from_normalized(
            stored.key().clone(),
            stored.revision(),
            normalized,
            *record.origin(),
        ))
    }
}

#[async_trait]
impl Resource for Scale {
    fn info(&self) -> &ResourceInfo {
        self.parent.info()
    }

    fn verbs(&self) -> Verbs {
        Verbs::SUBRESOURCE
    }

    async fn get(&self, ctx: &RequestContext, name: &str, at: ReadAt) -> Result<Entry, ApiError> {
        self.entry(&self.parent.get(ctx, name, at).await?)
    }

    async fn update(
        &self,
        ctx: &RequestContext,
        name: &str,
        update: &mut dyn ObjectUpdate,
        options: UpdateOptions,
    ) -> Result<Written, ApiError> {
        let mut recipe = Recipe { scale: self, update };
        let written = self.parent.update(ctx, name, &mut recipe, options).await?;
        let object = Answer::Computed(self.json(written.object.json()?)?);
        Ok(Written { object, created: false })
    }
}

/// Turns a change of the Scale into a change of the object.
struct Recipe<'a> {
    scale: &'a Scale,
    update: &'a mut dyn ObjectUpdate,
}

#[async_trait]
impl ObjectUpdate for Recipe<'_> {
    fn preconditions(&self) -> Preconditions {
        self.update.preconditions()
    }

    async fn update(&mut self, current: Option<&Entry>) -> Result<Value, ApiError> {
        let info = self.scale.info();
        let Some(current) = current else {
            return Err(ApiError::not_found(info.group(), info.resource(), ""));
        };
        let scale = self.update.update(Some(&self.scale.entry(current)?)).await?;
        let replicas = scale
            .pointer("/spec/replicas")
            .and_then(Value::as_i64)
            .unwrap_or_default();
        if replicas < 0 {
            let path = apiserver_registry::FieldPath::new("spec").child("replicas");
            let fault = apiserver_registry::FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
            let name = scale
                .pointer("/metadata/name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            return Err(ApiError::invalid("autoscaling", "Scale", name, vec![fault]));
        }
        let mut object: Value = current.decode().map_err(ApiError::internal)?;
        // The version that the client has seen decides about a conflict, as in any update.
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            match scale
                .pointer("/metadata/resourceVersion")
                .filter(|version| version.as_str() != Some(""))
            {
                Some(version) => metadata.insert("resourceVersion".into(), version.clone()),
                None => Some(Value::Null),
            };
        }
        put(&mut object, &self.scale.paths.spec_replicas, replicas.into());
        Ok(object)
    }
}

fn put(object: &mut Value, path: &[String], value: Value) {
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    let mut at = object;
    for name in parents {
        let Some(fields) = at.as_object_mut() else { return };
        at = fields.entry(name.clone()).or_insert_with(|| json!({}));
    }
    if let Some(fields) = at.as_object_mut() {
        fields.insert(last.clone(), value);
    }
}
