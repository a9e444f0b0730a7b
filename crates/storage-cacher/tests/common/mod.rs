//! Pods on the memory engine, with a cache over them.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]
#![allow(
    unreachable_pub,
    missing_docs,
    reason = "shared by test binaries, used by nobody else"
)]

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::{
    CreateOptions, DeleteOptions, Encoded, Entry, Event, EventKind, FieldSelector, Index, Key, LabelSelector, List,
    ListAt, ListOptions, NoCheck, ResourceInfo, ResourceScope, Revision, Scope, SelectionPredicate, Storage, Watch,
    WatchItem, WatchOptions, WatchStart,
};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use futures::StreamExt;
use serde_json::json;

pub fn pods() -> ResourceInfo {
    ResourceInfo::new("", "v1", "pods", "Pod", ResourceScope::Namespaced)
        .with_selectable_field("spec.nodeName")
        .with_indexes(vec![Index::Field("spec.nodeName".into()), Index::Label("app".into())])
}

pub fn config_maps() -> ResourceInfo {
    ResourceInfo::new("", "v1", "configmaps", "ConfigMap", ResourceScope::Namespaced)
}

/// An engine with a store of pods, one of config maps, and a cache over the pods.
pub struct House {
    pub kv: Arc<EmbeddedKv>,
    pub below: Arc<dyn Storage>,
    pub other: Arc<dyn Storage>,
    pub cache: Arc<Cacher>,
}

pub fn config() -> CacherConfig {
    CacherConfig::default().with_freshness_timeout(Duration::from_millis(300))
}

impl House {
    pub async fn new() -> Self {
        Self::with(config()).await
    }

    pub async fn with(config: CacherConfig) -> Self {
        let house = Self::unready(config).await;
        house.cache.wait_ready().await.unwrap();
        house
    }

    pub async fn unready(config: CacherConfig) -> Self {
        let kv = Arc::new(EmbeddedKv::open(EmbeddedConfig::memory()).await.unwrap());
        let below: Arc<dyn Storage> = Arc::new(kv.store(pods()));
        let other: Arc<dyn Storage> = Arc::new(kv.store(config_maps()));
        let cache = Arc::new(Cacher::new(Arc::clone(&below), config));
        Self {
            kv,
            below,
            other,
            cache,
        }
    }

    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.cache) as Arc<dyn Storage>
    }

    /// Creates a pod through the cache.
    pub async fn create(&self, namespace: &str, name: &str, node: &str) -> Entry {
        create(&*self.cache, namespace, name, node).await
    }

    /// A write of another kind: moves the revision and nothing else.
    pub async fn elsewhere(&self, name: &str) -> Revision {
        let key = config_maps().object_key(Some("ns"), name).unwrap();
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "ns"}});
        let object = Encoded::of(&object).unwrap();
        self.other
            .create(&key, object, CreateOptions::default())
            .await
            .unwrap()
            .revision()
    }
}

pub fn key(namespace: &str, name: &str) -> Key {
    pods().object_key(Some(namespace), name).unwrap()
}

pub fn pod(namespace: &str, name: &str, node: &str) -> Encoded {
    Encoded::of(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "labels": {"app": name}},
        "spec": {"nodeName": node},
    }))
    .unwrap()
}

pub async fn create(storage: &dyn Storage, namespace: &str, name: &str, node: &str) -> Entry {
    storage
        .create(
            &key(namespace, name),
            pod(namespace, name, node),
            CreateOptions::default(),
        )
        .await
        .unwrap()
}

pub async fn update(storage: &dyn Storage, namespace: &str, name: &str, node: &str) -> Entry {
    let value = pod(namespace, name, node);
    let mut update = |_| {
        let value = value.clone();
        async move { Ok(apiserver_storage_api::Change::put(value)) }
    };
    storage
        .guaranteed_update(&key(namespace, name), Default::default(), &mut update)
        .await
        .unwrap()
}

pub async fn delete(storage: &dyn Storage, namespace: &str, name: &str) -> Entry {
    storage
        .delete(&key(namespace, name), DeleteOptions::default(), &mut NoCheck)
        .await
        .unwrap()
}

pub fn all() -> Scope {
    pods().list_scope(None).unwrap()
}

pub fn under(namespace: &str) -> Scope {
    pods().list_scope(Some(namespace)).unwrap()
}

pub fn fields(text: &str) -> SelectionPredicate {
    SelectionPredicate::new(LabelSelector::default(), FieldSelector::parse(text).unwrap())
}

pub fn labels(text: &str) -> SelectionPredicate {
    SelectionPredicate::new(LabelSelector::parse(text).unwrap(), FieldSelector::default())
}

pub fn at(at: ListAt) -> ListOptions {
    ListOptions {
        at,
        ..ListOptions::default()
    }
}

pub async fn names(list: List) -> Vec<String> {
    let list = list.collect().await.unwrap();
    list.entries
        .iter()
        .map(|entry| entry.attributes().unwrap().name.to_string())
        .collect()
}

pub fn from(start: WatchStart) -> WatchOptions {
    WatchOptions::from_start(start)
}

/// The next item, within a time that only turns a hang into a failure.
pub async fn next(watch: &mut Watch) -> WatchItem {
    match within(watch.next()).await {
        Some(Ok(item)) => item,
        other => panic!("wanted an item, got {other:?}"),
    }
}

pub async fn within<F: Future>(future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(output) => output,
        Err(_) => panic!("nothing came"),
    }
}

/// The events of the next item, in short form.
pub async fn changes(watch: &mut Watch) -> Vec<String> {
    match next(watch).await {
        WatchItem::Batch(batch) => batch.events.iter().map(short).collect(),
        WatchItem::Initial(entries) => entries
            .iter()
            .map(|entry| format!("INITIAL {} {}", entry.attributes().unwrap().name, entry.revision()))
            .collect(),
        WatchItem::InitialEnd(revision) => vec![format!("END {revision}")],
        WatchItem::Progress(revision) => vec![format!("PROGRESS {revision}")],
        other => panic!("{other:?}"),
    }
}

pub fn short(event: &Event) -> String {
    let kind = match event.kind {
        EventKind::Added => "ADDED",
        EventKind::Modified => "MODIFIED",
        EventKind::Deleted => "DELETED",
    };
    let object = event.object.as_ref().unwrap();
    assert_eq!(
        object.revision(),
        event.revision,
        "an event's object is of the event's revision"
    );
    let meta = object.meta().unwrap();
    assert_eq!(
        meta.resource_version,
        Some(event.revision.to_string()),
        "and its body says so"
    );
    format!("{kind} {} {}", meta.name(), event.revision)
}
