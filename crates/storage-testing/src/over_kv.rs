//! A harness for every backend that is a [`Kv`]: the object store is the one of `apiserver-storage-kv`, so only the
//! backend itself has to be made.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use apiserver_storage_api::{Key, ResourceInfo, Revision, Storage};
use apiserver_storage_kv::transform::{Identity, Transformer};
use apiserver_storage_kv::{Expected, Kv, KvError, KvStore, KvStoreConfig, Lease, WriteOutcome};

use crate::fixture;
use crate::harness::{Ability, Harness};
use crate::transformer::SwitchTransformer;

/// What all keys begin with.
const PREFIX: &str = "/registry";

/// A backend under test.
#[async_trait]
pub trait Backend: Sized + Send + Sync + 'static {
    /// The backend.
    type Kv: Kv;

    /// What it can do. [`OverKv`] brings `Raw` and `Transform` along, so they are to be listed; of `Plain` and
    /// `Encrypted` the one that [`transformer`](Self::transformer) is.
    const ABILITIES: &'static [Ability];

    /// As [`Harness::missing`].
    fn missing() -> Option<String> {
        None
    }

    /// Starts it empty.
    async fn start() -> Self;

    /// The running backend.
    fn kv(&self) -> Arc<Self::Kv>;

    /// How values of this test are stored.
    fn transformer() -> Arc<dyn Transformer> {
        Arc::new(Identity)
    }

    /// As [`Harness::advance`].
    async fn advance(&self, _by: Duration) {
        unreachable!("needs Ability::Expiry")
    }

    /// As [`Harness::restart`].
    async fn restart(&mut self) {
        unreachable!("needs Ability::Restart")
    }

    /// As [`Harness::crash`].
    async fn crash(&mut self) {
        self.restart().await;
    }
}

/// The harness of a backend.
#[derive(Debug)]
pub struct OverKv<B> {
    backend: B,
    transformer: SwitchTransformer,
}

impl<B: Backend> OverKv<B> {
    /// The backend under test.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    fn store_of(&self, info: ResourceInfo, transformer: Arc<dyn Transformer>) -> Arc<dyn Storage> {
        Arc::new(KvStore::new(
            self.backend.kv(),
            info,
            KvStoreConfig::new(PREFIX, transformer),
        ))
    }
}

#[async_trait]
impl<B: Backend> Harness for OverKv<B> {
    const ABILITIES: &'static [Ability] = B::ABILITIES;

    fn missing() -> Option<String> {
        B::missing()
    }

    async fn start() -> Self {
        Self {
            backend: B::start().await,
            transformer: SwitchTransformer::new(B::transformer()),
        }
    }

    fn store(&self) -> Arc<dyn Storage> {
        self.store_of(fixture::pods(), Arc::new(self.transformer.clone()))
    }

    fn other(&self) -> Arc<dyn Storage> {
        self.store_of(fixture::config_maps(), Arc::new(Identity))
    }

    async fn compact(&self, revision: Revision) {
        match self.backend.kv().compact(revision).await {
            // A backend that bounds its history itself may have given up more, at any moment since it was asked last.
            Ok(()) | Err(KvError::Compacted { .. }) => {}
            Err(error) => panic!("history up to {revision}, which was reached, is not given up: {error}"),
        }
    }

    async fn raw_put(&self, key: &Key, value: Bytes) -> Revision {
        let (kv, key) = (self.backend.kv(), format!("{PREFIX}{key}"));
        loop {
            let (pair, _) = kv.get(&key, None).await.expect("the backend answers");
            let expected = pair.map_or(Expected::Absent, |pair| Expected::At(pair.revision));
            let written = kv.put_if(&key, value.clone(), expected, Lease::None).await;
            if let WriteOutcome::Applied(revision) = written.expect("the backend answers") {
                return revision;
            }
        }
    }

    async fn raw_get(&self, key: &Key) -> Option<Bytes> {
        let read = self.backend.kv().get(&format!("{PREFIX}{key}"), None).await;
        read.expect("the backend answers").0.map(|pair| pair.value)
    }

    fn transformer(&self) -> &SwitchTransformer {
        &self.transformer
    }

    async fn advance(&self, by: Duration) {
        self.backend.advance(by).await;
    }

    async fn restart(&mut self) {
        self.backend.restart().await;
    }

    async fn crash(&mut self) {
        self.backend.crash().await;
    }
}
