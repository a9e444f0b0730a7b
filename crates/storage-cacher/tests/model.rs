//! Random histories through the watch cache over the embedded engine, in memory and in a directory, compared with a
//! model. After a restart there is a new cache, as after one of a server.
#![expect(clippy::expect_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver_storage_api::Storage;
use apiserver_storage_api::time::ManualClock;
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_testing::model::{Name, histories};
use apiserver_storage_testing::race::races;
use apiserver_storage_testing::{Ability, Backend, Front, Fronted};
use async_trait::async_trait;

struct Embedded<const DURABLE: bool> {
    kv: Arc<EmbeddedKv>,
    clock: ManualClock,
    directory: tempfile::TempDir,
}

impl<const DURABLE: bool> Embedded<DURABLE> {
    async fn open(directory: &tempfile::TempDir, clock: &ManualClock) -> Arc<EmbeddedKv> {
        let config = match DURABLE {
            true => EmbeddedConfig::directory(directory.path()),
            false => EmbeddedConfig::memory(),
        };
        let kv = EmbeddedKv::open(config.with_clock(Arc::new(clock.clone()))).await;
        Arc::new(kv.expect("the store opens"))
    }
}

#[async_trait]
impl<const DURABLE: bool> Backend for Embedded<DURABLE> {
    type Kv = EmbeddedKv;

    const ABILITIES: &'static [Ability] = &[];

    async fn start() -> Self {
        let clock = ManualClock::new(SystemTime::now());
        let directory = tempfile::tempdir().expect("a directory");
        let kv = Self::open(&directory, &clock).await;
        Self { kv, clock, directory }
    }

    fn kv(&self) -> Arc<EmbeddedKv> {
        Arc::clone(&self.kv)
    }

    async fn advance(&self, by: Duration) {
        // Leases end a twentieth late at most.
        self.clock.advance(by + by / 20 + Duration::from_millis(1));
    }

    async fn restart(&mut self) {
        self.kv.close().await;
        self.kv = Self::open(&self.directory, &self.clock).await;
    }
}

struct Cached<const DURABLE: bool>;

#[async_trait]
impl<const DURABLE: bool> Front for Cached<DURABLE> {
    type Below = Embedded<DURABLE>;

    const ABILITIES: &'static [Ability] = if DURABLE {
        &[Ability::Compact, Ability::Raw, Ability::Expiry, Ability::Restart]
    } else {
        &[Ability::Compact, Ability::Raw, Ability::Expiry]
    };

    async fn wrap(store: Arc<dyn Storage>) -> Arc<dyn Storage> {
        let config = CacherConfig::default().with_bookmark_period(Duration::from_millis(20));
        let cache = Cacher::new(store, config);
        cache.wait_ready().await.expect("the cache gets ready");
        Arc::new(cache)
    }
}

fn name(test: &'static str) -> Name {
    Name {
        package: env!("CARGO_PKG_NAME"),
        file: "model",
        test,
    }
}

// covers: storage-api/GLOB-01, storage-api/GLOB-02, storage-api/GLOB-04, storage-api/GLOB-06, storage-api/GLOB-07, storage-api/WATCH-17, storage-api/WATCH-18, storage-api/WATCH-19, storage-api/WATCH-25, storage-api/GLOB-11
#[test]
fn over_memory() {
    histories::<Fronted<Cached<false>>>(name("over_memory"), 20);
}

// covers: storage-api/GLOB-01, storage-api/GLOB-02, storage-api/GLOB-04, storage-api/GLOB-06, storage-api/GLOB-07, storage-api/WATCH-17, storage-api/WATCH-18, storage-api/WATCH-19, storage-api/WATCH-25, storage-api/GLOB-09, storage-api/GLOB-11
#[test]
fn over_a_directory() {
    histories::<Fronted<Cached<true>>>(name("over_a_directory"), 12);
}

// covers: storage-api/GLOB-01, storage-api/GLOB-04, storage-api/GLOB-07
#[test]
fn many_clients_over_memory() {
    races::<Fronted<Cached<false>>>(name("many_clients_over_memory"), 5);
}

#[test]
fn many_clients_over_a_directory() {
    races::<Fronted<Cached<true>>>(name("many_clients_over_a_directory"), 3);
}
