//! The objects of a cluster for the workloads that upstream measures: pods in namespaces on nodes.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use apiserver_storage_cacher::{Cacher, CacherConfig};
use apiserver_storage_etcd3::api::{
    CreateOptions, Encoded, Index, Key, LabelSelector, ResourceInfo, SelectionPredicate, Storage,
};
use apiserver_storage_etcd3::{EtcdConfig, EtcdKv};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::etcd::Etcd;
use crate::objects::exemplar;
use crate::store::pods;

/// The annotation that says when an object was written: nanoseconds since 1970, in decimal.
pub(crate) const TIMESTAMP: &str = "watch-latency-timestamp";
const WRITERS: usize = 32;

/// Pods of one kind on an etcd, with and without a cache in front.
pub(crate) struct Cluster {
    pub(crate) store: Arc<dyn Storage>,
    pub(crate) cache: Option<Arc<dyn Storage>>,
    _kv: Arc<EtcdKv>,
    _etcd: Etcd,
}

impl Cluster {
    /// An empty one.
    pub(crate) async fn start(is_indexed: bool) -> Result<Self> {
        let etcd = Etcd::start().await?;
        let config = EtcdConfig::new([etcd.url()]).with_compaction_interval(None);
        let kv = Arc::new(EtcdKv::connect(config).await?);
        let indexes = match is_indexed {
            true => vec![Index::Field("spec.nodeName".into())],
            false => Vec::new(),
        };
        Ok(Self {
            store: Arc::new(kv.store(pods().with_indexes(indexes))),
            cache: None,
            _kv: kv,
            _etcd: etcd,
        })
    }

    /// Puts a cache in front.
    pub(crate) async fn cached(&mut self) -> Result<Arc<dyn Storage>> {
        let cache = Cacher::new(Arc::clone(&self.store), CacherConfig::default());
        cache.wait_ready().await?;
        let cache: Arc<dyn Storage> = Arc::new(cache);
        self.cache = Some(Arc::clone(&cache));
        Ok(cache)
    }

    /// Creates pods; `pod` makes the key and the object of each number.
    pub(crate) async fn fill(&self, count: usize, pod: impl Fn(usize) -> Result<(Key, Value)>) -> Result<()> {
        stream::iter((0..count).map(|number| {
            let object = pod(number);
            async move {
                let (key, object) = object?;
                let value = Encoded::of(&object)?;
                self.store.create(&key, value, CreateOptions::default()).await?;
                anyhow::Ok(())
            }
        }))
        .buffer_unordered(WRITERS)
        .try_collect()
        .await
    }
}

/// How pods are spread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) namespaces: usize,
    pub(crate) pods: usize,
    pub(crate) nodes: usize,
}

impl Layout {
    /// The pods of all namespaces.
    pub(crate) fn total(self) -> usize {
        self.namespaces * self.pods
    }

    /// The namespace and the node of a pod.
    pub(crate) fn place(self, number: usize) -> (String, String) {
        let namespace = format!("ns-{}", number % self.namespaces);
        (namespace, format!("node-{}", number % self.nodes))
    }

    /// The key and the object of a pod.
    // measures: storage-api/BENCH-06
    pub(crate) fn pod(self, info: &ResourceInfo, number: usize) -> Result<(Key, Value)> {
        let (namespace, node) = self.place(number);
        // Ten characters, none of them in order, and the same in every run.
        let name = format!("{:010x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24);
        let key = info.object_key(Some(&namespace), &name)?;
        let mut pod = exemplar();
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["namespace"] = json!(namespace);
        pod["metadata"]["uid"] = json!(format!("0f4c2b6e-5d0a-4a53-9d0c-{number:012x}"));
        pod["spec"]["nodeName"] = json!(node);
        Ok((key, pod))
    }
}

/// Selects by one label.
pub(crate) fn labelled(label: &str) -> SelectionPredicate {
    SelectionPredicate::new(LabelSelector::default().with_equal(label, "yes"), Default::default())
}

/// Notes in an object that it is written now.
// measures: storage-api/BENCH-07
pub(crate) fn stamp(pod: &mut Value, now: Duration) {
    pod["metadata"]["annotations"][TIMESTAMP] = json!(now.as_nanos().to_string());
}

/// When an object was written, as its JSON says.
pub(crate) fn written_at(pod: &[u8]) -> Result<Duration> {
    let pod: Value = serde_json::from_slice(pod)?;
    let text = pod["metadata"]["annotations"][TIMESTAMP].as_str();
    let nanos: u128 = text.context("an object without its time")?.parse()?;
    Ok(Duration::new(
        u64::try_from(nanos / 1_000_000_000)?,
        u32::try_from(nanos % 1_000_000_000)?,
    ))
}

/// The time since 1970.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_write_comes_back_exactly() {
        for time in [Duration::new(1_767_600_729, 123_456_789), Duration::new(0, 1), now()] {
            let mut pod = exemplar();
            stamp(&mut pod, time);
            assert_eq!(written_at(pod.to_string().as_bytes()).unwrap(), time);
        }
        assert!(written_at(exemplar().to_string().as_bytes()).is_err());
    }
}
