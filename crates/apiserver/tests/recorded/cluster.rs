//! A data directory that holds what somebody else stored, and a server on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;

use apiserver::storage::api::Revision;
use apiserver::storage::api::time::{Clock, SystemClock};
use apiserver::storage::backend::Config as Storage;
use apiserver::{Server, ServerConfig};
use apiserver_storage_embedded::{EmbeddedConfig, EmbeddedKv};
use apiserver_storage_kv::{Expected, Kv as _, Lease, WriteOutcome};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::future::BoxFuture;

use crate::client::Client;

/// Time goes on, and it is always the same time of day: whatever gets a lifetime gets the same one, however slow the
/// machine is.
#[derive(Debug)]
struct Noon {
    wall: SystemTime,
    goes_on: Arc<dyn Clock>,
}

impl Clock for Noon {
    fn now(&self) -> SystemTime {
        self.wall
    }

    fn monotonic(&self) -> Duration {
        self.goes_on.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.goes_on.sleep(duration)
    }
}

/// A data directory.
pub(crate) struct Cluster {
    dir: TempDir,
    clock: Arc<dyn Clock>,
    /// The keys that were stored, each with the revision of its value.
    pub(crate) revisions: BTreeMap<String, Revision>,
}

impl Cluster {
    /// Stores values as they are; events live for an hour.
    pub(crate) async fn with(values: impl IntoIterator<Item = (String, Bytes)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(Noon {
            wall: SystemTime::now(),
            goes_on: SystemClock::shared(),
        });
        let config = EmbeddedConfig::directory(dir.path()).with_clock(Arc::clone(&clock));
        let kv = EmbeddedKv::open(config).await.unwrap();
        let mut revisions = BTreeMap::new();
        for (key, value) in values {
            let lease = match key.starts_with("/registry/events/") {
                true => Lease::Id(kv.lease(Duration::from_secs(3600)).await.unwrap()),
                false => Lease::None,
            };
            let written = kv.put_if(&key, value, Expected::Absent, lease).await.unwrap();
            let WriteOutcome::Applied(revision) = written else {
                panic!("{key} is there twice")
            };
            revisions.insert(key, revision);
        }
        kv.close().await;
        Self { dir, clock, revisions }
    }

    /// A server on the directory.
    pub(crate) async fn serve(&self, watch_cache: bool, encryption: Option<&str>) -> (Server, Client) {
        let encryption = encryption.map(|config| {
            let file = self.dir.path().join("encryption.yaml");
            std::fs::write(&file, config).unwrap();
            file
        });
        let storage = Storage::embedded(PathBuf::from(self.dir.path()))
            .with_watch_cache(watch_cache)
            .with_encryption_config(encryption);
        let mut config = ServerConfig::new(storage);
        config.clock = Arc::clone(&self.clock);
        let server = Server::start(config).await.unwrap();
        let client = Client::new(server.insecure_address().unwrap());
        (server, client)
    }

    /// The revision of a key's value now. No server may run.
    pub(crate) async fn revisions_now(&self) -> BTreeMap<String, Option<Revision>> {
        let kv = Arc::new(
            EmbeddedKv::open(EmbeddedConfig::directory(self.dir.path()))
                .await
                .unwrap(),
        );
        let mut now = BTreeMap::new();
        for key in self.revisions.keys() {
            let (pair, _) = kv.get(key, None).await.unwrap();
            now.insert(key.clone(), pair.map(|pair| pair.revision));
        }
        kv.close().await;
        now
    }
}

/// Bytes in base64.
pub(crate) fn decode(base64: &Value) -> Bytes {
    BASE64_STANDARD
        .decode(base64.as_str().expect("bytes in base64"))
        .unwrap()
        .into()
}
