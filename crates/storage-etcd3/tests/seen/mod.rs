//! A cluster that notes what is asked of it, and lets a test act between two reads; what the server says of itself; and
//! a book of what is counted here.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

pub(crate) mod meter;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use apiserver_storage_api::{ResourceInfo, Revision};
use apiserver_storage_etcd3::EtcdKv;
use apiserver_storage_kv::transform::{Identity, Transformer};
use apiserver_storage_kv::{
    Capabilities, Expected, Kv, KvResult, KvStore, KvStoreConfig, KvWatch, Lease, LeaseId, RangePage, RangeRequest,
    StoreId, WatchRequest, WriteOutcome,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What the server at a port has counted so far, summed over all lines that begin with a name and hold these texts.
pub(crate) async fn counted(port: u16, name: &str, texts: &[&str]) -> f64 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a server");
    let request = "GET /metrics HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let chosen = answer
        .lines()
        .filter(|line| line.starts_with(name) && texts.iter().all(|text| line.contains(text)));
    chosen
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// One range that was read.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) request: RangeRequest,
    /// Keys and bytes of values that came.
    pub(crate) keys: usize,
    pub(crate) bytes: usize,
    /// The last key that came.
    pub(crate) last: String,
}

/// What was asked since the last time.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) gets: Vec<Option<Revision>>,
    pub(crate) ranges: Vec<Read>,
    pub(crate) watches: Vec<WatchRequest>,
    pub(crate) nows: usize,
}

type Act = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// The cluster.
pub(crate) struct Seen {
    pub(crate) kv: Arc<EtcdKv>,
    asked: Mutex<Asked>,
    act: Mutex<Option<(usize, Act)>>,
    lie: Mutex<bool>,
}

impl Seen {
    pub(crate) fn new(kv: EtcdKv) -> Arc<Self> {
        Arc::new(Self {
            kv: Arc::new(kv),
            asked: Mutex::default(),
            act: Mutex::default(),
            lie: Mutex::default(),
        })
    }

    /// A store on it.
    pub(crate) fn store(self: &Arc<Self>, resource: ResourceInfo) -> KvStore<Self> {
        self.store_with(resource, Arc::new(Identity))
    }

    pub(crate) fn store_with(
        self: &Arc<Self>,
        resource: ResourceInfo,
        transformer: Arc<dyn Transformer>,
    ) -> KvStore<Self> {
        KvStore::new(Arc::clone(self), resource, KvStoreConfig::new("/registry", transformer))
    }

    /// What was asked since the last time.
    pub(crate) fn take(&self) -> Asked {
        std::mem::take(&mut *self.asked.lock())
    }

    /// Does something before the range after the next `ranges` ones is read.
    pub(crate) fn after(&self, ranges: usize, act: impl Future<Output = ()> + Send + 'static) {
        *self.act.lock() = Some((ranges, Box::new(|| Box::pin(act))));
    }

    /// From now on ranges have no pairs and say that there are more.
    pub(crate) fn lie(&self) {
        *self.lie.lock() = true;
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
}

#[deny(clippy::missing_trait_methods)]
impl Kv for Seen {
    async fn now(&self) -> KvResult<Revision> {
        self.asked.lock().nows += 1;
        self.kv.now().await
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> KvResult<(Option<apiserver_storage_kv::KvPair>, Revision)> {
        self.asked.lock().gets.push(at);
        self.kv.get(key, at).await
    }

    async fn range(&self, request: RangeRequest) -> KvResult<RangePage> {
        self.act().await;
        let mut page = self.kv.range(request.clone()).await?;
        if *self.lie.lock() {
            (page.pairs, page.more) = (Vec::new(), true);
        }
        self.asked.lock().ranges.push(Read {
            request,
            keys: page.pairs.len(),
            bytes: page.pairs.iter().map(|pair| pair.value.len()).sum(),
            last: page.pairs.last().map(|pair| pair.key.to_string()).unwrap_or_default(),
        });
        Ok(page)
    }

    async fn put_if(&self, key: &str, value: Bytes, expected: Expected, lease: Lease) -> KvResult<WriteOutcome> {
        self.kv.put_if(key, value, expected, lease).await
    }

    async fn delete_if(&self, key: &str, expected: Revision) -> KvResult<WriteOutcome> {
        self.kv.delete_if(key, expected).await
    }

    async fn lease(&self, ttl: Duration) -> KvResult<LeaseId> {
        self.kv.lease(ttl).await
    }

    async fn watch(&self, request: WatchRequest) -> KvResult<KvWatch> {
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

/// Counts what is counted on this thread, by name and labels.
#[derive(Default)]
pub(crate) struct Book(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Book {
    /// The sum of all counters whose name and labels hold all of these texts.
    pub(crate) fn sum(&self, texts: &[&str]) -> u64 {
        let book = self.0.lock();
        let chosen = book
            .iter()
            .filter(|(name, _)| texts.iter().all(|text| name.contains(text)));
        chosen.map(|(_, count)| count.load(Ordering::SeqCst)).sum()
    }
}

impl Recorder for Book {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: Vec<String> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        Counter::from_arc(Arc::clone(self.0.lock().entry(name).or_default()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
