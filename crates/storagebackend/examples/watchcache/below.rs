//! The store below a cache, as the cache sees it: its calls are counted, and its watches can be made to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use apiserver_storage_api::{
    Check, CreateOptions, DeleteOptions, Encoded, Entry, GetOptions, Key, List, ListOptions, NotReady, ResourceInfo,
    Result, Revision, Scope, Stats, Storage, StorageError, Update, UpdateOptions, Watch, WatchOptions,
};
use async_trait::async_trait;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::watch;

/// A store whose calls are counted.
pub(crate) struct Below {
    store: Arc<dyn Storage>,
    calls: Calls,
    /// How often all watches were ended.
    cuts: watch::Sender<u64>,
}

/// How often each was called.
#[derive(Debug, Default)]
struct Calls {
    reads: AtomicU64,
    lists: AtomicU64,
    watches: AtomicU64,
    revisions: AtomicU64,
    progress: AtomicU64,
}

fn one_more(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

impl Below {
    pub(crate) fn new(store: Arc<dyn Storage>) -> Self {
        Self {
            store,
            calls: Calls::default(),
            cuts: watch::Sender::new(0),
        }
    }

    /// Calls so far, all but writes.
    pub(crate) fn calls(&self) -> u64 {
        let Calls {
            reads,
            lists,
            watches,
            revisions,
            progress,
        } = &self.calls;
        let counts = [reads, lists, watches, revisions, progress];
        counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The same by what was called.
    pub(crate) fn counts(&self) -> Value {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        json!({
            "reads": count(&self.calls.reads),
            "lists": count(&self.calls.lists),
            "watches": count(&self.calls.watches),
            "revisions": count(&self.calls.revisions),
            "progress": count(&self.calls.progress),
        })
    }

    pub(crate) fn lists(&self) -> u64 {
        self.calls.lists.load(Ordering::Relaxed)
    }

    /// Ends all watches as a backend does whose history is gone, so that the cache has to list again.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

#[async_trait]
impl Storage for Below {
    fn resource(&self) -> &ResourceInfo {
        self.store.resource()
    }

    async fn create(&self, key: &Key, value: Encoded, options: CreateOptions) -> Result<Entry> {
        self.store.create(key, value, options).await
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Entry> {
        one_more(&self.calls.reads);
        self.store.get(key, options).await
    }

    async fn list(&self, scope: &Scope, options: ListOptions) -> Result<List> {
        one_more(&self.calls.lists);
        self.store.list(scope, options).await
    }

    async fn guaranteed_update(&self, key: &Key, options: UpdateOptions, update: &mut dyn Update) -> Result<Entry> {
        self.store.guaranteed_update(key, options, update).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions, check: &mut dyn Check) -> Result<Entry> {
        self.store.delete(key, options, check).await
    }

    async fn watch(&self, scope: &Scope, options: WatchOptions) -> Result<Watch> {
        one_more(&self.calls.watches);
        let mut cuts = self.cuts.subscribe();
        let items = self.store.watch(scope, options).await?;
        // Ends with the sender too, which the watch does not outlive.
        let cut = async move { drop(cuts.changed().await) };
        let end = stream::once(async { Err(StorageError::expired_watch()) });
        Ok(Watch::new(items.take_until(Box::pin(cut)).chain(end)))
    }

    async fn current_revision(&self) -> Result<Revision> {
        one_more(&self.calls.revisions);
        self.store.current_revision().await
    }

    async fn request_progress(&self) -> Result<()> {
        one_more(&self.calls.progress);
        self.store.request_progress().await
    }

    fn compacted_revision(&self) -> Option<Revision> {
        self.store.compacted_revision()
    }

    fn ready(&self) -> Result<(), NotReady> {
        self.store.ready()
    }

    async fn stats(&self) -> Result<Stats> {
        self.store.stats().await
    }

    async fn store_id(&self) -> Result<Option<String>> {
        self.store.store_id().await
    }
}
