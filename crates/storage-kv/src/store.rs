//! The object store over any backend: one resource of a [`Kv`] as a [`Storage`].
//!
//! Keys get the cluster prefix here and nowhere else; the full key is what the transformer binds a value to. Every verb
//! is a short method; what it takes is in `write.rs`, `update.rs`, `delete.rs`, `list.rs` and `watch/`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::Instrument;

use apiserver_storage_api::time::{Clock, OsRng, Rng, SystemClock};
use apiserver_storage_api::{
    Check, CreateOptions, DeleteOptions, Encoded, Entry, GetOptions, Key, List, ListOptions, MediaType, NotReady,
    ResourceInfo, Result, Revision, Scope, Stats, Storage, Update, UpdateOptions, Watch, WatchOptions,
};
use apiserver_storage_transform::Transformer;

use crate::convert::{self, Call};
use crate::kv::Kv;
use crate::metric::Meter;
use crate::queue::Turns;
use crate::sizes::Sizes;
use crate::told::Told;
use crate::trace::span;
use crate::traced;

/// One resource of a backend as a `Storage`. Cloning shares it.
///
/// Reads go to the backend, always: nothing is cached here, so every read is as fresh as the backend's own. No lock is
/// held while a callback runs; callbacks may use the same store, and the same key.
///
/// Callers who meet on one key take turns, so one resource should have one store in a process.
pub struct KvStore<K>(Arc<Inner<K>>);

pub(crate) struct Inner<K> {
    pub(crate) kv: Arc<K>,
    pub(crate) info: ResourceInfo,
    pub(crate) config: KvStoreConfig,
    pub(crate) meter: Meter,
    pub(crate) turns: Turns,
    pub(crate) sizes: Sizes,
    pub(crate) told: Told,
}

/// What a store needs beside its backend and its kind.
#[derive(Clone)]
#[non_exhaustive]
pub struct KvStoreConfig {
    /// What all keys of the cluster begin with: `/registry`. Begins with a slash, does not end with one; other forms
    /// are brought into this one.
    pub cluster_prefix: String,
    /// How new values are stored. Values that others stored are read in any form.
    pub media_type: MediaType,
    /// Value to stored bytes and back.
    pub transformer: Arc<dyn Transformer>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where jitter comes from.
    pub rng: Arc<dyn Rng>,
    /// How long an update or delete retries on conflicts, unless its options say otherwise.
    pub retry_deadline: Duration,
}

impl KvStoreConfig {
    /// JSON, the machine's clock and randomness, and 30 s of retries.
    pub fn new(cluster_prefix: impl Into<String>, transformer: Arc<dyn Transformer>) -> Self {
        Self {
            cluster_prefix: cluster_prefix.into(),
            media_type: MediaType::Json,
            transformer,
            clock: SystemClock::shared(),
            rng: Arc::new(OsRng),
            retry_deadline: Duration::from_secs(30),
        }
    }

    /// New values are stored like this.
    #[must_use]
    pub fn with_media_type(mut self, media_type: MediaType) -> Self {
        self.media_type = media_type;
        self
    }

    /// Time comes from here.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Jitter comes from here.
    #[must_use]
    pub fn with_rng(mut self, rng: Arc<dyn Rng>) -> Self {
        self.rng = rng;
        self
    }

    /// Updates and deletes give up on conflicts after this long.
    #[must_use]
    pub fn with_retry_deadline(mut self, deadline: Duration) -> Self {
        self.retry_deadline = deadline;
        self
    }
}

impl fmt::Debug for KvStoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvStoreConfig")
            .field("cluster_prefix", &self.cluster_prefix)
            .field("media_type", &self.media_type)
            .field("transformer", &self.transformer)
            .field("retry_deadline", &self.retry_deadline)
            .finish_non_exhaustive()
    }
}

impl<K: Kv> KvStore<K> {
    /// A store of one resource.
    pub fn new(kv: Arc<K>, info: ResourceInfo, mut config: KvStoreConfig) -> Self {
        config.cluster_prefix = clean_prefix(&config.cluster_prefix);
        let meter = Meter::new(&info, &config.clock);
        Self(Arc::new(Inner {
            kv,
            info,
            config,
            meter,
            turns: Turns::new(),
            sizes: Sizes::default(),
            told: Told::new(),
        }))
    }

    /// The backend.
    pub fn kv(&self) -> &Arc<K> {
        &self.0.kv
    }

    /// The key as the backend has it: what the transformer binds a value to.
    pub fn full_key(&self, key: &Key) -> String {
        self.0.full_key(key.as_str())
    }
}

/// Absolute, without doubled, dot or final slashes (`storage-etcd3/CFG-01`): `custom//prefix/` is `/custom/prefix`.
fn clean_prefix(prefix: &str) -> String {
    let mut clean = String::with_capacity(prefix.len() + 1);
    for segment in prefix.split('/').filter(|segment| !matches!(*segment, "" | "." | "..")) {
        clean.push('/');
        clean.push_str(segment);
    }
    clean
}

impl<K> Clone for KvStore<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> fmt::Debug for KvStore<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvStore")
            .field("resource", &self.0.info)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<K: Kv> Storage for KvStore<K> {
    fn resource(&self) -> &ResourceInfo {
        &self.0.info
    }

    async fn create(&self, key: &Key, value: Encoded, options: CreateOptions) -> Result<Entry> {
        let store = &*self.0;
        let full = store.own_key(key.as_str())?;
        let call = async {
            let mut trace = store.meter.trace("Create etcd3", &full);
            store.create(key, &full, &value, options, &mut trace).await
        };
        call.instrument(span!(store, "Create etcd3", full)).await
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Entry> {
        let store = &*self.0;
        let full = store.own_key(key.as_str())?;
        let call = async {
            let mut trace = store.meter.trace("Get etcd3", &full);
            store.get(key, &full, options, &mut trace).await
        };
        call.instrument(span!(store, "Get etcd3", full)).await
    }

    async fn list(&self, scope: &Scope, options: ListOptions) -> Result<List> {
        traced::list(&self.0, scope, options).await
    }

    async fn guaranteed_update(&self, key: &Key, options: UpdateOptions, update: &mut dyn Update) -> Result<Entry> {
        let store = &*self.0;
        let full = store.own_key(key.as_str())?;
        let call = async {
            let mut trace = store.meter.trace("GuaranteedUpdate etcd3", &full);
            store.guaranteed_update(key, &full, options, update, &mut trace).await
        };
        call.instrument(span!(store, "GuaranteedUpdate etcd3", full)).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions, check: &mut dyn Check) -> Result<Entry> {
        let store = &*self.0;
        let full = store.own_key(key.as_str())?;
        let call = async {
            let mut trace = store.meter.trace("Delete etcd3", &full);
            store.delete(key, &full, options, check, &mut trace).await
        };
        call.instrument(span!(store, "Delete etcd3", full)).await
    }

    async fn watch(&self, scope: &Scope, options: WatchOptions) -> Result<Watch> {
        traced::watch(&self.0, scope, options).await
    }

    // deviates: storage-etcd3/LAYOUT-07: the backend says in its own way where it is. On etcd that is a count of the key
    // that health is read from, the same for all kinds, of which nothing but the header comes back.
    async fn current_revision(&self) -> Result<Revision> {
        let now = self.0.timed("getCurrentResourceVersion", self.0.kv.now()).await;
        now.map_err(|error| convert::storage_error(error, Call::Key(self.0.info.prefix().as_str())))
    }

    async fn request_progress(&self) -> Result<()> {
        let asked = self.0.kv.request_progress().await;
        asked.map_err(|error| convert::storage_error(error, Call::Key(self.0.info.prefix().as_str())))
    }

    fn compacted_revision(&self) -> Option<Revision> {
        self.0.kv.compacted_revision()
    }

    fn ready(&self) -> Result<(), NotReady> {
        self.0.kv.health().map_err(|cause| NotReady {
            cause,
            retry_after: convert::RETRY_SOON,
        })
    }

    async fn stats(&self) -> Result<Stats> {
        self.0.stats().await
    }

    async fn store_id(&self) -> Result<Option<String>> {
        let id = self.0.kv.store_id().await;
        id.map(|id| Some(id.0))
            .map_err(|error| convert::storage_error(error, Call::Key(self.0.info.prefix().as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::clean_prefix;

    // covers: storage-etcd3/CFG-01
    #[test]
    fn the_cluster_prefix_is_brought_into_one_form() {
        for (prefix, want) in [
            ("/registry", "/registry"),
            ("/registry/", "/registry"),
            ("custom/prefix", "/custom/prefix"),
            ("/custom//prefix//", "/custom/prefix"),
            ("", ""),
            ("/", ""),
        ] {
            assert_eq!(clean_prefix(prefix), want, "{prefix:?}");
        }
    }
}
