//! The generic store: the verbs of one resource, over any storage, by the rules of a strategy.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::time::{OsRng, Rng};
use apiserver_storage_api::{
    Collected, Entry, Key, List, ListOptions, NotReady, Object, ReadAt, ResourceInfo, Storage, StorageError, Watch,
    WatchOptions,
};
use async_trait::async_trait;
use serde_json::Value;

use crate::context::RequestContext;
use crate::error::{ApiError, Result};
use crate::resource::{
    CreateOptions, DeleteOptions, Deleted, ObjectUpdate, Resource, UpdateOptions, Verbs, Written, unsupported,
};
use crate::storage_error::{StorageVerb, translate};
use crate::strategy::Strategy;

mod collection;
mod create;
mod delete;
mod graceful;
mod read;
mod update;

/// The store of one resource, or of one subresource of it. Cloning shares everything.
///
/// `T` is the type that the strategy works with; what travels to and from the storage are bytes, and reads never
/// decode them. One store serves all versions of its resource.
pub struct Store<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    storage: Arc<dyn Storage>,
    /// The rules of the main front: creation, deletion, completion.
    main: Arc<dyn Strategy<T>>,
    /// The rules of updates and the decoration of answers; another one than `main` in a subresource.
    front: Arc<dyn Strategy<T>>,
    subresource: Option<String>,
    verbs: Verbs,
    rng: Arc<dyn Rng>,
    options: StoreOptions,
}

/// The knobs of a store.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StoreOptions {
    /// Whether delete options set and clear the finalizers `orphan` and `foregroundDeletion`. Default: yes.
    pub garbage_collection: bool,
    /// How many objects a delete of a collection removes at once. Default: 8.
    pub collection_workers: NonZeroUsize,
    /// How many objects a delete of a collection reads at once. Default: 500.
    pub collection_page: NonZeroUsize,
    /// How long an update or delete is repeated while others get in between. None: the storage's default.
    pub deadline: Option<Duration>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        const WORKERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);
        const PAGE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(499);
        Self {
            garbage_collection: true,
            collection_workers: WORKERS,
            collection_page: PAGE,
            deadline: None,
        }
    }
}

/// Puts a store together.
pub struct StoreBuilder<T> {
    inner: Inner<T>,
}

impl<T: Object> Store<T> {
    /// A store with the usual options.
    pub fn new(storage: Arc<dyn Storage>, strategy: impl Strategy<T>) -> Self {
        Self::builder(storage, strategy).build()
    }

    /// Begins a store.
    pub fn builder(storage: Arc<dyn Storage>, strategy: impl Strategy<T>) -> StoreBuilder<T> {
        let main: Arc<dyn Strategy<T>> = Arc::new(strategy);
        StoreBuilder {
            inner: Inner {
                storage,
                front: Arc::clone(&main),
                main,
                subresource: None,
                verbs: Verbs::ALL,
                rng: Arc::new(OsRng),
                options: StoreOptions::default(),
            },
        }
    }

    /// The front for `status`: the same objects, updated by other rules (`registry/R-SUB-01`).
    #[must_use]
    pub fn status(&self, strategy: impl Strategy<T>) -> Self {
        self.subresource("status", strategy)
    }

    /// A front on the same objects whose updates follow other rules. It gets and updates, never creates or deletes;
    /// what completes a deletion stays the business of this store's own strategy.
    #[must_use]
    pub fn subresource(&self, name: impl Into<String>, strategy: impl Strategy<T>) -> Self {
        let inner = &self.inner;
        Self {
            inner: Arc::new(Inner {
                storage: Arc::clone(&inner.storage),
                main: Arc::clone(&inner.main),
                front: Arc::new(strategy),
                subresource: Some(name.into()),
                verbs: Verbs::SUBRESOURCE,
                rng: Arc::clone(&inner.rng),
                options: inner.options.clone(),
            }),
        }
    }

    /// The same front with only these verbs (`namespaces/finalize` cannot be read).
    #[must_use]
    pub fn with_verbs(&self, verbs: Verbs) -> Self {
        let inner = &self.inner;
        Self {
            inner: Arc::new(Inner {
                storage: Arc::clone(&inner.storage),
                main: Arc::clone(&inner.main),
                front: Arc::clone(&inner.front),
                subresource: inner.subresource.clone(),
                verbs,
                rng: Arc::clone(&inner.rng),
                options: inner.options.clone(),
            }),
        }
    }

    /// The storage behind this store.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.inner.storage
    }

    /// The name of the subresource; none for the main front.
    pub fn subresource_name(&self) -> Option<&str> {
        self.inner.subresource.as_deref()
    }

    fn info(&self) -> &ResourceInfo {
        self.inner.storage.resource()
    }

    /// Group and resource as messages name them: as requested, where a request says so (`registry/R-STO-14`).
    fn asked<'a>(&'a self, ctx: &'a RequestContext) -> (&'a str, &'a str) {
        match ctx.resource.as_str() {
            "" => (self.info().group(), self.info().resource()),
            resource => (&ctx.group, resource),
        }
    }

    /// What a client sees of a storage error.
    fn translate(&self, ctx: &RequestContext, error: StorageError, verb: StorageVerb, name: &str) -> ApiError {
        translate(error, verb, self.info(), self.asked(ctx), name)
    }

    /// The key of an object (`registry/R-KEY-03` to `R-KEY-08`).
    fn key(&self, ctx: &RequestContext, name: &str) -> Result<Key> {
        let info = self.info();
        let namespace = if info.is_namespaced() {
            let namespace = ctx.namespace.as_deref().filter(|namespace| !namespace.is_empty());
            Some(namespace.ok_or_else(|| ApiError::bad_request("Namespace parameter required."))?)
        } else {
            None
        };
        if name.is_empty() {
            return Err(ApiError::bad_request("Name parameter required."));
        }
        let faults = apiserver_storage_api::path_segment_faults(name);
        if !faults.is_empty() {
            let (name, faults) = (crate::gofmt::quote(name), faults.join(";"));
            return Err(ApiError::bad_request(format!(
                "Name parameter invalid: {name}: {faults}"
            )));
        }
        info.object_key(namespace, name)
            .map_err(|error| ApiError::bad_request(error.to_string()))
    }

    fn check(&self, there: bool, verb: &str) -> Result<()> {
        if there {
            Ok(())
        } else {
            Err(unsupported(self.info(), verb))
        }
    }
}

impl<T: Object> StoreBuilder<T> {
    /// Generated names and uids come from here. Default: the operating system.
    #[must_use]
    pub fn rng(mut self, rng: Arc<dyn Rng>) -> Self {
        self.inner.rng = rng;
        self
    }

    /// Only these verbs are offered. Default: all.
    #[must_use]
    pub fn verbs(mut self, verbs: Verbs) -> Self {
        self.inner.verbs = verbs;
        self
    }

    /// With these knobs.
    #[must_use]
    pub fn options(mut self, options: StoreOptions) -> Self {
        self.inner.options = options;
        self
    }

    /// The store.
    pub fn build(self) -> Store<T> {
        Store {
            inner: Arc::new(self.inner),
        }
    }
}

#[async_trait]
impl<T: Object> Resource for Store<T> {
    fn info(&self) -> &ResourceInfo {
        Store::info(self)
    }

    fn verbs(&self) -> Verbs {
        self.inner.verbs
    }

    fn ready(&self) -> Result<(), NotReady> {
        self.inner.storage.ready()
    }

    fn returns_deleted_object(&self) -> bool {
        self.inner.main.returns_deleted_object()
    }

    fn reset_fields(&self) -> &[String] {
        self.inner.front.reset_fields()
    }

    async fn create(&self, ctx: &RequestContext, object: Value, options: CreateOptions) -> Result<Written> {
        self.check(self.inner.verbs.create, "create")?;
        self.create_object(ctx, object, options).await
    }

    async fn get(&self, ctx: &RequestContext, name: &str, at: ReadAt) -> Result<Entry> {
        self.check(self.inner.verbs.get, "get")?;
        self.get_object(ctx, name, at).await
    }

    async fn list(&self, ctx: &RequestContext, options: ListOptions) -> Result<List> {
        self.check(self.inner.verbs.list, "list")?;
        self.list_objects(ctx, options).await
    }

    async fn watch(&self, ctx: &RequestContext, options: WatchOptions) -> Result<Watch> {
        self.check(self.inner.verbs.watch, "watch")?;
        self.watch_objects(ctx, options).await
    }

    async fn update(
        &self,
        ctx: &RequestContext,
        name: &str,
        update: &mut dyn ObjectUpdate,
        options: UpdateOptions,
    ) -> Result<Written> {
        self.check(self.inner.verbs.update, "update")?;
        self.update_object(ctx, name, update, options).await
    }

    async fn delete(&self, ctx: &RequestContext, name: &str, options: DeleteOptions) -> Result<Deleted> {
        self.check(self.inner.verbs.delete, "delete")?;
        self.delete_object(ctx, name, options).await
    }

    async fn delete_collection(
        &self,
        ctx: &RequestContext,
        options: DeleteOptions,
        selection: ListOptions,
    ) -> Result<Collected> {
        self.check(self.inner.verbs.delete_collection, "deletecollection")?;
        self.delete_objects(ctx, options, selection).await
    }
}

impl<T> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<T> fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("resource", self.inner.storage.resource())
            .field("subresource", &self.inner.subresource)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for StoreBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreBuilder")
            .field("resource", self.inner.storage.resource())
            .finish_non_exhaustive()
    }
}
