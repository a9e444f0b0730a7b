//! The reference backend, with its calls on record, and with the pauses of a network where they are wanted.

use std::sync::Arc;
use std::time::Duration;

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{
    Capabilities, Expected, Kv, KvPair, KvResult, KvWatch, Lease, LeaseId, RangePage, RangeRequest, StoreId,
    WatchRequest, WriteOutcome,
};
use apiserver_storage_testing::ReferenceKv;
use bytes::Bytes;
use parking_lot::Mutex;

/// A backend that remembers what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Spy {
    pub(crate) kv: ReferenceKv,
    /// Other tasks get their turn before and after each read and write of a key.
    yields: bool,
    /// Calls never end.
    hangs: bool,
    ranges: Mutex<Vec<RangeRequest>>,
    writes: Mutex<Vec<Expected>>,
}

impl Spy {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// One whose calls overlap.
    pub(crate) fn yielding() -> Arc<Self> {
        Arc::new(Self {
            yields: true,
            ..Self::default()
        })
    }

    /// One whose calls never end.
    pub(crate) fn hanging() -> Arc<Self> {
        Arc::new(Self {
            hangs: true,
            ..Self::default()
        })
    }

    /// The ranges that were read since the last time.
    pub(crate) fn take_ranges(&self) -> Vec<RangeRequest> {
        std::mem::take(&mut self.ranges.lock())
    }

    /// What the writes since the last time expected.
    pub(crate) fn take_writes(&self) -> Vec<Expected> {
        std::mem::take(&mut self.writes.lock())
    }

    async fn pause(&self) {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if self.yields {
            tokio::task::yield_now().await;
        }
    }
}

impl Kv for Spy {
    async fn now(&self) -> KvResult<Revision> {
        self.pause().await;
        self.kv.now().await
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> KvResult<(Option<KvPair>, Revision)> {
        self.pause().await;
        let read = self.kv.get(key, at).await;
        self.pause().await;
        read
    }

    async fn range(&self, request: RangeRequest) -> KvResult<RangePage> {
        self.pause().await;
        self.ranges.lock().push(request.clone());
        self.kv.range(request).await
    }

    async fn put_if(&self, key: &str, value: Bytes, expected: Expected, lease: Lease) -> KvResult<WriteOutcome> {
        self.pause().await;
        self.writes.lock().push(expected);
        let written = self.kv.put_if(key, value, expected, lease).await;
        self.pause().await;
        written
    }

    async fn delete_if(&self, key: &str, expected: Revision) -> KvResult<WriteOutcome> {
        self.pause().await;
        self.writes.lock().push(Expected::At(expected));
        let deleted = self.kv.delete_if(key, expected).await;
        self.pause().await;
        deleted
    }

    async fn lease(&self, ttl: Duration) -> KvResult<LeaseId> {
        self.pause().await;
        self.kv.lease(ttl).await
    }

    async fn watch(&self, request: WatchRequest) -> KvResult<KvWatch> {
        self.pause().await;
        self.kv.watch(request).await
    }

    async fn request_progress(&self) -> KvResult<()> {
        self.kv.request_progress().await
    }

    async fn compact(&self, revision: Revision) -> KvResult<()> {
        self.kv.compact(revision).await
    }

    fn compacted_revision(&self) -> Option<Revision> {
        self.kv.compacted_revision()
    }

    async fn coordination_get(&self, key: &str) -> KvResult<Option<(Bytes, u64)>> {
        self.kv.coordination_get(key).await
    }

    async fn coordination_put(&self, key: &str, value: Bytes, version: u64) -> KvResult<bool> {
        self.kv.coordination_put(key, value, version).await
    }

    async fn store_id(&self) -> KvResult<StoreId> {
        self.kv.store_id().await
    }

    fn capabilities(&self) -> Capabilities {
        self.kv.capabilities()
    }

    fn health(&self) -> Result<(), String> {
        self.kv.health()
    }
}
