//! Custom kinds come and go with their definitions: a watch on the stored CustomResourceDefinitions mounts and unmounts
//! them while the server runs. Definitions given as files are stored like those that clients create.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use apiserver_registry::{ApiError, CreateOptions, ObjectUpdate, RequestContext, Resource, UpdateOptions};
use apiserver_resources::crd::CustomKind;
use apiserver_storage_api::time::Clock;
use apiserver_storage_api::{Entry, EventKind, ReadAt, WatchItem, WatchOptions, WatchStart};
use apiserver_storagebackend::Factory;

use crate::kinds::catalog::Catalogs;
use crate::kinds::install;

/// Tells the schemas of a kind apart; one count for all kinds of a process.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// Watches the definitions.
pub(crate) struct Definitions {
    pub(crate) resource: Arc<dyn Resource>,
    pub(crate) factory: Factory,
    pub(crate) catalogs: Catalogs,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Definitions {
    fn context(&self) -> RequestContext {
        RequestContext::new(Arc::clone(&self.clock)).with_resource(
            "apiextensions.k8s.io",
            "v1",
            "customresourcedefinitions",
            None,
        )
    }

    /// Mounts what is defined now, then follows changes until `stop`. `first` is told once the present definitions
    /// are mounted.
    pub(crate) async fn follow(self, first: tokio::sync::oneshot::Sender<()>, stop: CancellationToken) {
        let mut first = Some(first);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                result = self.follow_once(&mut first) => {
                    if let Err(error) = result {
                        tracing::warn!(error = %error.message(), "the watch of definitions ended, starting again");
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.sleep(std::time::Duration::from_millis(500)) => {}
            }
        }
    }

    async fn follow_once(&self, first: &mut Option<tokio::sync::oneshot::Sender<()>>) -> Result<(), ApiError> {
        let options = WatchOptions::from_start(WatchStart::InitialState(ReadAt::MostRecent));
        let mut watch = self.resource.watch(&self.context(), options).await?;
        while let Some(item) = watch.next().await {
            match item.map_err(ApiError::internal)? {
                WatchItem::Initial(entries) => entries.iter().for_each(|entry| self.mount(entry)),
                WatchItem::InitialEnd(_) => {
                    if let Some(first) = first.take() {
                        // Nobody waits any more when the start was given up.
                        let _ = first.send(());
                    }
                }
                WatchItem::Batch(batch) => {
                    for event in batch.events.iter() {
                        match (&event.object, event.kind) {
                            (Some(entry), EventKind::Deleted) => self.unmount(entry),
                            (Some(entry), _) => self.mount(entry),
                            (None, _) => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn mount(&self, entry: &Entry) {
        let definition: Value = match entry.decode() {
            Ok(definition) => definition,
            Err(error) => {
                tracing::error!(%error, "a definition cannot be read, its kind is not served");
                return;
            }
        };
        match CustomKind::parse(&definition) {
            Ok(kind) => {
                install::custom(
                    &self.factory,
                    &self.catalogs,
                    kind,
                    GENERATION.fetch_add(1, Ordering::Relaxed),
                );
            }
            Err(faults) => {
                let faults = apiserver_registry::aggregate(&faults);
                tracing::error!(key = %entry.key(), %faults, "a definition is not valid, its kind is not served");
            }
        }
    }

    fn unmount(&self, entry: &Entry) {
        if let Some((plural, group)) = entry
            .attributes()
            .and_then(|attributes| attributes.name.split_once('.'))
        {
            install::remove(&self.catalogs, group, plural);
        }
    }

    /// Stores the definitions of a file or a directory; what is stored already is brought up to date.
    pub(crate) async fn store_files(&self, path: &Path) -> Result<(), String> {
        for file in files(path)? {
            let text =
                std::fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            for definition in manifests(&text).map_err(|error| format!("{}: {error}", file.display()))? {
                let name = definition
                    .pointer("/metadata/name")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned();
                CustomKind::parse(&definition).map_err(|faults| {
                    format!("{}: {name}: {}", file.display(), apiserver_registry::aggregate(&faults))
                })?;
                self.store(&name, definition)
                    .await
                    .map_err(|error| format!("{}: {name}: {}", file.display(), error.message()))?;
            }
        }
        Ok(())
    }

    async fn store(&self, name: &str, definition: Value) -> Result<(), ApiError> {
        let context = self.context();
        match self
            .resource
            .create(&context, definition.clone(), CreateOptions::default())
            .await
        {
            Err(error) if error.is_already_exists() => {}
            other => return other.map(drop),
        }
        let mut recipe = WithSpec(definition.get("spec").cloned().unwrap_or_default());
        self.resource
            .update(&context, name, &mut recipe, UpdateOptions::default())
            .await
            .map(drop)
    }
}

/// The recipe that gives a stored definition another spec.
struct WithSpec(Value);

#[async_trait]
impl ObjectUpdate for WithSpec {
    async fn update(&mut self, current: Option<&Entry>) -> Result<Value, ApiError> {
        let current = current.ok_or_else(|| ApiError::internal("the definition is gone"))?;
        let mut object: Value = current.decode().map_err(ApiError::internal)?;
        if let Some(fields) = object.as_object_mut() {
            fields.insert("spec".into(), self.0.clone());
        }
        Ok(object)
    }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?
            .path();
        if file
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
        {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// The definitions in a manifest, of which there may be several, joined by `---`.
fn manifests(text: &str) -> Result<Vec<Value>, String> {
    let mut all = Vec::new();
    for document in text.split("\n---").map(|part| part.trim_start_matches("---")) {
        if document
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        {
            continue;
        }
        let value: Value = serde_saphyr::from_str(document).map_err(|error| error.to_string())?;
        match value.get("kind").and_then(Value::as_str) {
            Some("CustomResourceDefinition") => all.push(value),
            Some("List") => {
                all.extend(
                    value
                        .get("items")
                        .and_then(Value::as_array)
                        .cloned()
                        .unwrap_or_default(),
                );
            }
            other => return Err(format!("expected a CustomResourceDefinition, found kind {other:?}")),
        }
    }
    Ok(all)
}

/// The status of a definition that is served.
pub(crate) fn accepted_status(definition: &Value, now: &str) -> Value {
    let condition = |kind: &str, reason: &str, message: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message });
    let stored: Vec<_> = definition
        .pointer("/spec/versions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|version| version.get("storage").and_then(Value::as_bool) == Some(true))
        .filter_map(|version| version.get("name").cloned())
        .collect();
    json!({
        "acceptedNames": definition.pointer("/spec/names").cloned().unwrap_or_default(),
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "storedVersions": stored,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_may_hold_several_definitions() {
        let text = "# a comment\n---\nkind: CustomResourceDefinition\nmetadata: {name: a}\n---\nkind: CustomResourceDefinition\n";
        assert_eq!(manifests(text).unwrap().len(), 2);
        assert!(manifests("kind: Pod\n").is_err());
    }
}
