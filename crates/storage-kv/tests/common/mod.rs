//! A store of pods over the reference backend.
#![allow(dead_code, reason = "no test uses all of it")]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apiserver_storage_api::time::Clock;
use apiserver_storage_api::{Entry, Key};
use apiserver_storage_kv::transform::{
    DataContext, Decrypted, ErrorKind, Identity, Outcome, TransformError, Transformer,
};
use apiserver_storage_kv::{KvStore, KvStoreConfig};
use apiserver_storage_testing::{ReferenceKv, fixture};
use bytes::Bytes;

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

/// What opening a value gives.
pub(crate) type Opened = Result<Decrypted, TransformError>;

/// Stores values as they are, and opens them as it is told.
pub(crate) struct Opening<F>(pub(crate) F);

impl<F> fmt::Debug for Opening<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opening")
    }
}

impl<F: Fn(Bytes) -> Outcome<'static, Opened> + Send + Sync + 'static> Transformer for Opening<F> {
    fn transform_from_storage<'a>(&'a self, data: Bytes, _: &DataContext<'a>) -> Outcome<'a, Opened> {
        (self.0)(data)
    }

    fn transform_to_storage<'a>(
        &'a self,
        data: Bytes,
        _: &DataContext<'a>,
    ) -> Outcome<'a, Result<Bytes, TransformError>> {
        Outcome::Ready(Ok(data))
    }
}

/// A value that opens.
pub(crate) fn opened(data: Bytes) -> Opened {
    Ok(Decrypted::new(data, false))
}

/// Whether a text is somewhere in a value.
pub(crate) fn has(data: &Bytes, text: &str) -> bool {
    data.windows(text.len()).any(|part| part == text.as_bytes())
}

/// A key service that answers the later questions first, and counts who waits. For values with `away` in them it cannot
/// be reached.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyService(Arc<(AtomicUsize, AtomicUsize)>);

impl KeyService {
    /// So many waited at the same time.
    pub(crate) fn most(&self) -> usize {
        self.0.1.load(Ordering::Relaxed)
    }

    /// Opens values by asking it.
    pub(crate) fn opening(&self) -> impl Transformer + use<> {
        let service = self.clone();
        Opening(move |data| Outcome::Pending(Box::pin(service.clone().answer(data))))
    }

    async fn answer(self, data: Bytes) -> Opened {
        let (waiting, most) = &*self.0;
        most.fetch_max(waiting.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        for _ in 0..100_usize.saturating_sub(waiting.load(Ordering::Relaxed)) {
            tokio::task::yield_now().await;
        }
        waiting.fetch_sub(1, Ordering::Relaxed);
        if has(&data, "away") {
            return Err(TransformError::with_message(ErrorKind::Unavailable, "away"));
        }
        opened(data)
    }
}
