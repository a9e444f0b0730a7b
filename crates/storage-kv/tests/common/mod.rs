//! A store of pods over the reference backend.
#![allow(dead_code, reason = "no test uses all of it")]

use std::sync::Arc;

use apiserver_storage_api::time::Clock;
use apiserver_storage_api::{Entry, Key};
use apiserver_storage_kv::transform::{Identity, Transformer};
use apiserver_storage_kv::{KvStore, KvStoreConfig};
use apiserver_storage_testing::{ReferenceKv, fixture};

pub(crate) type Store = KvStore<ReferenceKv>;
pub(crate) type Spy = apiserver_storage_testing::Spy<ReferenceKv>;

pub(crate) fn config() -> KvStoreConfig {
    KvStoreConfig::new("/registry", Arc::new(Identity))
}

pub(crate) fn store() -> (Arc<ReferenceKv>, Store) {
    store_with(config())
}

pub(crate) fn store_with(config: KvStoreConfig) -> (Arc<ReferenceKv>, Store) {
    let kv = Arc::new(ReferenceKv::new());
    (Arc::clone(&kv), KvStore::new(kv, fixture::pods(), config))
}

pub(crate) fn sealed(transformer: impl Transformer) -> (Arc<ReferenceKv>, Store) {
    store_with(KvStoreConfig::new("/registry", Arc::new(transformer)))
}

pub(crate) fn clocked(clock: impl Clock) -> (Arc<ReferenceKv>, Store) {
    store_with(config().with_clock(Arc::new(clock)))
}

pub(crate) fn full(key: &Key) -> String {
    format!("/registry{key}")
}

/// The stored bytes of an object of the reference backend, in the form that the store writes.
pub(crate) fn stored(kv: &ReferenceKv, entry: &Entry) -> bytes::Bytes {
    kv.raw_get(&full(entry.key())).expect("stored").value
}
