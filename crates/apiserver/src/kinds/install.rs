//! Which kinds are served from the start, and what becomes of a definition that comes or goes.

use std::sync::Arc;

use serde_json::Value;

use apiserver_registry::{Names, Resource, ResourceMap, ServedResource, Store};
use apiserver_resources::crd::{self, CustomKind};
use apiserver_resources::discovery::storage_version_hash;
use apiserver_resources::normalizer::resource_info;
use apiserver_resources::openapi::{self, OpenApi};
use apiserver_resources::types::{ResourceEntry, TypeRegistry};
use apiserver_storage_api::{GroupVersionKind, Index};
use apiserver_storagebackend::Factory;

use crate::kinds::binding::Binding;
use crate::kinds::builtin::Builtin;
use crate::kinds::catalog::{self, Catalog, Catalogs};
use crate::kinds::custom::Custom;
use crate::kinds::custom_strategies::{CustomStatusStrategy, CustomStrategy};
use crate::kinds::model::{Model, ModelHandle};
use crate::kinds::scale::{Scale, ScalePaths};
use crate::kinds::strategies::{BindingStrategy, BuiltinStrategy, FinalizeStrategy, StatusStrategy};

/// The built-in kinds that are served, by group, version and resource.
const SERVED: [(&str, &str, &str); 13] = [
    ("", "v1", "namespaces"),
    ("", "v1", "configmaps"),
    ("", "v1", "secrets"),
    ("", "v1", "pods"),
    ("", "v1", "services"),
    ("", "v1", "nodes"),
    ("", "v1", "events"),
    ("", "v1", "serviceaccounts"),
    ("", "v1", "endpoints"),
    ("apps", "v1", "deployments"),
    ("apps", "v1", "replicasets"),
    ("coordination.k8s.io", "v1", "leases"),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
];

/// Mounts all built-in kinds.
pub(crate) fn builtin(factory: &Factory, catalogs: &Catalogs) {
    let registry = TypeRegistry::builtin();
    let mut served = Vec::new();
    for (group, version, resource) in SERVED {
        match registry.resource(group, version, resource) {
            Some(entry) => served.extend(builtin_kind(factory, entry)),
            None => tracing::error!(group, version, resource, "no data for a built-in kind"),
        }
    }
    catalogs.update(|map| add(map, served));
}

fn builtin_kind(factory: &Factory, entry: &'static ResourceEntry) -> Vec<ServedResource> {
    let mut info = resource_info(entry);
    if entry.group.is_empty() && entry.resource == "pods" {
        info = info.with_indexes(vec![Index::Field("spec.nodeName".into())]);
    }
    let fields = info
        .selectable_fields()
        .iter()
        .map(|field| field.label.to_string())
        .collect();
    let storage = factory.storage_for(&info);
    let strategy = BuiltinStrategy::new(entry);
    let store = Store::<Value>::new(storage, strategy.clone());
    let model: Arc<dyn Model> = Arc::new(Builtin::new(entry, fields));
    let mut main = served(Arc::new(store.clone()), &model);
    main.version.clone_from(&entry.version);
    main.names = names(entry);
    main.storage_version_hash = Some(storage_version_hash(info.group(), &info.gvk().version, &entry.kind));
    let mut all = Vec::new();
    for sub in &entry.subresources {
        let front: Option<(Arc<dyn Resource>, Option<&'static str>)> = match sub.name.as_str() {
            "status" => Some((Arc::new(store.status(StatusStrategy(strategy.clone()))), None)),
            "finalize" => Some((
                Arc::new(store.subresource("finalize", FinalizeStrategy(strategy.clone()))),
                None,
            )),
            "scale" => {
                let parent: Arc<dyn Resource> = Arc::new(store.clone());
                Some((Arc::new(Scale::new(parent, ScalePaths::workload())), Some("Scale")))
            }
            "binding" => {
                let pods: Arc<dyn Resource> = Arc::new(store.subresource("binding", BindingStrategy(strategy.clone())));
                Some((Arc::new(Binding::new(pods)), Some("Binding")))
            }
            // Streams, proxies, evictions and tokens are no storage.
            _ => None,
        };
        if let Some((front, kind)) = front {
            all.push(subresource(&main, &sub.name, front, kind));
        }
    }
    all.push(main);
    all
}

fn served(resource: Arc<dyn Resource>, model: &Arc<dyn Model>) -> ServedResource {
    let mut served = ServedResource::new(resource);
    served.handle = Some(Arc::new(ModelHandle(Arc::clone(model))));
    served
}

/// A subresource beside its parent; some speak a kind of their own.
fn subresource(main: &ServedResource, name: &str, front: Arc<dyn Resource>, kind: Option<&str>) -> ServedResource {
    let mut sub = main.with_subresource(name, front);
    if let Some(kind) = kind {
        let group = if kind == "Scale" { "autoscaling" } else { "" };
        sub.kind_override = Some(GroupVersionKind::new(group, "v1", kind));
        let model: Arc<dyn Model> = Arc::new(Builtin::of_type(group, "v1", kind));
        sub.handle = Some(Arc::new(ModelHandle(model)));
    }
    sub
}

fn names(entry: &ResourceEntry) -> Names {
    let mut names = Names::new(&*entry.resource, &*entry.kind);
    names.singular.clone_from(&entry.singular);
    names.short_names.clone_from(&entry.short_names);
    names.categories.clone_from(&entry.categories);
    names
}

/// Adds entries; what was served under the same resource goes first.
fn add(map: &ResourceMap, served: Vec<ServedResource>) -> ResourceMap {
    let mut builder = map.to_builder();
    for entry in &served {
        builder = builder.without(&entry.group, &entry.names.plural);
    }
    for entry in served {
        builder = builder.with(entry);
    }
    let (map, errors) = builder.build();
    for error in errors {
        tracing::error!(%error, "a resource cannot be served");
    }
    map
}

/// Mounts a custom kind in all its served versions, in place of an older form of it.
pub(crate) fn custom(factory: &Factory, catalogs: &Catalogs, kind: CustomKind, generation: u64) {
    let kind = Arc::new(kind);
    let Some(info) = crd::resource_info(&kind, generation) else {
        tracing::error!(name = %kind.name, "a definition without a storage version is not served");
        return;
    };
    let storage = factory.storage_for(&info);
    let mut all = Vec::new();
    for version in kind.versions.iter().filter(|version| version.served) {
        let strategy = CustomStrategy::new(Arc::clone(&kind), version.clone());
        let store = Store::<Value>::new(Arc::clone(&storage), strategy.clone());
        let model: Arc<dyn Model> = Arc::new(Custom::new(Arc::clone(&kind), version.clone()));
        let mut main = served(Arc::new(store.clone()), &model);
        main.version.clone_from(&version.name);
        main.names = Names::new(&*kind.names.plural, &*kind.names.kind);
        main.names.singular.clone_from(&kind.names.singular);
        main.names.list_kind.clone_from(&kind.names.list_kind);
        main.names.short_names.clone_from(&kind.names.short_names);
        main.names.categories.clone_from(&kind.names.categories);
        main.storage_version_hash = Some(storage_version_hash(&kind.group, &info.gvk().version, &kind.names.kind));
        if version.status {
            let front = store.status(CustomStatusStrategy(strategy));
            all.push(subresource(&main, "status", Arc::new(front), None));
        }
        if let Some(paths) = &version.scale {
            let parent: Arc<dyn Resource> = Arc::new(store.clone());
            let front = Scale::new(parent, ScalePaths::of_definition(paths));
            all.push(subresource(&main, "scale", Arc::new(front), Some("Scale")));
        }
        all.push(main);
    }
    let (group, plural) = (kind.group.clone(), kind.names.plural.clone());
    catalogs.update(|map| {
        let (map, _) = map.to_builder().without(&group, &plural).build();
        add(&map, all)
    });
    tracing::info!(name = %kind.name, "custom kind is served");
}

/// Unmounts a custom kind. Requests that run finish on the old map.
pub(crate) fn remove(catalogs: &Catalogs, group: &str, plural: &str) {
    catalogs.update(|map| map.to_builder().without(group, plural).build().0);
}

/// The OpenAPI v3 document of a group version (`api/v1`, `apis/apps/v1`); `None` where nothing of it is served.
pub(crate) fn openapi_v3(catalog: &Catalog, path: &str) -> Option<Value> {
    let (group, version) = openapi::parse_group_version_path(path)?;
    let resources = catalog.discovered();
    let custom: Vec<_> = catalog
        .map()
        .of_version(group, version)
        .iter()
        .filter(|served| served.subresource.is_none())
        .filter_map(|served| catalog::model(served)?.custom_kind())
        .collect();
    let openapi = OpenApi {
        registry: TypeRegistry::builtin(),
        resources: &resources,
        custom: &custom,
        title: "Kubernetes",
        version: "v1.36.3",
        apply: false,
    };
    openapi.document(group, version)
}
