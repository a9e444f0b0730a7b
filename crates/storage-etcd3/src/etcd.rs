//! [`EtcdKv`]: the contract of a backend, on a cluster.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch as watch_channel;
use tokio::task::AbortHandle;

use apiserver_storage_api::{ResourceInfo, Revision};
use apiserver_storage_kv::{
    Capabilities, Expected, Kv, KvError, KvPair, KvResult, KvStoreConfig, KvWatch, Lease, LeaseId, RangeEnd, RangePage,
    RangeParts, RangeRequest, StoreId, WatchRequest, WriteOutcome,
};
use apiserver_storage_transform::Identity;

use crate::cluster::Cluster;
use crate::config::{EtcdConfig, EtcdConfigError};
use crate::member::Trust;
use crate::shared::Shared;
use crate::{Etcd3Store, compact, health, watch};

/// An etcd cluster as a backend: one value per cluster and process, however many resources are kept in it.
///
/// Calls go to one member until it fails, then to the next. Dropping it (or [`close`](Self::close)) ends its watches
/// and its background tasks.
#[derive(Debug)]
pub struct EtcdKv {
    shared: Arc<Shared>,
    tasks: Tasks,
}

impl EtcdKv {
    // deviates: storage-etcd3/CFG-06: does not wait for the cluster longer than one health check.
    /// Prepares the connections, tries a first read, and starts looking after the cluster (health, compaction).
    ///
    /// A cluster that does not answer is no failure: [`Kv::health`] says so, and calls fail until it does. Reads the
    /// TLS files. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`EtcdConfigError`] when the configuration cannot be used.
    pub async fn connect(config: EtcdConfig) -> Result<Self, EtcdConfigError> {
        let shared = Arc::new(Shared::new(Cluster::new(config)?));
        health::probe(&shared).await;
        let config = &shared.cluster.config;
        let mut tasks = Tasks::default();
        tasks.spawn(health::run(Arc::clone(&shared)));
        tasks.spawn(health::learn(Arc::clone(&shared)));
        tasks.spawn(compact::observe(Arc::clone(&shared)));
        tasks.spawn(compact::notice(Arc::clone(&shared)));
        if let Some(plan) = compact::Plan::of(config) {
            tasks.spawn(compact::run(Arc::clone(&shared), plan));
        }
        if !config.size_interval.is_zero() {
            tasks.spawn(health::measure(Arc::clone(&shared)));
        }
        Ok(Self { shared, tasks })
    }

    /// The store of one resource in here, under `/registry`, as JSON and not encrypted. Where that is to be otherwise:
    /// [`Etcd3Store::new`].
    pub fn store(self: &Arc<Self>, resource: ResourceInfo) -> Etcd3Store {
        let config = &self.shared.cluster.config;
        let config = KvStoreConfig::new("/registry", Arc::new(Identity))
            .with_clock(Arc::clone(&config.clock))
            .with_rng(Arc::clone(&config.rng));
        Etcd3Store::new(Arc::clone(self), resource, config)
    }

    /// Bytes of the database of one of the members.
    ///
    /// # Errors
    ///
    /// [`KvError`] when no member answers.
    pub async fn database_bytes(&self) -> KvResult<u64> {
        health::database_bytes(&self.shared.cluster).await
    }

    /// Ends watches and background tasks; calls that come later fail with [`KvError::Closed`]. Calls that are under way
    /// have five seconds to come to their end; then reads fail with that error too, and writes with
    /// [`KvError::OutcomeUnknown`]. Whoever calls it returns when the tasks have ended, which waits for no member; calling
    /// it again does nothing more.
    pub async fn close(&self) {
        self.shared.cluster.close();
        self.tasks.abort();
        self.tasks.ended().await;
    }
}

impl Drop for EtcdKv {
    fn drop(&mut self) {
        self.shared.cluster.close();
        self.tasks.abort();
    }
}

/// The tasks in the background.
#[derive(Debug, Default)]
struct Tasks {
    handles: Vec<AbortHandle>,
    /// Each task holds an end of it.
    running: watch_channel::Sender<()>,
}

impl Tasks {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let running = self.running.subscribe();
        let task = async move {
            let _running = running;
            task.await;
        };
        self.handles.push(tokio::spawn(task).abort_handle());
    }

    fn abort(&self) {
        self.handles.iter().for_each(AbortHandle::abort);
    }

    /// Returns when all have ended; to everybody who asks.
    async fn ended(&self) {
        self.running.closed().await;
    }
}

impl Kv for EtcdKv {
    async fn now(&self) -> KvResult<Revision> {
        self.shared.now().await
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> KvResult<(Option<KvPair>, Revision)> {
        self.shared.get(key, at).await
    }

    async fn range(&self, request: RangeRequest) -> KvResult<RangePage> {
        self.shared.range(request).await
    }

    async fn range_into(&self, request: RangeRequest, parts: &RangeParts) -> KvResult<RangeEnd> {
        self.shared.range_into(request, parts).await
    }

    async fn put_if(&self, key: &str, value: Bytes, expected: Expected, lease: Lease) -> KvResult<WriteOutcome> {
        self.shared.put_if(key, value, expected, lease).await
    }

    async fn delete_if(&self, key: &str, expected: Revision) -> KvResult<WriteOutcome> {
        self.shared.delete_if(key, expected).await
    }

    async fn lease(&self, ttl: Duration) -> KvResult<LeaseId> {
        self.shared.lease(ttl).await
    }

    async fn time_left(&self, lease: LeaseId) -> KvResult<Option<Duration>> {
        self.shared.time_left(lease).await
    }

    async fn watch(&self, request: WatchRequest) -> KvResult<KvWatch> {
        watch::open(Arc::clone(&self.shared), request).await
    }

    async fn request_progress(&self) -> KvResult<()> {
        if !self.capabilities().progress {
            return Err(KvError::NotSupported(
                "trustworthy progress needs etcd 3.4.31, 3.5.13 or 3.6.0",
            ));
        }
        self.shared
            .progress_asked
            .send_modify(|asked| *asked = asked.wrapping_add(1));
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> KvResult<()> {
        self.shared.compact(revision).await
    }

    fn compacted_revision(&self) -> Option<Revision> {
        self.shared.compacted()
    }

    async fn coordination_get(&self, key: &str) -> KvResult<Option<(Bytes, u64)>> {
        self.shared.coordination_get(key).await
    }

    async fn coordination_put(&self, key: &str, value: Bytes, version: u64) -> KvResult<bool> {
        self.shared.coordination_put(key, value, version).await
    }

    /// The cluster's id. A cluster that is made anew or restored under another token has another one; one that is
    /// restored under its old name is noticed because its revision went back; it has another id from then on, in this
    /// process.
    async fn store_id(&self) -> KvResult<StoreId> {
        let id = match self.shared.cluster.id() {
            Some(id) => id,
            None => {
                self.shared.now().await?;
                self.shared.cluster.id().unwrap_or_default()
            }
        };
        Ok(StoreId(match id {
            (cluster, 0) => format!("etcd-{cluster:016x}"),
            (cluster, generation) => format!("etcd-{cluster:016x}-{generation}"),
        }))
    }

    /// Progress is trusted when the member that calls go to has a version without the known faults, and no other
    /// member is known to have one with them.
    fn capabilities(&self) -> Capabilities {
        let cluster = &self.shared.cluster;
        let (_, current) = cluster.current();
        let doubtful = cluster.members().iter().any(|member| member.trust() == Trust::No);
        let progress = current.trust() == Trust::Yes && !doubtful;
        Capabilities::new(progress, false, self.shared.max_value_bytes())
    }

    // deviates: storage-etcd3/HEALTH-06: nothing asks etcd's own health page, whose JSON says less than a read.
    // deviates: storage-etcd3/HEALTH-08: a store is ready when its cluster answers.
    fn health(&self) -> Result<(), String> {
        if self.shared.cluster.is_closed() {
            return Err("server is shutting down".to_owned());
        }
        self.shared.health()
    }
}
