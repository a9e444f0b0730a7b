//! Pods on the memory engine, with a cache over them.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]
#![allow(
    unreachable_pub,
    missing_docs,
    reason = "shared by test binaries, used by nobody else"
)]

pub mod script;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use apiserver_storage_api::{
    Check, CreateOptions, DeleteOptions, Encoded, Entry, Event, EventKind, FieldSelector, GetOptions, Index, Key,
    LabelSelector, List, ListAt, ListOptions, NoCheck, NotReady, ResourceInfo, ResourceScope, Result, Revision, Scope,
    SelectionPredicate, Stats, Storage, StorageError, Update, UpdateOptions, Watch, WatchItem, WatchOptions,
    WatchStart,
};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;

pub fn pods() -> ResourceInfo {
    ResourceInfo::new("", "v1", "pods", "Pod", ResourceScope::Namespaced)
        .with_selectable_field("spec.nodeName")
        .with_indexes(vec![Index::Field("spec.nodeName".into()), Index::Label("app".into())])
}

pub fn config_maps() -> ResourceInfo {
    ResourceInfo::new("", "v1", "configmaps", "ConfigMap", ResourceScope::Namespaced)
}

/// The storage below with faults that a test switches, and a count of what it was asked.
#[derive(Default)]
pub struct Faults {
    /// Answers "not supported" to requests for progress.
    pub no_progress: AtomicBool,
    /// So many lists fail.
    pub failing_lists: AtomicUsize,
    /// So many watches are refused with 410.
    pub expired_watches: AtomicUsize,
    /// Watches and lists fail while this is set.
    pub down: AtomicBool,
    /// So many changes never reach a watch.
    pub swallowed: AtomicUsize,
    /// Watches deliver nothing while this is set.
    pub silent: AtomicBool,
    /// What the store says that its revision is; zero: the truth.
    pub revision: AtomicU64,
    /// Ends the running watch, with an error if there is one.
    pub cut: Notify,
    pub cut_with: Mutex<Option<StorageError>>,
    pub lists: AtomicUsize,
    pub gets: AtomicUsize,
    pub nows: AtomicUsize,
    pub watches: AtomicUsize,
    pub progress: AtomicUsize,
}

impl Faults {
    /// Ends the running watch.
    pub fn end_watch(&self, error: Option<StorageError>) {
        *self.cut_with.lock() = error;
        self.cut.notify_one();
    }

    /// Ends the watch if one is running, without an error; the next one is not concerned.
    pub fn interrupt_watch(&self) {
        self.cut.notify_waiters();
    }

    fn takes(counter: &AtomicUsize) -> bool {
        counter
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
    }

    fn count(counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

pub struct FaultyStore {
    inner: Arc<dyn Storage>,
    faults: Arc<Faults>,
}

#[async_trait::async_trait]
#[deny(clippy::missing_trait_methods)]
impl Storage for FaultyStore {
    fn resource(&self) -> &ResourceInfo {
        self.inner.resource()
    }

    async fn create(&self, key: &Key, value: Encoded, options: CreateOptions) -> Result<Entry> {
        self.inner.create(key, value, options).await
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Entry> {
        Faults::count(&self.faults.gets);
        self.inner.get(key, options).await
    }

    async fn list(&self, scope: &Scope, options: ListOptions) -> Result<List> {
        Faults::count(&self.faults.lists);
        if self.faults.down.load(Ordering::SeqCst) || Faults::takes(&self.faults.failing_lists) {
            return Err(StorageError::internal("injected"));
        }
        self.inner.list(scope, options).await
    }

    async fn guaranteed_update(&self, key: &Key, options: UpdateOptions, update: &mut dyn Update) -> Result<Entry> {
        self.inner.guaranteed_update(key, options, update).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions, check: &mut dyn Check) -> Result<Entry> {
        self.inner.delete(key, options, check).await
    }

    async fn watch(&self, scope: &Scope, options: WatchOptions) -> Result<Watch> {
        Faults::count(&self.faults.watches);
        if self.faults.down.load(Ordering::SeqCst) {
            return Err(StorageError::internal("injected"));
        }
        if Faults::takes(&self.faults.expired_watches) {
            return Err(StorageError::expired_watch());
        }
        let watch = self.inner.watch(scope, options).await?;
        let state = Some((watch, Arc::clone(&self.faults)));
        Ok(Watch::new(futures::stream::unfold(state, |state| async {
            let (mut watch, faults) = state?;
            tokio::select! {
                biased;
                () = faults.cut.notified() => {
                    let error = faults.cut_with.lock().take()?;
                    Some((Err(error), None))
                }
                item = async {
                    let mut item = watch.next().await;
                    while matches!(item, Some(Ok(WatchItem::Batch(_)))) && Faults::takes(&faults.swallowed) {
                        item = watch.next().await;
                    }
                    while faults.silent.load(Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    item
                } => item.map(|item| (item, Some((watch, faults)))),
            }
        })))
    }

    async fn current_revision(&self) -> Result<Revision> {
        Faults::count(&self.faults.nows);
        match Revision::new(self.faults.revision.load(Ordering::SeqCst)) {
            Some(revision) => Ok(revision),
            None => self.inner.current_revision().await,
        }
    }

    async fn request_progress(&self) -> Result<()> {
        Faults::count(&self.faults.progress);
        if self.faults.no_progress.load(Ordering::SeqCst) {
            return Err(StorageError::NotSupported {
                what: "progress".into(),
            });
        }
        self.inner.request_progress().await
    }

    fn compacted_revision(&self) -> Option<Revision> {
        self.inner.compacted_revision()
    }

    fn ready(&self) -> std::result::Result<(), NotReady> {
        self.inner.ready()
    }

    async fn stats(&self) -> Result<Stats> {
        self.inner.stats().await
    }

    async fn store_id(&self) -> Result<Option<String>> {
        self.inner.store_id().await
    }
}

/// An engine with a store of pods, one of config maps, and a cache over the pods.
pub struct House {
    pub kv: Arc<EmbeddedKv>,
    pub below: Arc<dyn Storage>,
    pub other: Arc<dyn Storage>,
    pub cache: Arc<Cacher>,
    pub faults: Arc<Faults>,
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
        let faults = Arc::new(Faults::default());
        Self::over(kv, below, other, faults, config)
    }

    /// A house whose store has faults from the beginning.
    pub async fn with_faults(faults: Faults, config: CacherConfig) -> Self {
        let kv = Arc::new(EmbeddedKv::open(EmbeddedConfig::memory()).await.unwrap());
        let below: Arc<dyn Storage> = Arc::new(kv.store(pods()));
        let other: Arc<dyn Storage> = Arc::new(kv.store(config_maps()));
        Self::over(kv, below, other, Arc::new(faults), config)
    }

    fn over(
        kv: Arc<EmbeddedKv>,
        below: Arc<dyn Storage>,
        other: Arc<dyn Storage>,
        faults: Arc<Faults>,
        config: CacherConfig,
    ) -> Self {
        let faulty = FaultyStore {
            inner: Arc::clone(&below),
            faults: Arc::clone(&faults),
        };
        let cache = Arc::new(Cacher::new(Arc::new(faulty), config));
        Self {
            kv,
            below,
            other,
            cache,
            faults,
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
