//! A backend with its calls on record, whose calls a test may hold up, precede or falsify.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use apiserver_storage_api::{ResourceInfo, Revision};
use apiserver_storage_kv::transform::{Identity, Transformer};
use apiserver_storage_kv::{
    Capabilities, Expected, Kv, KvPair, KvResult, KvStore, KvStoreConfig, KvWatch, Lease, LeaseId, RangeEnd, RangePage,
    RangeParts, RangeRequest, StoreId, WatchRequest, WriteOutcome,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::ReferenceKv;

/// One range that was read.
#[derive(Debug, Clone)]
pub struct Read {
    /// What was asked for.
    pub request: RangeRequest,
    /// Keys that came.
    pub keys: usize,
    /// Bytes of values that came.
    pub bytes: usize,
    /// The last key that came.
    pub last: String,
}

/// What was asked, in order.
#[derive(Debug, Default)]
pub struct Asked {
    /// Reads of a key: at which revision.
    pub gets: Vec<Option<Revision>>,
    /// Reads of ranges.
    pub ranges: Vec<Read>,
    /// Writes and deletions: what they expected.
    pub writes: Vec<Expected>,
    /// Writes: under which lease.
    pub leases: Vec<Lease>,
    /// Watches.
    pub watches: Vec<WatchRequest>,
    /// How often the latest revision was asked for.
    pub nows: usize,
}

/// How calls go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Pace {
    #[default]
    Plain,
    /// Other tasks get their turn before and after each read and write of a key.
    Yields,
    /// Calls never end.
    Hangs,
}

type Act = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;
/// How many pairs come at a time, and what is done before each time.
type Pieces = (usize, Arc<dyn Fn() + Send + Sync>);

/// A backend that remembers what it was asked.
pub struct Spy<K> {
    /// The backend itself: calls to it are not on record.
    pub kv: Arc<K>,
    pace: Pace,
    asked: Mutex<Asked>,
    act: Mutex<Option<(usize, Act)>>,
    lies: AtomicBool,
    pieces: Mutex<Option<Pieces>>,
}

impl<K> fmt::Debug for Spy<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spy")
            .field("pace", &self.pace)
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}

impl Spy<ReferenceKv> {
    /// Over the reference backend.
    pub fn new() -> Arc<Self> {
        Self::over(ReferenceKv::new())
    }

    /// The same whose calls overlap: other tasks get their turn before and after each read and write of a key.
    pub fn yielding() -> Arc<Self> {
        Self::paced(ReferenceKv::new(), Pace::Yields)
    }

    /// The same whose calls never end.
    pub fn hanging() -> Arc<Self> {
        Self::paced(ReferenceKv::new(), Pace::Hangs)
    }
}

impl<K: Kv> Spy<K> {
    /// Over this backend.
    pub fn over(kv: K) -> Arc<Self> {
        Self::paced(kv, Pace::Plain)
    }

    fn paced(kv: K, pace: Pace) -> Arc<Self> {
        Arc::new(Self {
            kv: Arc::new(kv),
            pace,
            asked: Mutex::default(),
            act: Mutex::default(),
            lies: AtomicBool::new(false),
            pieces: Mutex::default(),
        })
    }

    /// A store on it.
    pub fn store(self: &Arc<Self>, resource: ResourceInfo) -> KvStore<Self> {
        self.store_with(resource, Arc::new(Identity))
    }

    /// The same with a transformer.
    pub fn store_with(self: &Arc<Self>, resource: ResourceInfo, transformer: Arc<dyn Transformer>) -> KvStore<Self> {
        KvStore::new(Arc::clone(self), resource, KvStoreConfig::new("/registry", transformer))
    }

    /// What was asked since the last time.
    pub fn take(&self) -> Asked {
        std::mem::take(&mut *self.asked.lock())
    }

    /// The ranges that were asked for since the last time.
    pub fn take_ranges(&self) -> Vec<RangeRequest> {
        let ranges = std::mem::take(&mut self.asked.lock().ranges);
        ranges.into_iter().map(|read| read.request).collect()
    }

    /// What the writes since the last time expected.
    pub fn take_writes(&self) -> Vec<Expected> {
        std::mem::take(&mut self.asked.lock().writes)
    }

    /// Does something before the range after the next `ranges` ones is read.
    pub fn after(&self, ranges: usize, act: impl Future<Output = ()> + Send + 'static) {
        *self.act.lock() = Some((ranges, Box::new(|| Box::pin(act))));
    }

    /// From now on ranges have no pairs and say that there are more.
    pub fn lie(&self) {
        self.lies.store(true, Ordering::SeqCst);
    }

    /// From now on ranges come so many pairs at a time, other tasks having their turn in between; something is done before
    /// each time.
    pub fn in_pieces(&self, pairs: usize, before: impl Fn() + Send + Sync + 'static) {
        *self.pieces.lock() = Some((pairs, Arc::new(before)));
    }

    async fn act(&self) {
        let due = {
            let mut act = self.act.lock();
            match act.take() {
                Some((0, due)) => Some(due),
                Some((left, due)) => {
                    *act = Some((left - 1, due));
                    None
                }
                None => None,
            }
        };
        if let Some(due) = due {
            due().await;
        }
    }

    async fn pause(&self) {
        match self.pace {
            Pace::Plain => {}
            Pace::Yields => tokio::task::yield_now().await,
            Pace::Hangs => std::future::pending().await,
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<K: Kv> Kv for Spy<K> {
    async fn now(&self) -> KvResult<Revision> {
        self.pause().await;
        self.asked.lock().nows += 1;
        self.kv.now().await
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> KvResult<(Option<KvPair>, Revision)> {
        self.pause().await;
        self.asked.lock().gets.push(at);
        let read = self.kv.get(key, at).await;
        self.pause().await;
        read
    }

    async fn range(&self, request: RangeRequest) -> KvResult<RangePage> {
        self.pause().await;
        self.act().await;
        let mut page = self.kv.range(request.clone()).await;
        if let (Ok(page), true) = (&mut page, self.lies.load(Ordering::SeqCst)) {
            (page.pairs, page.more) = (Vec::new(), true);
        }
        let pairs = page.as_ref().map_or(&[][..], |page| &page.pairs);
        self.asked.lock().ranges.push(Read {
            request,
            keys: pairs.len(),
            bytes: pairs.iter().map(|pair| pair.value.len()).sum(),
            last: pairs.last().map(|pair| pair.key.to_string()).unwrap_or_default(),
        });
        page
    }

    async fn range_into(&self, request: RangeRequest, parts: &RangeParts) -> KvResult<RangeEnd> {
        let page = self.range(request).await?;
        let Some((size, before)) = self.pieces.lock().clone() else {
            return Ok(parts.page(page));
        };
        parts.answered(page.revision);
        let mut pairs = page.pairs.into_iter();
        while pairs.len() > 0 {
            before();
            parts.push(pairs.by_ref().take(size).collect());
            tokio::task::yield_now().await;
        }
        Ok(RangeEnd {
            more: page.more,
            count: page.count,
        })
    }

    async fn put_if(&self, key: &str, value: Bytes, expected: Expected, lease: Lease) -> KvResult<WriteOutcome> {
        self.pause().await;
        {
            let mut asked = self.asked.lock();
            asked.writes.push(expected);
            asked.leases.push(lease);
        }
        let written = self.kv.put_if(key, value, expected, lease).await;
        self.pause().await;
        written
    }

    async fn delete_if(&self, key: &str, expected: Revision) -> KvResult<WriteOutcome> {
        self.pause().await;
        self.asked.lock().writes.push(Expected::At(expected));
        let deleted = self.kv.delete_if(key, expected).await;
        self.pause().await;
        deleted
    }

    async fn lease(&self, ttl: Duration) -> KvResult<LeaseId> {
        self.pause().await;
        self.kv.lease(ttl).await
    }

    async fn time_left(&self, lease: LeaseId) -> KvResult<Option<Duration>> {
        self.pause().await;
        self.kv.time_left(lease).await
    }

    async fn watch(&self, request: WatchRequest) -> KvResult<KvWatch> {
        self.pause().await;
        self.asked.lock().watches.push(request.clone());
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
