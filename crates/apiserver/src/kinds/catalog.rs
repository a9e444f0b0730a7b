//! What is served at the moment: the resource map with its models, and discovery made of it.

use std::sync::Arc;

use apiserver_registry::{ApiError, Resource, ResourceMap, ServedResource, SharedResourceMap, Verbs};
use apiserver_resources::discovery;

use crate::http::front::{method_not_allowed, not_found};
use crate::http::path::{ResourcePath, Verb};
use crate::kinds::model::{Model, ModelHandle};

/// The current catalog; replaced as a whole when kinds come and go.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalogs(Arc<SharedResourceMap>);

impl Catalogs {
    /// What is served now. A request keeps its snapshot to the end.
    pub(crate) fn current(&self) -> Catalog {
        Catalog(self.0.load())
    }

    /// Serves what `change` makes of the map.
    pub(crate) fn update(&self, change: impl FnOnce(&ResourceMap) -> ResourceMap) {
        self.0.update(change);
    }
}

/// A snapshot of what is served.
#[derive(Debug, Clone)]
pub(crate) struct Catalog(Arc<ResourceMap>);

/// The resource that a path leads to.
pub(crate) struct Found {
    pub(crate) resource: Arc<dyn Resource>,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    verbs: Verbs,
    namespaced: bool,
    subresource: bool,
}

impl Catalog {
    /// The resource for a path; `None` where nothing is served there.
    pub(crate) fn find(&self, path: &ResourcePath) -> Option<Found> {
        let subresource = (!path.subresource.is_empty()).then_some(path.subresource.as_str());
        let served = self.0.get(&path.group, &path.version, &path.resource, subresource)?;
        let model = model(served)?;
        // A cluster-scoped resource does not live in a namespace; the namespace object itself has its name there.
        let own_namespace = path.resource == "namespaces" && path.group.is_empty();
        if !served.namespaced && !path.namespace.is_empty() && !own_namespace {
            return None;
        }
        let (api_version, kind) = match &served.kind_override {
            Some(gvk) => (gvk.api_version(), gvk.kind.clone()),
            None => (served.api_version(), served.names.kind.clone()),
        };
        Some(Found {
            resource: Arc::clone(&served.resource),
            model: Arc::clone(model),
            api_version,
            kind,
            list_kind: served.names.list_kind.clone(),
            verbs: served.verbs(),
            namespaced: served.namespaced,
            subresource: subresource.is_some(),
        })
    }

    /// Every resource as discovery describes it.
    pub(crate) fn discovered(&self) -> Vec<discovery::ServedResource> {
        let mut all: Vec<discovery::ServedResource> = Vec::new();
        for served in self.0.iter() {
            let verbs = served.verbs().names().into_iter().map(str::to_owned).collect();
            match &served.subresource {
                None => all.push(discovery::ServedResource {
                    group: served.group.clone(),
                    version: served.version.clone(),
                    name: served.names.plural.clone(),
                    singular: served.names.singular.clone(),
                    kind: served.names.kind.clone(),
                    namespaced: served.namespaced,
                    verbs,
                    short_names: served.names.short_names.clone(),
                    categories: served.names.categories.clone(),
                    subresources: Vec::new(),
                    storage_version_hash: served.storage_version_hash.clone(),
                }),
                Some(name) => {
                    let gvk = served.kind_override.clone();
                    let subresource = discovery::ServedSubresource {
                        name: name.clone(),
                        group: gvk.as_ref().map_or(&served.group, |gvk| &gvk.group).clone(),
                        version: gvk.as_ref().map_or(&served.version, |gvk| &gvk.version).clone(),
                        kind: gvk.as_ref().map_or(&served.names.kind, |gvk| &gvk.kind).clone(),
                        verbs,
                    };
                    // A resource stands directly before its subresources.
                    if let Some(parent) = all.last_mut() {
                        parent.subresources.push(subresource);
                    }
                }
            }
        }
        all
    }

    /// The entries themselves.
    pub(crate) fn map(&self) -> &Arc<ResourceMap> {
        &self.0
    }

    /// Whether every kind can be served.
    pub(crate) fn ready(&self) -> Result<(), String> {
        for served in self.0.iter().filter(|served| served.subresource.is_none()) {
            served
                .resource
                .ready()
                .map_err(|error| format!("{}: {}", served.path(), error.cause))?;
        }
        Ok(())
    }
}

/// The model that the map carries for a resource.
pub(crate) fn model(served: &ServedResource) -> Option<&Arc<dyn Model>> {
    let handle = served.handle.as_ref()?.downcast_ref::<ModelHandle>()?;
    Some(&handle.0)
}

impl Found {
    /// Whether the path and method lead to a verb of the resource (`apiserver-http/PATH-03` to `PATH-07`).
    pub(crate) fn routes(&self, path: &ResourcePath) -> Result<(), ApiError> {
        if path.rest > 0 {
            return Err(not_found());
        }
        // deviates: apiserver-http/PATH-16: HEAD of built-in kinds is refused, as by the real server.
        if path.head && self.model.custom_kind().is_none() {
            return Err(method_not_allowed());
        }
        let item = !path.name.is_empty();
        let at_cluster = self.namespaced && path.namespace.is_empty();
        if at_cluster && item {
            return Err(not_found());
        }
        let there = match path.verb {
            Verb::Get => self.verbs.get,
            Verb::List => self.verbs.list,
            Verb::Watch => self.verbs.watch,
            Verb::Create => self.verbs.create && item == self.subresource && !at_cluster,
            Verb::Update => self.verbs.update && item,
            Verb::Patch => self.verbs.patch() && item,
            Verb::Delete => self.verbs.delete,
            Verb::DeleteCollection => self.verbs.delete_collection && !at_cluster,
            Verb::Other => false,
        };
        if there { Ok(()) } else { Err(method_not_allowed()) }
    }
}
