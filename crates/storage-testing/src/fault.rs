//! A wrapper over any store whose answers get lost: the write lands, the caller hears nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use apiserver_storage_api::{
    Check, CreateOptions, DeleteOptions, Encoded, Entry, GetOptions, Key, List, ListOptions, NotReady, ResourceInfo,
    Result, Revision, Scope, Stats, Storage, StorageError, Update, UpdateOptions, Watch, WatchOptions,
};

/// A store that loses the answer of every n-th successful write. Everything else goes through unchanged.
pub struct FaultStore {
    inner: Arc<dyn Storage>,
    every: u64,
    writes: AtomicU64,
}

impl FaultStore {
    /// Loses the answer of every `every`-th write; zero loses none.
    pub fn new(inner: Arc<dyn Storage>, every: u64) -> Self {
        Self {
            inner,
            every,
            writes: AtomicU64::new(0),
        }
    }

    /// The store behind.
    pub fn inner(&self) -> &Arc<dyn Storage> {
        &self.inner
    }

    fn answer(&self, key: &Key, entry: Entry) -> Result<Entry> {
        let count = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
        if self.every > 0 && count.is_multiple_of(self.every) {
            return Err(StorageError::OutcomeUnknown {
                key: key.to_string(),
                source: "injected".into(),
            });
        }
        Ok(entry)
    }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultStore")
            .field("resource", self.inner.resource())
            .field("every", &self.every)
            .finish()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Storage for FaultStore {
    fn resource(&self) -> &ResourceInfo {
        self.inner.resource()
    }

    async fn create(&self, key: &Key, value: Encoded, options: CreateOptions) -> Result<Entry> {
        let entry = self.inner.create(key, value, options).await?;
        self.answer(key, entry)
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Entry> {
        self.inner.get(key, options).await
    }

    async fn list(&self, scope: &Scope, options: ListOptions) -> Result<List> {
        self.inner.list(scope, options).await
    }

    async fn guaranteed_update(&self, key: &Key, options: UpdateOptions, update: &mut dyn Update) -> Result<Entry> {
        let entry = self.inner.guaranteed_update(key, options, update).await?;
        self.answer(key, entry)
    }

    async fn delete(&self, key: &Key, options: DeleteOptions, check: &mut dyn Check) -> Result<Entry> {
        let entry = self.inner.delete(key, options, check).await?;
        self.answer(key, entry)
    }

    async fn watch(&self, scope: &Scope, options: WatchOptions) -> Result<Watch> {
        self.inner.watch(scope, options).await
    }

    async fn current_revision(&self) -> Result<Revision> {
        self.inner.current_revision().await
    }

    async fn request_progress(&self) -> Result<()> {
        self.inner.request_progress().await
    }

    fn compacted_revision(&self) -> Option<Revision> {
        self.inner.compacted_revision()
    }

    fn ready(&self) -> Result<(), NotReady> {
        self.inner.ready()
    }

    async fn stats(&self) -> Result<Stats> {
        self.inner.stats().await
    }

    async fn store_id(&self) -> Result<Option<String>> {
        self.inner.store_id().await
    }
}
