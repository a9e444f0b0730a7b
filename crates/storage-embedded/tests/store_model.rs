//! Random histories of the object store on this engine, compared with a model: in memory, and in a directory with
//! restarts, half of which find the files as `kill -9` leaves them.
#![expect(clippy::expect_used, reason = "a panic is how a test fails")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver_storage_api::time::ManualClock;
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_testing::model::{Name, histories};
use apiserver_storage_testing::race::races;
use apiserver_storage_testing::{Ability, Backend, OverKv};
use async_trait::async_trait;

async fn open(config: EmbeddedConfig, clock: &ManualClock) -> Arc<EmbeddedKv> {
    let config = config.with_clock(Arc::new(clock.clone()));
    Arc::new(EmbeddedKv::open(config).await.expect("the store opens"))
}

/// Leases end a twentieth late at most, so that they can be shared.
fn pass(clock: &ManualClock, by: Duration) {
    clock.advance(by + by / 20 + Duration::from_millis(1));
}

fn name(test: &'static str) -> Name {
    Name {
        package: env!("CARGO_PKG_NAME"),
        file: "store_model",
        test,
    }
}

struct Memory {
    kv: Arc<EmbeddedKv>,
    clock: ManualClock,
}

#[async_trait]
impl Backend for Memory {
    type Kv = EmbeddedKv;

    const ABILITIES: &'static [Ability] = &[
        Ability::Direct,
        Ability::Compact,
        Ability::Raw,
        Ability::Expiry,
        Ability::Progress,
    ];

    async fn start() -> Self {
        let clock = ManualClock::new(SystemTime::now());
        let kv = open(EmbeddedConfig::memory(), &clock).await;
        Self { kv, clock }
    }

    fn kv(&self) -> Arc<EmbeddedKv> {
        Arc::clone(&self.kv)
    }

    async fn advance(&self, by: Duration) {
        pass(&self.clock, by);
    }
}

// covers: storage-api/GLOB-01, storage-api/GLOB-02, storage-api/GLOB-04, storage-api/GLOB-06, storage-api/GLOB-07, storage-api/WATCH-17, storage-api/WATCH-18, storage-api/WATCH-19, storage-api/WATCH-25, storage-api/GLOB-11
#[test]
fn in_memory() {
    histories::<OverKv<Memory>>(name("in_memory"), 30);
}

#[cfg(feature = "durable")]
mod durable {
    use super::*;

    struct Directory {
        kv: Arc<EmbeddedKv>,
        clock: ManualClock,
        path: tempfile::TempDir,
    }

    #[async_trait]
    impl Backend for Directory {
        type Kv = EmbeddedKv;

        const ABILITIES: &'static [Ability] = &[
            Ability::Direct,
            Ability::Compact,
            Ability::Raw,
            Ability::Expiry,
            Ability::Restart,
            Ability::Progress,
        ];

        async fn start() -> Self {
            let clock = ManualClock::new(SystemTime::now());
            let path = tempfile::tempdir().expect("a directory");
            let kv = open(EmbeddedConfig::directory(path.path()), &clock).await;
            Self { kv, clock, path }
        }

        fn kv(&self) -> Arc<EmbeddedKv> {
            Arc::clone(&self.kv)
        }

        async fn advance(&self, by: Duration) {
            pass(&self.clock, by);
        }

        async fn restart(&mut self) {
            self.kv.close().await;
            self.kv = open(EmbeddedConfig::directory(self.path.path()), &self.clock).await;
        }

        /// Goes on with the files as they lie there while the store is open.
        async fn crash(&mut self) {
            let left = tempfile::tempdir().expect("a directory");
            for file in std::fs::read_dir(self.path.path()).expect("the directory is there") {
                let file = file.expect("an entry");
                std::fs::copy(file.path(), left.path().join(file.file_name())).expect("a copy");
            }
            self.kv.close().await;
            self.kv = open(EmbeddedConfig::directory(left.path()), &self.clock).await;
            self.path = left;
        }
    }

    // covers: storage-api/GLOB-01, storage-api/GLOB-02, storage-api/GLOB-04, storage-api/GLOB-06, storage-api/GLOB-07, storage-api/WATCH-17, storage-api/WATCH-18, storage-api/WATCH-19, storage-api/WATCH-25, storage-api/GLOB-09, storage-api/GLOB-11
    #[test]
    fn in_a_directory() {
        histories::<OverKv<Directory>>(name("durable::in_a_directory"), 20);
    }

    #[test]
    fn many_clients_in_a_directory() {
        races::<OverKv<Directory>>(name("durable::many_clients_in_a_directory"), 3);
    }
}

// covers: storage-api/GLOB-01, storage-api/GLOB-04, storage-api/GLOB-07
#[test]
fn many_clients_in_memory() {
    races::<OverKv<Memory>>(name("many_clients_in_memory"), 5);
}
