//! The conformance suite through the watch cache, over the embedded engine: in memory and in a directory, with values as
//! they are and with encrypted ones.

use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver_storage_api::Storage;
use apiserver_storage_api::time::ManualClock;
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_testing::{Ability, Backend, Front, Fronted};
use apiserver_storage_transform::{ConfigOptions, Identity, Transformer, Transformers};
use async_trait::async_trait;

/// AES-GCM with a key that is no secret.
const ENCRYPTION: &str = "
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [pods]
  providers:
  - aesgcm: {keys: [{name: key1, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}
";

struct Embedded<const DURABLE: bool, const SEALED: bool> {
    kv: Arc<EmbeddedKv>,
    clock: ManualClock,
    /// Where the store lies; goes with the case.
    _directory: Option<tempfile::TempDir>,
}

#[async_trait]
impl<const DURABLE: bool, const SEALED: bool> Backend for Embedded<DURABLE, SEALED> {
    type Kv = EmbeddedKv;

    const ABILITIES: &'static [Ability] = &[];

    async fn start() -> Self {
        let clock = ManualClock::new(SystemTime::now());
        let directory = DURABLE.then(|| tempfile::tempdir().expect("a directory"));
        let config = match &directory {
            Some(directory) => EmbeddedConfig::directory(directory.path()),
            None => EmbeddedConfig::memory(),
        };
        let kv = EmbeddedKv::open(config.with_clock(Arc::new(clock.clone())))
            .await
            .expect("the store opens");
        Self {
            kv: Arc::new(kv),
            clock,
            _directory: directory,
        }
    }

    fn kv(&self) -> Arc<EmbeddedKv> {
        Arc::clone(&self.kv)
    }

    fn transformer() -> Arc<dyn Transformer> {
        if !SEALED {
            return Arc::new(Identity);
        }
        let built = Transformers::parse(Path::new("test"), ENCRYPTION.as_bytes(), &ConfigOptions::default());
        built.expect("a valid configuration").for_resource("", "pods")
    }

    async fn advance(&self, by: Duration) {
        // Leases end a twentieth late at most.
        self.clock.advance(by + by / 20 + Duration::from_millis(1));
    }
}

/// The cache in front of a backend.
struct Cache<B>(PhantomData<fn() -> B>);

#[async_trait]
impl<const DURABLE: bool, const SEALED: bool> Front for Cache<Embedded<DURABLE, SEALED>> {
    type Below = Embedded<DURABLE, SEALED>;

    const ABILITIES: &'static [Ability] = &[
        Ability::Compact,
        Ability::Raw,
        if SEALED { Ability::Encrypted } else { Ability::Plain },
        Ability::Transform,
        Ability::Expiry,
        Ability::Progress,
    ];

    async fn wrap(store: Arc<dyn Storage>) -> Arc<dyn Storage> {
        // Progress comes with every bookmark; a case does not wait a minute for one.
        let config = CacherConfig::default().with_bookmark_period(Duration::from_millis(100));
        let cache = Cacher::new(store, config);
        cache.wait_ready().await.expect("the cache gets ready");
        Arc::new(cache)
    }
}

mod memory {
    use super::*;
    apiserver_storage_testing::conformance!(Fronted<Cache<Embedded<false, false>>>);
}

mod memory_sealed {
    use super::*;
    apiserver_storage_testing::conformance!(Fronted<Cache<Embedded<false, true>>>);
}

mod durable {
    use super::*;
    apiserver_storage_testing::conformance!(Fronted<Cache<Embedded<true, false>>>);
}

mod durable_sealed {
    use super::*;
    apiserver_storage_testing::conformance!(Fronted<Cache<Embedded<true, true>>>);
}
