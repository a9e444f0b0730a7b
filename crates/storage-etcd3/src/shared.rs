//! What the handle, its watches and its tasks have in common.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use apiserver_storage_api::Revision;
use apiserver_storage_kv::{KvError, KvResult};

use crate::cluster::Cluster;
use crate::convert;
use crate::lease::Leases;
use crate::proto::RangeRequest;
use crate::range::{Averages, Streams};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) cluster: Cluster,
    pub(crate) leases: Leases,
    pub(crate) averages: Averages,
    pub(crate) streams: Streams,
    /// Counts the requests for progress; watches wake on it.
    pub(crate) progress_asked: watch::Sender<u64>,
    health: Mutex<Result<(), String>>,
    compacted: AtomicU64,
}

impl Shared {
    pub(crate) fn new(cluster: Cluster) -> Self {
        let leases = Leases::new(cluster.config.lease_reuse, cluster.config.lease_max_keys);
        Self {
            cluster,
            leases,
            averages: Averages::default(),
            streams: Streams::default(),
            progress_asked: watch::Sender::new(0),
            health: Mutex::new(Err("etcd client connection not yet established".to_owned())),
            compacted: AtomicU64::new(0),
        }
    }

    /// How the last read of the health check ended.
    pub(crate) fn health(&self) -> Result<(), String> {
        self.health.lock().clone()
    }

    pub(crate) fn set_health(&self, result: Result<(), String>) {
        let was = std::mem::replace(&mut *self.health.lock(), result.clone());
        match (was, result) {
            (Ok(()), Err(cause)) => tracing::warn!(cause, "etcd does not answer"),
            (Err(_), Ok(())) => tracing::info!("etcd answers"),
            _ => {}
        }
    }

    /// The revision of the store; linearizable.
    pub(crate) async fn now(&self) -> KvResult<Revision> {
        let mark = self.cluster.mark();
        let request = RangeRequest {
            key: convert::key(&self.cluster.config.probe_key),
            count_only: true,
            ..RangeRequest::default()
        };
        let answer = self.cluster.range(&request).await?;
        self.cluster.observe(answer.header, Some(mark))
    }

    /// History below this is known to be gone.
    pub(crate) fn compacted(&self) -> Option<Revision> {
        Revision::new(self.compacted.load(Ordering::Relaxed))
    }

    /// History below `revision` is gone.
    pub(crate) fn note_compacted(&self, revision: Revision) {
        self.compacted.fetch_max(revision.get(), Ordering::Relaxed);
    }

    /// Takes what an error says about compaction, and says in it what is known.
    pub(crate) fn learned(&self, error: KvError) -> KvError {
        match error {
            KvError::Compacted { compacted } => {
                if let Some(revision) = compacted {
                    self.note_compacted(revision);
                }
                KvError::Compacted {
                    compacted: self.compacted(),
                }
            }
            other => other,
        }
    }
}
