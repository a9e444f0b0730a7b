//! What the handle, its watches and its tasks have in common.

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
        self.cluster.compacted()
    }

    /// Takes what an error of the store of that generation says about compaction, and says in it what is known.
    pub(crate) fn learned(&self, error: KvError, generation: u64) -> KvError {
        match error {
            KvError::Compacted { compacted } => {
                if let Some(revision) = compacted {
                    self.cluster.note_compacted(revision, generation);
                }
                KvError::Compacted {
                    compacted: self.compacted(),
                }
            }
            other => other,
        }
    }
}
