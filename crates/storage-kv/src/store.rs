//! The object store over any backend: one resource of a `Kv` as a `Storage`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::time::{Clock, Rng};
use apiserver_storage_api::{MediaType, ResourceInfo};
use apiserver_storage_transform::Transformer;

use crate::kv::Kv;

/// One resource of a backend as a `Storage`.
pub struct KvStore<K> {
    kv: Arc<K>,
    info: ResourceInfo,
    config: KvStoreConfig,
}

/// What a store needs beside its backend and its kind.
#[derive(Clone)]
#[non_exhaustive]
pub struct KvStoreConfig {
    /// What all keys of the cluster begin with: `/registry`. Begins with a slash, does not end with one.
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

impl<K: Kv> KvStore<K> {
    /// A store of one resource.
    pub fn new(kv: Arc<K>, info: ResourceInfo, config: KvStoreConfig) -> Self {
        Self { kv, info, config }
    }
}

impl<K> fmt::Debug for KvStore<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvStore").field("resource", &self.info).finish_non_exhaustive()
    }
}
