//! A harness for what stands in front of stores: the same suite over a wrapper (a cache, metrics) of any backend.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use apiserver_storage_api::{Key, Revision, Storage};

use crate::harness::{Ability, Harness};
use crate::over_kv::{Backend, OverKv};
use crate::transformer::SwitchTransformer;

/// A wrapper under test, over one backend.
#[async_trait]
pub trait Front: Sized + Send + Sync + 'static {
    /// What it stands in front of.
    type Below: Backend;

    /// What the backend can do and the wrapper keeps: a cache is not `Direct`, for example.
    const ABILITIES: &'static [Ability];

    /// Whether the wrapper goes on when the backend is started again, as one does whose backend is another process;
    /// otherwise there is a new one then.
    const SURVIVES: bool = false;

    /// Puts the wrapper in front of a store, ready to serve.
    async fn wrap(store: Arc<dyn Storage>) -> Arc<dyn Storage>;
}

/// The harness of a wrapper.
pub struct Fronted<F: Front> {
    below: OverKv<F::Below>,
    store: Arc<dyn Storage>,
    other: Arc<dyn Storage>,
}

impl<F: Front> std::fmt::Debug for Fronted<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fronted").finish_non_exhaustive()
    }
}

#[async_trait]
impl<F: Front> Harness for Fronted<F> {
    const ABILITIES: &'static [Ability] = F::ABILITIES;

    fn missing() -> Option<String> {
        F::Below::missing()
    }

    async fn start() -> Self {
        let below = OverKv::<F::Below>::start().await;
        let (store, other) = (F::wrap(below.store()).await, F::wrap(below.other()).await);
        Self { below, store, other }
    }

    fn store(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.store)
    }

    fn other(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.other)
    }

    async fn compact(&self, revision: Revision) {
        self.below.compact(revision).await;
    }

    async fn raw_put(&self, key: &Key, value: Bytes) -> Revision {
        self.below.raw_put(key, value).await
    }

    async fn raw_get(&self, key: &Key) -> Option<Bytes> {
        self.below.raw_get(key).await
    }

    fn transformer(&self) -> &SwitchTransformer {
        self.below.transformer()
    }

    async fn advance(&self, by: Duration) {
        self.below.advance(by).await;
    }

    async fn restart(&mut self) {
        self.below.restart().await;
        self.wrap_again().await;
    }

    async fn crash(&mut self) {
        self.below.crash().await;
        self.wrap_again().await;
    }
}

impl<F: Front> Fronted<F> {
    async fn wrap_again(&mut self) {
        if !F::SURVIVES {
            self.store = F::wrap(self.below.store()).await;
            self.other = F::wrap(self.below.other()).await;
        }
    }
}
