//! A store that fails on request, hands stale states to updates as a cache would, and counts what it is asked.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver_storage_api::{
    Check, CreateOptions, DeleteOptions, Encoded, Entry, GetOptions, Key, List, ListOptions, NotReady, ResourceInfo,
    Result, Revision, Scope, Stats, Storage, StorageError, Update, UpdateOptions, Watch, WatchOptions,
};
use async_trait::async_trait;

pub(crate) struct Wrapped {
    inner: Arc<dyn Storage>,
    fault: Mutex<Option<fn() -> StorageError>>,
    stale: Mutex<Option<Entry>>,
    ttl: Mutex<Option<Duration>>,
    pub(crate) lists: AtomicUsize,
    pub(crate) writes: AtomicUsize,
    pub(crate) scopes: Mutex<Vec<String>>,
}

impl Wrapped {
    pub(crate) fn new(inner: Arc<dyn Storage>) -> Self {
        Self {
            inner,
            fault: Mutex::new(None),
            stale: Mutex::new(None),
            ttl: Mutex::new(None),
            lists: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            scopes: Mutex::new(Vec::new()),
        }
    }

    /// Every call fails like this from now on; `None` ends it.
    pub(crate) fn fail(&self, fault: Option<fn() -> StorageError>) {
        *self.fault.lock().unwrap() = fault;
    }

    /// The next updates and deletes begin on this state.
    pub(crate) fn suggest(&self, stale: Option<Entry>) {
        *self.stale.lock().unwrap() = stale;
    }

    /// The lifetime that the last create asked for.
    pub(crate) fn created_with_ttl(&self) -> Option<Duration> {
        *self.ttl.lock().unwrap()
    }

    fn check(&self) -> Result<()> {
        match *self.fault.lock().unwrap() {
            Some(fault) => Err(fault()),
            None => Ok(()),
        }
    }

    fn scope(&self, scope: &Scope) {
        self.scopes.lock().unwrap().push(scope.to_string());
    }
}

#[async_trait]
impl Storage for Wrapped {
    fn resource(&self) -> &ResourceInfo {
        self.inner.resource()
    }

    async fn create(&self, key: &Key, value: Encoded, options: CreateOptions) -> Result<Entry> {
        self.check()?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        *self.ttl.lock().unwrap() = options.ttl;
        self.inner.create(key, value, options).await
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Entry> {
        self.check()?;
        self.inner.get(key, options).await
    }

    async fn list(&self, scope: &Scope, options: ListOptions) -> Result<List> {
        self.check()?;
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.scope(scope);
        self.inner.list(scope, options).await
    }

    async fn guaranteed_update(&self, key: &Key, mut options: UpdateOptions, update: &mut dyn Update) -> Result<Entry> {
        self.check()?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        if let Some(stale) = self.stale.lock().unwrap().take() {
            options.suggestion = Some(stale);
        }
        self.inner.guaranteed_update(key, options, update).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions, check: &mut dyn Check) -> Result<Entry> {
        self.check()?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.inner.delete(key, options, check).await
    }

    async fn watch(&self, scope: &Scope, options: WatchOptions) -> Result<Watch> {
        self.check()?;
        self.scope(scope);
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
        match self.check() {
            Err(StorageError::NotReady { cause, retry_after }) => Err(NotReady { cause, retry_after }),
            _ => self.inner.ready(),
        }
    }

    async fn stats(&self) -> Result<Stats> {
        self.inner.stats().await
    }
}
