//! Kinds of all three sorts as a user of the storage layers has them, without boilerplate: a type of `k8s-openapi`, a
//! derived custom resource, a dynamic object.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use k8s_openapi::api::core::v1::ConfigMap;
use kube::CustomResource;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use apiserver::storage::api::{
    CreateOptions, DeleteOptions, GetOptions, ListOptions, Object, ResourceInfo, ResourceScope, StorageExt as _,
    UpdateOptions,
};
use apiserver::storage::backend::{Config, Factory};

#[derive(CustomResource, Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[kube(group = "example.com", version = "v1", kind = "Widget", namespaced)]
struct WidgetSpec {
    size: i64,
}

/// Every verb of the typed view, on an object that says its own name.
async fn walk<T: Object + Clone + std::fmt::Debug + kube::ResourceExt>(info: ResourceInfo, object: T) {
    let factory = Factory::open(Config::memory()).await.unwrap();
    let store = factory.storage_for(&info).typed::<T>();
    let key = info.object_key(Some("ns"), &object.name_any()).unwrap();

    let created = store.create(&key, &object, CreateOptions::default()).await.unwrap();
    assert_eq!(created.name_any(), object.name_any());
    let read = store.get(&key, GetOptions::default()).await.unwrap();
    assert_eq!(read.resource_version(), created.resource_version());

    let labelled = store
        .guaranteed_update(&key, UpdateOptions::default(), |current: Option<T>| async move {
            let mut object = current.unwrap();
            object.labels_mut().insert("a".into(), "b".into());
            Ok(object)
        })
        .await
        .unwrap();
    assert_eq!(labelled.labels()["a"], "b");
    assert_ne!(labelled.resource_version(), created.resource_version());

    let all = info.list_scope(None).unwrap();
    let list = store.list(&all, ListOptions::default()).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let last = store.delete(&key, DeleteOptions::default()).await.unwrap();
    assert_eq!(last.labels()["a"], "b");
    assert!(store.get(&key, GetOptions::default()).await.unwrap_err().is_not_found());
    factory.close().await;
}

fn named(kind: &str, api_version: &str) -> serde_json::Value {
    serde_json::json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": "a", "namespace": "ns" } })
}

#[tokio::test]
async fn a_type_of_k8s_openapi() {
    let info = ResourceInfo::new("", "v1", "configmaps", "ConfigMap", ResourceScope::Namespaced);
    let object: ConfigMap = serde_json::from_value(named("ConfigMap", "v1")).unwrap();
    walk(info, object).await;
}

#[tokio::test]
async fn a_derived_custom_resource() {
    let info = ResourceInfo::new("example.com", "v1", "widgets", "Widget", ResourceScope::Namespaced);
    let mut object = Widget::new("a", WidgetSpec { size: 1 });
    object.metadata.namespace = Some("ns".into());
    assert_eq!(object.spec.size, 1);
    walk(info, object).await;
}

#[tokio::test]
async fn a_dynamic_object() {
    let info = ResourceInfo::new("example.com", "v1", "gadgets", "Gadget", ResourceScope::Namespaced);
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Gadget"));
    walk(info, DynamicObject::new("a", &kind).within("ns")).await;
}
