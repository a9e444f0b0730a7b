//! The conformance suite through the watch cache, over the embedded engine.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::ManualClock;
use apiserver_storage_api::{Key, Revision, Storage};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_testing::{Ability, Backend, Harness, OverKv, SwitchTransformer};
use async_trait::async_trait;
use bytes::Bytes;

struct Memory {
    kv: Arc<EmbeddedKv>,
    clock: ManualClock,
}

#[async_trait]
impl Backend for Memory {
    type Kv = EmbeddedKv;

    const ABILITIES: &'static [Ability] = &[];

    async fn start() -> Self {
        let clock = ManualClock::new(SystemTime::now());
        let config = EmbeddedConfig::memory().with_clock(Arc::new(clock.clone()));
        let kv = EmbeddedKv::open(config).await.expect("the store opens");
        Self {
            kv: Arc::new(kv),
            clock,
        }
    }

    fn kv(&self) -> Arc<EmbeddedKv> {
        Arc::clone(&self.kv)
    }

    async fn advance(&self, by: Duration) {
        // Leases end a twentieth late at most.
        self.clock.advance(by + by / 20 + Duration::from_millis(1));
    }
}

/// Both kinds behind caches.
struct Cached {
    below: OverKv<Memory>,
    store: Arc<Cacher>,
    other: Arc<Cacher>,
}

#[async_trait]
impl Harness for Cached {
    const ABILITIES: &'static [Ability] = &[
        Ability::Compact,
        Ability::Raw,
        Ability::Plain,
        Ability::Transform,
        Ability::Expiry,
        Ability::Progress,
    ];

    async fn start() -> Self {
        let below = OverKv::<Memory>::start().await;
        // Progress comes with every bookmark; a case does not wait a minute for one.
        let config = CacherConfig::default().with_bookmark_period(Duration::from_millis(100));
        let cache = |inner| Arc::new(Cacher::new(inner, config.clone()));
        let (store, other) = (cache(below.store()), cache(below.other()));
        for cache in [&store, &other] {
            cache.wait_ready().await.expect("the cache gets ready");
        }
        Self { below, store, other }
    }

    fn store(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.store) as Arc<dyn Storage>
    }

    fn other(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.other) as Arc<dyn Storage>
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
}

apiserver_storage_testing::conformance!(Cached);
